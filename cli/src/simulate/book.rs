//! What the receivers saw of every message, and what follows from it for the promise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chasqui_runtime::Instant;

/// How long after the receiver's reply the relay may still be about to record it: the reply's way, the gathering of
/// states, a sync that stalls before and one that covers it.
const UNTIL_DURABLE: Duration = Duration::from_secs(10);

/// A recipient of a message of the load generator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) sequence: u64,
    /// In lower case.
    pub(super) recipient: String,
}

/// One message that was handed to the sinks to its last octet.
#[derive(Clone, Copy, Debug)]
struct Handover {
    /// When its transaction began.
    began: Instant,
    at: Instant,
    fate: Taken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// The sinks' answer is not known.
    Perhaps,
    /// They took it; nothing shows that the relay has read so.
    Unheard,
    /// They took it, and the relay has gone on in the same connection after the reply.
    Heard,
    /// They refused it.
    No,
}

/// Names the copies of one transaction.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry(Vec<(Key, usize)>);

/// Everything that the receivers saw.
#[derive(Debug, Default)]
pub(super) struct Book {
    copies: BTreeMap<Key, Vec<Handover>>,
    /// Recipients that were refused for good.
    refused: BTreeSet<Key>,
    /// Recipients that a notification gives up, with the time at which the first such was taken.
    bounced: BTreeMap<Key, Instant>,
    /// Times in which a copy may have been taken and not been recorded.
    excuses: Vec<(Instant, Instant)>,
}

impl Book {
    /// The last octet of a message, whose transaction began at `began`, has left for the sinks.
    pub(super) fn sent(&mut self, began: Instant, at: Instant, keys: &[Key]) -> Entry {
        let places = keys.iter().map(|key| {
            let copies = self.copies.entry(key.clone()).or_default();
            copies.push(Handover { began, at, fate: Taken::Perhaps });
            (key.clone(), copies.len() - 1)
        });
        Entry(places.collect())
    }

    /// The sinks have answered.
    pub(super) fn answered(&mut self, entry: &Entry, taken: bool) {
        let fate = if taken { Taken::Unheard } else { Taken::No };
        self.mark(entry, Taken::Perhaps, fate);
    }

    /// The relay has shown that it has read the reply.
    pub(super) fn heard(&mut self, entry: &Entry) {
        self.mark(entry, Taken::Unheard, Taken::Heard);
    }

    fn mark(&mut self, entry: &Entry, from: Taken, to: Taken) {
        for (key, place) in &entry.0 {
            let copy = self.copies.get_mut(key).and_then(|copies| copies.get_mut(*place));
            if let Some(copy) = copy.filter(|copy| copy.fate == from) {
                copy.fate = to;
            }
        }
    }

    /// These were answered 5xx.
    pub(super) fn refuse(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.refused.extend(keys);
    }

