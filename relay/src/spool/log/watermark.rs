//! Sequences, and the promise they carry: nothing is settled in class `synced` before the completed sync that
//! covers it.

use chasqui_runtime::sim;

use crate::spool::config::Durability;
use crate::spool::format::group::Stamp;
use crate::spool::format::headers::Identity;

/// The counters of one incarnation. Records are numbered from 1 in the order in which they are written.
#[derive(Debug)]
pub(crate) struct Watermark {
    class: Durability,
    /// See [`GroupHeader::incarnation`](crate::spool::format::headers::GroupHeader::incarnation).
    incarnation: u32,
    appended: u64,
    durable: u64,
    /// The watermark in the newest group.
    carried: u64,
    /// The watermark in the newest group that is durable itself.
    recorded: u64,
}

impl Watermark {
    pub(crate) fn new(class: Durability, incarnation: u32) -> Watermark {
        Watermark { class, incarnation, appended: 0, durable: 0, carried: 0, recorded: 0 }
    }

    /// What a group says of itself that is written now to this place.
    pub(crate) fn stamp(&self, identity: Identity, offset: u64) -> Stamp {
        Stamp {
            identity,
            offset,
            first_sequence: self.appended + 1,
            watermark: self.durable,
            incarnation: self.incarnation,
        }
    }

    /// The highest sequence in the page cache.
    pub(crate) fn appended(&self) -> u64 {
        self.appended
    }

    /// The watermark that the newest group in the page cache carries.
    pub(crate) fn carried(&self) -> u64 {
        self.carried
    }

    /// A group with this many records is in the page cache, with the watermark of now.
    pub(crate) fn append(&mut self, records: u64) {
        self.appended += records;
        self.carried = self.durable;
    }

    /// A sync has completed that was issued when `through` was the highest appended sequence, and groups up to
    /// then carried the watermark `recorded`.
    pub(crate) fn synced(&mut self, through: u64, recorded: u64) {
        debug_assert!(through <= self.appended, "a sync covers what was appended");
        self.durable = self.durable.max(through);
        self.recorded = self.recorded.max(recorded);
    }

    /// Is there a watermark that no durable group carries yet?
    pub(crate) fn watermark_is_due(&self) -> bool {
        self.recorded < self.durable
    }

    /// The highest sequence that satisfies the class: whoever waits for records up to it is told. In class
    /// `synced` no 250 is given before the completed sync that covers its record.
    pub(crate) fn settled(&self) -> u64 {
        match self.class {
            Durability::Synced if !sim::PlantedFault::AckBeforeSync.is_planted() => self.durable,
            _ => self.appended,
        }
    }
}
