//! IDLE (RFC 2177): the session hears of changes as they happen.

use std::io;

use chasqui_protocol::imap::server::Event;
use chasqui_runtime::net::Received;
use chasqui_runtime::{timeout, turn_time};
use futures_lite::future;

use super::Connection;
use crate::mailbox::Watch;

enum Wake {
    Input(io::Result<Received>),
    Changed,
}

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
                    self.say_bye("too many errors").await?;
                    return Ok(false);
                }
                Some(Event::OutputFull) => {
                    self.take_replies();
                    self.out.flush().await?;
                    continue;
                }
                Some(Event::Command(_)) | None => {}
            }
            self.take_replies();
            self.out.flush().await?;
            let begun = turn_time();
            let wake = timeout(self.deadline.left(), self.input_or_change(watch.as_mut())).await;
            self.deadline.waited(turn_time() - begun);
            match wake {
                Ok(Wake::Changed) => self.deadline.renew(),
                Ok(Wake::Input(received)) => {
                    if !self.take_input(received?) {
                        return Ok(false);
                    }
                }
                Err(_) => {
                    self.say_bye("idle for too long").await?;
                    return Ok(false);
                }
            }
        }
    }

    async fn input_or_change(&self, watch: Option<&mut Watch>) -> Wake {
        let input = async { Wake::Input(self.stream.read().await) };
        let Some(watch) = watch else { return input.await };
        let change = async {
            watch.changed().await;
            Wake::Changed
        };
        future::or(input, change).await
    }
}
