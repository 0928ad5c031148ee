//! What the committer copies for the cleaner: which records of a segment still count, and what the index says when
//! they have a new place.

use std::io;

use super::copying::Survivor;
use super::groups::Pending;
use super::handle::Log;
use super::inner::Inner;
use super::state_index::{LiveState, StateKind};
use super::writing::write_table;
use crate::spool::format::group::Group;
use crate::spool::format::headers::{
    FIRST_GROUP, GROUP_HEADER, GROUP_MAX, Kind, RECORD_HEADER, RecordHeader,
};
use crate::spool::format::id::MessageId;
use crate::spool::format::index::index_max;
use crate::spool::format::message::{CHUNK_META, decode_chunk};
use crate::spool::format::place::{Piece, Place, Weight};
use crate::spool::format::state::{
    State, StateMeta, decode_references, decode_state, encode_references, encode_state,
};

/// What a record of a segment that is being cleaned comes to.
pub(crate) enum Verdict {
    /// It does not count.
    Dead,
    /// It may not be copied before what was recorded since is settled.
    Later,
    /// A piece of a message.
    Piece,
    /// A chunk of a message that is still being received, and the key of its stream.
    Chunk(usize),
    /// A state of a message with recipients left.
    State(LiveState),
    /// A state of a finished message that has copies in these segments.
    Tombstone(Vec<u32>),
    /// What recoveries kept.
    Cuts,
}

/// How far a batch got.
pub(crate) enum Copied {
    All,
    SegmentIsFull,
}

/// A copy in a group, for when that has got its place. `start` is the record's offset in the group, `body` that of its
/// body.
enum Move {
    Piece {
        id: MessageId,
        from: u32,
        body: u32,
    },
    Chunk {
        stream: usize,
        from: u32,
        body: u32,
    },
    State {
        id: MessageId,
        live: LiveState,
        start: u32,
        length: u32,
        references: Vec<u32>,
    },
    /// What the states of a message have finished, told once more beside it: the copy needs it as the original does.
    Finished {
        id: MessageId,
        kind: StateKind,
        recipients: Vec<u32>,
        start: u32,
        length: u32,
        references: Vec<u32>,
    },
    Tombstone {
        length: u32,
        references: Vec<u32>,
    },
    Cuts,
}

/// Does this record count, and as what?
pub(crate) fn judge(inner: &Inner, from: u32, header: &RecordHeader, offset: u32, payload: &[u8]) -> Verdict {
    let id = MessageId(header.id);
    let (meta, body) = payload.split_at(header.meta_length as usize);
    match header.kind {
        Kind::Message | Kind::Chunk => {
            let chunk = decode_chunk(meta).filter(|_| header.kind == Kind::Chunk);
            judge_piece(inner, id, chunk, from, offset + RECORD_HEADER as u32 + header.meta_length)
        }
        Kind::State if inner.messages.entries.get(id).is_some() => {
            let is_it = |live: &LiveState| (live.place.ordinal, live.place.offset) == (from, offset);
            match inner.messages.states.of(id).into_iter().find(is_it) {
                Some(live) => Verdict::State(live),
                None => Verdict::Dead,
            }
        }
        Kind::State if !decode_state(meta).is_some_and(|meta| meta.state.is_final()) => Verdict::Dead,
        Kind::State => {
            let mut references = decode_references(body);
            if references.is_empty() {
                // Of a version that does not tell: whatever the segment refers to.
                references.extend(inner.segments.table.live(from).iter().flat_map(|live| live.subjects()));
            }
            references
                .retain(|reference| *reference != from && inner.segments.table.live(*reference).is_some());
            if references.is_empty() { Verdict::Dead } else { Verdict::Tombstone(references) }
        }
        Kind::Cut if inner.segments.table.live(from).is_some_and(|live| live.needs_cuts()) => Verdict::Cuts,
        _ => Verdict::Dead,
    }
}

