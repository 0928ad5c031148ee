//! Which states of messages with recipients left still tell something: the last deferral of each recipient, and those
//! that finished some of several recipients. They live as the pieces of their message do, and are copied forward when
//! their segment is cleaned.

use std::collections::BTreeMap;

use crate::spool::format::id::MessageId;
use crate::spool::format::place::Place;
use crate::spool::format::state::State;

/// What a state tells of recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Delivered,
    Bounced,
    Deferred,
}

impl Word {
    pub(crate) fn of(state: &State) -> Word {
        match state {
            State::Delivered => Word::Delivered,
            State::Bounced => Word::Bounced,
            State::Deferred { .. } => Word::Deferred,
        }
    }

    /// Is nothing left to do for them?
    pub(crate) fn is_final(self) -> bool {
        self != Word::Deferred
    }
}

/// A state record that tells something of these recipients that no later one does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) place: Place,
    pub(crate) word: Word,
    pub(crate) recipients: Vec<u32>,
}

impl Note {
    pub(crate) fn new(place: Place, word: Word, recipients: &[u32]) -> Note {
        Note { place, word, recipients: recipients.to_vec() }
    }
}

/// Adds a record that is later than the others; returns those that tell nothing any more.
pub(crate) fn add(notes: &mut Vec<Note>, note: Note) -> Vec<Place> {
    let mut dead = Vec::new();
    notes.retain_mut(|earlier| {
        if !earlier.word.is_final() {
            earlier.recipients.retain(|recipient| !note.recipients.contains(recipient));
        }
        if earlier.recipients.is_empty() {
            dead.push(earlier.place);
        }
        !earlier.recipients.is_empty()
    });
    // Nearly all have one; a start holds those of a million messages.
    notes.reserve_exact(1);
    notes.push(note);
    dead
}

/// Bits of an id that tell the messages of a page apart. Ids are given in rising order, so that pages are dense; a hash map
/// of a million deferrals would cost three times as much.
const PAGE_BITS: u32 = 8;

/// Notes by message: by the high bits of its id, then by the low ones.
#[derive(Debug, Default)]
pub(crate) struct Notes(BTreeMap<u64, Page>);

/// The low bits of ids, ascending, and what is known of each.
#[derive(Debug, Default)]
struct Page {
    lows: Vec<u8>,
    notes: Vec<OfMessage>,
}

impl Page {
    fn get(&self, low: u8) -> Option<&OfMessage> {
        self.lows.binary_search(&low).ok().map(|at| &self.notes[at])
    }

    fn insert(&mut self, low: u8, notes: OfMessage) {
        match self.lows.binary_search(&low) {
            Ok(at) => self.notes[at] = notes,
            Err(at) => {
                self.lows.insert(at, low);
                self.notes.insert(at, notes);
            }
        }
    }

    fn remove(&mut self, low: u8) -> Option<OfMessage> {
        let at = self.lows.binary_search(&low).ok()?;
        self.lows.remove(at);
        let removed = self.notes.remove(at);
        if self.notes.len() < self.notes.capacity() / 4 {
            self.lows.shrink_to(self.lows.len() * 2);
            self.notes.shrink_to(self.notes.len() * 2);
        }
        Some(removed)
    }
}

/// Where a message's notes are.
fn place_of(id: MessageId) -> (u64, u8) {
    (id.0 >> PAGE_BITS, id.0 as u8)
}

#[derive(Debug)]
enum OfMessage {
    /// The first recipient, for most the only one, is deferred.
    Deferral(Place),
    #[expect(clippy::box_collection, reason = "a vector here would make the common case larger")]
    Several(Box<Vec<Note>>),
}

const _: () = assert!(size_of::<OfMessage>() == 16 && PAGE_BITS == u8::BITS, "what a deferral costs");

impl OfMessage {
    fn list(self) -> Vec<Note> {
        match self {
            OfMessage::Deferral(place) => vec![Note::new(place, Word::Deferred, &[0])],
            OfMessage::Several(notes) => *notes,
        }
    }

