//! The messages of a log that have recipients left, and the states that still tell something of them.

use std::collections::BTreeSet;

use super::entries::Entries;
use super::groups::{NewState, Pending};
use super::segments::Segments;
use super::state_index::{StateIndex, StateKind};
use crate::spool::format::headers::{Kind, RECORD_HEADER};
use crate::spool::format::id::{MessageId, StateChange};
use crate::spool::format::state::{REFERENCE, encode_state, state_meta_length, write_references};

/// The index of messages. A state is applied to it when it enters a group.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    pub(crate) entries: Entries,
    pub(crate) states: StateIndex,
    /// Messages that were found to be damaged.
    pub(crate) damaged: BTreeSet<MessageId>,
}

impl Messages {
    /// Bytes that the records of `changes` take at most.
    pub(crate) fn states_length(&self, changes: &[StateChange<'_>], segments: &Segments) -> usize {
        let references = |change: &StateChange<'_>| {
            let entry = self.entries.get(change.id).filter(|_| change.state.is_final());
            entry.map_or(0, |entry| segments.table.references_max(entry.pieces().map(|piece| piece.ordinal)))
        };
        let length = |it: &StateChange<'_>| {
            RECORD_HEADER + state_meta_length(it.recipients, &it.state) + REFERENCE * references(it)
        };
        changes.iter().map(length).sum()
    }

    /// Adds the records of states to a group and applies them; returns how many.
    pub(crate) fn push_states(
        &mut self,
        changes: &[StateChange<'_>],
        segments: &Segments,
        pending: &mut Pending,
    ) -> u64 {
        let mut pushed = 0;
        for change in changes {
            let Some(entry) = self.entries.get_mut(change.id) else {
                log::debug!("spool: state for message {}, which is finished", change.id);
                continue;
            };
            let is_final = change.state.is_final();
            let (references, body) = &mut pending.references;
            references.clear();
            body.clear();
            if is_final {
                segments.table.find_references(entry.pieces().map(|piece| piece.ordinal), references);
            }
            write_references(body, references);
            let write = |into: &mut Vec<u8>| encode_state(into, change.recipients, &change.state);
            let before = pending.group.len();
            let (start, _) = pending.group.push(Kind::State, 0, change.id.0, write, body);
            let length = (pending.group.len() - before) as u32;
            pushed += 1;
            if is_final && entry.finish(change.recipients) {
                let entry = self.entries.remove(change.id).expect("found above");
                pending.releases.extend(entry.weights());
                pending.refers_to.add(references, length);
                pending.completed.push((change.id, entry.head().ordinal));
                continue;
            }
            pending.refers_to.add(references, 0);
            let recipients = change.recipients.to_vec();
            let kind = StateKind::of(&change.state);
            pending.states.push(NewState { id: change.id, start, length, kind, recipients });
        }
        pushed
    }
}
