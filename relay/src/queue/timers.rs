//! What is due when: retries of jobs, and probes of sites that did not answer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use chasqui_runtime::Instant;
use chasqui_runtime::sync::Notify;

use super::messages::Job;
use super::sites::SiteId;

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
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Due)>>,
    hastened: Notify,
}

impl Timers {
    pub(crate) fn set(&mut self, at: Instant, due: Due) {
        if self.next().is_none_or(|next| at < next) {
            self.hastened.notify_one();
        }
        self.heap.push(Reverse((at, due)));
    }

    /// Notified when the next timer is due earlier than it was.
    pub(crate) fn hastened(&self) -> Notify {
        self.hastened.clone()
    }

    /// When the next timer is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next timer, if it is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Due> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((_, due))| due)
    }

    /// Whether there is one that is `wanted`.
    pub(crate) fn any(&self, wanted: impl Fn(&Due) -> bool) -> bool {
        self.heap.iter().any(|Reverse((_, due))| wanted(due))
    }

    /// Makes those due now of which `wanted` says so. Looks at every timer.
    pub(crate) fn hurry(&mut self, now: Instant, mut wanted: impl FnMut(&Due) -> bool) {
        let mut timers = std::mem::take(&mut self.heap).into_vec();
        for Reverse((at, due)) in &mut timers {
            if *at > now && wanted(due) {
                *at = now;
            }
        }
        self.heap = timers.into();
        self.hastened.notify_one();
    }

    /// Octets allocated.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.heap.capacity() * size_of::<Reverse<(Instant, Due)>>()
    }
}
