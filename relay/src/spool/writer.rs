//! Messages on their way in: reservation of space, gathering, chunks of large bodies, commit.

use std::rc::Rc;

use chasqui_protocol::smtp::data::BodyForm;

use super::buffers::{BUFFER_MIN, SMALL_MAX};
use super::config::Geometry;
use super::entries::Weight;
use super::error::SpoolError;
use super::format::{BLOCK, Kind, RECORD_HEADER};
use super::id::{MessageId, StateChange};
use super::index::index_max;
use super::log::{Inner, Log, NewChunk, NewMessage, Pending};
use super::payload::{CHUNK_META, Envelope, encode_message, is_encodable, message_meta_max};
use super::recover::Piece;
use super::residents::may_reside;

/// A segment of `max_space` is held back for what the cleaner copies.
const CLEANING_SEGMENTS: usize = 1;
/// Held back per queued message for its states, which are not refused.
const STATE_BYTES: u64 = 128;

/// A body that is being received.
#[derive(Debug)]
pub(super) struct Stream {
    /// What is not yet in a record.
    pub(super) buffer: Vec<u8>,
    pub(super) id: MessageId,
    /// Chunks that have their place.
    pub(super) chunks: Vec<Piece>,
    /// Chunk records entered, placed or not.
    chunk_count: u32,
    chunked_bytes: u64,
}

/// Space that is kept for a message to come; given back when dropped.
pub struct Reservation {
    log: Rc<Log>,
    purpose: Purpose,
    bytes: u64,
}

/// What is to be written, and so what it may have of a spool that is nearly full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Mail,
    /// It ends a message in the same log: a spool that is full of mail which can only go back would stay full without it.
    Notification,
}

impl Reservation {
    /// Keeps `bytes`, if they are there.
    pub(super) fn new(log: &Rc<Log>, purpose: Purpose, bytes: u64) -> Result<Reservation, SpoolError> {
        let mut reservation = Reservation::empty(log, purpose);
        reservation.grow(bytes)?;
        Ok(reservation)
    }

    fn empty(log: &Rc<Log>, purpose: Purpose) -> Reservation {
        Reservation { log: log.clone(), purpose, bytes: 0 }
    }

    fn grow(&mut self, bytes: u64) -> Result<(), SpoolError> {
        let mut inner = self.log.inner();
        let available = match self.purpose {
            Purpose::Mail => inner.available(&self.log.geometry),
            Purpose::Notification => inner.available_to_notifications(&self.log.geometry),
        };
        if available < bytes {
            inner.has_refused = true;
            return Err(inner.refusal().unwrap_or(SpoolError::NoSpace));
        }
        inner.reserved += bytes;
        self.bytes += bytes;
        Ok(())
    }

    /// These bytes have entered a group, which counts for itself.
    fn used(&mut self, inner: &mut Inner, bytes: u64) {
        let used = bytes.min(self.bytes);
        self.bytes -= used;
        inner.reserved -= used;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.log.inner().reserved -= self.bytes;
    }
}

impl Log {
    /// Bytes that can still be promised to mail.
    pub(super) fn free(&self) -> u64 {
        self.inner().available(&self.geometry)
    }

    /// Whether `bytes` of mail, and be it one octet, could be promised now.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), SpoolError> {
        let inner = self.inner();
        match inner.available(&self.geometry) >= bytes.max(1) {
            true => Ok(()),
            false => Err(inner.refusal().unwrap_or(SpoolError::NoSpace)),
        }
    }
}

impl Inner {
    /// Bytes that can still be promised to mail. The spare is held back for states, which free other segments, one
    /// more for what the cleaner copies, and a little for a state of each queued message.
    fn available(&self, geometry: &Geometry) -> u64 {
        if self.stalled {
            return 0;
        }
        if self.refusal().is_some() {
            return self.room(geometry).saturating_sub(self.reserved);
        }
        let kept = self.table.live_count() + 1 + CLEANING_SEGMENTS;
        let segments = geometry.segments_max.saturating_sub(kept) as u64;
        let rest = self.rest_of_active(geometry);
        let states = STATE_BYTES * self.messages.len() as u64;
        (segments * geometry.usable() + rest).saturating_sub(self.queued_bytes + self.reserved + states)
    }

    /// The same for notifications, which may have what is held back from mail and is ready.
    fn available_to_notifications(&self, geometry: &Geometry) -> u64 {
        let ready = if self.stalled { 0 } else { self.room(geometry).saturating_sub(self.reserved) };
        ready.max(self.available(geometry))
    }

