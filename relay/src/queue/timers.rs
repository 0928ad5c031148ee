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

    /// Whether there is one that is `wanted`.
    pub(crate) fn any(&self, wanted: impl Fn(&Due) -> bool) -> bool {
        self.0.iter().any(|Reverse((_, due))| wanted(due))
    }

    /// Makes those due now of which `wanted` says so. Looks at every timer.
    pub(crate) fn hurry(&mut self, now: Instant, mut wanted: impl FnMut(&Due) -> bool) {
        let mut timers = std::mem::take(&mut self.0).into_vec();
        for Reverse((at, due)) in &mut timers {
            if *at > now && wanted(due) {
                *at = now;
            }
        }
        self.0 = timers.into();
    }

    /// Octets allocated.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<Reverse<(Instant, Due)>>()
    }
}

/// The delay after the last of so many failed attempts (at least one): `first`, `first · factor`, `first · factor²`, … up to
/// `max`. `unit` is random in [0, 1).
pub(crate) fn retry_delay(retry: &Retry, attempts: u32, unit: f64) -> Duration {
    let (first_s, max_s) = (retry.first.as_secs_f64(), retry.max.as_secs_f64());
    let further = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
    // Infinite at worst, which is more than the longest delay.
    let grown_s = (first_s * retry.factor.powi(further)).min(max_s);
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
