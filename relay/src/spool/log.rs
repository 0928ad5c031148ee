//! The log of one shard's directory: what is in memory of it, and how records enter it.
//!
//! Records enter the open group ([`Inner::group_for`]); the committer ([`super::committer`]) writes and syncs groups
//! and settles those who wait; the chores ([`super::chores`]) free segments and prepare the spare.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use chasqui_runtime::fs::DirLock;
use chasqui_runtime::sync::Notify;
use chasqui_runtime::{Instant, JoinHandle, now, turn_time};
use slab::Slab;

use super::SpoolStats;
use super::begin::First;
use super::buffers::Buffers;
use super::config::{Durability, Geometry, ResidentLimits};
use super::copy::Batch;
use super::disk::{Disk, SegmentFile};
use super::entries::{Entries, Weight};
use super::error::SpoolError;
use super::format::{Identity, Kind, RECORD_HEADER};
use super::gate::SyncGate;
use super::group::Group;
use super::id::{MessageId, StateChange};
use super::index::{Index, Unindexed};
use super::notes::{Notes, Word};
use super::payload::{HOME, encode_state, state_meta_length, write_homes};
use super::residents::Residents;
use super::table::SegmentTable;
use super::writer::Stream;

/// States wait this long for a group that mail starts; after this long without one the watermark is written.
pub(super) const LINGER: Duration = Duration::from_millis(50);
/// Time between two looks at the directory.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Memory that an idle group buffer keeps.
const GROUP_KEEP_BYTES: usize = 1 << 20;
/// Idle group buffers.
const POOL_MAX: usize = 4;

/// The log of one directory.
pub(super) struct Log {
    pub(super) dir: PathBuf,
    pub(super) disk: Disk,
    pub(super) class: Durability,
    pub(super) geometry: Geometry,
    /// Whose directory it is.
    pub(super) shard: u32,
    /// Random number of the directory.
    pub(super) spool: u64,
    pub(super) inflight_max: usize,
    pub(super) residents: ResidentLimits,
    /// For who was refused room: there may be some again.
    pub(super) space: Notify,
    inner: RefCell<Inner>,
    /// For the committer: there is something to write.
    pub(super) work: Notify,
    /// For writers: something was settled, or there is more room.
    pub(super) room: Notify,
    /// For the chores: segments may be freed, or the spare is used up.
    pub(super) chores: Notify,
    /// For who writes out what is in memory alone: there is something again.
    pub(super) resides: Notify,
    pub(super) tasks: RefCell<Vec<JoinHandle<()>>>,
    /// When it was last seen that the directory is where it was.
    seen: Cell<Instant>,
    lock: DirLock,
}

/// May records enter?
#[derive(Clone, Debug)]
pub(super) enum Condition {
    Running,
    /// What has entered is written, then the tasks end.
    Closing,
    Closed,
    /// A write or sync failed.
    Sealed(Rc<str>),
}

/// The segment that is appended to.
pub(super) struct Active {
    pub(super) identity: Identity,
    pub(super) segment: Rc<SegmentFile>,
    /// Where the next group goes.
    pub(super) end: u64,
    /// What is in it, but for the bodies.
    pub(super) index: Index,
    /// Ids given while this segment is active.
    ids: u32,
}

/// A segment with a durable header and nothing else.
pub(super) struct Spare {
    pub(super) file: u32,
    pub(super) identity: Identity,
    pub(super) segment: Rc<SegmentFile>,
}