    /// Does what has entered wait for room?
    pub(super) fn lacks_room(&self) -> bool {
        self.stalled || (self.spare.is_none() && self.spare_failed.is_some())
    }

    /// Why nothing is taken that finds no place in what is ready now.
    fn refusal(&self) -> Option<SpoolError> {
        let no_spare = self.spare_failed.clone().filter(|_| self.spare.is_none());
        no_spare.or(self.stalled.then_some(SpoolError::NoSpace))
    }

    /// Bytes of mail that certainly find a place in the segments that are ready now. Without a spare the last
    /// quarter is kept for states.
    fn room(&self, geometry: &Geometry) -> u64 {
        let rest = self.rest_of_active(geometry);
        let ready = match self.spare {
            Some(_) => rest + geometry.usable(),
            None if self.is_last_room => 0,
            None => rest.saturating_sub(geometry.usable() / 4),
        };
        ready.saturating_sub(self.queued_bytes)
    }

    fn rest_of_active(&self, geometry: &Geometry) -> u64 {
        let index = index_max(self.active.segment.len());
        let kept = 2 * geometry.table_reserve + geometry.group_max + index;
        (self.active.segment.len() - self.active.end).saturating_sub(kept)
    }

    /// Moves what a stream has gathered into a chunk record; the caller has seen that there is room.
    fn spill(&mut self, key: usize, urgent: bool, log: &Log) {
        let stream = &mut self.streams[key];
        let id = stream.id;
        let buffer = std::mem::take(&mut stream.buffer);
        let index = stream.chunk_count;
        stream.chunk_count += 1;
        stream.chunked_bytes += buffer.len() as u64;
        self.inflight -= buffer.capacity();
        let length = buffer.len();
        let bytes = RECORD_HEADER + CHUNK_META as usize + length;
        let (_, spent) = self.enter(bytes, urgent, &log.geometry, |pending| {
            let meta = |into: &mut Vec<u8>| into.extend_from_slice(&index.to_le_bytes());
            let (place, spent) = pending.push_gathered(Kind::Chunk, 0, id, meta, buffer, &log.geometry);
            let body = place.0 + RECORD_HEADER as u32 + place.1;
            pending.chunks.push(NewChunk { id, stream: key, body, length: length as u32 });
            spent
        });
        self.buffers.keep(spent);
    }

    /// Makes room for `more` bytes in a stream's buffer, of which `expected` are to come in all; false when too much is
    /// in flight.
    fn grow_buffer(
        &mut self,
        key: usize,
        more: usize,
        expected: usize,
        log: &Log,
    ) -> Result<bool, SpoolError> {
        for relieved in [false, true] {
            let buffer = &self.streams[key].buffer;
            let (length, before) = (buffer.len() + more, buffer.capacity());
            if length <= before {
                return Ok(true);
            }
            let largest = log.geometry.chunk_bytes.max(BUFFER_MIN);
            // A client that has only said that much is to come must not hold that much.
            let is_coming = length > SMALL_MAX && length <= expected;
            let wanted = if is_coming { expected } else { length.next_power_of_two() };
            let wanted = wanted.clamp(BUFFER_MIN, largest);
            // A lone stream goes on whatever the limit.
            if self.inflight == 0 || self.inflight + (wanted - before) <= log.inflight_max {
                let buffer = &mut self.streams[key].buffer;
                self.buffers.grow(buffer, wanted);
                self.inflight += buffer.capacity() - before;
                self.buffers.shrink_to(log.inflight_max.saturating_sub(self.inflight));
                return Ok(true);
            }
            if !relieved {
                self.relieve(log);
            }
        }
        self.refusal().map_or(Ok(false), Err)
    }

    /// Too much is in flight: moves gathered bodies into chunk records, the largest first, until half of what may
    /// be in flight is left. So memory comes back however slowly their senders are.
    fn relieve(&mut self, log: &Log) {
        let mut held: Vec<(usize, usize)> =
            self.streams.iter().map(|(key, stream)| (stream.buffer.capacity(), key)).collect();
        let mut gathered: usize = held.iter().map(|(bytes, _)| bytes).sum();
        held.sort_unstable();
        while let Some((bytes, key)) = held.pop() {
            if gathered <= log.inflight_max / 2 || self.room(&log.geometry) < bytes as u64 + BLOCK {
                break;
            }
            if !self.streams[key].buffer.is_empty() {
                self.spill(key, true, log);
            }
            gathered -= bytes;
        }
    }
}

