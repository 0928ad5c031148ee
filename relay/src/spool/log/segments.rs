//! The segments of a log: the one that is appended to, the spare, and what becomes of the others.

use std::io;
use std::rc::Rc;

use chasqui_runtime::{Instant, now, rng, sim};

use super::buffers::Buffers;
use super::segment_table::{LiveSegment, SegmentTable};
use super::watermark::Watermark;
use crate::spool::disk::{Disk, SegmentFile};
use crate::spool::error::SpoolError;
use crate::spool::format::group::Group;
use crate::spool::format::headers::{BLOCK, FIRST_GROUP, Identity, Kind};
use crate::spool::format::id::MessageId;
use crate::spool::format::index::Index;
use crate::spool::format::table::{Status, TableEntry, encode_table};
use crate::spool::stats::SpoolStats;

/// Segments that are kept when little mail is there: the active one, the spare, and a free one.
pub(crate) const KEPT: usize = 3;

/// All segments of a directory.
pub(crate) struct Segments {
    pub(crate) table: SegmentTable<Rc<SegmentFile>>,
    pub(crate) active: Active,
    pub(crate) spare: Option<Spare>,
    /// Why the last attempt to prepare a spare failed, if it did.
    pub(crate) spare_failed: Option<SpoolError>,
    /// The committer waits for a spare.
    pub(crate) spare_wanted: bool,
    /// The active segment was the last room on a full disk, and is for states alone until there is a spare.
    pub(crate) is_last_room: bool,
    /// The disk had no room for a new file; it is not asked again before this.
    pub(crate) disk_full_until: Option<Instant>,
    /// When to look for the file that the next start begins in; `None`: it is there.
    pub(crate) look_for_reserve: Option<Instant>,
    /// Sealed segments that only the page cache holds whole; class `buffered`.
    pub(crate) unsynced: Vec<Rc<SegmentFile>>,
    /// Sealed segments whose index is still to be written.
    pub(crate) unindexed: Vec<Unindexed>,
    pub(crate) tables: TableRequests,
    next_ordinal: u32,
    next_file: u32,
}

/// Tables that are to be written, because they free segments.
#[derive(Default)]
pub(crate) struct TableRequests {
    asked: u64,
    /// Since when one is wanted, until it is written.
    pub(crate) since: Option<Instant>,
    /// Of those asked for, how many are settled.
    pub(crate) settled: u64,
    /// The table that frees what was found last.
    pub(crate) freeing: Option<u64>,
}

impl TableRequests {
    /// Wants a table written; returns its number.
    pub(crate) fn ask(&mut self) -> u64 {
        self.asked += 1;
        self.since.get_or_insert_with(now);
        self.asked
    }

    /// How many were asked for: a table that is written now answers all of them.
    pub(crate) fn asked(&self) -> u64 {
        self.asked
    }
}

impl Segments {
    /// `active` is a placeholder; `spare` is the first segment, if there is room for one.
    pub(crate) fn new(
        table: SegmentTable<Rc<SegmentFile>>,
        active: Active,
        spare: Option<Spare>,
        next_ordinal: u32,
        next_file: u32,
    ) -> Segments {
        Segments {
            table,
            active,
            spare,
            spare_failed: None,
            spare_wanted: false,
            is_last_room: false,
            disk_full_until: None,
            look_for_reserve: Some(now()),
            unsynced: Vec::new(),
            unindexed: Vec::new(),
            tables: TableRequests::default(),
            next_ordinal,
            next_file,
        }
    }

    /// Files of all kinds.
    pub(crate) fn count(&self) -> usize {
        self.table.live_count() + self.table.free_count() + usize::from(self.spare.is_some())
    }

    /// Bytes of all of them.
    pub(crate) fn used_bytes(&self) -> u64 {
        let spare = self.spare.as_ref().map_or(0, |spare| spare.segment.len());
        self.table.files().map(|file| file.len()).sum::<u64>() + spare
    }

    /// Is there no spare, and none to come?
    pub(crate) fn has_no_spare(&self) -> bool {
        self.spare.is_none() && self.spare_failed.is_some()
    }

    /// Is there no spare, and will it be wanted soon?
    pub(crate) fn needs_spare(&self) -> bool {
        let is_near = self.active.end > self.active.segment.len() / 2;
        self.spare.is_none() && (self.spare_wanted || is_near)
    }

    /// Will a segment be free before a spare is wanted? To make a file and remove another costs more than to take it.
    pub(crate) fn awaits_free(&self) -> bool {
        let is_soon = self.table.free_count() == 0 && self.table.is_releasing();
        is_soon && self.spare_failed.is_none() && !self.needs_spare()
    }

    /// Is there anything to free, to prepare, to write behind the mail or to remove?
    pub(crate) fn are_untidy(&self) -> bool {
        self.spare.is_none()
            || self.table.is_unexamined()
            || self.tables.freeing.is_some()
            || self.count() != KEPT
            || !self.unsynced.is_empty()
            || !self.unindexed.is_empty()
    }

