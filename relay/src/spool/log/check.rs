//! The check of a message at its first read: of what a start took from an index, bodies were not looked at.

use std::io;
use std::rc::Rc;

use super::entries::Entry;
use super::handle::Log;
use super::inner::Inner;
use crate::spool::disk::{SegmentFile, read_index};
use crate::spool::format::headers::{Identity, RECORD_HEADER};
use crate::spool::format::id::MessageId;
use crate::spool::format::message::{CHUNK_META, Envelope};
use crate::spool::format::place::Piece;
use crate::spool::format::scan::{Content, envelope_at, is_record};

/// Where a record of a message is.
struct Place {
    identity: Identity,
    segment: Rc<SegmentFile>,
    /// Which chunk it is; `None` of a message record.
    chunk: Option<u32>,
    meta_length: u32,
    piece: Piece,
}

impl Place {
    fn start(&self) -> u64 {
        u64::from(self.piece.offset - self.meta_length) - RECORD_HEADER as u64
    }

    /// Reads the record, off the shard, and with it makes its pages resident.
    async fn read(&self) -> io::Result<Vec<u8>> {
        let length = RECORD_HEADER + (self.meta_length + self.piece.length) as usize;
        self.segment.read_leased(self.start(), length).await
    }

    /// The envelope, where the head of its record can be read.
    async fn envelope_at(&self, head_offset: u64, id: MessageId) -> io::Result<Option<Envelope>> {
        let bytes = self.segment.read_leased(head_offset, RECORD_HEADER + self.meta_length as usize).await?;
        Ok(envelope_at(&bytes, id.0))
    }

    /// The envelope, as the segment's index has it.
    async fn indexed_envelope(&self, id: MessageId) -> io::Result<Option<Envelope>> {
        let groups = read_index(&self.segment, self.identity).await.unwrap_or_default();
        let mut records = groups.iter().flat_map(|group| &group.records);
        let head_offset = records.find_map(|record| {
            let is_it = record.id == id.0 && record.body_offset == self.piece.offset;
            (is_it && matches!(record.content, Content::Message(_))).then_some(record.head_offset)
        });
        match head_offset {
            Some(head_offset) => self.envelope_at(head_offset.into(), id).await,
            None => Ok(None),
        }
    }

    /// Is this the record, and whole?
    fn is_whole(&self, bytes: &[u8], id: MessageId) -> bool {
        is_record(bytes, id.0, self.chunk, self.identity.epoch, (self.meta_length, self.piece.length))
    }
}

/// The records of a message, its message record first.
fn places(inner: &Inner, entry: &Entry) -> Vec<Place> {
    let place = |piece: Piece, chunk, meta_length| {
        let live = inner.segments.table.live(piece.ordinal).expect("a segment with a piece is live");
        let identity = Identity { ordinal: piece.ordinal, epoch: live.epoch };
        Place { identity, segment: live.segment.clone(), chunk, meta_length, piece }
    };
    let head = place(entry.head(), None, entry.meta_length());
    let chunks = (0..).zip(entry.chunks()).map(|(index, chunk)| place(*chunk, Some(index), CHUNK_META));
    std::iter::once(head).chain(chunks).collect()
}

impl Log {
    /// Looks at every byte of a message before the first of them is used, unless that was done before. An error is of
    /// the disk; `InvalidData` says that the message is damaged.
    pub(crate) async fn check(&self, id: MessageId) -> io::Result<()> {
        loop {
            let places = {
                let inner = self.inner();
                match inner.messages.entries.get(id) {
                    Some(entry) if entry.is_unchecked() => places(&inner, entry),
                    _ => return Ok(()),
                }
            };
            let mut damaged = None;
            for place in &places {
                let bytes = place.read().await?;
                if !place.is_whole(&bytes, id) {
                    damaged = Some(place);
                    break;
                }
            }
            let mut inner = self.inner();
            let Some(entry) = inner.messages.entries.get_mut(id) else { return Ok(()) };
            let chunks = entry.chunks().iter();
            if !std::iter::once(&entry.head()).chain(chunks).eq(places.iter().map(|place| &place.piece)) {
                // Copies were made of some meanwhile.
                continue;
            }
            let Some(place) = damaged else {
                entry.set_checked();
                return Ok(());
            };
            inner.segments.table.set_damaged(place.identity.ordinal);
            if inner.messages.damaged.insert(id) {
                inner.stats.damaged += 1;
                let (at, ordinal) = (place.start(), place.identity.ordinal);
                log::error!(
                    "spool {}: message {id} is damaged: record at {at} of segment {ordinal}",
                    self.dir.display()
                );
            }
            return Err(io::ErrorKind::InvalidData.into());
        }
    }

    /// The envelope of a message; `None` when all its recipients are finished.
    pub(crate) async fn envelope(&self, id: MessageId) -> io::Result<Option<Envelope>> {
        loop {
            let (place, is_unchecked) = {
                let inner = self.inner();
                if let Some(envelope) = inner.write_back.envelope(id) {
                    return Ok(Some(envelope));
                }
                let Some(entry) = inner.messages.entries.get(id) else { return Ok(None) };
                (places(&inner, entry).swap_remove(0), entry.is_unchecked())
            };
            let envelope = if is_unchecked {
                match place.read().await? {
                    bytes if place.is_whole(&bytes, id) => envelope_at(&bytes, id.0),
                    // The index has it, too.
                    _damaged => place.indexed_envelope(id).await?,
                }
            } else {
                place.envelope_at(place.start(), id).await?
            };
            if envelope.is_some() {
                return Ok(envelope);
            }
            let is_moved = |entry: &Entry| entry.head() != place.piece;
            if !self.inner().messages.entries.get(id).is_none_or(is_moved) {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
}
