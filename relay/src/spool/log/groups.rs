//! Groups under way: filled, waiting to be written, written and not yet settled.

use std::collections::VecDeque;
use std::task::Waker;

use chasqui_runtime::{Instant, now};

use super::segments::Segments;
use super::state_index::StateKind;
use super::watermark::Watermark;
use crate::spool::config::Geometry;
use crate::spool::format::group::Group;
use crate::spool::format::headers::Kind;
use crate::spool::format::id::MessageId;
use crate::spool::format::place::Weight;

/// Memory that an idle group buffer keeps: with [`POOL_MAX`] of them, 4 MiB a log.
const GROUP_KEEP_BYTES: usize = 1 << 20;
/// Idle group buffers.
const POOL_MAX: usize = 4;

/// The groups of a log from their first record to the sync that covers them, and who waits for it.
pub(crate) struct Groups {
    /// The last one is open; the others are full.
    pub(crate) queue: VecDeque<Pending>,
    /// Written and not yet settled.
    pub(crate) written: Vec<Pending>,
    pool: Vec<Pending>,
    next_ticket: u64,
    settled_ticket: u64,
    waiters: VecDeque<(u64, Waker)>,
    pub(crate) watermark: Watermark,
    /// Padded bytes of the groups in `queue`.
    pub(crate) queued_bytes: u64,
    /// Bytes of the records in groups that are not settled.
    pub(crate) inflight: usize,
    pub(crate) last_round: Instant,
}

impl Groups {
    pub(crate) fn new(watermark: Watermark) -> Groups {
        Groups {
            queue: VecDeque::new(),
            written: Vec::new(),
            pool: Vec::new(),
            next_ticket: 1,
            settled_ticket: 0,
            waiters: VecDeque::new(),
            watermark,
            queued_bytes: 0,
            inflight: 0,
            last_round: now(),
        }
    }

    /// Is nothing entered that is not settled?
    pub(crate) fn is_quiet(&self) -> bool {
        self.written.is_empty() && self.queue.iter().all(|open| open.group.records() == 0)
    }

    /// The open group, with room for `bytes` of records.
    fn group_for(&mut self, bytes: usize, geometry: &Geometry) -> &mut Pending {
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

    /// A group that nobody waits for by a ticket of its own is written.
    pub(crate) fn push_written(&mut self, pending: Pending) {
        let ticket = self.written.last().map_or(self.settled_ticket, |last| last.ticket);
        let last_sequence = self.watermark.appended();
        self.written.push(Pending { ticket, last_sequence, ..pending });
    }

    /// Hurries the open group, if there is something in it; returns the ticket of all that has entered.
    pub(crate) fn hurry(&mut self) -> u64 {
        if let Some(open) = self.queue.back_mut().filter(|open| !open.is_empty()) {
            open.urgent = true;
        }
        let last = self.queue.iter().chain(&self.written).map(|pending| pending.ticket).max();
        last.unwrap_or(self.settled_ticket)
    }

    /// Is the group with this ticket settled?
    pub(crate) fn is_settled(&self, ticket: u64) -> bool {
        self.settled_ticket >= ticket
    }

    /// Has `waker` woken when the group with this ticket is settled.
    pub(crate) fn wait(&mut self, ticket: u64, waker: Waker) {
        // Nearly always at the end: tickets are given in rising order.
        let at = self.waiters.partition_point(|(other, _)| *other <= ticket);
        self.waiters.insert(at, (ticket, waker));
    }

    /// Gives up those who wait: nothing more is settled.
    pub(crate) fn take_waiters(&mut self) -> impl Iterator<Item = Waker> + use<> {
        std::mem::take(&mut self.waiters).into_iter().map(|(_, waker)| waker)
    }

    /// What was written and satisfies the class is settled: frees what it finishes and wakes who waits.
    pub(crate) fn settle(&mut self, segments: &mut Segments) {
        let through = self.watermark.settled();
        let settled = self.written.partition_point(|pending| pending.last_sequence <= through);
        for pending in self.written.drain(..settled) {
            self.settled_ticket = pending.ticket;
            self.inflight -= pending.inflight;
            for weight in &pending.releases {
                segments.table.remove_record(*weight);
            }
            segments.tables.settled = segments.tables.settled.max(pending.table.unwrap_or(0));
            if self.pool.len() < POOL_MAX {
                self.pool.push(pending.recycle());
            }
        }
        while let Some((_, waker)) = self.waiters.pop_front_if(|(ticket, _)| *ticket <= self.settled_ticket) {
            waker.wake();
        }
    }

    /// Groups that are not settled.
    fn unsettled(&self) -> impl Iterator<Item = &Pending> {
        self.queue.iter().chain(&self.written)
    }

    /// The segments that lose records as soon as these groups are settled.
    pub(crate) fn losing(&self) -> impl Iterator<Item = u32> + '_ {
        self.unsettled().flat_map(|pending| &pending.releases).map(|weight| weight.ordinal)
    }

