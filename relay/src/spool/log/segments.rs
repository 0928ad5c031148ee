//! Segments that records go to.

use std::io;
use std::rc::Rc;

use crate::spool::disk::{Disk, SegmentFile};
use crate::spool::format::headers::Identity;
use crate::spool::format::id::MessageId;
use crate::spool::format::index::Index;

/// The segment that is appended to.
pub(crate) struct Active {
    pub(crate) identity: Identity,
    pub(crate) segment: Rc<SegmentFile>,
    /// Where the next group goes.
    pub(crate) end: u64,
    /// What is in it, but for the bodies.
    pub(crate) index: Index,
    /// Ids given while this segment is active.
    pub(crate) ids: u32,
}

/// A segment with a durable header and nothing else.
pub(crate) struct Spare {
    pub(crate) file: u32,
    pub(crate) identity: Identity,
    pub(crate) segment: Rc<SegmentFile>,
}

impl Active {
    pub(crate) fn new(identity: Identity, segment: Rc<SegmentFile>, end: u64) -> Active {
        let index = Index::new(segment.len());
        Active { identity, segment, end, index, ids: 0 }
    }

    /// Stands for the active segment before there is one. It is full.
    pub(crate) fn nowhere(disk: &Disk, identity: Identity) -> io::Result<Active> {
        let segment = Rc::new(SegmentFile::nowhere(disk)?);
        let end = segment.len();
        Ok(Active::new(identity, segment, end))
    }

    /// Half of its ids are given, which takes that many transactions that came to nothing.
    pub(crate) fn is_short_of_ids(&self) -> bool {
        self.ids > MessageId::COUNT_MAX / 2
    }
}

/// A sealed segment whose index is still to be written.
#[derive(Debug)]
pub(crate) struct Unindexed {
    pub(crate) identity: Identity,
    pub(crate) segment: Rc<SegmentFile>,
    /// Where its last group ends.
    pub(crate) end: u64,
    pub(crate) index: Index,
}