/// A group that is being filled, waits to be written, or is written and not yet settled; and what follows when
/// it has got its place or is settled.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) group: Group,
    pub(super) ticket: u64,
    /// Somebody waits for it: do not linger.
    pub(super) urgent: bool,
    /// It is a table, and answers the requests up to this one.
    pub(super) table: Option<u64>,
    /// It has copies that the cleaner waits for.
    pub(super) copies: bool,
    /// When its first record entered.
    pub(super) since: Option<Instant>,
    pub(super) messages: Vec<NewMessage>,
    pub(super) chunks: Vec<NewChunk>,
    /// States in it that tell something as long as their messages have recipients left.
    pub(super) notes: Vec<NewNote>,
    /// Messages that states in it finish, and the newest segment with a copy of each.
    pub(super) completed: Vec<(MessageId, u32)>,
    /// Records that are dead once this is settled.
    pub(super) releases: Vec<Weight>,
    /// Segments that tombstones in it speak of, in rising order; see [`SegmentTable::speak`].
    pub(super) speaks_of: Vec<(u32, u64)>,
    /// The segments of the last state and the same encoded; kept for their memory.
    pub(super) homes: (Vec<u32>, Vec<u8>),
    /// Bytes it counts for in flight.
    pub(super) inflight: usize,
    /// Sequence of its last record, once written.
    pub(super) last_sequence: u64,
}

/// A message record in a pending group.
pub(super) struct NewMessage {
    pub(super) id: MessageId,
    pub(super) meta_length: u32,
    /// Offset of the body in the group.
    pub(super) body: u32,
    pub(super) length: u32,
    pub(super) recipients: u32,
    /// The stream whose chunks belong to it.
    pub(super) stream: Option<usize>,
}

/// A chunk record in a pending group.
pub(super) struct NewChunk {
    pub(super) id: MessageId,
    pub(super) stream: usize,
    pub(super) body: u32,
    pub(super) length: u32,
}

/// A state record in a pending group.
pub(super) struct NewNote {
    pub(super) id: MessageId,
    /// Offset of the record in the group.
    pub(super) start: u32,
    pub(super) length: u32,
    pub(super) word: Word,
    pub(super) recipients: Vec<u32>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.group.records() == 0 && !self.urgent
    }

    /// A tombstone of `length` bytes in it speaks of these segments, in rising order.
    pub(super) fn speak(&mut self, homes: &[u32], length: u32) {
        for (index, home) in homes.iter().enumerate() {
            let counts = index + 1 == homes.len();
            let at =
                self.speaks_of.binary_search_by_key(home, |(subject, _)| *subject).unwrap_or_else(|at| {
                    self.speaks_of.insert(at, (*home, 0));
                    at
                });
            self.speaks_of[at].1 += if counts { u64::from(length) } else { 0 };
        }
    }

    /// For the next use.
    fn recycle(mut self) -> Pending {
        self.group.clear(GROUP_KEEP_BYTES);
        self.messages.clear();
        self.chunks.clear();
        self.notes.clear();
        self.completed.clear();
        self.releases.clear();
        self.speaks_of.clear();
        Pending {
            group: self.group,
            messages: self.messages,
            chunks: self.chunks,
            notes: self.notes,
            completed: self.completed,
            releases: self.releases,
            speaks_of: self.speaks_of,
            homes: self.homes,
            ..Pending::default()
        }
    }
}

