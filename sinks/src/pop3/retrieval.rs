//! RETR and TOP: messages on their way to the client.

use std::io;

use chasqui_protocol::pop3::dots::{Stuffer, TERMINATOR};

use super::Connection;
use crate::mailbox::Message;

/// Bytes of a message that are looked at in one piece, when it cannot be sent as it lies.
const READ_BYTES: u32 = 64 * 1024;

impl Connection {
    fn message(&mut self, index: usize) -> Option<Message> {
        let message = self.maildrop.as_ref().and_then(|maildrop| maildrop.messages().get(index)).cloned();
        match &message {
            Some(message) => self.session.begin_message(message.size()),
            None => self.session.refuse_message(),
        }
        self.take_replies();
        message
    }

    pub(super) async fn retrieve(&mut self, index: usize) -> io::Result<()> {
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

    pub(super) async fn top(&mut self, index: usize, lines: u32) -> io::Result<()> {
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
