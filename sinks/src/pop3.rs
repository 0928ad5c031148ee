//! The POP3 server: mailboxes of the store as maildrops.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_protocol::deadline::ReadDeadline;
use chasqui_protocol::pop3::dots::{Stuffer, TERMINATOR};
use chasqui_protocol::pop3::server::{Event, Listed, Listing, Refusal, Session};
use chasqui_runtime::net::TcpStream;
use chasqui_runtime::sync::Notified;
use chasqui_runtime::{sleep, timeout, turn_time};
use futures_lite::future::or;

use crate::mailbox::{LOGIN_TIMEOUT, Login, Maildrop, Message, Outgoing, Store, delay_of_failure};
use crate::turns::{Closing, hang_up, let_others_run};

/// Bytes of a message that are looked at in one piece, when it cannot be sent as it lies.
const READ_BYTES: u32 = 64 * 1024;

/// How POP3 is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who may log in.
    pub login: Login,
    /// The name in the greeting.
    pub hostname: String,
    /// A session that sends no whole command, or does not take what it asked for, for so long is closed without deleting
    /// anything.
    pub idle_timeout: Duration,
    /// Ends the sessions.
    pub closing: Closing,
}

impl Options {
    /// Defaults: ten minutes (RFC 1939 section 3 wants no less).
    pub fn new(login: Login) -> Options {
        let (hostname, idle_timeout) = ("localhost".to_owned(), Duration::from_secs(600));
        Options { login, hostname, idle_timeout, closing: Closing::default() }
    }
}

/// Serves one connection to its end.
pub async fn serve_pop3(stream: TcpStream, peer: SocketAddr, store: Arc<Store>, options: Rc<Options>) {
    let mut connection = Connection {
        session: Session::new(&options.hostname),
        out: Outgoing::new(stream.clone(), options.idle_timeout),
        closing: options.closing.notified(),
        store,
        options,
        maildrop: None,
        is_forced: false,
    };
    if let Err(error) = connection.run(&stream).await {
        log::debug!("POP3 with {peer} ended: {error}");
    }
}

struct Connection {
    session: Session,
    out: Outgoing,
    store: Arc<Store>,
    options: Rc<Options>,
    closing: Notified,
    maildrop: Option<Maildrop>,
    /// The client has not asked for the end, and may go on sending.
    is_forced: bool,
}

impl Connection {
    async fn run(&mut self, stream: &TcpStream) -> io::Result<()> {
        let mut deadline = ReadDeadline::new(self.options.idle_timeout);
        let login_by = turn_time() + LOGIN_TIMEOUT;
        loop {
            self.take_replies();
            self.out.flush().await?;
            let begun = turn_time();
            let limit = match self.maildrop {
                Some(_) => deadline.left(),
                None => deadline.left().min(login_by.saturating_sub(begun)),
            };
            if self.options.closing.has_begun() {
                return Ok(());
            }
            let read = async { stream.read().await.map(Some) };
            let closing = async {
                (&mut self.closing).await;
                Ok(None)
            };
            let received = match timeout(limit, or(read, closing)).await {
                Ok(received) => received?,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            };
            // It has left, or the sinks do: there is no word for that in POP3.
            let Some(received) = received.filter(|received| !received.is_empty()) else { return Ok(()) };
            deadline.waited(turn_time() - begun);
            if received.contains(&b'\n') {
                deadline.renew();
            }
            // The pool's buffer must not wait for a slow reader, so pipelined commands are copied out of it.
            let input = received.to_vec();
            drop(received);
            if !self.handle_input(&input).await? {
                self.take_replies();
                self.out.flush().await?;
                hang_up(stream, self.is_forced && !self.options.closing.has_begun()).await;
                return Ok(());
            }
        }
    }

