//! The segments of a spool and what keeps each of them from being recycled. Pure bookkeeping.
//!
//! A segment can go when no message lives in it and no record in it speaks of a segment that has not gone:
//! a tombstone counts until the segments with every copy of its message are gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chasqui_runtime::sim;

use super::format::Identity;
use super::payload::{Status, TableEntry};

/// All segments but the spare; `S` is the open file.
#[derive(Debug)]
pub(super) struct SegmentTable<S> {
    live: BTreeMap<u32, LiveSegment<S>>,
    /// Nothing counts in them, but no durable table says so yet.
    leaving: Vec<FreeSegment<S>>,
    /// May be overwritten. The oldest first, so that what its records speak of mostly goes before them; what counts
    /// is the newest table, which lists all of these as free.
    free: VecDeque<FreeSegment<S>>,
    /// Taken out of the free ones to be overwritten, removed or moved, which is not yet durable.
    busy: Vec<TableEntry>,
    /// Something has changed that may let a segment go.
    unexamined: bool,
}

/// A segment that counts.
#[derive(Debug)]
pub(super) struct LiveSegment<S> {
    pub(super) file: u32,
    pub(super) epoch: u64,
    pub(super) segment: S,
    /// Pieces of messages that live in it.
    pub(super) pieces: u64,
    /// Ordinals of other live segments that records in it speak of.
    pub(super) speaks_of: BTreeSet<u32>,
    /// Nothing is appended to it any more.
    pub(super) sealed: bool,
    /// Kept for inspection instead of being overwritten.
    pub(super) damaged: bool,
}

impl<S> LiveSegment<S> {
    /// A segment that is about to be appended to.
    pub(super) fn new(file: u32, epoch: u64, segment: S) -> LiveSegment<S> {
        let speaks_of = BTreeSet::new();
        LiveSegment { file, epoch, segment, pieces: 0, speaks_of, sealed: false, damaged: false }
    }
}

/// A segment in which nothing counts.
#[derive(Debug)]
pub(super) struct FreeSegment<S> {
    pub(super) file: u32,
    pub(super) identity: Identity,
    pub(super) segment: S,
    pub(super) damaged: bool,
}

impl<S> FreeSegment<S> {
    fn entry(&self) -> TableEntry {
        let status = if self.damaged { Status::Damaged } else { Status::Free };
        TableEntry { file: self.file, identity: self.identity, status }
    }
}

impl<S> Default for SegmentTable<S> {
    fn default() -> Self {
        SegmentTable {
            live: BTreeMap::new(),
            leaving: Vec::new(),
            free: VecDeque::new(),
            busy: Vec::new(),
            unexamined: true,
        }
    }
}

impl<S> SegmentTable<S> {
    /// Adds a live segment.
    pub(super) fn insert(&mut self, ordinal: u32, segment: LiveSegment<S>) {
        self.live.insert(ordinal, segment);
        self.unexamined = true;
    }

    /// Adds a segment that may be overwritten.
    pub(super) fn add_free(&mut self, segment: FreeSegment<S>) {
        self.free.push_back(segment);
    }

    /// The segment free the longest of those that are `ready`. It stays listed until [`SegmentTable::done`].
    pub(super) fn pop_free(&mut self, ready: impl Fn(&S) -> bool) -> Option<FreeSegment<S>> {
        let first = self.free.iter().position(|free| ready(&free.segment))?;
        let free = self.free.remove(first)?;
        self.busy.push(free.entry());
        Some(free)
    }

    /// What a segment was taken out for is durable.
    pub(super) fn done(&mut self, identity: Identity) {
        self.busy.retain(|entry| entry.identity != identity);
    }

    /// A live segment's file.
    pub(super) fn segment(&self, ordinal: u32) -> Option<&S> {
        self.live.get(&ordinal).map(|live| &live.segment)
    }

    /// A piece of a message lives in this segment.
    pub(super) fn add_piece(&mut self, ordinal: u32) {
        self.live.get_mut(&ordinal).expect("pieces are placed in live segments").pieces += 1;
    }

    /// A piece is dead: its message is finished by durable states, or was never committed.
    pub(super) fn remove_piece(&mut self, ordinal: u32) {
        let live = self.live.get_mut(&ordinal).expect("a segment with a piece is live");
        live.pieces -= 1;
        self.unexamined |= live.pieces == 0;
    }

    /// Records in `speaker` speak of messages in `subjects`.
    pub(super) fn speak(&mut self, speaker: u32, subjects: &BTreeSet<u32>) {
        let live_subjects = subjects.iter().filter(|subject| **subject != speaker);
        let live_subjects: Vec<u32> =
            live_subjects.copied().filter(|it| self.live.contains_key(it)).collect();
        if let Some(speaker) = self.live.get_mut(&speaker) {
            speaker.speaks_of.extend(live_subjects);
        }
    }

    /// Nothing more is appended to it.
    pub(super) fn seal(&mut self, ordinal: u32) {
        self.live.get_mut(&ordinal).expect("the active segment is live").sealed = true;
        self.unexamined = true;
    }

    /// May [`SegmentTable::find_freeable`] find something?
    pub(super) fn is_unexamined(&self) -> bool {
        self.unexamined
    }

