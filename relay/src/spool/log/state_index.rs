//! Which states of messages with recipients left still tell something: the last deferral of each recipient, and those
//! that finished some of several recipients. They live as the pieces of their message do, and are copied forward when
//! their segment is cleaned.

use std::collections::BTreeMap;

use crate::spool::format::id::MessageId;
use crate::spool::format::place::Place;
use crate::spool::format::state::State;

/// What a state tells of recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateKind {
    Delivered,
    Bounced,
    Deferred,
}

impl StateKind {
    pub(crate) fn of(state: &State) -> StateKind {
        match state {
            State::Delivered => StateKind::Delivered,
            State::Bounced => StateKind::Bounced,
            State::Deferred { .. } => StateKind::Deferred,
        }
    }

    /// Is nothing left to do for them?
    pub(crate) fn is_final(self) -> bool {
        self != StateKind::Deferred
    }
}

/// A state record that tells something of these recipients that no later one does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveState {
    pub(crate) place: Place,
    pub(crate) kind: StateKind,
    pub(crate) recipients: Vec<u32>,
}

impl LiveState {
    pub(crate) fn new(place: Place, kind: StateKind, recipients: &[u32]) -> LiveState {
        LiveState { place, kind, recipients: recipients.to_vec() }
    }
}

/// Adds a record that is later than the others; returns those that tell nothing any more.
pub(crate) fn add(states: &mut Vec<LiveState>, state: LiveState) -> Vec<Place> {
    let mut dead = Vec::new();
    states.retain_mut(|earlier| {
        if !earlier.kind.is_final() {
            earlier.recipients.retain(|recipient| !state.recipients.contains(recipient));
        }
        if earlier.recipients.is_empty() {
            dead.push(earlier.place);
        }
        !earlier.recipients.is_empty()
    });
    // Nearly all have one; a start holds those of a million messages.
    states.reserve_exact(1);
    states.push(state);
    dead
}

/// Bits of an id that tell the messages of a page apart. Ids are given in rising order, so that pages are dense; a hash map
/// of a million deferrals would cost three times as much.
const PAGE_BITS: u32 = 8;

/// States by message: by the high bits of its id, then by the low ones.
#[derive(Debug, Default)]
pub(crate) struct StateIndex(BTreeMap<u64, Page>);

/// The low bits of ids, ascending, and what is known of each.
#[derive(Debug, Default)]
struct Page {
    lows: Vec<u8>,
    states: Vec<OfMessage>,
}

impl Page {
    fn get(&self, low: u8) -> Option<&OfMessage> {
        self.lows.binary_search(&low).ok().map(|at| &self.states[at])
    }

    fn insert(&mut self, low: u8, states: OfMessage) {
        match self.lows.binary_search(&low) {
            Ok(at) => self.states[at] = states,
            Err(at) => {
                self.lows.insert(at, low);
                self.states.insert(at, states);
            }
        }
    }

    fn remove(&mut self, low: u8) -> Option<OfMessage> {
        let at = self.lows.binary_search(&low).ok()?;
        self.lows.remove(at);
        let removed = self.states.remove(at);
        if self.states.len() < self.states.capacity() / 4 {
            self.lows.shrink_to(self.lows.len() * 2);
            self.states.shrink_to(self.states.len() * 2);
        }
        Some(removed)
    }
}

/// Where a message's states are.
fn place_of(id: MessageId) -> (u64, u8) {
    (id.0 >> PAGE_BITS, id.0 as u8)
}

#[derive(Debug)]
enum OfMessage {
    /// The first recipient, for most the only one, is deferred.
    Deferral(Place),
    #[expect(clippy::box_collection, reason = "a vector here would make the common case larger")]
    Several(Box<Vec<LiveState>>),
}

const _: () = assert!(size_of::<OfMessage>() == 16 && PAGE_BITS == u8::BITS, "what a deferral costs");

impl OfMessage {
    fn list(self) -> Vec<LiveState> {
        match self {
            OfMessage::Deferral(place) => vec![LiveState::new(place, StateKind::Deferred, &[0])],
            OfMessage::Several(states) => *states,
        }
    }

