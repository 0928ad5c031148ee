//! The log of one shard's directory: what is in memory of it, and how records enter it.
//!
//! Records enter the open group ([`Inner::group_for`]); the committer ([`super::committer`]) writes and syncs groups
//! and settles those who wait; the chores ([`super::chores`]) free segments and prepare the spare.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::task::Waker;

use chasqui_runtime::{Instant, now};
use slab::Slab;

use super::buffers::Buffers;
use super::copy::Batch;
use super::entries::Entries;
use super::first::First;
use super::gate::SyncGate;
use super::groups::{NewNote, Pending};
use super::notes::{Notes, Word};
use super::residents::Residents;
use super::segments::{Active, Spare, Unindexed};
use super::streams::Stream;
use super::table::SegmentTable;
use crate::spool::config::Geometry;
use crate::spool::disk::SegmentFile;
use crate::spool::error::SpoolError;
use crate::spool::format::headers::{Kind, RECORD_HEADER};
use crate::spool::format::id::{MessageId, StateChange};
use crate::spool::format::state::{HOME, encode_state, state_meta_length, write_homes};
use crate::spool::stats::SpoolStats;

/// Idle group buffers.
const POOL_MAX: usize = 4;

/// May records enter?
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    Running,
    /// What has entered is written, then the tasks end.
    Closing,
    Closed,
    /// A write or sync failed.
    Sealed(Rc<str>),
}

/// Everything that changes.
pub(crate) struct Inner {
    pub(crate) condition: Condition,
    /// The last one is open; the others are full.
    pub(crate) queue: VecDeque<Pending>,
    /// Written and not yet settled.
    pub(crate) written: Vec<Pending>,
    pub(crate) pool: Vec<Pending>,
    next_ticket: u64,
    pub(crate) settled_ticket: u64,
    pub(crate) waiters: VecDeque<(u64, Waker)>,
    pub(crate) gate: SyncGate,
    pub(crate) incarnation: u32,
    pub(crate) table: SegmentTable<Rc<SegmentFile>>,
    pub(crate) active: Active,
    /// What the first groups are made of, until they are durable: nothing else is written before.
    pub(crate) first: Option<First>,
    pub(crate) spare: Option<Spare>,
    /// When to look for the file that the next start begins in; `None`: it is there.
    pub(crate) look_for_reserve: Option<Instant>,
    /// The active segment was the last room on a full disk, and is for states alone until there is a spare.
    pub(crate) is_last_room: bool,
    /// Something was refused for lack of room since there was some.
    pub(crate) has_refused: bool,
    /// Why the last attempt to prepare a spare failed, if it did.
    pub(crate) spare_failed: Option<SpoolError>,
    /// The committer waits for a spare.
    pub(crate) spare_wanted: bool,
    /// The disk had no room for a new file; it is not asked again before this.
    pub(crate) disk_full_until: Option<Instant>,
    /// The file system had no room for a write to the active segment; it is tried again.
    pub(crate) stalled: bool,
    /// Tables that the chores have asked for.
    pub(crate) tables_asked: u64,
    /// When they asked for the last one, until it is written.
    pub(crate) table_since: Option<Instant>,
    /// Of those asked for, how many are settled.
    pub(crate) tables_settled: u64,
    /// The table that frees what was found last.
    pub(crate) freeing: Option<u64>,
    /// What the cleaner wants copied.
    pub(crate) copying: Option<Batch>,
    /// It waits for a spare.
    pub(crate) copy_waits: bool,
    /// The file system had no room for it.
    pub(crate) copy_failed: bool,
    /// A segment is being cleaned.
    pub(crate) cleaning: bool,
    /// Sealed segments that only the page cache holds whole; class `buffered`.
    pub(crate) unsynced: Vec<Rc<SegmentFile>>,
    /// Sealed segments whose index is still to be written.
    pub(crate) unindexed: Vec<Unindexed>,
    pub(crate) next_ordinal: u32,
    pub(crate) next_file: u32,
    pub(crate) messages: Entries,
    pub(crate) residents: Residents,
    pub(crate) notes: Notes,
    /// Messages that were found to be damaged.
    pub(crate) damaged: BTreeSet<MessageId>,
    pub(crate) streams: Slab<Stream>,
    pub(crate) buffers: Buffers,
    /// Bytes in stream buffers and in groups that are not settled.
    pub(crate) inflight: usize,
    /// Padded bytes of the groups in `queue`.
    pub(crate) queued_bytes: u64,
    /// Bytes promised to reservations.
    pub(crate) reserved: u64,
    pub(crate) last_round: Instant,
    pub(crate) stats: SpoolStats,
}