fn judge_piece(inner: &Inner, id: MessageId, chunk: Option<u32>, from: u32, body_offset: u32) -> Verdict {
    let is_it = |piece: &Piece| (piece.ordinal, piece.offset) == (from, body_offset);
    if let Some(entry) = inner.messages.entries.get(id) {
        // The message record stands for the last piece. Another chunk's record in this place is damage, and stays.
        let index = chunk.map_or(entry.chunks().len(), |chunk| chunk as usize);
        return match entry.pieces().nth(index).is_some_and(|piece| is_it(&piece)) {
            // The copy is to tell which recipients are finished, but not before that is settled.
            true if entry.has_several() && inner.groups.has_unsettled_final(id) => Verdict::Later,
            true => Verdict::Piece,
            false => Verdict::Dead,
        };
    }
    let mut streams = inner.streams.open.iter().filter(|(_, stream)| stream.id == id);
    match streams.find(|(_, stream)| stream.chunks.iter().any(is_it)) {
        Some((key, _)) => Verdict::Chunk(key),
        None => Verdict::Dead,
    }
}

/// Writes what of the batch still counts and fits into the active segment, in one group.
pub(crate) fn write_copies(inner: &mut Inner, log: &Log) -> io::Result<Copied> {
    // The first group of a segment is a table.
    write_table(inner, log)?;
    let Some(mut batch) = inner.copying.batch.take() else { return Ok(Copied::All) };
    let tables = 2 * log.geometry.table_reserve;
    let others = match inner.segments.spare {
        Some(_) => 0,
        // Mail that was admitted is to find its place.
        None => inner.groups.queued_bytes,
    };
    let (mut group, mut moves, mut full) = (Group::default(), Vec::new(), false);
    while let Some(survivor) = batch.records.front() {
        let (mark, moved) = (group.mark(), moves.len());
        push_copy(inner, &mut group, &mut moves, batch.from, survivor);
        let fits = group.padded_len() <= GROUP_MAX / 2
            && inner.segments.fits(group.padded_len(), group.index_length(), tables, others);
        if group.records() > 0 && !fits {
            let size = log.geometry.segment_size;
            let largest = size - FIRST_GROUP - 3 * log.geometry.table_reserve - index_max(size);
            let fits_nowhere = group.padded_since(mark) > largest.min(GROUP_MAX / 2);
            group.rewind(mark);
            moves.truncate(moved);
            if !fits_nowhere {
                full = true;
                break;
            }
            // Written when segments were larger.
            inner.segments.table.give_up(batch.from);
        }
        batch.records.pop_front();
    }
    if group.records() > 0 {
        let bytes = group.len() - GROUP_HEADER;
        let (offset, _) = inner.append(&mut group)?;
        inner.stats.copied_bytes += bytes as u64;
        let mut pending = Pending { copies: true, ..Pending::default() };
        place_copies(inner, &mut pending, batch.from, offset as u32, moves);
        inner.groups.push_written(pending);
    }
    if full {
        inner.copying.batch = Some(batch);
        return Ok(Copied::SegmentIsFull);
    }
    Ok(Copied::All)
}

fn push_copy(inner: &Inner, group: &mut Group, moves: &mut Vec<Move>, from: u32, survivor: &Survivor) {
    let Survivor { header, meta, body, .. } = survivor;
    let id = survivor.id();
    let payload = [meta.as_slice(), body.as_slice()].concat();
    let verdict = judge(inner, from, header, survivor.offset, &payload);
    let mut push = |meta: &[u8], body: &[u8]| {
        let before = group.len();
        let write = |into: &mut Vec<u8>| into.extend_from_slice(meta);
        let (start, _) = group.push(header.kind, header.flags, header.id, write, body);
        (start, (group.len() - before) as u32)
    };
    match verdict {
        Verdict::Dead | Verdict::Later => {}
        Verdict::Piece => {
            let (start, _) = push(meta, body);
            let body = start + RECORD_HEADER as u32 + header.meta_length;
            moves.push(Move::Piece { id, from: survivor.body_offset(), body });
            if header.kind == Kind::Message {
                push_finished(inner, group, moves, id);
            }
        }
        Verdict::Chunk(stream) => {
            let (start, _) = push(meta, body);
            let body = start + RECORD_HEADER as u32 + CHUNK_META;
            moves.push(Move::Chunk { stream, from: survivor.body_offset(), body });
        }
        Verdict::State(live) => {
            let Some(StateMeta { state, .. }) = decode_state(meta) else { return };
            let references = if live.kind.is_final() { references_of(inner, id) } else { Vec::new() };
            let mut meta = Vec::new();
            encode_state(&mut meta, &live.recipients, &state);
            let (start, length) = push(&meta, &encode_references(&references));
            moves.push(Move::State { id, live, start, length, references });
        }
        Verdict::Tombstone(references) => {
            let (_, length) = push(meta, &encode_references(&references));
            moves.push(Move::Tombstone { length, references });
        }
        Verdict::Cuts => {
            push(meta, body);
            moves.push(Move::Cuts);
        }
    }
}