    /// The number of a new file.
    pub(crate) fn new_file(&mut self) -> u32 {
        self.next_file += 1;
        self.next_file - 1
    }

    pub(crate) fn new_identity(&mut self) -> io::Result<Identity> {
        if self.next_ordinal > MessageId::ORDINAL_MAX {
            return Err(io::Error::other("all segment ordinals are used: drain the spool and remove it"));
        }
        self.next_ordinal += 1;
        Ok(Identity { ordinal: self.next_ordinal - 1, epoch: rng().next_u64() })
    }

    /// Bytes that the active segment has left, when so many are kept.
    pub(crate) fn rest(&self, kept: u64) -> u64 {
        (self.active.segment.len() - self.active.end).saturating_sub(kept)
    }

    /// Does a group find room that takes so many bytes in the segment and in its index, when so many are kept for tables
    /// and for others? When there is no spare to come, the index gives way.
    pub(crate) fn fits(&mut self, padded: u64, index_length: usize, tables: u64, others: u64) -> bool {
        let rest = self.rest(tables + others);
        if padded + self.active.index.room(index_length + tables as usize) <= rest {
            return true;
        }
        let gives_way = padded <= rest && self.has_no_spare();
        if gives_way {
            self.active.index.give_up();
        }
        gives_way
    }

    /// The table of all segments.
    pub(crate) fn push_table(&self, group: &mut Group) {
        // One that is listed later may be newer than the spare, which would look forgotten then.
        let spare = self.spare.iter().map(|spare| spare.entry(Status::Free));
        let entries = self.table.entries().chain(spare);
        group.push(Kind::Table, 0, 0, |into| encode_table(into, entries), &[]);
    }

    /// The seal of the active segment, which names the spare as its successor.
    pub(crate) fn push_seal(&self, group: &mut Group) {
        let successor = self.spare.iter().map(|spare| spare.entry(Status::Live));
        let entries = self.table.entries().chain(successor);
        group.push(Kind::Seal, 0, 0, |into| encode_table(into, entries), &[]);
    }

    /// Goes on in the spare; the first group there is the table.
    pub(crate) fn activate_spare(&mut self) {
        let spare = self.spare.take().expect("waited for");
        let Identity { ordinal, epoch } = spare.identity;
        self.table.seal(self.active.identity.ordinal);
        self.table.insert(ordinal, LiveSegment::new(spare.file, epoch, spare.segment.clone()));
        let active = Active::new(spare.identity, spare.segment, FIRST_GROUP);
        let Active { identity, segment, end, index, .. } = std::mem::replace(&mut self.active, active);
        self.unindexed.push(Unindexed { identity, segment, end, index });
        self.tables.ask();
        self.spare_wanted = false;
    }
}

/// The segment that is appended to.
pub(crate) struct Active {
    pub(crate) identity: Identity,
    pub(crate) segment: Rc<SegmentFile>,
    /// Where the next group goes.
    pub(crate) end: u64,
    /// What is in it, but for the bodies.
    pub(crate) index: Index,
    /// Ids given while this segment is active.
    ids: u32,
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

    /// A new message id; never used before, because ordinals are not.
    pub(crate) fn next_id(&mut self, shard: u32) -> MessageId {
        let count = self.ids;
        self.ids += 1;
        MessageId::new(shard, self.identity.ordinal, count)
    }

    /// Writes a group behind the last one; returns where, and how many bytes. Bodies that it had apart go back to
    /// `buffers`.
    pub(crate) fn append(
        &mut self,
        group: &mut Group,
        watermark: &mut Watermark,
        buffers: &mut Buffers,
        stats: &mut SpoolStats,
    ) -> io::Result<(u64, u64)> {
        let is_rewriting = sim::PlantedFault::RewriteDurableBlock.is_planted() && self.end > FIRST_GROUP;
        let offset = self.end - if is_rewriting { BLOCK } else { 0 };
        debug_assert!(offset.is_multiple_of(BLOCK), "groups start on blocks of their own");
        let records = group.records() as u64;
        let stamp = watermark.stamp(self.identity, offset);
        let length = group.padded_len();
        let written = self.segment.append_at(offset, &group.finish(&stamp));
        if let Err(error) = written {
            group.reopen();
            return Err(error);
        }
        for body in group.take_bodies() {
            buffers.keep(body);
        }
        self.index.add(group);
        self.end = offset + length;
        watermark.append(records);
        stats.groups += 1;
        stats.bytes += length;
        Ok((offset, length))
    }
}

impl Spare {
    /// Its line in a table.
    fn entry(&self, status: Status) -> TableEntry {
        TableEntry { file: self.file, identity: self.identity, status }
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