    /// A notification that gives these up was taken.
    pub(super) fn bounce(&mut self, at: Instant, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            self.bounced.entry(key).or_insert(at);
        }
    }

    /// What was taken between these times, or shortly before, may not have been recorded.
    pub(super) fn excuse(&mut self, from: Instant, until: Instant) {
        self.excuses.push((from, until));
    }

    fn is_excused(&self, copy: Handover) -> bool {
        copy.fate != Taken::Heard
            || self.excuses.iter().any(|(from, until)| copy.at <= *until && *from <= copy.at + UNTIL_DURABLE)
    }

    /// Copies beyond the first of each recipient. Adds those that nothing excuses to `violations`.
    pub(super) fn duplicates(&self, violations: &mut Vec<String>) -> u64 {
        let mut count = 0;
        for (key, copies) in &self.copies {
            let taken: Vec<Handover> = copies.iter().copied().filter(|copy| copy.fate != Taken::No).collect();
            count += (taken.len() as u64).saturating_sub(1);
            let known =
                taken.iter().copied().filter(|copy| !self.is_excused(*copy)).min_by_key(|copy| copy.at);
            // What had begun before may have been given up, and arrive all the same.
            let again =
                known.and_then(|known| taken.iter().find(|copy| copy.began > known.at).map(|it| (known, it)));
            if let Some((known, again)) = again {
                let Key { sequence, recipient } = key;
                let after = again.at - known.at;
                violations.push(format!(
                    "duplicated without cause: message {sequence} to {recipient}, {after:?} after it was taken"
                ));
            }
        }
        count
    }

    /// Adds recipients that were given up without cause to `violations`: the domain of `is_doomed` is none, and
    /// nothing else is but a refusal.
    pub(super) fn check_bounces(&self, is_doomed: impl Fn(&str) -> bool, violations: &mut Vec<String>) {
        for (key, at) in &self.bounced {
            let Key { sequence, recipient } = key;
            if !self.refused.contains(key) && !is_doomed(recipient) {
                violations.push(format!("bounced without cause: message {sequence} to {recipient}"));
            }
            let delivered = self.copies.get(key).into_iter().flatten().find(|copy| {
                copy.fate == Taken::Heard && !self.is_excused(**copy) && copy.at + UNTIL_DURABLE < *at
            });
            if delivered.is_some() {
                violations.push(format!("bounced though delivered: message {sequence} to {recipient}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key { sequence: 7, recipient: "u1@d1.test".into() }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    /// A second copy is a violation when the relay had heard of the first; not after a crash or a lost reply.
    #[test]
    fn duplicates_need_a_cause() {
        let taken_twice = |hear: bool, crash: Option<u64>| {
            let mut book = Book::default();
            for second in [100, 200] {
                let entry = book.sent(at(second - 1), at(second), &[key()]);
                book.answered(&entry, true);
                if hear {
                    book.heard(&entry);
                }
            }
            if let Some(second) = crash {
                book.excuse(at(second), at(second));
            }
            let mut violations = Vec::new();
            assert_eq!(book.duplicates(&mut violations), 1);
            violations.len()
        };
        assert_eq!(taken_twice(true, None), 1);
        assert_eq!(taken_twice(false, None), 0);
        assert_eq!(taken_twice(true, Some(105)), 0);
        assert_eq!(taken_twice(true, Some(150)), 1);
        assert_eq!(taken_twice(true, Some(99)), 1);
    }

    /// What was given up before the copy that counts and arrives behind it has its cause.
    #[test]
    fn stragglers_are_excused() {
        let mut book = Book::default();
        for (began, sent, hear) in [(50, 60, true), (40, 70, false)] {
            let entry = book.sent(at(began), at(sent), &[key()]);
            book.answered(&entry, true);
            if hear {
                book.heard(&entry);
            }
        }
        let mut violations = Vec::new();
        assert_eq!((book.duplicates(&mut violations), violations.len()), (1, 0));
    }

    /// A refused copy is none.
    #[test]
    fn refused_copies_do_not_count() {
        let mut book = Book::default();
        for taken in [false, true] {
            let entry = book.sent(at(1), at(1), &[key()]);
            book.answered(&entry, taken);
            book.heard(&entry);
        }
        assert_eq!(book.duplicates(&mut Vec::new()), 0);
    }

    /// A bounce needs a refusal or a domain that takes nothing, and contradicts a delivery that is known.
    #[test]
    fn bounces_need_a_cause() {
        let mut book = Book::default();
        book.bounce(at(50), [key()]);
        let violations = |book: &Book, doomed: bool| {
            let mut violations = Vec::new();
            book.check_bounces(|_| doomed, &mut violations);
            violations.len()
        };
        assert_eq!((violations(&book, false), violations(&book, true)), (1, 0));
        book.refuse([key()]);
        assert_eq!(violations(&book, false), 0);
        let entry = book.sent(at(4), at(5), &[key()]);
        book.answered(&entry, true);
        book.heard(&entry);
        assert_eq!(violations(&book, false), 1);
    }
}
