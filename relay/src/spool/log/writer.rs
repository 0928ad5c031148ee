//! Messages on their way in: reservation of space, gathering, chunks of large bodies, commit.

use std::rc::Rc;

use chasqui_protocol::smtp::data::BodyForm;

use super::gather::{grow_buffer, spill};
use super::groups::NewMessage;
use super::handle::Log;
use super::inner::Inner;
use super::reservation::{Purpose, Reservation};
use super::streams::Stream;
use super::write_out::{keep_unwritten, may_stay_unwritten, settle_unwritten};
use crate::spool::error::SpoolError;
use crate::spool::format::headers::{BLOCK, Kind, RECORD_HEADER};
use crate::spool::format::id::{MessageId, StateChange};
use crate::spool::format::message::{CHUNK_META, Envelope, encode_message, is_encodable, message_meta_max};
use crate::spool::format::place::Weight;

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
    pub(crate) fn new(log: Rc<Log>, reservation: Option<Reservation>) -> Writer {
        let own = reservation.filter(|reservation| Rc::ptr_eq(&reservation.log, &log));
        let reservation = own.unwrap_or_else(|| Reservation::empty(&log, Purpose::Mail));
        let (id, stream, switch) = {
            let mut inner = log.inner();
            let id = inner.segments.active.next_id(log.shard);
            (id, inner.streams.begin(id), inner.segments.active.is_short_of_ids())
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
            let gathered = log.inner().streams.open[key].buffer.len();
            let limit = log.geometry.chunk_bytes;
            if gathered == limit {
                self.admit(gathered + RECORD_HEADER + CHUNK_META as usize).await?;
                let mut inner = log.inner();
                inner.check()?;
                // While it waited, another writer may have spilled it.
                let gathered = inner.streams.open[key].buffer.len();
                if gathered > 0 {
                    spill(&mut inner, key, true, &log);
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
        if !grow_buffer(inner, key, bytes.len(), self.reservation.bytes as usize, log)? {
            drop(guard);
            log.work.notify_one();
            return Ok(false);
        }
        inner.streams.open[key].buffer.extend_from_slice(bytes);
        drop(guard);
        self.length += bytes.len() as u64;
        let gathered = self.log.inner().streams.open[key].buffer.len() as u64;
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
                if !inner.space.stalled && inner.room(&self.log.geometry).ready() >= bytes as u64 + BLOCK {
                    return Ok(());
                }
                if let Some(refusal) = inner.refusal() {
                    return Err(refusal);
                }
            }
            self.log.maintenance.notify_one();
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
    /// and the states that cause it; begun with [`Spool::begin_notification`](crate::spool::Spool::begin_notification).
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
        let states = {
            let inner = log.inner();
            inner.messages.states_length(changes, &inner.segments)
        };
        let without_body = RECORD_HEADER + meta_max + states;
        if without_body + log.geometry.chunk_bytes > log.geometry.records_max() || !is_encodable(envelope) {
            return Err(SpoolError::TooLarge);
        }
        let missing = (without_body as u64 + self.length).saturating_sub(self.reservation.bytes);
        let (chunked, gathered) = {
            let stream = &log.inner().streams.open[key];
            (stream.chunked_bytes, stream.buffer.len())
        };
        self.reservation.grow(missing.saturating_sub(chunked))?;
        if let Some(id) = self.keep_unwritten(key, envelope, changes, without_body)? {
            return Ok(id);
        }
        self.admit(without_body + gathered).await?;

        let (ticket, id) = {
            let mut inner = log.inner();
            inner.check()?;
            self.stream = None;
            let changes = settle_unwritten(&mut inner, changes, &log);
            enter_message(&mut inner, key, envelope, &changes, &log)
        };
        // From here on the group counts for itself.
        drop(self);
        log.work.notify_one();
        log.settled(ticket).await?;
        Ok(id)
    }

    /// Class `memory`: takes the message in without writing it, if that may be.
    fn keep_unwritten(
        &mut self,
        key: usize,
        envelope: &Envelope,
        changes: &[StateChange<'_>],
        without_body: usize,
    ) -> Result<Option<MessageId>, SpoolError> {
        let log = self.log.clone();
        let mut inner = log.inner();
        if inner.streams.open[key].chunk_count > 0 || !may_stay_unwritten(&log, &inner, changes) {
            return Ok(None);
        }
        inner.check()?;
        self.stream = None;
        let kept = (without_body as u64 + self.length).min(self.reservation.bytes);
        self.reservation.bytes -= kept;
        let id = keep_unwritten(&mut inner, key, envelope, kept, &log);
        settle_unwritten(&mut inner, changes, &log);
        Ok(Some(id))
    }
}

/// Enters the message that a stream has gathered, with states of others; returns the group's ticket.
fn enter_message(
    inner: &mut Inner,
    key: usize,
    envelope: &Envelope,
    changes: &[StateChange<'_>],
    log: &Log,
) -> (u64, MessageId) {
    let buffer = inner.streams.take_buffer(key);
    let Stream { id, chunk_count, chunked_bytes, .. } = inner.streams.open[key];
    let stream = match chunk_count {
        0 => {
            inner.streams.remove(key);
            None
        }
        _ => Some(key),
    };
    let Inner { groups, segments, messages, streams, stats, .. } = inner;
    let body_length = buffer.len() as u32;
    let states = messages.states_length(changes, segments);
    let length = RECORD_HEADER + message_meta_max(envelope) + buffer.len() + states;
    let (ticket, (pushed, spent)) = groups.enter(length, true, &log.geometry, |pending| {
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
        (messages.push_states(changes, segments, pending), spent)
    });
    stats.states += pushed;
    streams.buffers.keep(spent);
    (ticket, id)
}

impl Drop for Writer {
    fn drop(&mut self) {
        let Some(key) = self.stream else { return };
        let mut guard = self.log.inner();
        let inner = &mut *guard;
        let stream = inner.streams.remove(key);
        for chunk in &stream.chunks {
            inner.segments.table.remove_record(Weight::of_chunk(*chunk));
        }
        inner.streams.buffers.keep(stream.buffer);
        drop(guard);
        self.log.room.notify_all();
    }
}
