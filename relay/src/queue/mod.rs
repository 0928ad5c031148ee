//! The queue of a shard: what is to be delivered, where it waits, and when it is tried again.
//!
//! Bookkeeping: no sockets, no files. The queue calls nobody: [`crate::delivery`] waits for what it says. What shards share are
//! the limits of sites ([`leases`]). Every change of a job's place notes the deadline of its next event, which is what the
//! watchdog looks at.

pub(crate) mod envelope_pool;
mod failure;
pub(crate) mod intake;
pub(crate) mod leases;
pub(crate) mod messages;
mod plain_hosts;
pub(crate) mod site_queue;
pub(crate) mod sites;
pub(crate) mod suspensions;
pub(crate) mod timers;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use chasqui_runtime::sync::Notify;
use chasqui_runtime::{HashMap, HashSet, Instant};

use crate::route::{Router, domain_of};
use crate::spool::{Envelope, MessageId};
use plain_hosts::PlainHosts;

pub(crate) use failure::{Failure, Reason};
pub(crate) use intake::{Intake, Unplaced};
pub(crate) use leases::Leases;
pub(crate) use messages::{Attempt, Deadline, Job, Messages};
pub(crate) use sites::{Called, ConnectionLimits, Idle, Origin, PAUSE, Revoked, SiteId, Sites, Slot, Stage};
pub(crate) use suspensions::Suspensions;
pub(crate) use timers::{Due, Timers};

/// Messages of which it is kept why recipients are given up that could not be told of; those of more are tried again.
const UNTOLD_MAX: usize = 4096;

/// Everything queued on a shard.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) messages: Messages,
    pub(crate) sites: Sites,
    pub(crate) timers: Timers,
    pub(crate) suspensions: Suspensions,
    pub(crate) intake: Intake,
    /// Hosts whose TLS does not work.
    pub(crate) plain_hosts: PlainHosts,
    /// A message has come into an empty queue.
    filled: Notify,
    /// Messages with a notification for which the spool had no room.
    pub(crate) short_of_room: HashSet<MessageId>,
    /// What such notifications are to tell of recipients that are given up: they are not tried again for it.
    untold: HashMap<MessageId, Vec<Failure>>,
}

impl Queue {
    /// For the shard number `shard` of those that share `leases`.
    pub(crate) fn new(limits: ConnectionLimits, leases: Arc<Leases>, shard: usize) -> Self {
        Queue {
            messages: Messages::default(),
            sites: Sites::new(limits, leases, shard),
            timers: Timers::default(),
            suspensions: Suspensions::default(),
            intake: Intake::default(),
            plain_hosts: PlainHosts::default(),
            filled: Notify::new(),
            short_of_room: HashSet::default(),
            untold: HashMap::default(),
        }
    }

    /// Takes in a message that the spool has committed; by the relay's clock it has arrived at `arrived_ms`. Mail for one recipient
    /// whose site is known waits there at once; where other mail goes is the scheduler's matter.
    pub(crate) fn submit(&mut self, router: &Router, id: MessageId, envelope: Rc<Envelope>, arrived_ms: u64) {
        if self.messages.len() == 0 {
            self.tell_filled();
        }
        let job = self.messages.add(id, envelope.clone());
        self.messages.set_arrival(&job, arrived_ms);
        let attempt = Attempt::First;
        let [recipient] = envelope.recipients.as_slice() else {
            return self.intake.push(Unplaced::Job { job, envelope, attempt });
        };
        let domain = domain_of(recipient);
        let Some(job) = self.unless_suspended(&domain, job, attempt) else { return };
        match router.route_cached(&domain) {
            Some(Ok(route)) => {
                let site = self.sites.of_route(&route);
                self.push(site, attempt, job);
            }
            Some(Err(error)) => self.intake.push(Unplaced::Unroutable { job, error }),
            None => self.intake.push(Unplaced::Unrouted { domain: domain.as_ref().into(), job, attempt }),
        }
    }

    /// There is no room to tell of these recipients of a message; they are told of when their job is placed again.
    pub(crate) fn leave_untold(&mut self, id: MessageId, failed: impl IntoIterator<Item = Failure>) {
        self.short_of_room.insert(id);
        let mut failed = failed.into_iter().peekable();
        if failed.peek().is_some() && self.untold.len() < UNTOLD_MAX {
            self.untold.entry(id).or_default().extend(failed);
        }
    }