    fn of(mut states: Vec<LiveState>) -> Option<OfMessage> {
        match states.as_slice() {
            [] => None,
            [LiveState { place, kind: StateKind::Deferred, recipients }] if *recipients == [0] => {
                Some(OfMessage::Deferral(*place))
            }
            _ => {
                states.shrink_to_fit();
                Some(OfMessage::Several(Box::new(states)))
            }
        }
    }
}

impl StateIndex {
    /// Adds a record that is later than all others of its message; returns those that tell nothing any more.
    pub(crate) fn add(&mut self, id: MessageId, state: LiveState) -> Vec<Place> {
        let mut states = self.remove(id);
        let dead = add(&mut states, state);
        self.set(id, states);
        dead
    }

    /// The states of a message.
    pub(crate) fn of(&self, id: MessageId) -> Vec<LiveState> {
        let (page, low) = place_of(id);
        match self.0.get(&page).and_then(|page| page.get(low)) {
            None => Vec::new(),
            Some(OfMessage::Deferral(place)) => OfMessage::Deferral(*place).list(),
            Some(OfMessage::Several(states)) => states.to_vec(),
        }
    }

    /// Replaces the states of a message.
    pub(crate) fn set(&mut self, id: MessageId, states: Vec<LiveState>) {
        let (page, low) = place_of(id);
        match OfMessage::of(states) {
            Some(states) => self.0.entry(page).or_default().insert(low, states),
            None => drop(self.remove(id)),
        }
    }

    /// The message is finished: its states as they were.
    pub(crate) fn remove(&mut self, id: MessageId) -> Vec<LiveState> {
        let (number, low) = place_of(id);
        let Some(page) = self.0.get_mut(&number) else { return Vec::new() };
        let removed = page.remove(low).map(OfMessage::list).unwrap_or_default();
        if page.lows.is_empty() {
            self.0.remove(&number);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(offset: u32, is_final: bool, recipients: &[u32]) -> LiveState {
        let place = Place { ordinal: 1, offset, length: 100 };
        LiveState::new(place, if is_final { StateKind::Bounced } else { StateKind::Deferred }, recipients)
    }

    /// A deferral tells something until every recipient of it has a newer state; what finishes recipients does until
    /// the message is finished.
    #[test]
    fn newer_states_take_the_place() {
        let (id, mut states) = (MessageId::from(7), StateIndex::default());
        assert!(states.add(id, state(1, false, &[0])).is_empty());
        assert_eq!(states.add(id, state(2, false, &[0, 1, 2])), [state(1, false, &[]).place]);
        assert!(states.add(id, state(3, true, &[1])).is_empty());
        assert!(states.add(id, state(4, false, &[0])).is_empty());
        assert_eq!(
            states.of(id),
            [state(2, false, &[2]), state(3, true, &[1]), state(4, false, &[0])],
            "each recipient's last word"
        );
        assert_eq!(states.add(id, state(5, true, &[2])), [state(2, false, &[]).place]);
        let left = [state(3, true, &[1]), state(4, false, &[0]), state(5, true, &[2])];
        assert_eq!(states.remove(id), left);
        assert!(states.of(id).is_empty() && states.remove(id).is_empty());
    }
    /// Every message has its own states, in whatever order they come and go; nothing is kept of those that are gone.
    #[test]
    fn many_messages() {
        let mut states = StateIndex::default();
        let ids: Vec<u64> = (0..2000).map(|index| index * 769 % 2000 + (1 << 40)).collect();
        for id in &ids {
            states.add(MessageId::from(*id), state(*id as u32, false, &[0]));
        }
        for id in ids.iter().step_by(2) {
            assert_eq!(states.remove(MessageId::from(*id)), [state(*id as u32, false, &[0])]);
        }
        for (index, id) in ids.iter().enumerate() {
            let expected = if index % 2 == 0 { vec![] } else { vec![state(*id as u32, false, &[0])] };
            assert_eq!(states.of(MessageId::from(*id)), expected);
        }
        ids.iter().for_each(|id| drop(states.remove(MessageId::from(*id))));
        assert!(states.0.is_empty());
    }
}
