//! Writing of groups: mail and states, tables, the seal; and what the index says when they have their place.

use std::io;
use std::time::Duration;

use chasqui_runtime::{Instant, now};

use super::entries::Entry;
use super::groups::{NewState, Pending};
use super::handle::Log;
use super::inner::Inner;
use super::recipient_set::RecipientSet;
use super::state_index::LiveState;
use super::write_out::arrived;
use crate::spool::format::group::Group;
use crate::spool::format::place::{Piece, Place, Weight};

/// States wait this long for a group that mail starts; after this long without one the watermark is written. What was
/// delivered meanwhile is delivered again after a kill. FORMAT.md, *Writing*, 4.
pub(crate) const LINGER: Duration = Duration::from_millis(50);
/// As [`LINGER`], where the disk has no room for another segment.
const LINGER_SHORT_OF_ROOM: Duration = Duration::from_secs(1);

/// How long states wait for company. Each group takes a block at least: where room is short, more wait for one.
pub(crate) fn linger(inner: &Inner) -> Duration {
    if inner.lacks_room() { LINGER_SHORT_OF_ROOM } else { LINGER }
}

pub(crate) enum Step {
    Wrote(u64),
    SegmentIsFull,
    Done,
}

/// Writes a table if one is wanted, else the next group up to the one with ticket `last`.
pub(crate) fn write_next(inner: &mut Inner, last: u64, log: &Log) -> io::Result<Step> {
    match write_table(inner, log)? {
        Step::Done => {}
        step => return Ok(step),
    }
    let Some(next) = inner.groups.queue.front().filter(|next| next.ticket <= last) else {
        return Ok(Step::Done);
    };
    // A seal and a table always find room.
    let (padded, index_length) = (next.group.padded_len(), next.group.index_length());
    if !inner.segments.fits(padded, index_length, 2 * log.geometry.table_reserve, 0) {
        return Ok(Step::SegmentIsFull);
    }
    let mut pending = inner.groups.queue.pop_front().expect("seen above");
    let placed = inner.append(&mut pending.group);
    let (offset, bytes) = match placed {
        Ok(place) => place,
        Err(error) => {
            inner.groups.queue.push_front(pending);
            return Err(error);
        }
    };
    inner.groups.queued_bytes -= padded;
    place(inner, &mut pending, offset);
    arrived(inner, &pending.messages, &log.geometry);
    pending.last_sequence = inner.groups.watermark.appended();
    inner.groups.written.push(pending);
    Ok(Step::Wrote(bytes))
}

/// Writes what waits, if states in it have waited long enough and it fits; returns when to look again.
pub(crate) fn write_lingering(inner: &mut Inner, log: &Log) -> io::Result<Instant> {
    let linger = linger(inner);
    let waits = inner.groups.queue.back().and_then(|open| Some((open.since? + linger, open.ticket)));
    let now = now();
    match waits {
        Some((due, _)) if due > now => return Ok(due),
        Some((_, last)) => while let Step::Wrote(_) = write_next(inner, last, log)? {},
        None => {}
    }
    Ok(now + linger)
}

/// Writes a table, if one is wanted.
pub(crate) fn write_table(inner: &mut Inner, log: &Log) -> io::Result<Step> {
    if inner.segments.tables.since.is_none() {
        return Ok(Step::Done);
    }
    let mut pending = Pending { table: Some(inner.segments.tables.asked()), ..Pending::default() };
    inner.segments.push_table(&mut pending.group);
    debug_assert!(pending.group.padded_len() <= log.geometry.table_reserve, "room for the table is kept");
    let (padded, index_length) = (pending.group.padded_len(), pending.group.index_length());
    if padded > inner.segments.rest(log.geometry.table_reserve) {
        return Ok(Step::SegmentIsFull);
    }
    if !inner.segments.fits(padded, index_length, log.geometry.table_reserve, 0) {
        // The segment that it frees may be the spare that is waited for.
        inner.segments.active.index.give_up();
    }
    let (_, bytes) = inner.append(&mut pending.group)?;
    inner.segments.tables.since = None;
    inner.groups.push_written(pending);
    Ok(Step::Wrote(bytes))
}

/// Enters where the group's messages are, now that it has its place.
fn place(inner: &mut Inner, pending: &mut Pending, offset: u64) {
    let ordinal = inner.segments.active.identity.ordinal;
    let piece = |body: u32, length: u32| Piece { ordinal, offset: offset as u32 + body, length };
    for chunk in &pending.chunks {
        let stream = inner.streams.open.get_mut(chunk.stream);
        // A stream that was given up meanwhile leaves a dead chunk.
        if let Some(stream) = stream.filter(|stream| stream.id == chunk.id) {
            let piece = piece(chunk.body, chunk.length);
            stream.chunks.push(piece);
            inner.segments.table.add_record(Weight::of_chunk(piece));
        }
    }
    for message in &pending.messages {
        let chunks =
            message.stream.map(|stream| inner.streams.open.remove(stream).chunks).unwrap_or_default();
        let head = piece(message.body, message.length);
        let finished = RecipientSet::none_of(message.recipients);
        let entry = Entry::new(message.meta_length, head, chunks, finished);
        inner.segments.table.add_record(Weight::of_record(head, message.meta_length));
        inner.messages.entries.insert(message.id, entry);
    }
    inner.stats.messages += pending.messages.len() as u64;
    inner.segments.table.refer(ordinal, pending.refers_to.subjects());
    place_states(inner, pending, offset);
}

fn place_states(inner: &mut Inner, pending: &mut Pending, offset: u64) {
    let ordinal = inner.segments.active.identity.ordinal;
    for NewState { id, start, length, kind, recipients } in &mut pending.states {
        let place = Place { ordinal, offset: offset as u32 + *start, length: *length };
        inner.segments.table.add_record(Weight::of_state(place));
        let state = LiveState { place, kind: *kind, recipients: std::mem::take(recipients) };
        let dead = inner.messages.states.add(*id, state);
        pending.releases.extend(dead.into_iter().map(Weight::of_state));
    }
    for (id, reference) in pending.completed.drain(..) {
        for state in inner.messages.states.remove(id) {
            pending.releases.push(Weight::of_state(state.place));
            if state.kind.is_final() {
                // A tombstone from now on.
                inner.segments.table.refer(state.place.ordinal, [(reference, u64::from(state.place.length))]);
            }
        }
    }
}

/// Writes the seal of the active segment.
pub(crate) fn write_seal(inner: &mut Inner, log: &Log) -> io::Result<()> {
    let mut group = Group::default();
    inner.segments.push_seal(&mut group);
    debug_assert!(group.padded_len() <= log.geometry.table_reserve, "room for the seal is kept");
    inner.append(&mut group).map(drop)
}