    fn of(mut notes: Vec<Note>) -> Option<OfMessage> {
        match notes.as_slice() {
            [] => None,
            [Note { place, word: Word::Deferred, recipients }] if *recipients == [0] => {
                Some(OfMessage::Deferral(*place))
            }
            _ => {
                notes.shrink_to_fit();
                Some(OfMessage::Several(Box::new(notes)))
            }
        }
    }
}

impl Notes {
    /// Adds a record that is later than all others of its message; returns those that tell nothing any more.
    pub(crate) fn add(&mut self, id: MessageId, note: Note) -> Vec<Place> {
        let mut notes = self.remove(id);
        let dead = add(&mut notes, note);
        self.set(id, notes);
        dead
    }

    /// The notes of a message.
    pub(crate) fn of(&self, id: MessageId) -> Vec<Note> {
        let (page, low) = place_of(id);
        match self.0.get(&page).and_then(|page| page.get(low)) {
            None => Vec::new(),
            Some(OfMessage::Deferral(place)) => OfMessage::Deferral(*place).list(),
            Some(OfMessage::Several(notes)) => notes.to_vec(),
        }
    }

    /// Replaces the notes of a message.
    pub(crate) fn set(&mut self, id: MessageId, notes: Vec<Note>) {
        let (page, low) = place_of(id);
        match OfMessage::of(notes) {
            Some(notes) => self.0.entry(page).or_default().insert(low, notes),
            None => drop(self.remove(id)),
        }
    }

    /// The message is finished: its notes as they were.
    pub(crate) fn remove(&mut self, id: MessageId) -> Vec<Note> {
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

    fn note(offset: u32, is_final: bool, recipients: &[u32]) -> Note {
        let place = Place { ordinal: 1, offset, length: 100 };
        Note::new(place, if is_final { Word::Bounced } else { Word::Deferred }, recipients)
    }

    /// A deferral tells something until every recipient of it has a newer state; what finishes recipients does until
    /// the message is finished.
    #[test]
    fn newer_states_take_the_place() {
        let (id, mut notes) = (MessageId::from(7), Notes::default());
        assert!(notes.add(id, note(1, false, &[0])).is_empty());
        assert_eq!(notes.add(id, note(2, false, &[0, 1, 2])), [note(1, false, &[]).place]);
        assert!(notes.add(id, note(3, true, &[1])).is_empty());
        assert!(notes.add(id, note(4, false, &[0])).is_empty());
        assert_eq!(
            notes.of(id),
            [note(2, false, &[2]), note(3, true, &[1]), note(4, false, &[0])],
            "each recipient's last word"
        );
        assert_eq!(notes.add(id, note(5, true, &[2])), [note(2, false, &[]).place]);
        let left = [note(3, true, &[1]), note(4, false, &[0]), note(5, true, &[2])];
        assert_eq!(notes.remove(id), left);
        assert!(notes.of(id).is_empty() && notes.remove(id).is_empty());
    }
    /// Every message has its own notes, in whatever order they come and go; nothing is kept of those that are gone.
    #[test]
    fn many_messages() {
        let mut notes = Notes::default();
        let ids: Vec<u64> = (0..2000).map(|index| index * 769 % 2000 + (1 << 40)).collect();
        for id in &ids {
            notes.add(MessageId::from(*id), note(*id as u32, false, &[0]));
        }
        for id in ids.iter().step_by(2) {
            assert_eq!(notes.remove(MessageId::from(*id)), [note(*id as u32, false, &[0])]);
        }
        for (index, id) in ids.iter().enumerate() {
            let expected = if index % 2 == 0 { vec![] } else { vec![note(*id as u32, false, &[0])] };
            assert_eq!(notes.of(MessageId::from(*id)), expected);
        }
        ids.iter().for_each(|id| drop(notes.remove(MessageId::from(*id))));
        assert!(notes.0.is_empty());
    }
}
