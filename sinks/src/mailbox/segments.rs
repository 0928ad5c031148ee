//! Memory for bodies: memfd segments, one open per writing shard, freed with their last message.

use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use chasqui_runtime::fs::{Segment, Slice};
use chasqui_runtime::shard;

use super::{DeliverError, lock};

/// Shards that have an open segment of their own; shards beyond share.
const WRITERS: usize = 64;

/// All segments of a store.
#[derive(Debug)]
pub(super) struct Segments {
    segment_bytes: u64,
    max_bytes: u64,
    account: Arc<Account>,
    writers: Box<[Mutex<Option<Writer>>]>,
}

#[derive(Debug, Default)]
struct Account {
    bytes: AtomicU64,
    segments: AtomicUsize,
}

/// A segment that is being filled.
#[derive(Debug)]
struct Writer {
    held: Arc<Held>,
    next: u64,
}

/// A segment as long as messages lie in it.
#[derive(Debug)]
struct Held {
    segment: Segment,
    /// Bytes reserved in it, which are accounted for.
    used: AtomicU64,
    account: Arc<Account>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.account.bytes.fetch_sub(*self.used.get_mut(), Ordering::Relaxed);
        self.account.segments.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bytes of one message in a segment, which lives as long as this.
#[derive(Debug, Clone)]
pub(super) struct Body {
    held: Arc<Held>,
    offset: u64,
    size: u32,
}

impl Segments {
    pub(super) fn new(segment_bytes: u64, max_bytes: u64) -> Segments {
        Segments {
            segment_bytes,
            max_bytes,
            account: Arc::default(),
            writers: (0..WRITERS).map(|_| Mutex::default()).collect(),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.account.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn count(&self) -> usize {
        self.account.segments.load(Ordering::Relaxed)
    }

    /// Appends a message to the open segment of this shard.
    pub(super) fn append(&self, parts: &[&[u8]]) -> Result<Body, DeliverError> {
        let total: u64 = parts.iter().map(|part| part.len() as u64).sum();
        let size = u32::try_from(total).map_err(|_| DeliverError::TooLarge)?;
        let (held, offset) = self.reserve(total)?;
        held.segment.append_at(offset, parts)?;
        Ok(Body { held, offset, size })
    }

    /// Closes the open segments in which no message lies, whose memory then is free; false: there are none.
    pub(super) fn close_idle(&self) -> bool {
        let mut closed = false;
        for slot in &self.writers {
            let mut slot = lock(slot);
            if slot.as_ref().is_some_and(|writer| writer.next > 0 && Arc::strong_count(&writer.held) == 1) {
                *slot = None;
                closed = true;
            }
        }
        closed
    }

    /// Reserves bytes; the write itself happens outside the lock.
    fn reserve(&self, bytes: u64) -> Result<(Arc<Held>, u64), DeliverError> {
        if self.account.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > self.max_bytes {
            self.account.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(DeliverError::Full);
        }
        let mut slot = lock(&self.writers[shard() % WRITERS]);
        let full = slot.as_ref().is_none_or(|writer| writer.next + bytes > writer.held.segment.len());
        if full {
            // The old segment goes with the last message in it, here if there is none left.
            *slot = None;
            match self.begin(bytes) {
                Ok(writer) => *slot = Some(writer),
                Err(error) => {
                    self.account.bytes.fetch_sub(bytes, Ordering::Relaxed);
                    return Err(error.into());
                }
            }
        }
        let Some(writer) = slot.as_mut() else { return Err(DeliverError::Full) };
        let offset = writer.next;
        writer.next += bytes;
        writer.held.used.fetch_add(bytes, Ordering::Relaxed);
        Ok((writer.held.clone(), offset))
    }

    fn begin(&self, at_least: u64) -> io::Result<Writer> {
        let segment = Segment::anonymous(self.segment_bytes.max(at_least))?;
        self.account.segments.fetch_add(1, Ordering::Relaxed);
        let held = Held { segment, used: AtomicU64::new(0), account: self.account.clone() };
        Ok(Writer { held: Arc::new(held), next: 0 })
    }
}

impl Body {
    /// Octets of the message.
    pub(super) fn size(&self) -> u32 {
        self.size
    }

    /// A lease on part of the message, for sending. What lies behind its end is cut off.
    pub(super) fn slice(&self, start: u32, length: u32) -> Slice {
        let start = start.min(self.size);
        self.held.segment.slice(self.offset + u64::from(start), length.min(self.size - start))
    }

    /// Part of the message, cut off at its end.
    pub(super) fn read(&self, start: u32, length: u32) -> io::Result<Vec<u8>> {
        let start = start.min(self.size);
        let length = length.min(self.size - start);
        self.held.segment.read(self.offset + u64::from(start), length as usize)
    }
}
