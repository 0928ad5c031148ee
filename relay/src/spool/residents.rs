//! Class `memory`: messages that were answered 250 and stand in no file.
//!
//! Such a message is a *resident*: envelope and body are in memory, and it is delivered from there. It is written out, as
//! an ordinary record, when it turns out that it has to wait: at its first deferral; after `ResidentLimits::time`,
//! whatever it waits for; when the residents have more than `ResidentLimits::bytes`, the oldest first; and at the
//! end. From then until its group has a place it is *leaving*: it is still read from memory, and its states
//! enter behind its record, in a group of their own. A process that is killed between the two makes a duplicate of
//! what had been delivered before; power loss may, as in class `buffered`.
//!
//! Written at once, as in class `buffered`, is a message of several records, and one that comes with the state of
//! a message that survives a crash: a notification must not be lost where the state that it tells of is kept.
//!
//! Space on the disk is kept for every resident, so that it can be written out.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;

use chasqui_runtime::{HashMap, Instant, now, timeout_at};

use super::config::{Durability, Geometry};
use super::error::SpoolError;
use super::finished::Finished;
use super::format::{Kind, RECORD_HEADER, flag};
use super::id::{MessageId, StateChange};
use super::log::{Condition, Inner, Log, NewMessage};
use super::payload::{Envelope, State, decode_message, encode_message};

/// The messages of a log that are in memory alone.
#[derive(Debug, Default)]
pub(super) struct Residents {
    messages: HashMap<MessageId, Resident>,
    /// Since when; some are residents no more.
    order: VecDeque<(Instant, MessageId)>,
    leaving: HashMap<MessageId, Resident>,
    /// Bytes of `messages`.
    bytes: usize,
    /// Committed and not written, whether finished or not.
    unwritten: u64,
}

#[derive(Debug)]
struct Resident {
    /// Payload of its record before the body.
    meta: Box<[u8]>,
    body: Rc<[u8]>,
    /// Of its record.
    flags: u8,
    finished: Finished,
    /// Those of its states that its record is to be followed by.
    states: Vec<(Vec<u32>, State)>,
    /// Space kept on the disk.
    reserved: u64,
}

impl Resident {
    fn bytes(&self) -> usize {
        self.meta.len() + self.body.len()
    }

    fn note(&mut self, recipients: &[u32], state: &State) {
        let alike = self.states.iter_mut().find(|(_, noted)| state.is_final() && noted == state);
        match alike {
            Some((noted, _)) => noted.extend_from_slice(recipients),
            None => self.states.push((recipients.to_vec(), state.clone())),
        }
    }
}

impl Residents {
    /// Is nothing in memory alone?
    fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.leaving.is_empty()
    }

    fn any(&self, id: MessageId) -> Option<&Resident> {
        self.messages.get(&id).or_else(|| self.leaving.get(&id))
    }

    /// The envelope of a message that is in memory.
    pub(super) fn envelope(&self, id: MessageId) -> Option<Envelope> {
        let resident = self.any(id)?;
        let is = |wanted: u8| resident.flags & wanted != 0;
        let meta = decode_message(&resident.meta, is(flag::EIGHT_BIT), is(flag::STUFFED));
        Some(meta.expect("it was encoded here").envelope)
    }

    /// The body of a message that is in memory.
    pub(super) fn body(&self, id: MessageId) -> Option<Rc<[u8]>> {
        self.any(id).map(|resident| resident.body.clone())
    }

    /// Messages with recipients left that have no place in a segment.
    pub(super) fn len(&self) -> usize {
        self.messages.len() + self.leaving.len()
    }

    /// Messages that are in memory alone, and their bytes.
    pub(super) fn held(&self) -> (usize, usize) {
        (self.messages.len(), self.bytes)
    }

    /// Messages committed that were never written.
    pub(super) fn unwritten(&self) -> u64 {
        self.unwritten
    }

    /// The oldest resident, and since when it is one.
    fn oldest(&mut self) -> Option<(Instant, MessageId)> {
        while let Some(&(since, id)) = self.order.front() {
            if self.messages.contains_key(&id) {
                return Some((since, id));
            }
            self.order.pop_front();
        }
        None
    }

    fn remove(&mut self, id: MessageId) -> Option<Resident> {
        let resident = self.messages.remove(&id)?;
        self.bytes -= resident.bytes();
        Some(resident)
    }
}

