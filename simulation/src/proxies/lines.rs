//! A stream that is read by lines, and a message piece by piece.

use std::io;
use std::time::Duration;

use chasqui_runtime::net::TcpStream;
use chasqui_runtime::timeout;

/// Longest line of a command or reply.
const LINE_MAX: usize = 4096;
/// A client or sink that is silent for longer is left.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// The end of a message; its first line end may be that of the command before.
const END: &[u8] = b"\r\n.\r\n";
/// What [`Lines::body_piece`] takes for the start of a message, and gives at its end.
pub(crate) const BODY_BEGINS: usize = 2;
pub(crate) const BODY_ENDS: usize = END.len();

pub(crate) struct Lines {
    pub(crate) stream: TcpStream,
    pub(crate) unread: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(stream: TcpStream) -> Lines {
        Lines { stream, unread: Vec::new() }
    }

    /// Reads more; `UnexpectedEof` at the end of the stream.
    pub(crate) async fn fill(&mut self) -> io::Result<()> {
        let piece = timeout(PATIENCE, self.stream.read()).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unread.extend_from_slice(&piece);
        Ok(())
    }

    /// The next line, with its end.
    pub(crate) async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.unread, rest));
            }
            if self.unread.len() > LINE_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.fill().await?;
        }
    }

    /// A whole reply.
    pub(crate) async fn reply(&mut self) -> io::Result<Vec<u8>> {
        let mut reply = Vec::new();
        loop {
            let line = self.line().await?;
            let is_last = line.get(3) != Some(&b'-');
            reply.extend(line);
            if is_last {
                return Ok(reply);
            }
        }
    }

    pub(crate) async fn send(&self, bytes: impl Into<Vec<u8>>) -> io::Result<()> {
        let sent = timeout(PATIENCE, self.stream.write_all(bytes.into())).await;
        sent.map_err(|_| io::ErrorKind::TimedOut)?.map(drop)
    }

    /// The next octets of a message. `matched` is how much of its end the last of them are, [`BODY_BEGINS`] before the
    /// first; [`BODY_ENDS`]: this was the last piece.
    pub(crate) async fn body_piece(&mut self, matched: &mut usize) -> io::Result<Vec<u8>> {
        if self.unread.is_empty() {
            self.fill().await?;
        }
        let mut length = 0;
        for byte in &self.unread {
            length += 1;
            *matched = match byte {
                byte if *byte == END[*matched] => *matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            if *matched == END.len() {
                break;
            }
        }
        let rest = self.unread.split_off(length);
        Ok(std::mem::replace(&mut self.unread, rest))
    }
}