    /// Finds the segments that can go. Tables list them free from now on; once one of these tables is durable,
    /// [`SegmentTable::release`] lets them be overwritten. Returns whether there are any.
    pub(super) fn find_freeable(&mut self) -> bool {
        if !std::mem::take(&mut self.unexamined) {
            return false;
        }
        let before = self.leaving.len();
        // Records speak of older segments, so one pass from the oldest finds whole chains.
        let ordinals: Vec<u32> = self.live.keys().copied().collect();
        for ordinal in ordinals {
            let live = &self.live[&ordinal];
            let gone = |subject: &u32| !self.live.contains_key(subject);
            let is_spoken_for = !live.speaks_of.iter().all(gone) && !sim::bug("early-tombstone");
            if !live.sealed || live.pieces > 0 || is_spoken_for {
                continue;
            }
            let live = self.live.remove(&ordinal).expect("looked at above");
            let identity = Identity { ordinal, epoch: live.epoch };
            let LiveSegment { file, segment, damaged, .. } = live;
            self.leaving.push(FreeSegment { file, identity, segment, damaged });
        }
        if self.leaving.len() == before {
            return false;
        }
        let left: BTreeSet<u32> = self.live.keys().copied().collect();
        for live in self.live.values_mut() {
            live.speaks_of.retain(|subject| left.contains(subject));
        }
        true
    }

    /// A table that lists the leaving ones is durable: they may be overwritten, except the damaged ones, which
    /// are returned to be moved away and stay listed until [`SegmentTable::done`].
    pub(super) fn release(&mut self) -> Vec<FreeSegment<S>> {
        let (damaged, free): (Vec<_>, Vec<_>) = self.leaving.drain(..).partition(|leaving| leaving.damaged);
        self.free.extend(free);
        self.busy.extend(damaged.iter().map(FreeSegment::entry));
        damaged
    }

    /// The lines of a table record.
    pub(super) fn entries(&self) -> impl Iterator<Item = TableEntry> + '_ {
        let live = self.live.iter().map(|(ordinal, it)| {
            let identity = Identity { ordinal: *ordinal, epoch: it.epoch };
            TableEntry { file: it.file, identity, status: Status::Live }
        });
        let free = self.leaving.iter().chain(&self.free).map(FreeSegment::entry);
        live.chain(free).chain(self.busy.iter().copied())
    }

    /// Number of segments that hold what counts, or did so until a moment ago.
    pub(super) fn live_count(&self) -> usize {
        self.live.len() + self.leaving.len()
    }

    /// Number of segments that may be overwritten.
    pub(super) fn free_count(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(sealed: bool) -> LiveSegment<()> {
        LiveSegment { sealed, ..LiveSegment::new(0, 0, ()) }
    }

    fn freed(table: &mut SegmentTable<()>) -> Vec<u32> {
        table.find_freeable();
        table.release();
        table.free.drain(..).map(|free| free.identity.ordinal).collect()
    }

    /// A tombstone keeps its segment until the message's own segment is gone, and a chain goes in one pass.
    #[test]
    fn tombstones_outlive_their_messages() {
        let mut table = SegmentTable::default();
        for ordinal in 1..=3 {
            table.insert(ordinal, live(true));
        }
        table.insert(4, live(false));
        table.add_piece(1);
        table.speak(2, &BTreeSet::from([1]));
        table.speak(3, &BTreeSet::from([2, 3]));
        assert!(freed(&mut table).is_empty());
        table.remove_piece(1);
        assert_eq!(freed(&mut table), [1, 2, 3]);
        assert!(freed(&mut table).is_empty());
        table.seal(4);
        assert_eq!(freed(&mut table), [4]);
    }

    /// What a record says of a segment that is gone binds nothing.
    #[test]
    fn gone_subjects_do_not_bind() {
        let mut table = SegmentTable::default();
        table.insert(2, live(true));
        table.speak(2, &BTreeSet::from([1]));
        assert_eq!(freed(&mut table), [2]);
    }

    /// A segment is listed from the moment it can go until what it was taken out for is durable.
    #[test]
    fn listed_until_done() {
        let mut table = SegmentTable::default();
        let listed = |table: &SegmentTable<()>| table.entries().map(|entry| entry.status).collect::<Vec<_>>();
        table.insert(1, live(true));
        table.insert(2, LiveSegment { damaged: true, ..live(true) });
        assert_eq!(listed(&table), [Status::Live, Status::Live]);
        assert!(table.find_freeable());
        assert_eq!(listed(&table), [Status::Free, Status::Damaged]);
        assert_eq!(table.release().len(), 1);
        let popped = table.pop_free(|_| true).expect("one is free");
        assert_eq!(listed(&table), [Status::Damaged, Status::Free]);
        table.done(popped.identity);
        assert_eq!(listed(&table), [Status::Damaged]);
    }

    /// Segments are reused oldest first, except those that are leased.
    #[test]
    fn reuse_in_order() {
        let mut table = SegmentTable::<u32>::default();
        for ordinal in 1..=3 {
            let identity = Identity { ordinal, epoch: 0 };
            table.add_free(FreeSegment { file: ordinal, identity, segment: ordinal, damaged: false });
        }
        assert_eq!(table.pop_free(|segment| *segment != 1).map(|free| free.file), Some(2));
        assert_eq!(table.pop_free(|_| true).map(|free| free.file), Some(1));
        assert!(table.pop_free(|_| false).is_none());
    }
}
