//! What is due when: retries of jobs, and probes of sites that did not answer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use chasqui_runtime::Instant;

use super::messages::Job;
use super::sites::SiteId;
use crate::config::Retry;

/// What a timer was set for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Due {
    /// A job is to be tried again; where it was tried last, if that is known.
    Job(Job, Option<SiteId>),
    /// A site is to be tried again.
    Site(SiteId),
}

const _: () = assert!(size_of::<Reverse<(Instant, Due)>>() == 24, "what a deferred message costs here");

/// A heap of timers: a million deferred messages cost 24 MB, and none is looked at before it is due.
#[derive(Debug, Default)]
pub(crate) struct Timers(BinaryHeap<Reverse<(Instant, Due)>>);

impl Timers {
    pub(crate) fn set(&mut self, at: Instant, due: Due) {
        self.0.push(Reverse((at, due)));
    }

    /// When the next timer is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// The next timer, if it is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Due> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse((_, due))| due)
    }

    /// Octets allocated.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<Reverse<(Instant, Due)>>()
    }
}

/// The delay after a failure of a message of this age.
///
/// With the delay growing by `factor - 1` times the age, failures at once after each delay fall on the exponential
/// schedule `first`, `first · factor`, `first · factor²`, …; the schedule needs no counter and goes on where it was
/// after a restart. `unit` is random in [0, 1).
pub(crate) fn retry_delay(retry: &Retry, age: Duration, unit: f64) -> Duration {
    let first_s = retry.first.as_secs_f64();
    let grown_s = (first_s + age.as_secs_f64() * (retry.factor - 1.0)).min(retry.max.as_secs_f64());
    Duration::from_secs_f64(grown_s * (1.0 + retry.jitter * (2.0 * unit - 1.0)))
}

/// Delay after the first failure of a site as a whole.
const PROBE_FIRST: Duration = Duration::from_secs(1);
/// Longest delay between two probes of a dead site: what a recovery may go unnoticed. A probe is one connection.
const PROBE_MAX: Duration = Duration::from_secs(300);

/// The delay until a site that could not be reached `failures` times in a row is probed again: doubling, never
/// longer than a message would wait.
pub(crate) fn probe_delay(retry: &Retry, failures: u32, unit: f64) -> Duration {
    let first = PROBE_FIRST.min(retry.first);
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
    let longest = PROBE_MAX.min(retry.max);
    doubled.min(longest).mul_f64(1.0 + retry.jitter * (2.0 * unit - 1.0))
}
