//! The segments of a spool and what keeps each of them from being recycled. Pure bookkeeping.
//!
//! A segment can go when no record lives in it and none speaks of a segment that has not gone: a tombstone counts
//! until the segments with every copy of its message are gone. What keeps a segment can be copied forward, as
//! [`super::cleaner`] does; then it can go too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chasqui_runtime::sim;

use super::entries::Weight;
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
    /// Bytes of what counts in all of them.
    live_bytes: u64,
}

/// A segment that counts.
#[derive(Debug)]
pub(super) struct LiveSegment<S> {
    pub(super) file: u32,
    pub(super) epoch: u64,
    pub(super) segment: S,
    /// Records that live in it: pieces of messages, and states of messages that have recipients left.
    records: u64,
    /// Their bytes.
    bytes: u64,
    /// Other live segments that tombstones in it speak of. The bytes of a tombstone stand with the newest.
    speaks_of: BTreeMap<u32, u64>,
    /// The sum of these bytes.
    tombstone_bytes: u64,
    /// Live segments with older copies of pieces in it: what speaks of it speaks of them too.
    sources: BTreeSet<u32>,
    /// Cuts in it are needed as long as one of these is live.
    cuts_of: BTreeSet<u32>,
    /// Nothing is appended to it any more.
    pub(super) sealed: bool,
    /// Kept for inspection instead of being overwritten.
    pub(super) damaged: bool,
    /// Something that counts in it cannot be copied: it stays until that is finished.
    pub(super) stuck: bool,
}

impl<S> LiveSegment<S> {
    /// A segment that is about to be appended to.
    pub(super) fn new(file: u32, epoch: u64, segment: S) -> LiveSegment<S> {
        LiveSegment {
            file,
            epoch,
            segment,
            records: 0,
            bytes: 0,
            speaks_of: BTreeMap::new(),
            tombstone_bytes: 0,
            sources: BTreeSet::new(),
            cuts_of: BTreeSet::new(),
            sealed: false,
            damaged: false,
            stuck: false,
        }
    }

    /// A segment that was recovered.
    pub(super) fn recovered(file: u32, epoch: u64, segment: S, damaged: bool) -> LiveSegment<S> {
        LiveSegment { sealed: true, damaged, ..LiveSegment::new(file, epoch, segment) }
    }

    /// Bytes of what counts in it.
    pub(super) fn live_bytes(&self) -> u64 {
        self.bytes + self.tombstone_bytes
    }

