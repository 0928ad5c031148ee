//! A stored body.

use std::io;
use std::ops::Deref;
use std::rc::Rc;

use chasqui_runtime::net::Parts;

use super::entries::Entry;
use super::handle::Log;
use crate::spool::disk::SegmentFile;
use crate::spool::format::id::MessageId;
use crate::spool::format::place::Piece;

/// The body of a message, in wire form and without the final dot. It can be used as long as the message has
/// recipients that are not finished. Its pieces may be copied to other segments meanwhile: where one is, is looked up
/// whenever it is wanted, and holds as long as the lease.
pub struct Body {
    source: Source,
    /// Of the pieces that have bytes, which no copy changes.
    lengths: Lengths,
}

/// Lengths of pieces; of a single one, as most bodies have it, in no memory of its own.
enum Lengths {
    Single([u32; 1]),
    Several(Vec<u32>),
}

impl Lengths {
    fn of(mut lengths: impl Iterator<Item = u32>) -> Lengths {
        match (lengths.next(), lengths.next()) {
            (Some(only), None) => Lengths::Single([only]),
            (first, second) => Lengths::Several(first.into_iter().chain(second).chain(lengths).collect()),
        }
    }
}

impl Deref for Lengths {
    type Target = [u32];
    fn deref(&self) -> &[u32] {
        match self {
            Lengths::Single(length) => length,
            Lengths::Several(lengths) => lengths,
        }
    }
}

enum Source {
    Segments(Rc<Log>, MessageId),
    Memory(Rc<[u8]>),
}

impl Body {
    pub(crate) fn new(log: &Rc<Log>, id: MessageId, entry: &Entry) -> Body {
        let lengths = Lengths::of(with_bytes(entry).map(|piece| piece.length));
        Body { source: Source::Segments(log.clone(), id), lengths }
    }

    /// Of a message that is in memory alone.
    pub(crate) fn in_memory(bytes: Rc<[u8]>) -> Body {
        let lengths = Lengths::of(Some(bytes.len() as u32).into_iter().filter(|length| *length > 0));
        Body { source: Source::Memory(bytes), lengths }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.lengths.iter().map(|length| u64::from(*length)).sum()
    }

    /// Is it a body of no bytes?
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Number of pieces of at most 256 KiB each.
    pub fn pieces(&self) -> usize {
        self.lengths.len()
    }

    /// Sends a piece, between `head` and `tail`, by calls of `send`: it sends parts, may end early when the function
    /// that it is given says so, and tells how many bytes it has sent. That function says so when the piece was copied
    /// to another segment since: then a lease on the old one keeps it from being used, and the rest is sent from the
    /// copy. Panics beyond the last piece. Fails when the message is finished.
    pub async fn send_piece(
        &self,
        piece: usize,
        head: Vec<u8>,
        tail: &'static [u8],
        send: impl AsyncFn(Parts, &dyn Fn() -> bool) -> io::Result<usize>,
    ) -> io::Result<()> {
        let length = self.lengths[piece] as usize;
        let total = head.len() + length + tail.len();
        let mut sent = 0;
        while sent < total {
            let unsent = head.get(sent..).unwrap_or_default();
            let skipped = sent.saturating_sub(head.len());
            let at = self.ordinal(piece);
            let mut parts = Parts::new().bytes(unsent.to_vec());
            if skipped < length {
                parts = self.add_piece(piece, skipped as u32, parts)?;
            }
            parts = parts.fixed(&tail[skipped.saturating_sub(length)..]);
            sent += send(parts, &|| self.ordinal(piece) != at).await?;
        }
        Ok(())
    }

    /// Adds a piece without its first bytes to what is to be sent: a lease on mapped pages, or a copy of what is in
    /// memory alone. Panics beyond the last. Fails when the message is finished.
    pub(crate) fn add_piece(&self, piece: usize, skip: u32, parts: Parts) -> io::Result<Parts> {
        Ok(match &self.source {
            Source::Segments(log, id) => {
                let (segment, piece) = self.place(log, *id, piece)?;
                parts.slice(segment.slice(u64::from(piece.offset + skip), piece.length - skip))
            }
            Source::Memory(bytes) => parts.bytes(bytes[skip as usize..].to_vec()),
        })
    }

    /// The segment that a piece is in now.
    fn ordinal(&self, piece: usize) -> Option<u32> {
        match &self.source {
            Source::Segments(log, id) => self.place(log, *id, piece).ok().map(|(_, piece)| piece.ordinal),
            Source::Memory(_) => None,
        }
    }

    /// Reads bytes, off the shard; fewer at the end.
    pub async fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length.min(self.len().saturating_sub(offset) as usize));
        let mut start = 0;
        for (index, piece_length) in self.lengths.iter().enumerate() {
            let end = start + u64::from(*piece_length);
            let (from, to) = (offset.max(start), (offset + length as u64).min(end));
            if from < to {
                let (at, count) = (from - start, (to - from) as usize);
                match &self.source {
                    Source::Segments(log, id) => {
                        let (segment, piece) = self.place(log, *id, index)?;
                        bytes.extend(segment.read_leased(u64::from(piece.offset) + at, count).await?);
                    }
                    Source::Memory(memory) => bytes.extend_from_slice(&memory[at as usize..][..count]),
                }
            }
            start = end;
        }
        Ok(bytes)
    }

    fn place(&self, log: &Log, id: MessageId, index: usize) -> io::Result<(Rc<SegmentFile>, Piece)> {
        assert!(index < self.lengths.len(), "a piece of the body");
        let inner = log.inner();
        let entry = inner.messages.entries.get(id).ok_or_else(finished)?;
        let piece = with_bytes(entry).nth(index).expect("a copy has the pieces of the original");
        let segment = inner.segments.table.segment(piece.ordinal).expect("a segment with a piece is live");
        Ok((segment.clone(), piece))
    }
}

fn with_bytes(entry: &Entry) -> impl Iterator<Item = Piece> + '_ {
    entry.pieces().filter(|piece| piece.length > 0)
}

fn finished() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the message is finished")
}