    /// False: the session is over.
    async fn handle_input(&mut self, mut input: &[u8]) -> io::Result<bool> {
        loop {
            let (used, event) = self.session.handle_input(input);
            input = &input[used..];
            match event {
                Event::NeedInput => return Ok(true),
                Event::OutputFull => {}
                Event::Login { user, password } => {
                    if !self.login(&user, &password) {
                        sleep(delay_of_failure(self.session.login_failures())).await;
                    }
                }
                Event::Retrieve { index } => self.retrieve(index).await?,
                Event::Top { index, lines } => self.top(index, lines).await?,
                Event::Quit { deleted } => {
                    if let Some(maildrop) = self.maildrop.take() {
                        maildrop.delete(&deleted);
                    }
                    // What another session had deleted before is deleted as well.
                    self.session.goodbye(true);
                    return Ok(false);
                }
                Event::TooManyErrors => {
                    self.is_forced = true;
                    return Ok(false);
                }
            }
            self.take_replies();
            self.out.relieve().await?;
            let_others_run().await;
        }
    }

    fn take_replies(&mut self) {
        self.out.text().append(self.session.output());
    }

    /// False: the password is wrong.
    fn login(&mut self, user: &str, password: &str) -> bool {
        let Some(address) = self.options.login.admit(user, password) else {
            self.session.refuse_login(Refusal::Credentials);
            return false;
        };
        let Some(mailbox) = self.store.open(&address) else {
            self.session.refuse_login(Refusal::Unavailable);
            return true;
        };
        let Some(maildrop) = mailbox.lock_maildrop() else {
            self.session.refuse_login(Refusal::InUse);
            return true;
        };
        let listed = |message: &Message| Listed { uid: message.uid(), size: message.size() };
        let messages = maildrop.messages().iter().map(listed).collect();
        self.session.accept_login(Listing { uid_validity: maildrop.uid_validity(), messages });
        self.maildrop = Some(maildrop);
        true
    }

    fn message(&mut self, index: usize) -> Option<Message> {
        let message = self.maildrop.as_ref().and_then(|maildrop| maildrop.messages().get(index)).cloned();
        match &message {
            Some(message) => self.session.begin_message(message.size()),
            None => self.session.refuse_message(),
        }
        self.take_replies();
        message
    }

    async fn retrieve(&mut self, index: usize) -> io::Result<()> {
        let Some(message) = self.message(index) else { return Ok(()) };
        if let Some(maildrop) = &self.maildrop {
            maildrop.mark_read(index);
        }
        if message.needs_no_stuffing() {
            self.out.body(&message, 0, message.size()).await?;
            self.out.text().extend_from_slice(TERMINATOR);
            return Ok(());
        }
        self.stuffed(&message, u64::MAX).await
    }

    async fn top(&mut self, index: usize, lines: u32) -> io::Result<()> {
        let Some(message) = self.message(index) else { return Ok(()) };
        self.stuffed(&message, u64::from(lines)).await
    }

    /// Sends the header section, the empty line and so many lines of the body, byte-stuffed.
    async fn stuffed(&mut self, message: &Message, mut lines: u64) -> io::Result<()> {
        let mut stuffer = Stuffer::default();
        let mut position = 0;
        while position < message.size() {
            let in_header = position < message.header_size();
            if !in_header && lines == 0 {
                break;
            }
            let end = if in_header { message.header_size() } else { message.size() };
            // An error here breaks the connection: the client must not take what it got for the message.
            let piece = message.read(position, (end - position).min(READ_BYTES))?;
            position += piece.len() as u32;
            let wanted = if in_header { &piece[..] } else { take_lines(&piece, &mut lines) };
            stuffer.push(wanted, self.out.text());
            self.out.relieve().await?;
        }
        stuffer.finish(self.out.text());
        Ok(())
    }
}

/// The start of `piece` with as many line ends as `lines` says, which is lowered by those that were found.
fn take_lines<'a>(piece: &'a [u8], lines: &mut u64) -> &'a [u8] {
    for newline in memchr::memchr_iter(b'\n', piece) {
        *lines -= 1;
        if *lines == 0 {
            return &piece[..=newline];
        }
    }
    piece
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines are counted over pieces, and the last one is whole.
    #[test]
    fn takes_lines() {
        let mut lines = 3;
        assert_eq!(take_lines(b"a\r\nb", &mut lines), b"a\r\nb");
        assert_eq!(take_lines(b"\r\nc\r\nd\r\n", &mut lines), b"\r\nc\r\n");
        assert_eq!(lines, 0);
    }
}
