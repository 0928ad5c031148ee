//! A stored body.

use std::io;
use std::rc::Rc;

use chasqui_runtime::net::Parts;

use super::disk::SegmentFile;
use super::entries::Entry;
use super::log::Inner;

/// The body of a message, in wire form and without the final dot. It can be used as long as the message has
/// recipients that are not finished.
pub struct Body {
    pieces: Vec<BodyPiece>,
}

struct BodyPiece {
    source: Source,
    length: u32,
}

enum Source {
    Segment { segment: Rc<SegmentFile>, offset: u32 },
    Memory(Rc<[u8]>),
}

impl Body {
    pub(super) fn new(inner: &Inner, entry: &Entry) -> Body {
        let pieces = entry.pieces().filter(|piece| piece.length > 0);
        let pieces = pieces.map(|piece| {
            let segment = inner.table.segment(piece.ordinal).expect("a segment with a piece is live").clone();
            BodyPiece { source: Source::Segment { segment, offset: piece.offset }, length: piece.length }
        });
        Body { pieces: pieces.collect() }
    }

    /// Of a message that is in memory alone.
    pub(super) fn resident(bytes: Rc<[u8]>) -> Body {
        let length = bytes.len() as u32;
        let piece = (length > 0).then(|| BodyPiece { source: Source::Memory(bytes), length });
        Body { pieces: piece.into_iter().collect() }
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| u64::from(piece.length)).sum()
    }

    /// Is it a body of no bytes?
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Number of pieces of at most 256 KiB each.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// Adds a piece to what is to be sent: a lease on mapped pages, or a copy of what is in memory alone. Panics
    /// beyond the last.
    pub fn add_piece(&self, piece: usize, parts: Parts) -> Parts {
        let BodyPiece { source, length } = &self.pieces[piece];
        match source {
            Source::Segment { segment, offset } => parts.slice(segment.slice(u64::from(*offset), *length)),
            Source::Memory(bytes) => parts.bytes(bytes.to_vec()),
        }
    }

    /// Reads bytes, off the shard; fewer at the end.
    pub async fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length.min(self.len().saturating_sub(offset) as usize));
        let mut start = 0;
        for piece in &self.pieces {
            let end = start + u64::from(piece.length);
            let (from, to) = (offset.max(start), (offset + length as u64).min(end));
            if from < to {
                let (at, count) = (from - start, (to - from) as usize);
                match &piece.source {
                    Source::Segment { segment, offset } => {
                        bytes.extend(segment.read(u64::from(*offset) + at, count).await?);
                    }
                    Source::Memory(memory) => bytes.extend_from_slice(&memory[at as usize..][..count]),
                }
            }
            start = end;
        }
        Ok(bytes)
    }
}