/// Everything that changes.
pub(super) struct Inner {
    pub(super) condition: Condition,
    /// The last one is open; the others are full.
    pub(super) queue: VecDeque<Pending>,
    /// Written and not yet settled.
    pub(super) written: Vec<Pending>,
    pool: Vec<Pending>,
    next_ticket: u64,
    pub(super) settled_ticket: u64,
    waiters: VecDeque<(u64, Waker)>,
    pub(super) gate: SyncGate,
    pub(super) incarnation: u32,
    pub(super) table: SegmentTable<Rc<SegmentFile>>,
    pub(super) active: Active,
    /// What the first groups are made of, until they are durable: nothing else is written before.
    pub(super) first: Option<First>,
    pub(super) spare: Option<Spare>,
    /// When to look for the file that the next start begins in; `None`: it is there.
    pub(super) look_for_reserve: Option<Instant>,
    /// The active segment was the last room on a full disk, and is for states alone until there is a spare.
    pub(super) is_last_room: bool,
    /// Something was refused for lack of room since there was some.
    pub(super) has_refused: bool,
    /// Why the last attempt to prepare a spare failed, if it did.
    pub(super) spare_failed: Option<SpoolError>,
    /// The committer waits for a spare.
    pub(super) spare_wanted: bool,
    /// The disk had no room for a new file; it is not asked again before this.
    pub(super) disk_full_until: Option<Instant>,
    /// The file system had no room for a write to the active segment; it is tried again.
    pub(super) stalled: bool,
    /// Tables that the chores have asked for.
    pub(super) tables_asked: u64,
    /// When they asked for the last one, until it is written.
    pub(super) table_since: Option<Instant>,
    /// Of those asked for, how many are settled.
    pub(super) tables_settled: u64,
    /// The table that frees what was found last.
    pub(super) freeing: Option<u64>,
    /// What the cleaner wants copied.
    pub(super) copying: Option<Batch>,
    /// It waits for a spare.
    pub(super) copy_waits: bool,
    /// The file system had no room for it.
    pub(super) copy_failed: bool,
    /// A segment is being cleaned.
    pub(super) cleaning: bool,
    /// Sealed segments that only the page cache holds whole; class `buffered`.
    pub(super) unsynced: Vec<Rc<SegmentFile>>,
    /// Sealed segments whose index is still to be written.
    pub(super) unindexed: Vec<Unindexed>,
    pub(super) next_ordinal: u32,
    pub(super) next_file: u32,
    pub(super) messages: Entries,
    pub(super) residents: Residents,
    pub(super) notes: Notes,
    /// Messages that were found to be damaged.
    pub(super) damaged: BTreeSet<MessageId>,
    pub(super) streams: Slab<Stream>,
    pub(super) buffers: Buffers,
    /// Bytes in stream buffers and in groups that are not settled.
    pub(super) inflight: usize,
    /// Padded bytes of the groups in `queue`.
    pub(super) queued_bytes: u64,
    /// Bytes promised to reservations.
    pub(super) reserved: u64,
    pub(super) last_round: Instant,
    pub(super) stats: SpoolStats,
}

/// What an opened directory starts with.
pub(super) struct Start {
    pub(super) gate: SyncGate,
    pub(super) incarnation: u32,
    pub(super) table: SegmentTable<Rc<SegmentFile>>,
    /// A placeholder.
    pub(super) active: Active,
    pub(super) first: First,
    /// The first segment, if there is room for one.
    pub(super) spare: Option<Spare>,
    pub(super) next_ordinal: u32,
    pub(super) next_file: u32,
    pub(super) messages: Entries,
    pub(super) notes: Notes,
    pub(super) buffers: Buffers,
    pub(super) stats: SpoolStats,
}

impl Active {
    pub(super) fn new(identity: Identity, segment: Rc<SegmentFile>, end: u64) -> Active {
        let index = Index::new(segment.len());
        Active { identity, segment, end, index, ids: 0 }
    }

    /// Stands for the active segment before there is one. It is full.
    pub(super) fn nowhere(disk: &Disk, identity: Identity) -> io::Result<Active> {
        let segment = Rc::new(SegmentFile::nowhere(disk)?);
        let end = segment.len();
        Ok(Active::new(identity, segment, end))
    }

    /// Half of its ids are given, which takes that many transactions that came to nothing.
    pub(super) fn is_short_of_ids(&self) -> bool {
        self.ids > MessageId::COUNT_MAX / 2
    }
}

