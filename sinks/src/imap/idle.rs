//! IDLE (RFC 2177): the session hears of changes as they happen.

use std::io;

use chasqui_protocol::imap::server::Event;

use super::{Connection, Wake};

impl Connection {
    /// Idles until DONE. False: the session is over.
    pub(super) async fn idle(&mut self) -> io::Result<bool> {
        self.out.text().extend_from_slice(b"+ idling\r\n");
        // Watching begins before the first look, so nothing falls in between.
        let mut watch = self.session.watch();
        loop {
            self.session.tell_news(true, &mut self.out).await?;
            match self.commands.poll_event() {
                Some(Event::IdleEnded { tag, done }) => {
                    self.deadline.renew();
                    self.take_replies();
                    self.session.end_idle(tag.as_ref(), done, self.out.text());
                    return Ok(true);
                }
                Some(Event::TooManyErrors) => {
                    return self.say_bye_in_idle("too many errors");
                }
                Some(Event::OutputFull) => {
                    self.take_replies();
                    self.out.flush().await?;
                    continue;
                }
                Some(Event::Command(_) | Event::Response(_)) | None => {}
            }
            self.take_replies();
            self.out.flush().await?;
            match self.wait(self.deadline.left(), watch.as_mut()).await? {
                Some(Wake::Changed) => self.deadline.renew(),
                Some(Wake::Input(received)) => {
                    if !self.take_input(received) {
                        return Ok(false);
                    }
                }
                Some(Wake::Drained) => return self.say_bye_in_idle("shutting down"),
                None => return self.say_bye_in_idle("idle for too long"),
            }
        }
    }

    /// The connection sends it, and closes.
    fn say_bye_in_idle(&mut self, text: &str) -> io::Result<bool> {
        self.write_bye(text);
        Ok(false)
    }
}
