//! How messages come to be in memory alone, and how they are written out.

use std::borrow::Cow;

use chasqui_runtime::now;

use super::groups::NewMessage;
use super::handle::Log;
use super::inner::Inner;
use super::recipient_set::RecipientSet;
use super::write_back::Unwritten;
use crate::spool::config::{Durability, Geometry};
use crate::spool::error::SpoolError;
use crate::spool::format::headers::{Kind, RECORD_HEADER};
use crate::spool::format::id::{MessageId, StateChange};
use crate::spool::format::message::{Envelope, encode_message};

/// Can a message of one record be in memory alone, given the states that it comes with?
pub(crate) fn may_stay_unwritten(log: &Log, inner: &Inner, changes: &[StateChange<'_>]) -> bool {
    let is_of_unwritten =
        |it: &StateChange<'_>| it.state.is_final() && inner.write_back.messages.contains_key(&it.id);
    log.class == Durability::Memory && changes.iter().all(is_of_unwritten)
}

/// Takes in a message whose body a stream has gathered. `reserved` bytes of the disk are kept for it, which are
/// the spool's from now on.
pub(crate) fn keep_unwritten(
    inner: &mut Inner,
    key: usize,
    envelope: &Envelope,
    reserved: u64,
    log: &Log,
) -> MessageId {
    let stream = inner.streams.remove(key);
    let mut meta = Vec::new();
    encode_message(&mut meta, 0, 0, envelope);
    let unwritten = Unwritten {
        meta: meta.into(),
        body: stream.buffer.as_slice().into(),
        flags: envelope.flags(),
        finished: RecipientSet::none_of(envelope.recipients.len() as u32),
        states: Vec::new(),
        reserved,
    };
    inner.streams.buffers.keep(stream.buffer);
    let write_back = &mut inner.write_back;
    write_back.bytes += unwritten.bytes();
    write_back.unwritten += 1;
    if write_back.order.is_empty() {
        log.write_back_due.notify_one();
    }
    write_back.order.push_back((now(), stream.id));
    write_back.messages.insert(stream.id, unwritten);
    while inner.write_back.bytes > log.write_back.bytes {
        let Some((_, oldest)) = inner.write_back.oldest() else { break };
        write_out(inner, oldest, log);
    }
    stream.id
}

/// Applies the states of messages that are in memory, and gives those of the others. What is deferred is
/// written out.
pub(crate) fn settle_unwritten<'a, 'b>(
    inner: &mut Inner,
    changes: &'a [StateChange<'b>],
    log: &Log,
) -> Cow<'a, [StateChange<'b>]> {
    if inner.write_back.is_empty() {
        return Cow::Borrowed(changes);
    }
    let mut others = Vec::new();
    for change in changes {
        if let Some(leaving) = inner.write_back.leaving.get_mut(&change.id) {
            leaving.record(change.recipients, &change.state);
            continue;
        }
        let Some(unwritten) = inner.write_back.messages.get_mut(&change.id) else {
            others.push(change.clone());
            continue;
        };
        if change.state.is_final() {
            change.recipients.iter().for_each(|index| unwritten.finished.mark(*index));
        }
        if unwritten.finished.is_complete() {
            let unwritten = inner.write_back.remove(change.id).expect("found above");
            inner.space.reserved -= unwritten.reserved;
            continue;
        }
        unwritten.record(change.recipients, &change.state);
        if !change.state.is_final() {
            write_out(inner, change.id, log);
        }
    }
    Cow::Owned(others)
}

/// Enters the record of such a message, which is leaving then. Nothing when the log has failed.
pub(crate) fn write_out(inner: &mut Inner, id: MessageId, log: &Log) {
    if inner.check_sound().is_err() {
        return;
    }
    let Some(unwritten) = inner.write_back.remove(id) else { return };
    inner.space.reserved -= unwritten.reserved;
    let length = RECORD_HEADER + unwritten.bytes();
    inner.groups.enter(length, true, &log.geometry, |pending| {
        let meta = |into: &mut Vec<u8>| into.extend_from_slice(&unwritten.meta);
        let (start, meta_length) =
            pending.group.push(Kind::Message, unwritten.flags, id.0, meta, &unwritten.body);
        pending.messages.push(NewMessage {
            id,
            meta_length,
            body: start + RECORD_HEADER as u32 + meta_length,
            length: unwritten.body.len() as u32,
            recipients: unwritten.finished.recipients(),
            stream: None,
        });
    });
    inner.write_back.leaving.insert(id, unwritten);
    log.work.notify_one();
}

/// These messages have their place: the states of those that came from memory enter behind them.
pub(crate) fn arrived(inner: &mut Inner, messages: &[NewMessage], geometry: &Geometry) {
    for NewMessage { id, .. } in messages {
        let Some(unwritten) = inner.write_back.leaving.remove(id) else { continue };
        inner.write_back.unwritten -= 1;
        for (recipients, state) in unwritten.states {
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
                let Some((_, oldest)) = inner.write_back.oldest() else { return Ok(()) };
                write_out(inner, oldest, log);
            }
        }
        log.room.notified().await;
    }
}
