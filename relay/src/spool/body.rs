//! A stored body.

use std::io;
use std::rc::Rc;

use chasqui_runtime::fs::Slice;

use super::disk::SegmentFile;
use super::entries::Entry;
use super::log::Inner;

/// The body of a message, in wire form and without the final dot. It can be used as long as the message has
/// recipients that are not finished.
pub struct Body {
    pieces: Vec<BodyPiece>,
}

struct BodyPiece {
    segment: Rc<SegmentFile>,
    offset: u32,
    length: u32,
}

impl Body {
    pub(super) fn new(inner: &Inner, entry: &Entry) -> Body {
        let pieces = entry.pieces().filter(|piece| piece.length > 0);
        let pieces = pieces.map(|piece| {
            let segment = inner.table.segment(piece.ordinal).expect("a segment with a piece is live").clone();
            BodyPiece { segment, offset: piece.offset, length: piece.length }
        });
        Body { pieces: pieces.collect() }
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

    /// A lease on one piece, for one send. Panics beyond the last.
    pub fn slice(&self, piece: usize) -> Slice {
        let piece = &self.pieces[piece];
        piece.segment.slice(u64::from(piece.offset), piece.length)
    }

    /// Leases on all pieces.
    pub fn slices(&self) -> Vec<Slice> {
        (0..self.pieces.len()).map(|piece| self.slice(piece)).collect()
    }

    /// Reads bytes, off the shard; fewer at the end.
    pub async fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(length.min(self.len().saturating_sub(offset) as usize));
        let mut start = 0;
        for piece in &self.pieces {
            let end = start + u64::from(piece.length);
            let (from, to) = (offset.max(start), (offset + length as u64).min(end));
            if from < to {
                let at = u64::from(piece.offset) + (from - start);
                bytes.extend(piece.segment.read(at, (to - from) as usize).await?);
            }
            start = end;
        }
        Ok(bytes)
    }
}
