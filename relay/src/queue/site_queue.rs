//! Jobs that wait at one place, by kind of attempt and age.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};

use super::messages::{Attempt, Job};

/// A retry served after this many first attempts when both wait, so that retries are not starved for good.
const FIRST_ATTEMPTS_PER_RETRY: u32 = 16;
/// The same when the retry presses.
const FIRST_ATTEMPTS_PER_PRESSING: u32 = 1;

/// A waiting job.
#[derive(Debug, PartialEq, Eq)]
struct Aged {
    arrived_ms: u64,
    job: Job,
}

/// Memory of a waiting job.
#[cfg(test)]
pub(super) const ENTRY_BYTES: usize = size_of::<Aged>();

impl Ord for Aged {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.arrived_ms, &self.job).cmp(&(other.arrived_ms, &other.job))
    }
}

impl PartialOrd for Aged {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Jobs that a line keeps room for when it becomes empty.
const ROOM_KEPT: usize = 1024;

/// First attempts before retries, each from the oldest message to the youngest.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// First attempts that came in the order of their age, which nearly all do: no heap is needed for them.
    fresh: VecDeque<Aged>,
    /// First attempts that came after younger ones: they had waited for a route, or were held.
    strays: BinaryHeap<Reverse<Aged>>,
    retries: BinaryHeap<Reverse<Aged>>,
    /// Apart from the retries, so that the oldest of whom the sender is still to be told is at the head of those.
    told: BinaryHeap<Reverse<Aged>>,
    /// First attempts served since the last retry.
    since_retry: u32,
}

impl Line {
    /// Queues a job.
    pub(crate) fn push(&mut self, attempt: Attempt, arrived_ms: u64, job: Job) {
        let aged = Aged { arrived_ms, job };
        match attempt {
            Attempt::Retry => self.retries.push(Reverse(aged)),
            Attempt::Told => self.told.push(Reverse(aged)),
            Attempt::First if self.fresh.back().is_none_or(|last| last.arrived_ms <= arrived_ms) => {
                self.fresh.push_back(aged);
            }
            Attempt::First => self.strays.push(Reverse(aged)),
        }
    }

    /// Puts a job that could not be tried back to where it is next, unless others are older.
    pub(crate) fn put_back(&mut self, arrived_ms: u64, job: Job) {
        let aged = Aged { arrived_ms, job };
        if self.fresh.front().is_none_or(|first| arrived_ms <= first.arrived_ms) {
            self.fresh.push_front(aged);
        } else {
            self.strays.push(Reverse(aged));
        }
    }

    /// The next job, and what kind of attempt it is. Retries of messages that arrived at `pressing_ms` or before press.
    pub(crate) fn take(&mut self, pressing_ms: u64) -> Option<(Attempt, Job)> {
        let retry_is_due = self.oldest_retry_ms().is_some_and(|oldest| {
            let presses = oldest <= pressing_ms;
            self.since_retry >= if presses { FIRST_ATTEMPTS_PER_PRESSING } else { FIRST_ATTEMPTS_PER_RETRY }
        });
        if !retry_is_due && let Some(job) = self.take_first() {
            self.since_retry += 1;
            return Some((Attempt::First, job));
        }
        self.since_retry = 0;
        self.take_retry()
    }

    /// The youngest of those that wait for their first attempt, as far as they came in order.
    pub(crate) fn take_youngest(&mut self) -> Option<Job> {
        self.fresh.pop_back().map(|youngest| youngest.job)
    }

    /// The oldest of all that were tried before.
    fn take_retry(&mut self) -> Option<(Attempt, Job)> {
        let age = |Reverse(aged): &Reverse<Aged>| aged.arrived_ms;
        let (retry, told) = (self.retries.peek().map(age), self.told.peek().map(age));
        if told.is_some_and(|told| retry.is_none_or(|retry| told <= retry)) {
            return self.told.pop().map(|Reverse(told)| (Attempt::Told, told.job));
        }
        self.retries.pop().map(|Reverse(retry)| (Attempt::Retry, retry.job))
    }

    fn take_first(&mut self) -> Option<Job> {
        let stray = self.strays.peek().map(|Reverse(stray)| stray.arrived_ms);
        let is_stray =
            stray.is_some_and(|stray| self.fresh.front().is_none_or(|fresh| stray < fresh.arrived_ms));
        let first =
            if is_stray { self.strays.pop().map(|Reverse(stray)| stray) } else { self.fresh.pop_front() };
        // A million messages that have left the line, and are deferred now, are not paid for here too.
        if self.fresh.capacity() > ROOM_KEPT && self.fresh.len() < self.fresh.capacity() / 4 {
            self.fresh.shrink_to(self.fresh.len() * 2);
        }
        first.map(|first| first.job)
    }

    /// A job of a message that arrived at `arrived_ms` or before and is `wanted`, if the next first attempt, the next
    /// retry or the next of those told is one.
    pub(crate) fn take_older(&mut self, arrived_ms: u64, wanted: impl Fn(&Job) -> bool) -> Option<Job> {
        let old = |aged: &Aged| aged.arrived_ms <= arrived_ms && wanted(&aged.job);
        if self.first().is_some_and(old) {
            return self.take_first();
        }
        let mut tried = [&mut self.retries, &mut self.told].into_iter();
        let oldest = tried.find(|tried| tried.peek().is_some_and(|Reverse(aged)| old(aged)))?;
        oldest.pop().map(|Reverse(aged)| aged.job)
    }

    /// The oldest of those that wait for their first attempt.
    fn first(&self) -> Option<&Aged> {
        let stray = self.strays.peek().map(|Reverse(stray)| stray);
        self.fresh.front().into_iter().chain(stray).min_by_key(|first| first.arrived_ms)
    }

    /// When the oldest message arrived of which a job waits here.
    pub(crate) fn oldest_ms(&self) -> Option<u64> {
        let first = self.first().map(|first| first.arrived_ms);
        first.into_iter().chain(self.oldest_retry_ms()).min()
    }

    /// The same of those that were tried before.
    fn oldest_retry_ms(&self) -> Option<u64> {
        let tried = [&self.retries, &self.told].into_iter().filter_map(BinaryHeap::peek);
        tried.map(|Reverse(aged)| aged.arrived_ms).min()
    }

    /// Jobs that wait for their first attempt.
    pub(crate) fn first_attempts(&self) -> usize {
        self.fresh.len() + self.strays.len()
    }

    /// Jobs that were tried before.
    pub(crate) fn retries(&self) -> usize {
        self.retries.len() + self.told.len()
    }

    /// All of them.
    pub(crate) fn len(&self) -> usize {
        self.first_attempts() + self.retries()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets allocated for waiting jobs.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let heaps = [&self.strays, &self.retries, &self.told].map(BinaryHeap::capacity);
        (self.fresh.capacity() + heaps.iter().sum::<usize>()) * ENTRY_BYTES
    }
}