/// What an opened directory starts with.
pub(crate) struct Start {
    pub(crate) gate: SyncGate,
    pub(crate) incarnation: u32,
    pub(crate) table: SegmentTable<Rc<SegmentFile>>,
    /// A placeholder.
    pub(crate) active: Active,
    pub(crate) first: First,
    /// The first segment, if there is room for one.
    pub(crate) spare: Option<Spare>,
    pub(crate) next_ordinal: u32,
    pub(crate) next_file: u32,
    pub(crate) messages: Entries,
    pub(crate) notes: Notes,
    pub(crate) buffers: Buffers,
    pub(crate) stats: SpoolStats,
}

impl Inner {
    pub(crate) fn new(start: Start) -> Inner {
        let Start {
            gate,
            incarnation,
            table,
            active,
            first,
            spare,
            next_ordinal,
            next_file,
            messages,
            notes,
            buffers,
            stats,
        } = start;
        Inner {
            condition: Condition::Running,
            queue: VecDeque::new(),
            written: Vec::new(),
            pool: Vec::new(),
            next_ticket: 1,
            settled_ticket: 0,
            waiters: VecDeque::new(),
            gate,
            incarnation,
            table,
            active,
            first: Some(first),
            spare,
            look_for_reserve: Some(now()),
            is_last_room: false,
            has_refused: false,
            spare_failed: None,
            spare_wanted: false,
            disk_full_until: None,
            stalled: false,
            tables_asked: 0,
            table_since: None,
            tables_settled: 0,
            freeing: None,
            copying: None,
            copy_waits: false,
            copy_failed: false,
            cleaning: false,
            unsynced: Vec::new(),
            unindexed: Vec::new(),
            next_ordinal,
            next_file,
            messages,
            residents: Residents::default(),
            notes,
            damaged: BTreeSet::new(),
            streams: Slab::new(),
            buffers,
            inflight: 0,
            queued_bytes: 0,
            reserved: 0,
            last_round: now(),
            stats,
        }
    }

    /// May a record enter?
    pub(crate) fn check(&self) -> Result<(), SpoolError> {
        match &self.condition {
            Condition::Running => Ok(()),
            Condition::Sealed(why) => Err(SpoolError::Sealed(why.clone())),
            Condition::Closing | Condition::Closed => Err(SpoolError::Closed),
        }
    }