/// Can a message of one record be in memory alone, given the states that it comes with?
pub(super) fn may_reside(log: &Log, inner: &Inner, changes: &[StateChange<'_>]) -> bool {
    let is_of_resident =
        |it: &StateChange<'_>| it.state.is_final() && inner.residents.messages.contains_key(&it.id);
    log.class == Durability::Memory && changes.iter().all(is_of_resident)
}

impl Inner {
    /// Takes in a message whose body a stream has gathered. `reserved` bytes of the disk are kept for it, which are
    /// the spool's from now on.
    pub(super) fn reside(&mut self, key: usize, envelope: &Envelope, reserved: u64, log: &Log) -> MessageId {
        let stream = self.streams.remove(key);
        self.inflight -= stream.buffer.capacity();
        let mut meta = Vec::new();
        encode_message(&mut meta, 0, 0, envelope);
        let resident = Resident {
            meta: meta.into(),
            body: stream.buffer.as_slice().into(),
            flags: envelope.flags(),
            finished: Finished::none_of(envelope.recipients.len() as u32),
            states: Vec::new(),
            reserved,
        };
        self.buffers.keep(stream.buffer);
        let residents = &mut self.residents;
        residents.bytes += resident.bytes();
        residents.unwritten += 1;
        if residents.order.is_empty() {
            log.resides.notify_one();
        }
        residents.order.push_back((now(), stream.id));
        residents.messages.insert(stream.id, resident);
        while self.residents.bytes > log.residents.bytes {
            let Some((_, oldest)) = self.residents.oldest() else { break };
            self.write_out(oldest, log);
        }
        stream.id
    }

    /// Applies the states of messages that are in memory, and gives those of the others. What is deferred is
    /// written out.
    pub(super) fn settle_residents<'a, 'b>(
        &mut self,
        changes: &'a [StateChange<'b>],
        log: &Log,
    ) -> Cow<'a, [StateChange<'b>]> {
        if self.residents.is_empty() {
            return Cow::Borrowed(changes);
        }
        let mut others = Vec::new();
        for change in changes {
            if let Some(leaving) = self.residents.leaving.get_mut(&change.id) {
                leaving.note(change.recipients, &change.state);
                continue;
            }
            let Some(resident) = self.residents.messages.get_mut(&change.id) else {
                others.push(change.clone());
                continue;
            };
            if change.state.is_final() {
                change.recipients.iter().for_each(|index| resident.finished.mark(*index));
            }
            if resident.finished.is_complete() {
                let resident = self.residents.remove(change.id).expect("found above");
                self.reserved -= resident.reserved;
                continue;
            }
            resident.note(change.recipients, &change.state);
            if !change.state.is_final() {
                self.write_out(change.id, log);
            }
        }
        Cow::Owned(others)
    }

    /// Enters the record of a resident, which is leaving then. Nothing when the log is sealed.
    fn write_out(&mut self, id: MessageId, log: &Log) {
        if matches!(self.condition, Condition::Sealed(_)) {
            return;
        }
        let Some(resident) = self.residents.remove(id) else { return };
        self.reserved -= resident.reserved;
        let length = RECORD_HEADER + resident.bytes();
        self.enter(length, true, &log.geometry, |pending| {
            let meta = |into: &mut Vec<u8>| into.extend_from_slice(&resident.meta);
            let (start, meta_length) =
                pending.group.push(Kind::Message, resident.flags, id.0, meta, &resident.body);
            pending.messages.push(NewMessage {
                id,
                meta_length,
                body: start + RECORD_HEADER as u32 + meta_length,
                length: resident.body.len() as u32,
                recipients: resident.finished.recipients(),
                stream: None,
            });
        });
        self.residents.leaving.insert(id, resident);
        log.work.notify_one();
    }

    /// These messages have their place: the states of those that came from memory enter behind them.
    pub(super) fn arrived(&mut self, messages: &[NewMessage], geometry: &Geometry) {
        for NewMessage { id, .. } in messages {
            let Some(resident) = self.residents.leaving.remove(id) else { continue };
            self.residents.unwritten -= 1;
            for (recipients, state) in resident.states {
                let change = StateChange { id: *id, recipients: &recipients, state };
                self.enter_states(&[change], true, geometry);
            }
        }
    }
}

impl Log {
    /// Writes out what is in memory alone, at the pace of the disk.
    pub(super) async fn write_out_all(&self) -> Result<(), SpoolError> {
        loop {
            {
                let inner = &mut *self.inner();
                if let Condition::Sealed(why) = &inner.condition {
                    return Err(SpoolError::Sealed(why.clone()));
                }
                while inner.inflight <= self.inflight_max {
                    let Some((_, oldest)) = inner.residents.oldest() else { return Ok(()) };
                    inner.write_out(oldest, self);
                }
            }
            self.room.notified().await;
        }
    }
}

/// Writes out what has been in memory for long enough, until the log is closed or sealed.
pub(super) async fn run(log: Rc<Log>) {
    loop {
        let next = {
            let inner = &mut *log.inner();
            if !matches!(inner.condition, Condition::Running) {
                return;
            }
            loop {
                match inner.residents.oldest() {
                    Some((since, id)) if since + log.residents.time <= now() => inner.write_out(id, &log),
                    Some((since, _)) => break Some(since + log.residents.time),
                    None => break None,
                }
            }
        };
        match next {
            // Either the time has come or the log ends: look again.
            Some(at) => drop(timeout_at(at, log.resides.notified()).await),
            None => log.resides.notified().await,
        }
    }
}
