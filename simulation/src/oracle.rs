//! What the receivers saw of every message, and what follows from it for the promise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chasqui_runtime::Instant;

/// How long after the receiver's reply the relay may still be about to record it: the reply's way, the gathering of
/// states, a sync that stalls before and one that covers it.
const UNTIL_DURABLE: Duration = Duration::from_secs(10);

/// How long what a relay has said may be under way when it dies: who hears it then waits for nobody.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// How long before the relay had read a refusal something may have kept it from doing so: longer than its shortest time
/// limit.
const BEFORE_READ: Duration = Duration::from_secs(5);

/// A recipient of a message of the load generator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) sequence: u64,
    /// In lower case.
    pub(crate) recipient: String,
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
    /// They took it, and the relay has closed the connection after that, within its time limits.
    Left,
    /// They took it, and the relay has gone on in the same connection after the reply.
    Heard,
    /// They refused it.
    No,
}

/// Names the copies of one transaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry(Vec<(Key, usize)>);

/// Everything that the receivers saw.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    copies: BTreeMap<Key, Vec<Handover>>,
    /// Recipients that were refused for good.
    refused: BTreeSet<Key>,
    /// Messages whose MAIL was.
    refused_messages: BTreeSet<u64>,
    /// When the relay had last read that a recipient is refused for good.
    read: BTreeMap<Key, Instant>,
    /// Attempts that it has begun after that, each with when it had read it.
    tried_again: Vec<(Key, Instant, Instant)>,
    /// From when until when it waited for a reply for longer than it may.
    overstayed: Vec<(Instant, Instant)>,
    /// Recipients that a notification gives up, with the time at which the first such was taken.
    bounced: BTreeMap<Key, Instant>,
    /// Times in which a copy may have been taken and not been recorded.
    excuses: Vec<(Instant, Instant)>,
    /// Times in which the relay may have left a connection for other reasons than what it read there, or may have been
    /// unable to act upon it.
    doubts: Vec<(Instant, Instant)>,
}

impl Oracle {
    /// The last octet of a message, whose transaction began at `began`, has left for the sinks.
    pub(crate) fn sent(&mut self, began: Instant, at: Instant, keys: &[Key]) -> Entry {
        let places = keys.iter().map(|key| {
            let copies = self.copies.entry(key.clone()).or_default();
            copies.push(Handover { began, at, fate: Taken::Perhaps });
            (key.clone(), copies.len() - 1)
        });
        Entry(places.collect())
    }

    /// The sinks have answered.
    pub(crate) fn answered(&mut self, entry: &Entry, taken: bool) {
        let fate = if taken { Taken::Unheard } else { Taken::No };
        self.mark(entry, Taken::Perhaps, fate);
    }

    /// The relay has shown that it has read the reply.
    pub(crate) fn heard(&mut self, entry: &Entry) {
        self.mark(entry, Taken::Unheard, Taken::Heard);
    }

    /// The relay has closed the connection after the reply, within its time limits.
    pub(crate) fn left(&mut self, entry: &Entry) {
        self.mark(entry, Taken::Unheard, Taken::Left);
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
    pub(crate) fn refuse(&mut self, keys: impl IntoIterator<Item = Key>) {
        self.refused.extend(keys);
    }

    /// The MAIL of this message was answered 5xx.
    pub(crate) fn refuse_message(&mut self, sequence: u64) {
        self.refused_messages.insert(sequence);
    }

    /// The relay has read by now that these are refused for good.
    pub(crate) fn read(&mut self, keys: impl IntoIterator<Item = Key>, at: Instant) {
        self.read.extend(keys.into_iter().map(|key| (key, at)));
    }

    /// The relay tries a recipient, in a transaction that it has begun after `since`.
    pub(crate) fn tried(&mut self, key: Key, since: Instant, at: Instant) {
        if let Some(read) = self.read.get(&key).filter(|read| **read < since) {
            self.tried_again.push((key, *read, at));
        }
    }

    /// The relay still waited at `until` for a reply that it had waited for since `from`, and was not to.
    pub(crate) fn overstayed(&mut self, from: Instant, until: Instant) {
        self.overstayed.push((from, until));
    }

    /// A notification that gives these up was taken.
    pub(crate) fn bounce(&mut self, at: Instant, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            self.bounced.entry(key).or_insert(at);
        }
    }

    /// What was taken between these times, or shortly before, may not have been recorded.
    pub(crate) fn excuse(&mut self, from: Instant, until: Instant) {
        self.excuses.push((from, until));
    }

    /// Between these times the relay was about to end, or cut off from receivers, or its disk could not be read.
    pub(crate) fn doubt(&mut self, from: Instant, until: Instant) {
        self.doubts.push((from, until));
    }

    fn is_excused(&self, copy: Handover) -> bool {
        match copy.fate {
            Taken::Heard => overlaps(&self.excuses, copy.at, copy.at + UNTIL_DURABLE),
            Taken::Left => self.is_doubtful(copy.began, copy.at + UNTIL_DURABLE),
            Taken::Perhaps | Taken::Unheard | Taken::No => true,
        }
    }

    fn is_doubtful(&self, from: Instant, until: Instant) -> bool {
        overlaps(&self.excuses, from, until) || overlaps(&self.doubts, from, until)
    }

    /// Adds recipients to `violations` that were tried again though the relay had read that they are refused for good.
    pub(crate) fn check_refusals(&self, violations: &mut Vec<String>) {
        for (key, read, at) in &self.tried_again {
            if !self.is_doubtful(*read - BEFORE_READ, *read + UNTIL_DURABLE) {
                let (Key { sequence, recipient }, after) = (key, *at - *read);
                violations.push(format!(
                    "tried again though refused: message {sequence} to {recipient}, {after:?} after the 5xx was read"
                ));
            }
        }
    }