    /// Is there a state that finishes some recipients of this message and is not settled?
    pub(crate) fn has_unsettled_final(&self, id: MessageId) -> bool {
        let mut states = self.unsettled().flat_map(|pending| &pending.states);
        states.any(|state| state.kind.is_final() && state.id == id)
    }
}

/// A group that is being filled, waits to be written, or is written and not yet settled; and what follows when
/// it has got its place or is settled.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) group: Group,
    pub(crate) ticket: u64,
    /// Somebody waits for it: do not linger.
    pub(crate) urgent: bool,
    /// It is a table, and answers the requests up to this one.
    pub(crate) table: Option<u64>,
    /// It has copies that the cleaner waits for.
    pub(crate) copies: bool,
    /// When its first record entered.
    pub(crate) since: Option<Instant>,
    pub(crate) messages: Vec<NewMessage>,
    pub(crate) chunks: Vec<NewChunk>,
    /// States in it that tell something as long as their messages have recipients left.
    pub(crate) states: Vec<NewState>,
    /// Messages that states in it finish, and the newest segment with a copy of each.
    pub(crate) completed: Vec<(MessageId, u32)>,
    /// Records that are dead once this is settled.
    pub(crate) releases: Vec<Weight>,
    /// Segments that tombstones in it refer to.
    pub(crate) refers_to: References,
    /// The segments of the last state and the same encoded; kept for their memory.
    pub(crate) references: (Vec<u32>, Vec<u8>),
    /// Bytes it counts for in flight.
    pub(crate) inflight: usize,
    /// Sequence of its last record, once written.
    pub(crate) last_sequence: u64,
}

/// A message record in a pending group.
pub(crate) struct NewMessage {
    pub(crate) id: MessageId,
    pub(crate) meta_length: u32,
    /// Offset of the body in the group.
    pub(crate) body: u32,
    pub(crate) length: u32,
    pub(crate) recipients: u32,
    /// The stream whose chunks belong to it.
    pub(crate) stream: Option<usize>,
}

/// A chunk record in a pending group.
pub(crate) struct NewChunk {
    pub(crate) id: MessageId,
    pub(crate) stream: usize,
    pub(crate) body: u32,
    pub(crate) length: u32,
}

/// A state record in a pending group.
pub(crate) struct NewState {
    pub(crate) id: MessageId,
    /// Offset of the record in the group.
    pub(crate) start: u32,
    pub(crate) length: u32,
    pub(crate) kind: StateKind,
    pub(crate) recipients: Vec<u32>,
}

/// The segments that tombstones of a group refer to, in rising order, and the bytes of those tombstones; see
/// [`SegmentTable::refer`](super::segment_table::SegmentTable::refer).
#[derive(Default)]
pub(crate) struct References(Vec<(u32, u64)>);

impl References {
    /// A tombstone of `length` bytes refers to these segments, in rising order.
    pub(crate) fn add(&mut self, references: &[u32], length: u32) {
        for (index, reference) in references.iter().enumerate() {
            let counts = index + 1 == references.len();
            let at = self.0.binary_search_by_key(reference, |(subject, _)| *subject).unwrap_or_else(|at| {
                self.0.insert(at, (*reference, 0));
                at
            });
            self.0[at].1 += if counts { u64::from(length) } else { 0 };
        }
    }

    /// The segments, each with the bytes that count with it.
    pub(crate) fn subjects(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.0.iter().copied()
    }
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.group.records() == 0 && !self.urgent
    }

    /// For the next use.
    pub(crate) fn recycle(mut self) -> Pending {
        self.group.clear(GROUP_KEEP_BYTES);
        self.messages.clear();
        self.chunks.clear();
        self.states.clear();
        self.completed.clear();
        self.releases.clear();
        self.refers_to.0.clear();
        Pending {
            group: self.group,
            messages: self.messages,
            chunks: self.chunks,
            states: self.states,
            completed: self.completed,
            releases: self.releases,
            refers_to: self.refers_to,
            references: self.references,
            ..Pending::default()
        }
    }
}

impl Pending {
    /// Adds the record of a body that was gathered in `buffer`; returns what [`Group::push`] does, and the buffer or an
    /// empty one if the body is written from it.
    ///
    /// [`Group::push`]: crate::spool::format::group::Group::push
    pub(crate) fn push_gathered(
        &mut self,
        kind: Kind,
        flags: u8,
        id: MessageId,
        meta: impl FnOnce(&mut Vec<u8>),
        buffer: Vec<u8>,
        geometry: &Geometry,
    ) -> ((u32, u32), Vec<u8>) {
        if buffer.len() >= geometry.apart_bytes {
            (self.group.push_apart(kind, flags, id.0, meta, buffer), Vec::new())
        } else {
            (self.group.push(kind, flags, id.0, meta, &buffer), buffer)
        }
    }
}
