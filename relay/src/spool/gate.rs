//! Sequences, and the promise they carry: nothing is settled in class `synced` before the completed sync that
//! covers it.

use chasqui_runtime::sim;

use super::config::Durability;

/// The counters of one incarnation. Records are numbered from 1 in the order in which they are written.
#[derive(Debug)]
pub(super) struct SyncGate {
    class: Durability,
    appended: u64,
    durable: u64,
    /// The watermark in the newest group.
    carried: u64,
    /// The watermark in the newest group that is durable itself.
    recorded: u64,
}

impl SyncGate {
    pub(super) fn new(class: Durability) -> SyncGate {
        SyncGate { class, appended: 0, durable: 0, carried: 0, recorded: 0 }
    }

    /// Sequence of the next record.
    pub(super) fn next(&self) -> u64 {
        self.appended + 1
    }

    /// The highest sequence in the page cache.
    pub(super) fn appended(&self) -> u64 {
        self.appended
    }

    /// The highest sequence that a completed sync covers.
    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    /// The watermark that the newest group in the page cache carries.
    pub(super) fn carried(&self) -> u64 {
        self.carried
    }

    /// A group with this many records is in the page cache, with the watermark of now.
    pub(super) fn append(&mut self, records: u64) {
        self.appended += records;
        self.carried = self.durable;
    }

    /// A sync has completed that was issued when `through` was the highest appended sequence, and groups up to
    /// then carried the watermark `recorded`.
    pub(super) fn synced(&mut self, through: u64, recorded: u64) {
        debug_assert!(through <= self.appended, "a sync covers what was appended");
        self.durable = self.durable.max(through);
        self.recorded = self.recorded.max(recorded);
    }

    /// Is there a watermark that no durable group carries yet?
    pub(super) fn watermark_is_due(&self) -> bool {
        self.recorded < self.durable
    }

    /// The highest sequence that satisfies the class: whoever waits for records up to it is told. In class
    /// `synced` no 250 is given before the completed sync that covers its record.
    pub(super) fn settled(&self) -> u64 {
        match self.class {
            Durability::Synced if !sim::PlantedFault::AckBeforeSync.is_planted() => self.durable,
            _ => self.appended,
        }
    }
}