    /// Adds waits that were longer than the relay's time limits to `violations`.
    pub(crate) fn check_waits(&self, violations: &mut Vec<String>) {
        let is_excused = |(from, until): &&(Instant, Instant)| self.is_doubtful(*from - UNDER_WAY, *until);
        let unexcused = self.overstayed.iter().filter(|overstayed| !is_excused(overstayed));
        violations.extend(unexcused.map(|(from, until)| {
            format!(
                "waited too long: {:?} for a reply, at {:?}",
                *until - *from,
                Duration::from_nanos(until.as_nanos())
            )
        }));
    }

    /// Each recipient that was taken, with the time of its first copy.
    pub(crate) fn arrivals(&self) -> impl Iterator<Item = (&Key, Instant)> {
        self.copies.iter().filter_map(|(key, copies)| {
            let taken = copies.iter().filter(|copy| copy.fate != Taken::No && copy.fate != Taken::Perhaps);
            Some((key, taken.map(|copy| copy.at).min()?))
        })
    }

    /// Copies beyond the first of each recipient. Adds those that nothing excuses to `violations`.
    pub(crate) fn duplicates(&self, violations: &mut Vec<String>) -> u64 {
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
    pub(crate) fn check_bounces(&self, is_doomed: impl Fn(&str) -> bool, violations: &mut Vec<String>) {
        for (key, at) in &self.bounced {
            let Key { sequence, recipient } = key;
            let is_refused = self.refused.contains(key) || self.refused_messages.contains(sequence);
            if !is_refused && !is_doomed(recipient) {
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

fn overlaps(times: &[(Instant, Instant)], from: Instant, until: Instant) -> bool {
    times.iter().any(|(begin, end)| *begin <= until && from <= *end)
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
            let mut oracle = Oracle::default();
            for second in [100, 200] {
                let entry = oracle.sent(at(second - 1), at(second), &[key()]);
                oracle.answered(&entry, true);
                if hear {
                    oracle.heard(&entry);
                }
            }
            if let Some(second) = crash {
                oracle.excuse(at(second), at(second));
            }
            let mut violations = Vec::new();
            assert_eq!(oracle.duplicates(&mut violations), 1);
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
        let mut oracle = Oracle::default();
        for (began, sent, hear) in [(50, 60, true), (40, 70, false)] {
            let entry = oracle.sent(at(began), at(sent), &[key()]);
            oracle.answered(&entry, true);
            if hear {
                oracle.heard(&entry);
            }
        }
        let mut violations = Vec::new();
        assert_eq!((oracle.duplicates(&mut violations), violations.len()), (1, 0));
    }

    /// Who closes the connection within the time limits has read the reply, unless it was about to end.
    #[test]
    fn closing_shows_what_was_read() {
        let violations = |ending: Option<u64>| {
            let mut oracle = Oracle::default();
            for second in [100, 200] {
                let entry = oracle.sent(at(second - 1), at(second), &[key()]);
                oracle.answered(&entry, true);
                oracle.left(&entry);
            }
            oracle.doubts.extend(ending.map(|second| (at(second), at(second))));
            let mut violations = Vec::new();
            oracle.duplicates(&mut violations);
            violations.len()
        };
        assert_eq!((violations(None), violations(Some(101)), violations(Some(150))), (1, 0, 1));
    }

    /// A recipient whose refusal was read is not to be tried again, unless the relay died soon after it or could not have
    /// known yet.
    #[test]
    fn refusals_are_final() {
        let violations = |since: u64, crash: Option<u64>| {
            let mut oracle = Oracle::default();
            oracle.tried(key(), at(90), at(91));
            oracle.read([key()], at(100));
            oracle.tried(key(), at(since), at(200));
            oracle.excuses.extend(crash.map(|second| (at(second), at(second))));
            let mut violations = Vec::new();
            oracle.check_refusals(&mut violations);
            violations.len()
        };
        assert_eq!((violations(150, None), violations(99, None)), (1, 0));
        assert_eq!((violations(150, Some(105)), violations(150, Some(140))), (0, 1));
    }

    /// A wait beyond the time limits counts, unless nothing came through.
    #[test]
    fn waits_are_limited() {
        let mut oracle = Oracle::default();
        oracle.overstayed(at(100), at(180));
        let violations = |oracle: &Oracle| {
            let mut violations = Vec::new();
            oracle.check_waits(&mut violations);
            violations.len()
        };
        assert_eq!(violations(&oracle), 1);
        oracle.doubt(at(120), at(130));
        assert_eq!(violations(&oracle), 0);
    }

    /// A refused copy is none.
    #[test]
    fn refused_copies_do_not_count() {
        let mut oracle = Oracle::default();
        for taken in [false, true] {
            let entry = oracle.sent(at(1), at(1), &[key()]);
            oracle.answered(&entry, taken);
            oracle.heard(&entry);
        }
        assert_eq!(oracle.duplicates(&mut Vec::new()), 0);
    }

    /// A bounce needs a refusal or a domain that takes nothing, and contradicts a delivery that is known.
    #[test]
    fn bounces_need_a_cause() {
        let mut oracle = Oracle::default();
        oracle.bounce(at(50), [key()]);
        let violations = |oracle: &Oracle, doomed: bool| {
            let mut violations = Vec::new();
            oracle.check_bounces(|_| doomed, &mut violations);
            violations.len()
        };
        assert_eq!((violations(&oracle, false), violations(&oracle, true)), (1, 0));
        oracle.refuse_message(key().sequence);
        assert_eq!(violations(&oracle, false), 0);
        let entry = oracle.sent(at(4), at(5), &[key()]);
        oracle.answered(&entry, true);
        oracle.heard(&entry);
        assert_eq!(violations(&oracle, false), 1);
    }
}