    /// Does nothing count in it any more?
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0 && self.speaks_of.is_empty() && self.cuts_of.is_empty()
    }

    /// Does a record live in it?
    pub(super) fn has_records(&self) -> bool {
        self.records > 0
    }

    /// The segments that tombstones in it speak of.
    pub(super) fn subjects(&self) -> impl Iterator<Item = u32> + '_ {
        self.speaks_of.keys().copied()
    }

    /// Needs it the cuts that it has?
    pub(super) fn needs_cuts(&self) -> bool {
        !self.cuts_of.is_empty()
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
            live_bytes: 0,
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

    /// A live segment was found to be damaged.
    pub(super) fn set_damaged(&mut self, ordinal: u32) {
        if let Some(live) = self.live.get_mut(&ordinal) {
            live.damaged = true;
        }
    }

    /// A record lives.
    pub(super) fn add_record(&mut self, Weight { ordinal, bytes }: Weight) {
        let live = self.live.get_mut(&ordinal).expect("records are placed in live segments");
        live.records += 1;
        live.bytes += bytes;
        self.live_bytes += bytes;
    }

    /// Such a record is dead: its message is finished by durable states or was never committed, a newer state has
    /// taken its place, or its copy is durable.
    pub(super) fn remove_record(&mut self, Weight { ordinal, bytes }: Weight) {
        let live = self.live.get_mut(&ordinal).expect("a segment with a record that lives is live");
        live.records -= 1;
        live.bytes -= bytes;
        self.live_bytes -= bytes;
        self.unexamined |= live.records == 0;
    }

    /// How many [`SegmentTable::homes`] names at most.
    pub(super) fn homes_max(&self, pieces: impl Iterator<Item = u32>) -> usize {
        let (mut last, mut count) = (None, 0);
        for ordinal in pieces.filter(|ordinal| last.replace(*ordinal) != Some(*ordinal)) {
            count += 1 + self.live.get(&ordinal).map_or(0, |live| live.sources.len());
        }
        count
    }

    /// The segments with copies of a message whose pieces are in these, in rising order.
    pub(super) fn homes(&self, pieces: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut homes = Vec::new();
        self.find_homes(pieces, &mut homes);
        homes
    }

    /// The same into an empty vector.
    pub(super) fn find_homes(&self, pieces: impl Iterator<Item = u32>, homes: &mut Vec<u32>) {
        for ordinal in pieces {
            if homes.last() == Some(&ordinal) {
                continue;
            }
            homes.push(ordinal);
            homes.extend(self.live.get(&ordinal).iter().flat_map(|live| &live.sources));
        }
        homes.sort_unstable();
        homes.dedup();
    }

    /// Tombstones in `speaker` speak of messages in `subjects`: so many bytes, counted with the newest subject.
    pub(super) fn speak(&mut self, speaker: u32, subjects: impl IntoIterator<Item = (u32, u64)>) {
        for (subject, bytes) in subjects {
            if subject == speaker || !self.live.contains_key(&subject) {
                continue;
            }
            let Some(live) = self.live.get_mut(&speaker) else { return };
            *live.speaks_of.entry(subject).or_default() += bytes;
            live.tombstone_bytes += bytes;
            self.live_bytes += bytes;
        }
    }

    /// Pieces in `to` have older copies in `from`.
    pub(super) fn copied(&mut self, from: u32, to: u32) {
        let older: Vec<u32> = match self.live.get(&from) {
            Some(live) => live.sources.iter().copied().chain([from]).filter(|it| *it != to).collect(),
            None => return,
        };
        self.live.get_mut(&to).expect("copies are placed in live segments").sources.extend(older);
    }

    /// The cuts in `speaker` are needed as long as one of `subjects` is live.
    pub(super) fn cut(&mut self, speaker: u32, subjects: impl IntoIterator<Item = u32>) {
        let subjects: Vec<u32> =
            subjects.into_iter().filter(|it| *it != speaker && self.live.contains_key(it)).collect();
        self.live.get_mut(&speaker).expect("cuts are placed in live segments").cuts_of.extend(subjects);
    }

    /// The cuts in `from` were copied to `to`.
    pub(super) fn copied_cuts(&mut self, from: u32, to: u32) {
        let subjects = self.live.get(&from).map(|live| live.cuts_of.clone()).unwrap_or_default();
        self.cut(to, subjects.into_iter().filter(|it| *it != from));
    }

    /// Every tombstone and cut in this segment that counts has a durable copy elsewhere.
    pub(super) fn cleaned(&mut self, ordinal: u32) {
        let Some(live) = self.live.get_mut(&ordinal) else { return };
        self.live_bytes -= live.tombstone_bytes;
        live.tombstone_bytes = 0;
        live.speaks_of.clear();
        live.cuts_of.clear();
        self.unexamined = true;
    }

    /// A live segment.
    pub(super) fn live(&self, ordinal: u32) -> Option<&LiveSegment<S>> {
        self.live.get(&ordinal)
    }

    /// What counts in a segment cannot be copied.
    pub(super) fn give_up(&mut self, ordinal: u32) {
        if let Some(live) = self.live.get_mut(&ordinal) {
            live.stuck = true;
        }
    }

    /// The live segments by ordinal, the oldest first.
    pub(super) fn live_segments(&self) -> impl Iterator<Item = (u32, &LiveSegment<S>)> {
        self.live.iter().map(|(ordinal, live)| (*ordinal, live))
    }

    /// All files but those that are just being overwritten, removed or moved.
    pub(super) fn files(&self) -> impl Iterator<Item = &S> {
        let free = self.leaving.iter().chain(&self.free).map(|free| &free.segment);
        self.live.values().map(|live| &live.segment).chain(free)
    }

    /// Bytes of what counts: records that live, and tombstones of messages in other segments.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
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
            let speaks = !live.speaks_of.keys().chain(&live.cuts_of).all(gone)
                && !sim::PlantedFault::EarlyTombstone.is_planted();
            if !live.sealed || live.records > 0 || speaks {
                continue;
            }
            let live = self.live.remove(&ordinal).expect("looked at above");
            self.live_bytes -= live.live_bytes();
            let identity = Identity { ordinal, epoch: live.epoch };
            let LiveSegment { file, segment, damaged, .. } = live;
            self.leaving.push(FreeSegment { file, identity, segment, damaged });
        }
        if self.leaving.len() == before {
            return false;
        }
        let left: BTreeSet<u32> = self.live.keys().copied().collect();
        for live in self.live.values_mut() {
            live.sources.retain(|subject| left.contains(subject));
            live.cuts_of.retain(|subject| left.contains(subject));
            live.speaks_of.retain(|subject, _| left.contains(subject));
            self.live_bytes -= live.tombstone_bytes;
            live.tombstone_bytes = live.speaks_of.values().sum();
            self.live_bytes += live.tombstone_bytes;
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

    /// Will [`SegmentTable::release`] add to the free ones?
    pub(super) fn is_releasing(&self) -> bool {
        self.leaving.iter().any(|leaving| !leaving.damaged)
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
        table.add_record(Weight { ordinal: 1, bytes: 100 });
        table.speak(2, [(1, 10)]);
        table.speak(3, [(2, 10), (3, 10)]);
        assert_eq!(table.live_bytes(), 120);
        assert!(freed(&mut table).is_empty());
        table.remove_record(Weight { ordinal: 1, bytes: 100 });
        assert_eq!(freed(&mut table), [1, 2, 3]);
        assert_eq!(table.live_bytes(), 0);
        assert!(freed(&mut table).is_empty());
        table.seal(4);
        assert_eq!(freed(&mut table), [4]);
    }

    /// What a record says of a segment that is gone binds nothing.
    #[test]
    fn gone_subjects_do_not_bind() {
        let mut table = SegmentTable::default();
        table.insert(2, live(true));
        table.speak(2, [(1, 10)]);
        assert_eq!(freed(&mut table), [2]);
    }

    /// A tombstone of a message that was copied is bound to the segments of both copies, and to the new one alone once
    /// the old one is gone; a segment whose tombstones were copied binds nothing.
    #[test]
    fn copies_bind_too() {
        let mut table = SegmentTable::default();
        (1..=4).for_each(|ordinal| table.insert(ordinal, live(ordinal < 4)));
        table.add_record(Weight { ordinal: 1, bytes: 100 });
        table.add_record(Weight { ordinal: 3, bytes: 100 });
        table.copied(1, 3);
        assert_eq!(table.homes([3].into_iter()), [1, 3]);
        table.speak(2, [(1, 10)]);
        table.speak(4, [(1, 0), (3, 10)]);
        assert_eq!(table.live_bytes(), 220);
        table.cleaned(2);
        assert_eq!((freed(&mut table), table.live_bytes()), (vec![2], 210));
        table.remove_record(Weight { ordinal: 1, bytes: 100 });
        assert_eq!(freed(&mut table), [1]);
        assert_eq!(table.homes([3].into_iter()), [3]);
        table.seal(4);
        assert!(freed(&mut table).is_empty());
        table.remove_record(Weight { ordinal: 3, bytes: 100 });
        assert_eq!((freed(&mut table), table.live_bytes()), (vec![3, 4], 0));
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
