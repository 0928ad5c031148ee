//! Which states of messages with recipients left still tell something: the last deferral of each recipient, and those
//! that finished some of several recipients. They live as the pieces of their message do, and are copied forward when
//! their segment is cleaned.

use chasqui_runtime::HashMap;

use super::id::MessageId;
use super::payload::State;

/// Where a state record is: its header's place, and its bytes with that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) ordinal: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// What a state tells of recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Delivered,
    Bounced,
    Deferred,
}

impl Word {
    pub(super) fn of(state: &State) -> Word {
        match state {
            State::Delivered => Word::Delivered,
            State::Bounced => Word::Bounced,
            State::Deferred { .. } => Word::Deferred,
        }
    }

    /// Is nothing left to do for them?
    pub(super) fn is_final(self) -> bool {
        self != Word::Deferred
    }
}

/// A state record that tells something of these recipients that no later one does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) place: Place,
    pub(super) word: Word,
    pub(super) recipients: Vec<u32>,
}

impl Note {
    pub(super) fn new(place: Place, word: Word, recipients: &[u32]) -> Note {
        Note { place, word, recipients: recipients.to_vec() }
    }
}

/// Adds a record that is later than the others; returns those that tell nothing any more.
pub(super) fn add(notes: &mut Vec<Note>, note: Note) -> Vec<Place> {
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

/// Notes by message.
#[derive(Debug, Default)]
pub(super) struct Notes(HashMap<MessageId, OfMessage>);

#[derive(Debug)]
enum OfMessage {
    /// The first recipient, for most the only one, is deferred.
    Deferral(Place),
    #[expect(clippy::box_collection, reason = "a vector here would make the common case larger")]
    Several(Box<Vec<Note>>),
}

const _: () = assert!(size_of::<(MessageId, OfMessage)>() == 24, "what a deferral costs");

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
    pub(super) fn add(&mut self, id: MessageId, note: Note) -> Vec<Place> {
        let mut notes = self.0.remove(&id).map(OfMessage::list).unwrap_or_default();
        let dead = add(&mut notes, note);
        self.set(id, notes);
        dead
    }

    /// The notes of a message.
    pub(super) fn of(&self, id: MessageId) -> Vec<Note> {
        match self.0.get(&id) {
            None => Vec::new(),
            Some(OfMessage::Deferral(place)) => OfMessage::Deferral(*place).list(),
            Some(OfMessage::Several(notes)) => notes.to_vec(),
        }
    }

    /// Replaces the notes of a message.
    pub(super) fn set(&mut self, id: MessageId, notes: Vec<Note>) {
        match OfMessage::of(notes) {
            Some(notes) => drop(self.0.insert(id, notes)),
            None => drop(self.0.remove(&id)),
        }
    }

    /// The message is finished: its notes as they were.
    pub(super) fn remove(&mut self, id: MessageId) -> Vec<Note> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let removed = self.0.remove(&id).map(OfMessage::list).unwrap_or_default();
        if self.0.len() < self.0.capacity() / 4 {
            self.0.shrink_to(self.0.len() * 2);
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
}