    /// Have the tasks nothing more to do?
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.condition, Condition::Sealed(_) | Condition::Closed)
    }

    /// Is nothing entered that is not settled?
    pub(crate) fn is_quiet(&self) -> bool {
        self.written.is_empty() && self.queue.iter().all(|open| open.group.records() == 0)
    }

    /// The open group, with room for `bytes` of records.
    pub(crate) fn group_for(&mut self, bytes: usize, geometry: &Geometry) -> &mut Pending {
        let fits = |open: &Pending| (open.group.len() + bytes) as u64 <= geometry.group_max;
        if !self.queue.back().is_some_and(fits) {
            let mut pending = self.pool.pop().unwrap_or_default();
            pending.ticket = self.next_ticket;
            self.next_ticket += 1;
            self.queued_bytes += pending.group.padded_len();
            self.queue.push_back(pending);
        }
        self.queue.back_mut().expect("pushed if there was none")
    }

    /// Lets `fill` add records to the open group, which has room for `bytes` of them; returns its ticket.
    pub(crate) fn enter<T>(
        &mut self,
        bytes: usize,
        urgent: bool,
        geometry: &Geometry,
        fill: impl FnOnce(&mut Pending) -> T,
    ) -> (u64, T) {
        let pending = self.group_for(bytes, geometry);
        let (before, padded_before) = (pending.group.len(), pending.group.padded_len());
        let result = fill(pending);
        let (grown, padded_grown) =
            (pending.group.len() - before, pending.group.padded_len() - padded_before);
        pending.urgent |= urgent;
        pending.since.get_or_insert_with(now);
        pending.inflight += grown;
        let ticket = pending.ticket;
        self.inflight += grown;
        self.queued_bytes += padded_grown;
        (ticket, result)
    }

    /// A new message id; never used before, because ordinals are not.
    pub(crate) fn next_id(&mut self, shard: u32) -> MessageId {
        let count = self.active.ids;
        self.active.ids += 1;
        MessageId::new(shard, self.active.identity.ordinal, count)
    }

    /// Bytes that the records of `changes` take at most.
    pub(crate) fn states_length(&self, changes: &[StateChange<'_>]) -> usize {
        let homes = |change: &StateChange<'_>| {
            let entry = self.messages.get(change.id).filter(|_| change.state.is_final());
            entry.map_or(0, |entry| self.table.homes_max(entry.pieces().map(|piece| piece.ordinal)))
        };
        let length = |it: &StateChange<'_>| {
            RECORD_HEADER + state_meta_length(it.recipients, &it.state) + HOME * homes(it)
        };
        changes.iter().map(length).sum()
    }

    /// Adds the records of states to a group and applies them.
    pub(crate) fn push_states(
        messages: &mut Entries,
        table: &SegmentTable<Rc<SegmentFile>>,
        pending: &mut Pending,
        changes: &[StateChange<'_>],
    ) -> u64 {
        let mut pushed = 0;
        for change in changes {
            let Some(entry) = messages.get_mut(change.id) else {
                log::debug!("spool: state for message {}, which is finished", change.id);
                continue;
            };
            let is_final = change.state.is_final();
            let (mut homes, mut body) = std::mem::take(&mut pending.homes);
            homes.clear();
            body.clear();
            if is_final {
                table.find_homes(entry.pieces().map(|piece| piece.ordinal), &mut homes);
            }
            write_homes(&mut body, &homes);
            let write = |into: &mut Vec<u8>| encode_state(into, change.recipients, &change.state);
            let before = pending.group.len();
            let (start, _) = pending.group.push(Kind::State, 0, change.id.0, write, &body);
            let length = (pending.group.len() - before) as u32;
            pushed += 1;
            if is_final && entry.finish(change.recipients) {
                let entry = messages.remove(change.id).expect("found above");
                pending.releases.extend(entry.weights());
                pending.speak(&homes, length);
                pending.completed.push((change.id, entry.head().ordinal));
                pending.homes = (homes, body);
                continue;
            }
            pending.speak(&homes, 0);
            pending.homes = (homes, body);
            let recipients = change.recipients.to_vec();
            let word = Word::of(&change.state);
            pending.notes.push(NewNote { id: change.id, start, length, word, recipients });
        }
        pushed
    }

    /// Enters states into a group that they fit into; returns its ticket.
    pub(crate) fn enter_states(
        &mut self,
        changes: &[StateChange<'_>],
        urgent: bool,
        geometry: &Geometry,
    ) -> u64 {
        let length = self.states_length(changes);
        let (mut messages, table) = (std::mem::take(&mut self.messages), std::mem::take(&mut self.table));
        let (ticket, pushed) = self.enter(length, urgent, geometry, |pending| {
            Inner::push_states(&mut messages, &table, pending, changes)
        });
        (self.messages, self.table) = (messages, table);
        self.stats.states += pushed;
        ticket
    }

    /// Wants a table written; returns its number, see [`Inner::tables_settled`].
    pub(crate) fn ask_for_table(&mut self) -> u64 {
        self.tables_asked += 1;
        self.table_since.get_or_insert_with(now);
        self.tables_asked
    }

    /// What a sync will cover that is issued now.
    pub(crate) fn sync_scope(&self) -> SyncScope {
        SyncScope {
            through: self.gate.appended(),
            recorded: self.gate.carried(),
            messages: self.stats.messages,
        }
    }

    /// A sync that covered this has completed.
    pub(crate) fn synced(&mut self, scope: SyncScope) {
        self.gate.synced(scope.through, scope.recorded);
        self.stats.synced_messages = self.stats.synced_messages.max(scope.messages);
    }

    /// What was written and satisfies the class is settled: frees what it finishes and wakes who waits.
    pub(crate) fn settle(&mut self) {
        let through = self.gate.settled();
        let mut written = std::mem::take(&mut self.written);
        let settled = written.partition_point(|pending| pending.last_sequence <= through);
        for pending in written.drain(..settled) {
            self.settled_ticket = pending.ticket;
            self.inflight -= pending.inflight;
            for weight in &pending.releases {
                self.table.remove_record(*weight);
            }
            self.tables_settled = self.tables_settled.max(pending.table.unwrap_or(0));
            if self.pool.len() < POOL_MAX {
                self.pool.push(pending.recycle());
            }
        }
        self.written = written;
        while let Some((_, waker)) = self.waiters.pop_front_if(|(ticket, _)| *ticket <= self.settled_ticket) {
            waker.wake();
        }
    }
}

/// What a sync covers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SyncScope {
    pub(crate) through: u64,
    /// The watermark in it.
    recorded: u64,
    /// Messages written since the start.
    messages: u64,
}
