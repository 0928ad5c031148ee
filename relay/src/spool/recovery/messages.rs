//! What the records of the groups that count come to: see FORMAT.md, *Recovery*, 5.

use std::collections::{BTreeMap, BTreeSet};

use super::assembly::{Assembly, Fate, Finding, FindingKind, FoundMessage};
use super::sequences::KeptGroup;
use crate::spool::format::headers::RECORD_HEADER;
use crate::spool::format::message::MessageCounts;
use crate::spool::format::place::{Piece, Place};
use crate::spool::format::scan::{Content, FoundRecord};
use crate::spool::format::state::Deferral;
use crate::spool::log::recipient_set::RecipientSet;
use crate::spool::log::state_index::{self, LiveState, StateKind};

impl Assembly {
    /// What the records of the groups that count come to.
    pub(crate) fn collect_messages(&mut self, kept: &[KeptGroup<'_>]) {
        let count = kept.iter().map(|kept| kept.group.records.len()).sum();
        let mut records = Vec::with_capacity(count);
        for KeptGroup { group, promised, .. } in kept {
            let ordinal = group.header.identity.ordinal;
            self.refers_to.entry(ordinal).or_default();
            let is_of_message =
                |it: &&FoundRecord| !matches!(it.content, Content::Table(..) | Content::Cuts(_));
            let of_messages = group.records.iter().filter(is_of_message);
            records.extend(of_messages.map(|record| (record, ordinal, *promised)));
        }
        // Message by message, each in the order in which its records were written. Groups are many and ids rise
        // with time, so that sorting is quick, and needs less memory than a map.
        let mut order: Vec<(u64, u32)> =
            (0..).zip(&records).map(|(at, (record, ..))| (record.id, at)).collect();
        order.sort_unstable();

        let mut uncommitted = 0u64;
        for of_message in order.chunk_by(|a, b| a.0 == b.0) {
            let id = of_message[0].0;
            let mut building = Building::default();
            for (_, at) in of_message {
                let (record, ordinal, promised) = records[*at as usize];
                building.take(record, ordinal, promised);
            }
            self.bind(&building);
            match building.finish(id) {
                Outcome::Queued(message) => self.messages.push(message),
                Outcome::Done => {}
                Outcome::Uncommitted => uncommitted += 1,
                Outcome::Torn => {
                    self.discard(format!("message {id:016x}: a piece was not synced; discarded"))
                }
                Outcome::Damaged(head) => {
                    self.quarantine(format!("message {id:016x}: a piece that was durable is lost"));
                    for fate in &mut self.fates {
                        match fate {
                            Fate::Live { identity, damaged } if identity.ordinal == head.ordinal => {
                                *damaged = true
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
        if uncommitted > 0 {
            self.discarded += uncommitted;
            let line = format!("{uncommitted} messages were not received to their end; discarded");
            self.report.push(Finding { kind: FindingKind::Discarded, line });
        }
    }

    /// A state that ended recipients is kept as long as a copy of their message is there.
    fn bind(&mut self, building: &Building) {
        self.copied.extend(&building.copied);
        if building.ends.is_empty() {
            return;
        }
        // Those of a message with recipients left are counted as records that live.
        let is_done = building.commit.as_ref().is_none_or(|commit| building.finished(commit).is_complete());
        let references = building.references();
        for place in &building.ends {
            let subjects = self.refers_to.entry(place.ordinal).or_default();
            for reference in &references {
                let counts = is_done && references.last() == Some(reference);
                *subjects.entry(*reference).or_default() += if counts { u64::from(place.length) } else { 0 };
            }
        }
    }
}

struct Commit {
    counts: MessageCounts,
    head_offset: u32,
    meta_length: u32,
    head: Piece,
    promised: bool,
}

/// What is known of one message.
#[derive(Default)]
struct Building {
    commit: Option<Commit>,
    chunks: BTreeMap<u32, Piece>,
    deferrals: BTreeMap<u32, Deferral>,
    /// Recipients that were delivered or given up.
    ended: Vec<u32>,
    /// Where that is told.
    ends: Vec<Place>,
    /// States that still tell something if it has recipients left.
    states: Vec<LiveState>,
    /// From where to where pieces were copied.
    copied: Vec<(u32, u32)>,
}

enum Outcome {
    Queued(FoundMessage),
    Done,
    Uncommitted,
    Torn,
    Damaged(Piece),
}

impl Building {
    /// The next of the message's records. States may be older than the copy that counts.
    fn take(&mut self, record: &FoundRecord, ordinal: u32, promised: bool) {
        let FoundRecord { head_offset, meta_length, body_offset, body_length, .. } = *record;
        let piece = Piece { ordinal, offset: body_offset, length: body_length };
        let length = RECORD_HEADER as u32 + meta_length + body_length;
        let offset = body_offset - meta_length - RECORD_HEADER as u32;
        let place = Place { ordinal, offset, length };
        match &record.content {
            Content::Message(counts) => {
                self.commit(Commit { counts: *counts, head_offset, meta_length, head: piece, promised });
            }
            Content::Chunk(index) => {
                let before = self.chunks.insert(*index, piece);
                self.copied(before, piece);
            }
            Content::Delivered(recipients) => self.end(place, StateKind::Delivered, recipients.as_slice()),
            Content::Bounced(recipients) => self.end(place, StateKind::Bounced, recipients.as_slice()),
            Content::Deferred(deferred) => {
                let (recipients, deferral) = &**deferred;
                let recipients = recipients.as_slice();
                self.deferrals.extend(recipients.iter().map(|index| (*index, deferral.clone())));
                state_index::add(&mut self.states, LiveState::new(place, StateKind::Deferred, recipients));
            }
            Content::Table(..) | Content::Cuts(_) => {}
        }
    }

    /// The newest copy counts; an older one may be durable when this one is not yet.
    fn commit(&mut self, commit: Commit) {
        let before = self.commit.take();
        self.copied(before.as_ref().map(|before| before.head), commit.head);
        let promised = commit.promised || before.is_some_and(|before| before.promised);
        self.commit = Some(Commit { promised, ..commit });
    }

    fn copied(&mut self, from: Option<Piece>, to: Piece) {
        if let Some(from) = from.filter(|from| from.ordinal != to.ordinal) {
            self.copied.push((from.ordinal, to.ordinal));
        }
    }

    fn end(&mut self, place: Place, kind: StateKind, recipients: &[u32]) {
        self.ended.extend(recipients);
        self.ends.push(place);
        state_index::add(&mut self.states, LiveState::new(place, kind, recipients));
    }

    /// Segments with copies of its pieces.
    fn references(&self) -> BTreeSet<u32> {
        let head = self.commit.iter().map(|commit| commit.head.ordinal);
        let pieces = head.chain(self.chunks.values().map(|chunk| chunk.ordinal));
        pieces.chain(self.copied.iter().map(|(from, _)| *from)).collect()
    }

    fn finished(&self, commit: &Commit) -> RecipientSet {
        let mut finished = RecipientSet::none_of(commit.counts.recipients);
        self.ended.iter().for_each(|index| finished.mark(*index));
        finished
    }

    fn finish(self, id: u64) -> Outcome {
        let Some(commit) = &self.commit else {
            // What ended recipients was written after the commit, which may be gone before the last chunk is.
            let is_done = self.chunks.is_empty() || !self.ends.is_empty();
            return if is_done { Outcome::Done } else { Outcome::Uncommitted };
        };
        let finished = self.finished(commit);
        if finished.is_complete() {
            return Outcome::Done;
        }
        let counts = commit.counts;
        let chunks: Vec<Piece> = self.chunks.range(..counts.chunks).map(|(_, piece)| *piece).collect();
        let chunked_bytes: u64 = chunks.iter().map(|piece| u64::from(piece.length)).sum();
        if chunks.len() != counts.chunks as usize || chunked_bytes != counts.chunked_bytes {
            return if commit.promised { Outcome::Damaged(commit.head) } else { Outcome::Torn };
        }
        let deferrals = self.deferrals.into_iter().filter(|(index, _)| !finished.has(*index)).collect();
        let Commit { head_offset, meta_length, head, .. } = *commit;
        let states = self.states;
        Outcome::Queued(FoundMessage {
            id,
            head_offset,
            finished,
            deferrals,
            meta_length,
            head,
            chunks,
            states,
        })
    }
}