fn push_finished(inner: &Inner, group: &mut Group, moves: &mut Vec<Move>, id: MessageId) {
    let states = inner.messages.states.of(id);
    for (kind, state) in [(StateKind::Delivered, State::Delivered), (StateKind::Bounced, State::Bounced)] {
        let of_kind = states.iter().filter(|live| live.kind == kind);
        let recipients: Vec<u32> = of_kind.flat_map(|live| &live.recipients).copied().collect();
        if recipients.is_empty() {
            continue;
        }
        let references = references_of(inner, id);
        let before = group.len();
        let write = |into: &mut Vec<u8>| encode_state(into, &recipients, &state);
        let (start, _) = group.push(Kind::State, 0, id.0, write, &encode_references(&references));
        let length = (group.len() - before) as u32;
        moves.push(Move::Finished { id, kind, recipients, start, length, references });
    }
}

/// The segments with copies of a message, the active one with them because it is to have one.
fn references_of(inner: &Inner, id: MessageId) -> Vec<u32> {
    let pieces = inner.messages.entries.get(id).into_iter().flat_map(|entry| entry.pieces());
    inner
        .segments
        .table
        .references(pieces.map(|piece| piece.ordinal).chain([inner.segments.active.identity.ordinal]))
}

/// The copies have their place: from now on they are what counts. The originals die when the group is settled.
fn place_copies(inner: &mut Inner, pending: &mut Pending, from: u32, offset: u32, moves: Vec<Move>) {
    let ordinal = inner.segments.active.identity.ordinal;
    for it in moves {
        match it {
            Move::Piece { id, from: old, body } => {
                let entry = inner.messages.entries.get_mut(id).expect("judged in this turn");
                let meta = entry.meta_length_at(from, old);
                let piece = entry.piece_at(from, old).expect("judged in this turn");
                let before = std::mem::replace(piece, Piece { ordinal, offset: offset + body, ..*piece });
                let after = *piece;
                pending.releases.push(Weight::of_record(before, meta));
                inner.segments.table.add_record(Weight::of_record(after, meta));
                inner.segments.table.copied(from, ordinal);
            }
            Move::Chunk { stream, from: old, body } => {
                let chunks = &mut inner.streams.open[stream].chunks;
                let is_it = |piece: &&mut Piece| (piece.ordinal, piece.offset) == (from, old);
                let piece = chunks.iter_mut().find(is_it).expect("judged in this turn");
                let before = std::mem::replace(piece, Piece { ordinal, offset: offset + body, ..*piece });
                let after = *piece;
                pending.releases.push(Weight::of_chunk(before));
                inner.segments.table.add_record(Weight::of_chunk(after));
                inner.segments.table.copied(from, ordinal);
            }
            Move::State { id, live, start, length, references } => {
                let place = Place { ordinal, offset: offset + start, length };
                let mut states = inner.messages.states.of(id);
                // Not there if its message is in the same batch, with what it had told.
                let Some(moved) = states.iter_mut().find(|it| it.place == live.place) else { continue };
                moved.place = place;
                inner.messages.states.set(id, states);
                pending.releases.push(Weight::of_state(live.place));
                inner.segments.table.add_record(Weight::of_state(place));
                pending.refers_to.add(&references, 0);
            }
            Move::Finished { id, kind, recipients, start, length, references } => {
                let place = Place { ordinal, offset: offset + start, length };
                let (replaced, mut states): (Vec<LiveState>, Vec<LiveState>) =
                    inner.messages.states.of(id).into_iter().partition(|live| live.kind == kind);
                states.push(LiveState { place, kind, recipients });
                inner.messages.states.set(id, states);
                pending.releases.extend(replaced.iter().map(|live| Weight::of_state(live.place)));
                inner.segments.table.add_record(Weight::of_state(place));
                pending.refers_to.add(&references, 0);
            }
            Move::Tombstone { length, references } => pending.refers_to.add(&references, length),
            Move::Cuts => inner.segments.table.copied_cuts(from, ordinal),
        }
    }
    inner.segments.table.refer(ordinal, pending.refers_to.subjects());
}
