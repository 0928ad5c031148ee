//! SEARCH by flags, numbers, sizes and dates of delivery. Content is not searched.
//!
//! Messages are looked at in batches, between which the mailbox is free and others have their turn. The last answer is kept: clients
//! repeat SEARCH UNSEEN whether or not anything has changed.

use std::io;

use chasqui_protocol::imap::flags::Flags;
use chasqui_protocol::imap::set;
use chasqui_protocol::imap::types::datetime::NaiveDate;
use chasqui_protocol::imap::types::search::SearchKey;
use chasqui_protocol::imap::types::sequence::SequenceSet;

use super::view::{Stamp, View};
use crate::mailbox::{Mailbox, Message, Outgoing};
use crate::turns::let_others_run;

const DAY_SECONDS: i64 = 86_400;
/// Keys of a search.
const KEYS_MAX: usize = 1000;
/// Messages times keys that are looked at under one lock.
const BATCH_LOOKS: usize = 32_768;
/// Ranges of numbers in an answer that is kept: 32 KiB.
const KEPT_RANGES_MAX: usize = 4096;
/// Keys and ranges in the question of an answer that is kept.
const KEPT_KEYS_MAX: usize = 64;
/// Numbers of an answer that are written at a time.
const WRITTEN_AT_ONCE: usize = 1024;

/// Why a search is not made.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Unsupported,
    TooManyKeys,
}

/// A search as it was asked, and ready to be made.
pub(super) struct Search<'a> {
    pub(super) keys: &'a [SearchKey<'static>],
    pub(super) uid: bool,
    pub(super) filter: Filter,
    /// Keys, and the ranges in them.
    size: (usize, usize),
}

/// The answer to the last search of a session.
#[derive(Debug)]
pub(super) struct Answer {
    keys: Vec<SearchKey<'static>>,
    uid: bool,
    stamp: Stamp,
    /// Ascending ranges of the numbers found.
    ranges: Vec<(u32, u32)>,
}

impl<'a> Search<'a> {
    pub(super) fn compile(
        keys: &'a [SearchKey<'static>],
        uid: bool,
        view: &View,
    ) -> Result<Search<'a>, Refused> {
        let mut compiler = Compiler { view, keys: 0, ranges: 0 };
        let filter = compiler.all(keys)?;
        let size = (compiler.keys, compiler.ranges);
        Ok(Search { keys, uid, filter, size })
    }

    /// Writes the numbers that are found, from the last answer if nothing has changed since. Gives the answer to be kept.
    pub(super) async fn write(
        &self,
        mailbox: &Mailbox,
        view: &View,
        last: Option<Answer>,
        out: &mut Outgoing,
    ) -> io::Result<Option<Answer>> {
        let stamp = view.stamp(&mailbox.lock());
        let last = last.filter(|last| last.stamp == stamp && last.uid == self.uid && last.keys == self.keys);
        if let Some(last) = last {
            let mut numbers = last.ranges.iter().flat_map(|&(first, last)| first..=last);
            while write_some(&mut numbers, out).await? {}
            return Ok(Some(last));
        }
        let batch = (BATCH_LOOKS / self.size.0.max(1)).max(16);
        let mut ranges = Some(Vec::new()).filter(|_| self.size.0 + self.size.1 <= KEPT_KEYS_MAX);
        for from in (0..view.len()).step_by(batch) {
            let found = self.batch(mailbox, view, from..(from + batch).min(view.len()));
            found.iter().for_each(|&number| add(&mut ranges, number));
            let mut numbers = found.into_iter();
            while write_some(&mut numbers, out).await? {}
        }
        // An answer is kept if it was true at one moment.
        let is_one = view.stamp(&mailbox.lock()) == stamp;
        let answer = |ranges| Answer { keys: self.keys.to_vec(), uid: self.uid, stamp, ranges };
        Ok(ranges.filter(|_| is_one).map(answer))
    }

    /// The numbers found among these indices of the view, under one lock.
    fn batch(&self, mailbox: &Mailbox, view: &View, indices: std::ops::Range<usize>) -> Vec<u32> {
        let state = mailbox.lock();
        let first = view.uid(indices.start);
        let known = state.messages().partition_point(|message| message.uid() < first);
        let mut messages = state.messages().range(known..).peekable();
        let mut found = Vec::new();
        for index in indices {
            let uid = view.uid(index);
            while messages.next_if(|message| message.uid() < uid).is_some() {}
            let Some(message) = messages.next_if(|message| message.uid() == uid) else { continue };
            let sequence = index as u32 + 1;
            if self.filter.matches(sequence, view.flags(index, message.flags()), message) {
                found.push(if self.uid { uid } else { sequence });
            }
        }
        found
    }
}