impl Inner {
    pub(super) fn new(start: Start) -> Inner {
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
    pub(super) fn check(&self) -> Result<(), SpoolError> {
        match &self.condition {
            Condition::Running => Ok(()),
            Condition::Sealed(why) => Err(SpoolError::Sealed(why.clone())),
            Condition::Closing | Condition::Closed => Err(SpoolError::Closed),
        }
    }

    /// Have the tasks nothing more to do?
    pub(super) fn is_over(&self) -> bool {
        matches!(self.condition, Condition::Sealed(_) | Condition::Closed)
    }

    /// Is nothing entered that is not settled?
    pub(super) fn is_quiet(&self) -> bool {
        self.written.is_empty() && self.queue.iter().all(|open| open.group.records() == 0)
    }

    /// The open group, with room for `bytes` of records.
    pub(super) fn group_for(&mut self, bytes: usize, geometry: &Geometry) -> &mut Pending {
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
    pub(super) fn enter<T>(
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
    pub(super) fn next_id(&mut self, shard: u32) -> MessageId {
        let count = self.active.ids;
        self.active.ids += 1;
        MessageId::new(shard, self.active.identity.ordinal, count)
    }

    /// Bytes that the records of `changes` take at most.
    pub(super) fn states_length(&self, changes: &[StateChange<'_>]) -> usize {
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
    pub(super) fn push_states(
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
    pub(super) fn enter_states(
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
    pub(super) fn ask_for_table(&mut self) -> u64 {
        self.tables_asked += 1;
        self.table_since.get_or_insert_with(now);
        self.tables_asked
    }

    /// What a sync will cover that is issued now.
    pub(super) fn sync_scope(&self) -> SyncScope {
        SyncScope {
            through: self.gate.appended(),
            recorded: self.gate.carried(),
            messages: self.stats.messages,
        }
    }

    /// A sync that covered this has completed.
    pub(super) fn synced(&mut self, scope: SyncScope) {
        self.gate.synced(scope.through, scope.recorded);
        self.stats.synced_messages = self.stats.synced_messages.max(scope.messages);
    }

    /// What was written and satisfies the class is settled: frees what it finishes and wakes who waits.
    pub(super) fn settle(&mut self) {
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
pub(super) struct SyncScope {
    through: u64,
    /// The watermark in it.
    recorded: u64,
    /// Messages written since the start.
    messages: u64,
}

impl Log {
    pub(super) fn new(parts: LogParts, inner: Inner) -> Rc<Log> {
        let LogParts { dir, disk, class, geometry, shard, spool, inflight_max, residents, space, lock } =
            parts;
        Rc::new(Log {
            dir,
            disk,
            class,
            geometry,
            shard,
            spool,
            inflight_max,
            residents,
            space,
            inner: RefCell::new(inner),
            work: Notify::new(),
            room: Notify::new(),
            chores: Notify::new(),
            resides: Notify::new(),
            tasks: RefCell::default(),
            seen: Cell::new(now()),
            lock,
        })
    }

    /// There may be room again: who was refused some tries again.
    pub(super) fn tell_room(&self) {
        self.room.notify_all();
        let mut inner = self.inner();
        if inner.has_begun() && std::mem::take(&mut inner.has_refused) {
            self.space.notify_one();
        }
    }

    /// Never held across an await.
    pub(super) fn inner(&self) -> RefMut<'_, Inner> {
        self.inner.borrow_mut()
    }

    /// Enters states; they share one group unless they are larger than one.
    pub(super) fn states(&self, changes: &[StateChange<'_>]) -> Result<u64, SpoolError> {
        let mut guard = self.inner();
        let inner = &mut *guard;
        let changes = &*inner.settle_residents(changes, self);
        if changes.is_empty() {
            // What is in memory alone has no states on the disk.
            return Ok(0);
        }
        inner.check()?;
        let length = inner.states_length(changes);
        if length > self.geometry.records_max() && changes.len() > 1 {
            drop(guard);
            let (first, second) = changes.split_at(changes.len() / 2);
            self.states(first)?;
            return self.states(second);
        }
        if length > self.geometry.records_max() {
            return Err(SpoolError::TooLarge);
        }
        let ticket = inner.enter_states(changes, false, &self.geometry);
        drop(guard);
        self.work.notify_one();
        Ok(ticket)
    }

    /// Waits until the group with this ticket is settled.
    pub(super) async fn settled(&self, ticket: u64) -> Result<(), SpoolError> {
        poll_fn(|context| {
            let mut inner = self.inner();
            if inner.settled_ticket >= ticket {
                return Poll::Ready(Ok(()));
            }
            if let Condition::Sealed(why) = &inner.condition {
                return Poll::Ready(Err(SpoolError::Sealed(why.clone())));
            }
            let waiter = (ticket, context.waker().clone());
            // Nearly always at the end: tickets are given in rising order.
            let at = inner.waiters.partition_point(|(other, _)| *other <= ticket);
            inner.waiters.insert(at, waiter);
            Poll::Pending
        })
        .await
    }

    /// Waits until everything entered so far is durable, in every class.
    pub(super) async fn flush(&self) -> Result<(), SpoolError> {
        if self.class == Durability::Memory {
            self.write_out_all().await?;
            // The states of what was in memory enter when it has its place.
            self.flush_groups().await?;
        }
        self.flush_groups().await?;
        if self.class != Durability::Synced {
            self.sync_up().await?;
        }
        Ok(())
    }

    /// Waits until what has entered satisfies the class.
    async fn flush_groups(&self) -> Result<(), SpoolError> {
        let ticket = {
            let mut inner = self.inner();
            if let Condition::Sealed(why) = &inner.condition {
                return Err(SpoolError::Sealed(why.clone()));
            }
            let open = inner.queue.back_mut().filter(|open| !open.is_empty());
            if let Some(open) = open {
                open.urgent = true;
            }
            let last = inner.queue.iter().chain(&inner.written).map(|pending| pending.ticket).max();
            last.unwrap_or(inner.settled_ticket)
        };
        self.work.notify_one();
        self.settled(ticket).await
    }

    /// Classes `buffered` and `memory`: makes durable what is in the page cache.
    pub(super) async fn sync_up(&self) -> Result<(), SpoolError> {
        let (segments, scope) = {
            let mut inner = self.inner();
            let mut segments = std::mem::take(&mut inner.unsynced);
            segments.push(inner.active.segment.clone());
            (segments, inner.sync_scope())
        };
        for segment in segments {
            if let Err(error) = segment.sync().await {
                let why = self.seal(format!("fdatasync failed: {error}"));
                return Err(SpoolError::Sealed(why));
            }
            self.inner().stats.syncs += 1;
        }
        self.inner().synced(scope);
        Ok(())
    }

    /// Sees, once a second at most, to it that what is written can be found at the next start; seals the log when its directory
    /// or the segment that is written was removed or replaced.
    pub(super) fn look(&self) {
        if let Err(why) = self.check_place() {
            self.seal(why);
        }
    }

    /// As [`Log::look`], for who seals the log itself.
    pub(super) fn check_place(&self) -> Result<(), String> {
        let now = turn_time();
        if now - self.seen.get() < LOOK_EVERY || self.inner().is_over() {
            return Ok(());
        }
        self.seen.set(now);
        if !self.lock.is_at(&self.dir) {
            return Err(
                "its directory was removed or replaced under the relay: what was in it is for a start to \
                        find, when it is back"
                    .into(),
            );
        }
        let inner = self.inner();
        if inner.has_begun() && !inner.active.segment.is_linked() {
            return Err("the segment that is written to was removed under the relay".into());
        }
        Ok(())
    }

    /// After a failed write or sync nothing is known of what the disk holds, and a second sync would report
    /// success for pages that the kernel has dropped. So: tell everybody, and accept nothing more.
    pub(super) fn seal(&self, why: String) -> Rc<str> {
        let why: Rc<str> = why.into();
        let waiters = {
            let mut inner = self.inner();
            if let Condition::Sealed(first) = &inner.condition {
                return first.clone();
            }
            log::error!("spool {} is sealed, it accepts nothing more: {why}", self.dir.display());
            inner.condition = Condition::Sealed(why.clone());
            std::mem::take(&mut inner.waiters)
        };
        waiters.into_iter().for_each(|(_, waker)| waker.wake());
        self.room.notify_all();
        // One task waits for each of these, and must learn of it even if it is busy now.
        self.work.notify_one();
        self.chores.notify_one();
        self.resides.notify_one();
        why
    }
}

/// What a log is made of.
pub(super) struct LogParts {
    pub(super) dir: PathBuf,
    pub(super) disk: Disk,
    pub(super) class: Durability,
    pub(super) geometry: Geometry,
    pub(super) shard: u32,
    pub(super) spool: u64,
    pub(super) inflight_max: usize,
    pub(super) residents: ResidentLimits,
    pub(super) space: Notify,
    pub(super) lock: DirLock,
}