/// One message on its way in. Dropped without commit, nothing of it remains.
pub struct Writer {
    log: Rc<Log>,
    reservation: Reservation,
    id: MessageId,
    /// Key of the stream; `None` after the commit.
    stream: Option<usize>,
    length: u64,
}

impl Writer {
    pub(super) fn new(log: Rc<Log>, reservation: Option<Reservation>) -> Writer {
        let own = reservation.filter(|reservation| Rc::ptr_eq(&reservation.log, &log));
        let reservation = own.unwrap_or_else(|| Reservation::empty(&log, Purpose::Mail));
        let (id, stream, switch) = {
            let mut inner = log.inner();
            let id = inner.next_id(log.shard);
            let stream =
                Stream { id, buffer: Vec::new(), chunks: Vec::new(), chunk_count: 0, chunked_bytes: 0 };
            (id, inner.streams.insert(stream), inner.active.is_short_of_ids())
        };
        if switch {
            log.work.notify_one();
        }
        Writer { log, reservation, id, stream: Some(stream), length: 0 }
    }

    /// The id that the message will have.
    pub fn id(&self) -> MessageId {
        self.id
    }

    /// Bytes written so far.
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Has nothing been written yet?
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds to the body, in wire form. Waits while too much is in flight or a segment is being prepared; after
    /// an error the message can only be dropped.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        let key = self.stream.expect("commit takes the writer");
        let mut rest = bytes;
        while !rest.is_empty() {
            let log = self.log.clone();
            let gathered = log.inner().streams[key].buffer.len();
            let limit = log.geometry.chunk_bytes;
            if gathered == limit {
                self.admit(gathered + RECORD_HEADER + CHUNK_META as usize).await?;
                let mut inner = log.inner();
                inner.check()?;
                // While it waited, another writer may have spilled it.
                let gathered = inner.streams[key].buffer.len();
                if gathered > 0 {
                    inner.spill(key, true, &log);
                    self.reservation.used(&mut inner, gathered as u64);
                }
                drop(inner);
                log.work.notify_one();
                continue;
            }
            let piece = rest.len().min(limit - gathered);
            if !self.gather(key, &rest[..piece])? {
                log.room.notified().await;
                continue;
            }
            rest = &rest[piece..];
        }
        Ok(())
    }

    /// Appends to the buffer; false when too much is in flight.
    fn gather(&mut self, key: usize, bytes: &[u8]) -> Result<bool, SpoolError> {
        let log = &*self.log;
        let mut guard = log.inner();
        let inner = &mut *guard;
        inner.check()?;
        if !inner.grow_buffer(key, bytes.len(), self.reservation.bytes as usize, log)? {
            drop(guard);
            log.work.notify_one();
            return Ok(false);
        }
        inner.streams[key].buffer.extend_from_slice(bytes);
        drop(guard);
        self.length += bytes.len() as u64;
        let gathered = self.log.inner().streams[key].buffer.len() as u64;
        if gathered > self.reservation.bytes {
            let step = (self.log.geometry.chunk_bytes / 4) as u64;
            self.reservation.grow((gathered - self.reservation.bytes).max(step))?;
        }
        Ok(true)
    }

    /// Waits until `bytes` certainly find a place.
    async fn admit(&self, bytes: usize) -> Result<(), SpoolError> {
        loop {
            {
                let inner = self.log.inner();
                inner.check()?;
                if !inner.stalled && inner.room(&self.log.geometry) >= bytes as u64 + BLOCK {
                    return Ok(());
                }
                if let Some(refusal) = inner.refusal() {
                    return Err(refusal);
                }
            }
            self.log.chores.notify_one();
            self.log.room.notified().await;
        }
    }

    /// Enters the message and waits until the class is satisfied: then 250.
    ///
    /// Not to be cancelled: a message that has entered is committed whoever waits, and one that nobody waited
    /// for is not delivered before the next start.
    pub async fn commit(self, envelope: &Envelope) -> Result<MessageId, SpoolError> {
        self.enter(envelope, &[]).await
    }

    /// Enters the message together with states, of other messages in the same log: all or nothing. For a DSN
    /// and the states that cause it; begun with [`Spool::begin_notification`](super::Spool::begin_notification).
    pub async fn commit_with(
        self,
        envelope: &Envelope,
        changes: &[StateChange<'_>],
    ) -> Result<MessageId, SpoolError> {
        self.enter(envelope, changes).await
    }

    async fn enter(
        mut self,
        envelope: &Envelope,
        changes: &[StateChange<'_>],
    ) -> Result<MessageId, SpoolError> {
        if envelope.form == BodyForm::Raw {
            return Err(SpoolError::RawBody);
        }
        let key = self.stream.expect("commit takes the writer");
        let log = self.log.clone();
        let meta_max = message_meta_max(envelope);
        let states = log.inner().states_length(changes);
        let without_body = RECORD_HEADER + meta_max + states;
        if without_body + log.geometry.chunk_bytes > log.geometry.records_max() || !is_encodable(envelope) {
            return Err(SpoolError::TooLarge);
        }
        let missing = (without_body as u64 + self.length).saturating_sub(self.reservation.bytes);
        let (chunked, gathered) = {
            let stream = &log.inner().streams[key];
            (stream.chunked_bytes, stream.buffer.len())
        };
        self.reservation.grow(missing.saturating_sub(chunked))?;
        if let Some(id) = self.reside(key, envelope, changes, without_body)? {
            return Ok(id);
        }
        self.admit(without_body + gathered).await?;

        let (ticket, id) = {
            let mut inner = log.inner();
            inner.check()?;
            self.stream = None;
            let changes = inner.settle_residents(changes, &log);
            inner.enter_message(key, envelope, &changes, &log)
        };
        // From here on the group counts for itself.
        drop(self);
        log.work.notify_one();
        log.settled(ticket).await?;
        Ok(id)
    }

    /// Class `memory`: takes the message in without writing it, if that may be.
    fn reside(
        &mut self,
        key: usize,
        envelope: &Envelope,
        changes: &[StateChange<'_>],
        without_body: usize,
    ) -> Result<Option<MessageId>, SpoolError> {
        let log = self.log.clone();
        let mut inner = log.inner();
        if inner.streams[key].chunk_count > 0 || !may_reside(&log, &inner, changes) {
            return Ok(None);
        }
        inner.check()?;
        self.stream = None;
        let kept = (without_body as u64 + self.length).min(self.reservation.bytes);
        self.reservation.bytes -= kept;
        let id = inner.reside(key, envelope, kept, &log);
        inner.settle_residents(changes, &log);
        Ok(Some(id))
    }
}

impl Pending {
    /// Adds the record of a body that was gathered in `buffer`; returns what [`Group::push`] does, and the buffer or an
    /// empty one if the body is written from it.
    ///
    /// [`Group::push`]: super::group::Group::push
    fn push_gathered(
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

impl Inner {
    fn enter_message(
        &mut self,
        key: usize,
        envelope: &Envelope,
        changes: &[StateChange<'_>],
        log: &Log,
    ) -> (u64, MessageId) {
        let stream = &mut self.streams[key];
        let buffer = std::mem::take(&mut stream.buffer);
        let (id, chunk_count, chunked_bytes) = (stream.id, stream.chunk_count, stream.chunked_bytes);
        let stream = match chunk_count {
            0 => {
                self.streams.remove(key);
                None
            }
            _ => Some(key),
        };
        self.inflight -= buffer.capacity();
        let body_length = buffer.len() as u32;
        let length = RECORD_HEADER + message_meta_max(envelope) + buffer.len() + self.states_length(changes);
        let mut messages = std::mem::take(&mut self.messages);
        let table = std::mem::take(&mut self.table);
        let (ticket, (states, spent)) = self.enter(length, true, &log.geometry, |pending| {
            let meta = |into: &mut Vec<u8>| encode_message(into, chunk_count, chunked_bytes, envelope);
            let flags = envelope.flags();
            let (place, spent) = pending.push_gathered(Kind::Message, flags, id, meta, buffer, &log.geometry);
            let (start, meta_length) = place;
            pending.messages.push(NewMessage {
                id,
                meta_length,
                body: start + RECORD_HEADER as u32 + meta_length,
                length: body_length,
                recipients: envelope.recipients.len() as u32,
                stream,
            });
            (Inner::push_states(&mut messages, &table, pending, changes), spent)
        });
        (self.messages, self.table) = (messages, table);
        self.stats.states += states;
        self.buffers.keep(spent);
        (ticket, id)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(key) = self.stream else { return };
        let mut guard = self.log.inner();
        let inner = &mut *guard;
        let stream = inner.streams.remove(key);
        inner.inflight -= stream.buffer.capacity();
        for chunk in &stream.chunks {
            inner.table.remove_record(Weight::of_chunk(*chunk));
        }
        inner.buffers.keep(stream.buffer);
        drop(guard);
        self.log.room.notify_all();
    }
}
