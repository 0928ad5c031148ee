//! How messages come to be in memory alone, and how they are written out.

use std::borrow::Cow;

use chasqui_runtime::now;

use super::finished::Finished;
use super::groups::NewMessage;
use super::handle::Log;
use super::inner::Inner;
use super::residents::Resident;
use crate::spool::config::{Durability, Geometry};
use crate::spool::error::SpoolError;
use crate::spool::format::headers::{Kind, RECORD_HEADER};
use crate::spool::format::id::{MessageId, StateChange};
use crate::spool::format::message::{Envelope, encode_message};

/// Can a message of one record be in memory alone, given the states that it comes with?
pub(crate) fn may_reside(log: &Log, inner: &Inner, changes: &[StateChange<'_>]) -> bool {
    let is_of_resident =
        |it: &StateChange<'_>| it.state.is_final() && inner.residents.messages.contains_key(&it.id);
    log.class == Durability::Memory && changes.iter().all(is_of_resident)
}

/// Takes in a message whose body a stream has gathered. `reserved` bytes of the disk are kept for it, which are
/// the spool's from now on.
pub(crate) fn reside(
    inner: &mut Inner,
    key: usize,
    envelope: &Envelope,
    reserved: u64,
    log: &Log,
) -> MessageId {
    let stream = inner.streams.remove(key);
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
    inner.streams.buffers.keep(stream.buffer);
    let residents = &mut inner.residents;
    residents.bytes += resident.bytes();
    residents.unwritten += 1;
    if residents.order.is_empty() {
        log.resides.notify_one();
    }
    residents.order.push_back((now(), stream.id));
    residents.messages.insert(stream.id, resident);
    while inner.residents.bytes > log.residents.bytes {
        let Some((_, oldest)) = inner.residents.oldest() else { break };
        write_out(inner, oldest, log);
    }
    stream.id
}

/// Applies the states of messages that are in memory, and gives those of the others. What is deferred is
/// written out.
pub(crate) fn settle_residents<'a, 'b>(
    inner: &mut Inner,
    changes: &'a [StateChange<'b>],
    log: &Log,
) -> Cow<'a, [StateChange<'b>]> {
    if inner.residents.is_empty() {
        return Cow::Borrowed(changes);
    }
    let mut others = Vec::new();
    for change in changes {
        if let Some(leaving) = inner.residents.leaving.get_mut(&change.id) {
            leaving.note(change.recipients, &change.state);
            continue;
        }
        let Some(resident) = inner.residents.messages.get_mut(&change.id) else {
            others.push(change.clone());
            continue;
        };
        if change.state.is_final() {
            change.recipients.iter().for_each(|index| resident.finished.mark(*index));
        }
        if resident.finished.is_complete() {
            let resident = inner.residents.remove(change.id).expect("found above");
            inner.space.reserved -= resident.reserved;
            continue;
        }
        resident.note(change.recipients, &change.state);
        if !change.state.is_final() {
            write_out(inner, change.id, log);
        }
    }
    Cow::Owned(others)
}

/// Enters the record of a resident, which is leaving then. Nothing when the log is sealed.
pub(crate) fn write_out(inner: &mut Inner, id: MessageId, log: &Log) {
    if inner.check_sound().is_err() {
        return;
    }
    let Some(resident) = inner.residents.remove(id) else { return };
    inner.space.reserved -= resident.reserved;
    let length = RECORD_HEADER + resident.bytes();
    inner.groups.enter(length, true, &log.geometry, |pending| {
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
    inner.residents.leaving.insert(id, resident);
    log.work.notify_one();
}

/// These messages have their place: the states of those that came from memory enter behind them.
pub(crate) fn arrived(inner: &mut Inner, messages: &[NewMessage], geometry: &Geometry) {
    for NewMessage { id, .. } in messages {
        let Some(resident) = inner.residents.leaving.remove(id) else { continue };
        inner.residents.unwritten -= 1;
        for (recipients, state) in resident.states {
            let change = StateChange { id: *id, recipients: &recipients, state };
            inner.enter_states(&[change], true, geometry);
        }
    }
}

/// Writes out what is in memory alone, at the pace of the disk.
pub(crate) async fn write_out_all(log: &Log) -> Result<(), SpoolError> {
    loop {
        {
            let inner = &mut *log.inner();
            inner.check_sound()?;
            while inner.inflight() <= log.inflight_max {
                let Some((_, oldest)) = inner.residents.oldest() else { return Ok(()) };
                write_out(inner, oldest, log);
            }
        }
        log.room.notified().await;
    }
}