/// Adds a number to an answer, as long as that may be kept.
fn add(ranges: &mut Option<Vec<(u32, u32)>>, number: u32) {
    let Some(known) = ranges else { return };
    let full = known.len() >= KEPT_RANGES_MAX;
    match known.last_mut() {
        Some(last) if last.1 + 1 == number => last.1 = number,
        _ if full => *ranges = None,
        _ => known.push((number, number)),
    }
}

/// Writes some of the numbers; false: there are no more.
async fn write_some(numbers: &mut impl Iterator<Item = u32>, out: &mut Outgoing) -> io::Result<bool> {
    let mut written = 0;
    for number in numbers.take(WRITTEN_AT_ONCE) {
        write_number(number, out.text());
        written += 1;
    }
    out.relieve().await?;
    let_others_run().await;
    Ok(written == WRITTEN_AT_ONCE)
}

/// A space and the number, without the detours of `write!`.
fn write_number(mut number: u32, output: &mut Vec<u8>) {
    let mut digits = [b' '; 11];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    output.extend_from_slice(&digits[at - 1..]);
}

/// Search keys, ready to be asked of one message after the other.
#[derive(Debug)]
pub(super) enum Filter {
    Every,
    /// All of the flags are set, `\Recent` included.
    Has(Flags),
    Uid(Vec<(u32, u32)>),
    Sequence(Vec<(u32, u32)>),
    Larger(u32),
    Smaller(u32),
    /// Delivered at or after this time, in seconds since the Unix epoch.
    From(i64),
    Not(Box<Filter>),
    Either(Box<Filter>, Box<Filter>),
    Both(Vec<Filter>),
}

impl Filter {
    pub(super) fn matches(&self, sequence: u32, flags: Flags, message: &Message) -> bool {
        match self {
            Filter::Every => true,
            Filter::Has(wanted) => flags.contains(*wanted),
            Filter::Uid(ranges) => set::contains(ranges, message.uid()),
            Filter::Sequence(ranges) => set::contains(ranges, sequence),
            Filter::Larger(size) => message.size() > *size,
            Filter::Smaller(size) => message.size() < *size,
            Filter::From(time) => message.internal_date() as i64 >= *time,
            Filter::Not(filter) => !filter.matches(sequence, flags, message),
            Filter::Either(one, other) => {
                one.matches(sequence, flags, message) || other.matches(sequence, flags, message)
            }
            Filter::Both(filters) => filters.iter().all(|filter| filter.matches(sequence, flags, message)),
        }
    }
}

/// Makes filters, and counts what they are made of.
struct Compiler<'a> {
    view: &'a View,
    keys: usize,
    ranges: usize,
}