    /// Of a job the recipients that are given up and were not told of, when these are all of it.
    pub(crate) fn take_untold(&mut self, job: &Job) -> Option<Vec<Failure>> {
        if self.untold.is_empty() {
            return None;
        }
        let id = self.messages.facts(job).id;
        let mut recipients = Vec::new();
        self.messages.recipients(job, &mut recipients);
        let (own, others): (Vec<Failure>, Vec<Failure>) =
            self.untold.remove(&id)?.into_iter().partition(|failure| recipients.contains(&failure.recipient));
        if !others.is_empty() {
            self.untold.insert(id, others);
        }
        (own.len() == recipients.len()).then_some(own)
    }

    /// Messages have come into an empty queue: tells whoever waits for the first.
    pub(crate) fn tell_filled(&self) {
        self.filled.notify_all();
    }

    /// Notifies all who wait when messages come into the queue.
    pub(crate) fn filled(&self) -> Notify {
        self.filled.clone()
    }

    /// Queues a job at its site.
    pub(crate) fn push(&mut self, site: SiteId, attempt: Attempt, job: Job) {
        self.messages.set_deadline(&job, Deadline::OfSite);
        self.sites.push(site, attempt, self.messages.facts(&job).arrived_ms, job);
    }

    /// Puts a job that could not be tried back at the head of its site's queue.
    pub(crate) fn put_back(&mut self, site: SiteId, job: Job) {
        self.messages.set_deadline(&job, Deadline::OfSite);
        self.sites.put_back(site, self.messages.facts(&job).arrived_ms, job);
    }

    /// Keeps a job while its domain is suspended; gives it back when the domain is not.
    pub(crate) fn hold(&mut self, domain: &str, attempt: Attempt, job: Job) -> Option<Job> {
        self.messages.set_deadline(&job, Deadline::OfSite);
        self.suspensions.keep(domain, attempt, self.messages.facts(&job).arrived_ms, job)
    }

    /// As [`Queue::hold`]; as a rule no domain is suspended.
    pub(crate) fn unless_suspended(&mut self, domain: &str, job: Job, attempt: Attempt) -> Option<Job> {
        if self.suspensions.is_empty() { Some(job) } else { self.hold(domain, attempt, job) }
    }

    /// Puts those of a job's recipients aside that are at suspended domains; gives the job of the others.
    pub(crate) fn hold_suspended(&mut self, job: Job, envelope: &Envelope) -> Option<Job> {
        if self.suspensions.is_empty() {
            return Some(job);
        }
        let (mut recipients, mut free) = (Vec::new(), Vec::new());
        self.messages.recipients(&job, &mut recipients);
        let mut held = BTreeMap::<String, Vec<u32>>::new();
        for recipient in recipients {
            let domain = domain_of(&envelope.recipients[recipient as usize]);
            if self.suspensions.is_suspended(&domain) {
                held.entry(domain.into_owned()).or_default().push(recipient);
            } else {
                free.push(recipient);
            }
        }
        if held.is_empty() {
            return Some(job);
        }
        let attempt = self.messages.next_attempt(&job);
        let (domains, mut groups): (Vec<String>, Vec<Vec<u32>>) = held.into_iter().unzip();
        let is_any_free = !free.is_empty();
        if is_any_free {
            groups.push(free);
        }
        let mut jobs = match groups.len() {
            1 => vec![job],
            _ => self.messages.split(job, &groups),
        };
        let rest = if is_any_free { jobs.pop() } else { None };
        for (domain, job) in domains.iter().zip(jobs) {
            let given_back = self.hold(domain, attempt, job);
            debug_assert!(given_back.is_none(), "looked at above");
        }
        rest
    }

    /// Ends the suspension of a domain: what waited is placed.
    pub(crate) fn resume(&mut self, domain: &str) {
        if let Some(jobs) = self.suspensions.resume(domain).filter(|jobs| !jobs.is_empty()) {
            self.intake.push(Unplaced::Resumed { domain: domain.into(), jobs });
        }
    }

    /// The next job of a site, in hand until `by`.
    pub(crate) fn take(&mut self, site: SiteId, by: Instant) -> Option<Job> {
        let job = self.sites.take(site)?;
        self.messages.set_deadline(&job, Deadline::By(by));
        Some(job)
    }

    /// Has a job tried at a time.
    pub(crate) fn set_timer(&mut self, at: Instant, job: Job, site: Option<SiteId>) {
        self.messages.set_deadline(&job, Deadline::By(at));
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
