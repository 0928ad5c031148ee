//! The queue of a shard: what is to be delivered, where it waits, and when it is tried again.
//!
//! Bookkeeping: no sockets, no files. [`crate::delivery::scheduler`] drives it. What shards share are the limits of sites
//! ([`leases`]). Every change of a job's place notes by when its next event is promised, which is what the watchdog
//! ([`crate::delivery::expiry`]) looks at.

pub(crate) mod envelope_pool;
pub(crate) mod leases;
pub(crate) mod messages;
pub(crate) mod site_queue;
pub(crate) mod sites;
pub(crate) mod suspensions;
pub(crate) mod timers;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use chasqui_runtime::Instant;

pub(crate) use leases::Leases;
pub(crate) use messages::{Job, Messages, Promise};
pub(crate) use site_queue::Attempt;
pub(crate) use sites::{Called, ConnectionLimits, Idle, Origin, PAUSE, Revoked, SiteId, Sites, Slot, Stage};
pub(crate) use suspensions::Held;
pub(crate) use timers::{Due, Timers, probe_delay, retry_delay};

/// Everything queued on a shard.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) messages: Messages,
    pub(crate) sites: Sites,
    pub(crate) timers: Timers,
    pub(crate) held: Held,
}

impl Queue {
    /// For the shard number `shard` of those that share `leases`.
    pub(crate) fn new(limits: ConnectionLimits, leases: Arc<Leases>, shard: usize) -> Self {
        Queue {
            messages: Messages::default(),
            sites: Sites::new(limits, leases, shard),
            timers: Timers::default(),
            held: Held::default(),
        }
    }

    /// Queues a job at its site.
    pub(crate) fn push(&mut self, site: SiteId, attempt: Attempt, job: Job) {
        self.messages.promise(&job, Promise::Line);
        self.sites.push(site, attempt, self.messages.facts(&job).arrived_ms, job);
    }

    /// Puts a job that could not be tried back at the head of its site's queue.
    pub(crate) fn put_back(&mut self, site: SiteId, job: Job) {
        self.messages.promise(&job, Promise::Line);
        self.sites.put_back(site, self.messages.facts(&job).arrived_ms, job);
    }

    /// Keeps a job while its domain is suspended; gives it back when the domain is not.
    pub(crate) fn hold(&mut self, domain: &str, attempt: Attempt, job: Job) -> Option<Job> {
        self.messages.promise(&job, Promise::Line);
        self.held.keep(domain, attempt, self.messages.facts(&job).arrived_ms, job)
    }

    /// The next job of a site, in hand until `by`.
    pub(crate) fn take(&mut self, site: SiteId, by: Instant) -> Option<Job> {
        let job = self.sites.take(site)?;
        self.messages.promise(&job, Promise::By(by));
        Some(job)
    }

    /// Has a job tried at a time.
    pub(crate) fn set_timer(&mut self, at: Instant, job: Job, site: Option<SiteId>) {
        self.messages.promise(&job, Promise::By(at));
        self.timers.set(at, Due::Job(job, site));
    }

    /// The next timer, if it is due.
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Due> {
        let due = self.timers.pop_due(now);
        if let Some(Due::Job(_, Some(site))) = due {
            self.sites.is_due(site);
        }
        due
    }
}
