//! Gathering of bodies in memory, and what happens when too much is in flight.

use super::buffers::BUFFER_MIN;
use super::groups::NewChunk;
use super::handle::Log;
use super::inner::Inner;
use crate::spool::config::SMALL_MAX;
use crate::spool::error::SpoolError;
use crate::spool::format::headers::{BLOCK, Kind, RECORD_HEADER};
use crate::spool::format::message::CHUNK_META;

/// Moves what a stream has gathered into a chunk record; the caller has seen that there is room.
pub(crate) fn spill(inner: &mut Inner, key: usize, urgent: bool, log: &Log) {
    let buffer = inner.streams.take_buffer(key);
    let stream = &mut inner.streams.open[key];
    let id = stream.id;
    let index = stream.chunk_count;
    stream.chunk_count += 1;
    stream.chunked_bytes += buffer.len() as u64;
    let length = buffer.len();
    let bytes = RECORD_HEADER + CHUNK_META as usize + length;
    let (_, spent) = inner.groups.enter(bytes, urgent, &log.geometry, |pending| {
        let meta = |into: &mut Vec<u8>| into.extend_from_slice(&index.to_le_bytes());
        let (place, spent) = pending.push_gathered(Kind::Chunk, 0, id, meta, buffer, &log.geometry);
        let body = place.0 + RECORD_HEADER as u32 + place.1;
        pending.chunks.push(NewChunk { id, stream: key, body, length: length as u32 });
        spent
    });
    inner.streams.buffers.keep(spent);
}

/// Makes room for `more` bytes in a stream's buffer, of which `expected` are to come in all; false when too much is in
/// flight.
pub(crate) fn grow_buffer(
    inner: &mut Inner,
    key: usize,
    more: usize,
    expected: usize,
    log: &Log,
) -> Result<bool, SpoolError> {
    for relieved in [false, true] {
        let buffer = &inner.streams.open[key].buffer;
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
        let inflight = inner.inflight();
        if inflight == 0 || inflight + (wanted - before) <= log.inflight_max {
            let others = inner.groups.inflight;
            let streams = &mut inner.streams;
            let buffer = &mut streams.open[key].buffer;
            streams.buffers.grow(buffer, wanted);
            streams.held_bytes += buffer.capacity() - before;
            streams.buffers.shrink_to(log.inflight_max.saturating_sub(streams.held_bytes + others));
            return Ok(true);
        }
        if !relieved {
            relieve(inner, log);
        }
    }
    inner.refusal().map_or(Ok(false), Err)
}

/// Too much is in flight: moves gathered bodies into chunk records, the largest first, until half of what may
/// be in flight is left. So memory comes back however slowly their senders are.
fn relieve(inner: &mut Inner, log: &Log) {
    let mut held: Vec<(usize, usize)> =
        inner.streams.open.iter().map(|(key, stream)| (stream.buffer.capacity(), key)).collect();
    let mut gathered: usize = held.iter().map(|(bytes, _)| bytes).sum();
    held.sort_unstable();
    while let Some((bytes, key)) = held.pop() {
        if gathered <= log.inflight_max / 2 || inner.room(&log.geometry).ready() < bytes as u64 + BLOCK {
            break;
        }
        if !inner.streams.open[key].buffer.is_empty() {
            spill(inner, key, true, log);
        }
        gathered -= bytes;
    }
}
