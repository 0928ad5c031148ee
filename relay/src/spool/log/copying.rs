//! What the cleaner has read and wants written again.

use std::collections::VecDeque;

use crate::spool::format::headers::{RECORD_HEADER, RecordHeader};
use crate::spool::format::id::MessageId;

/// How far copying is.
#[derive(Default)]
pub(crate) struct Copying {
    pub(crate) batch: Option<Batch>,
    /// It waits for a spare.
    pub(crate) waits: bool,
    /// The file system had no room for it.
    pub(crate) failed: bool,
    /// A segment is being cleaned.
    pub(crate) cleaning: bool,
}

/// Records that are to be copied, in the order in which they stand.
pub(crate) struct Batch {
    /// Ordinal of the segment that they are in.
    pub(crate) from: u32,
    pub(crate) records: VecDeque<Survivor>,
}

/// A record that counted when it was read, whole.
pub(crate) struct Survivor {
    pub(crate) header: RecordHeader,
    /// Where it starts in its segment.
    pub(crate) offset: u32,
    pub(crate) meta: Vec<u8>,
    pub(crate) body: Vec<u8>,
}

impl Survivor {
    pub(crate) fn id(&self) -> MessageId {
        MessageId(self.header.id)
    }

    pub(crate) fn body_offset(&self) -> u32 {
        self.offset + RECORD_HEADER as u32 + self.header.meta_length
    }
}
