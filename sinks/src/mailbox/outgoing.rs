//! What a POP3 or IMAP session sends: lines, and bodies straight from their segments.

use std::io;
use std::time::Duration;

use chasqui_runtime::fs::Slice;
use chasqui_runtime::net::Parts;
use chasqui_runtime::timeout;
use chasqui_transport::Stream;

use super::Message;

/// Bytes that are gathered before a send, of text and of bodies.
const GATHER_BYTES: usize = 256 * 1024;
/// Bytes of text that are gathered before a send: what a peer that does not read costs.
const TEXT_BYTES: usize = 16 * 1024;
/// Bodies that are gathered before a send: each needs two vectors, of which a send takes a limited number.
const GATHER_SLICES: usize = 8;
/// Bytes of one slice, so that a lease and a time limit cover little.
const SLICE_BYTES: u32 = 256 * 1024;

/// Gathers output and sends it in order. A send that makes no progress for long fails.
#[derive(Debug)]
pub(crate) struct Outgoing {
    stream: Stream,
    limit: Duration,
    /// Text behind the gathered parts.
    text: Vec<u8>,
    parts: Parts,
    gathered: usize,
    /// Bytes of text among the gathered parts.
    gathered_text: usize,
    slices: usize,
}

impl Outgoing {
    /// `limit`: how long the peer may take to receive one send of at most some 256 KiB.
    pub(crate) fn new(stream: Stream, limit: Duration) -> Outgoing {
        let parts = Parts::new();
        Outgoing { stream, limit, text: Vec::new(), parts, gathered: 0, gathered_text: 0, slices: 0 }
    }

    /// Text to append lines to. Call [`Outgoing::relieve`] now and then.
    pub(crate) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Adds part of a message, cut off at its end, from its segment.
    pub(crate) async fn body(&mut self, message: &Message, start: u32, length: u32) -> io::Result<()> {
        let end = message.size().min(start.saturating_add(length));
        let mut position = start.min(end);
        while position < end {
            let piece = (end - position).min(SLICE_BYTES);
            self.slice(message.slice(position, piece));
            position += piece;
            self.relieve().await?;
        }
        Ok(())
    }

    /// Sends when enough is gathered.
    pub(crate) async fn relieve(&mut self) -> io::Result<()> {
        let full = self.gathered + self.text.len() >= GATHER_BYTES || self.slices >= GATHER_SLICES;
        if full || self.gathered_text + self.text.len() >= TEXT_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Sends everything.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        let text = std::mem::take(&mut self.text);
        if self.slices == 0 {
            if !text.is_empty() {
                self.text = limited(self.limit, self.stream.write_all(text)).await?;
            }
            return Ok(());
        }
        let parts = std::mem::take(&mut self.parts).bytes(text);
        (self.gathered, self.gathered_text, self.slices) = (0, 0, 0);
        limited(self.limit, self.stream.send(parts)).await
    }

    fn slice(&mut self, slice: Slice) {
        let text = std::mem::take(&mut self.text);
        self.gathered += text.len() + slice.len();
        self.gathered_text += text.len();
        self.slices += 1;
        self.parts = std::mem::take(&mut self.parts).bytes(text).slice(slice);
    }
}

async fn limited<T>(limit: Duration, sending: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(limit, sending).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