impl Compiler<'_> {
    fn all(&mut self, keys: &[SearchKey<'_>]) -> Result<Filter, Refused> {
        let filters: Result<Vec<Filter>, Refused> = keys.iter().map(|key| self.key(key)).collect();
        filters.map(Filter::Both)
    }

    fn ranges(&mut self, named: &SequenceSet, uid: bool) -> Vec<(u32, u32)> {
        let ranges = set::ranges(named, self.view.largest(uid));
        self.ranges += named.0.as_ref().len();
        ranges
    }

    fn key(&mut self, key: &SearchKey<'_>) -> Result<Filter, Refused> {
        self.keys += 1;
        if self.keys > KEYS_MAX {
            return Err(Refused::TooManyKeys);
        }
        Ok(match key {
            SearchKey::And(keys) => self.all(keys.as_ref())?,
            SearchKey::Or(one, other) => Filter::Either(Box::new(self.key(one)?), Box::new(self.key(other)?)),
            SearchKey::Not(key) => not(self.key(key)?),
            SearchKey::All => Filter::Every,
            SearchKey::SequenceSet(named) => Filter::Sequence(self.ranges(named, false)),
            SearchKey::Uid(named) => Filter::Uid(self.ranges(named, true)),
            SearchKey::Answered => Filter::Has(Flags::ANSWERED),
            SearchKey::Deleted => Filter::Has(Flags::DELETED),
            SearchKey::Draft => Filter::Has(Flags::DRAFT),
            SearchKey::Flagged => Filter::Has(Flags::FLAGGED),
            SearchKey::Seen => Filter::Has(Flags::SEEN),
            SearchKey::Recent => Filter::Has(Flags::RECENT),
            SearchKey::New => Filter::Both(vec![Filter::Has(Flags::RECENT), not(Filter::Has(Flags::SEEN))]),
            SearchKey::Old => not(Filter::Has(Flags::RECENT)),
            SearchKey::Unanswered => not(Filter::Has(Flags::ANSWERED)),
            SearchKey::Undeleted => not(Filter::Has(Flags::DELETED)),
            SearchKey::Undraft => not(Filter::Has(Flags::DRAFT)),
            SearchKey::Unflagged => not(Filter::Has(Flags::FLAGGED)),
            SearchKey::Unseen => not(Filter::Has(Flags::SEEN)),
            // No message has a keyword.
            SearchKey::Keyword(_) => not(Filter::Every),
            SearchKey::Unkeyword(_) => Filter::Every,
            SearchKey::Larger(size) => Filter::Larger(*size),
            SearchKey::Smaller(size) => Filter::Smaller(*size),
            SearchKey::Before(date) => not(Filter::From(midnight(date)?)),
            SearchKey::Since(date) => Filter::From(midnight(date)?),
            SearchKey::On(date) => {
                let start = midnight(date)?;
                Filter::Both(vec![Filter::From(start), not(Filter::From(start + DAY_SECONDS))])
            }
            _ => return Err(Refused::Unsupported),
        })
    }
}

fn not(filter: Filter) -> Filter {
    Filter::Not(Box::new(filter))
}

/// The start of a day, in seconds since the Unix epoch; days are those of UTC, as INTERNALDATE shows them.
fn midnight(date: &NaiveDate) -> Result<i64, Refused> {
    let midnight = date.as_ref().and_hms_opt(0, 0, 0).ok_or(Refused::Unsupported)?;
    Ok(midnight.and_utc().timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers are written as `write!` does.
    #[test]
    fn numbers_are_written() {
        let mut output = Vec::new();
        for number in [0, 7, 10, 4096, u32::MAX] {
            write_number(number, &mut output);
        }
        assert_eq!(output, b" 0 7 10 4096 4294967295");
    }

    /// Neighbours make a range, and an answer of too many ranges is not kept.
    #[test]
    fn ranges_are_limited() {
        let mut ranges = Some(Vec::new());
        [1, 2, 3, 7, 9, 10].into_iter().for_each(|number| add(&mut ranges, number));
        assert_eq!(ranges, Some(vec![(1, 3), (7, 7), (9, 10)]));
        (100..).step_by(2).take(KEPT_RANGES_MAX).for_each(|number| add(&mut ranges, number));
        assert_eq!(ranges, None);
    }
}
