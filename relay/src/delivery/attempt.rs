//! One attempt at a job: a transaction, and others at the next hosts of the site as long as it is put off.
//!
//! RFC 5321 section 5.1 has a client try the hosts in turn. Each is tried once in an attempt, for those recipients that the
//! hosts before it have put off. A message that was sent whole and put off is sent to one more host at most; one that was sent
//! whole and not answered may have been taken, and is sent to none.

use std::net::SocketAddr;
use std::rc::Rc;

use chasqui_runtime::{now, sim, turn_time};
use smallvec::{SmallVec, smallvec};

use super::connect::{ADDRESSES_MAX, connect};
use super::jobs::{self, in_hand_until};
use super::link::Host;
use super::outcome::{self, Outcome, Recipients};
use super::retry::{self, Met};
use super::service::Service;
use super::transaction::{self, Body, End, Sent};
use crate::queue::{Deadline, Job, Reason, Stage};
use crate::spool::Envelope;

/// Hosts that get the envelope of a message in one attempt.
const HOSTS_MAX: usize = 5;
/// Hosts that get the whole message.
const BODIES_MAX: usize = 2;

/// What came of an attempt, for the connection.
pub(super) enum Attempted {
    /// The job is settled.
    Settled,
    /// The job waits elsewhere; nothing of it was tried.
    Aside,
}

/// The way of an attempt so far.
struct Trail {
    /// Hosts that got the envelope.
    hosts: SmallVec<[Host; 1]>,
    /// Those of them that got the whole message.
    bodies: usize,
    /// Why the last of them has put the message off, for those that it is tried for at the next.
    reason: Option<Reason>,
}

impl Service {
    /// Tries to deliver a job.
    pub(super) async fn attempt(&mut self, job: Job) -> Attempted {
        let context = self.context.clone();
        let Some(envelope) = jobs::envelope(&context, &job).await else {
            retry::put_off(&context, job);
            return Attempted::Aside;
        };
        let job = context.queue.borrow_mut().hold_suspended(job, &envelope);
        let Some(job) = job else { return Attempted::Aside };
        let (mut job, mut recipients) = self.take_share(job);
        let mut trail = Trail { hosts: smallvec![self.link.host.clone()], bodies: 0, reason: None };
        loop {
            // What follows the transaction, with another connection, is within it too.
            let delivery = &context.config.delivery;
            let by = in_hand_until()
                + delivery.attempt_max(envelope.size, recipients.len())
                + delivery.connection_max() * ADDRESSES_MAX as u32;
            context.queue.borrow_mut().messages.set_deadline(&job, Deadline::By(by));
            let sent = transaction::send(&context, &mut self.link, &job, &envelope, &recipients).await;
            let is_over = self.slot.revoked().is_some() || (sent.is_late && jobs::is_expired(&context, &job));
            if sent.end == End::Untouched && self.link.has_carried && !is_over {
                // It had gone stale: nothing of the message was tried.
                if !self.renew(&mut trail, &job).await {
                    context.queue.borrow_mut().put_back(self.site(), job);
                    return Attempted::Aside;
                }
                continue;
            }
            if sim::PlantedFault::StallOn421.is_planted()
                && sent.is_cut_off()
                && sent.outcome.delivered.is_empty()
            {
                context.queue.borrow_mut().put_back(self.site(), job);
                retry::rest_site(&context, self.site(), "a message was answered 421".into());
                return Attempted::Aside;
            }
            self.note(&sent);
            let mut outcome = match (sent.end, trail.reason.take()) {
                // That the next host cannot take it is no reason to give it up.
                (End::Unfit, Some(reason)) => {
                    Outcome { deferred: recipients.to_vec(), reason, ..Outcome::default() }
                }
                _ => sent.outcome,
            };
            if !sent.surplus.is_empty() {
                job = self.leave(job, &outcome, sent.surplus.to_vec());
            }
            trail.bodies += usize::from(sent.body != Body::Unsent);
            let is_put_off = !outcome.deferred.is_empty() && sent.end != End::Ours;
            if is_put_off && sent.body != Body::Unanswered && self.has_another(&trail) {
                let deferred = std::mem::take(&mut outcome.deferred);
                let reason = outcome.reason.clone();
                job = self.settle_decided(job, &envelope, outcome, &deferred);
                if self.move_on(&mut trail, &job).await {
                    trail.reason = Some(reason);
                    recipients = deferred.into();
                    continue;
                }
                outcome = Outcome { deferred, reason, ..Outcome::default() };
            }
            self.settle(job, &envelope, outcome);
            context.envelopes.give_back(envelope);
            return Attempted::Settled;
        }
    }

    /// As many of the job's recipients as a transaction takes; the others go back as a job of their own.
    fn take_share(&self, job: Job) -> (Job, Recipients) {
        let mut queue = self.context.queue.borrow_mut();
        let mut recipients = Recipients::new();
        queue.messages.recipients(&job, &mut recipients);
        let share = self.context.config.delivery.recipients_per_transaction;
        if recipients.len() <= share {
            return (job, recipients);
        }
        let rest = recipients.drain(share..).collect();
        let (job, others) = queue.messages.split_in_two(job, recipients.to_vec(), rest);
        queue.put_back(self.site(), others);
        (job, recipients)
    }

    /// Whether anything more may be sent to the site.
    fn may_send(&self) -> bool {
        let is_suspended = || self.context.queue.borrow_mut().sites.must_give_way(self.site(), 0);
        self.slot.revoked().is_none() && self.context.may_deliver() && !is_suspended()
    }

    /// Replaces a connection that had gone stale by a new one, when its turn has come.
    async fn renew(&mut self, trail: &mut Trail, job: &Job) -> bool {
        self.link.connection.close();
        if !self.may_send() || !self.await_turn().await {
            return false;
        }
        if !self.reconnect(&[], job).await {
            return false;
        }
        trail.hosts = smallvec![self.link.host.clone()];
        self.may_send()
    }

    /// Replaces the connection by one to another host than those `tried`, with this job in hand.
    async fn reconnect(&mut self, tried: &[Host], job: &Job) -> bool {
        self.link.enter(Stage::Sending);
        let is_too_late = || jobs::is_expired(&self.context, job);
        let Ok(link) = connect(&self.context, &self.slot, tried, &is_too_late).await else { return false };
        self.link = link;
        true
    }

    /// Enters in the site's books what a transaction says of its host.
    fn note(&mut self, sent: &Sent) {
        let (context, site, address) = (&self.context, self.site(), self.link.host.address);
        if sent.body == Body::Unanswered {
            // The receiver may have taken it: trying again may make a duplicate, not trying may lose it.
            context.counters.lost_replies.add(1);
        }
        if sent.is_cut_off() {
            // Silence takes its time without that.
            if !sent.is_late && context.queue.borrow_mut().sites.cut_off(site, address, now()) {
                retry::pause_site(context, site);
            }
        } else if sent.end == End::Answered {
            self.link.has_carried = true;
            context.queue.borrow_mut().sites.works(&self.slot, address, turn_time());
        }
    }

    /// Leaves recipients to the next transaction of anybody; gives the job of the others, with this outcome.
    fn leave(&self, job: Job, outcome: &Outcome, surplus: Vec<u32>) -> Job {
        let rest = outcome.decided().chain(outcome.deferred.iter().copied()).collect();
        let mut queue = self.context.queue.borrow_mut();
        let (job, surplus) = queue.messages.split_in_two(job, rest, surplus);
        queue.put_back(self.site(), surplus);
        job
    }

    /// Whether there is a host left for this attempt.
    fn has_another(&self, trail: &Trail) -> bool {
        if trail.bodies >= BODIES_MAX || trail.hosts.len() >= HOSTS_MAX || !self.may_send() {
            return false;
        }
        let (_, addresses) = self.context.queue.borrow_mut().sites.addresses(self.site(), now());
        addresses.into_iter().any(|(place, address)| trail.is_new(place, address))
    }

    /// Goes to the next host that can be used; this one's connection ends, since the site may have no more of them.
    async fn move_on(&mut self, trail: &mut Trail, job: &Job) -> bool {
        self.strayed = true;
        if !self.link.connection.is_closed() {
            self.link.quit().await;
        }
        if !self.await_turn().await {
            return false;
        }
        if !self.reconnect(&trail.hosts, job).await {
            return false;
        }
        trail.hosts.push(self.link.host.clone());
        self.may_send()
    }

    /// Settles what a host has decided, before the others are tried at the next; gives the job of these.
    fn settle_decided(&self, job: Job, envelope: &Rc<Envelope>, outcome: Outcome, others: &[u32]) -> Job {
        let decided: Vec<u32> = outcome.decided().collect();
        if decided.is_empty() {
            return job;
        }
        let mut queue = self.context.queue.borrow_mut();
        let (decided, others) = queue.messages.split_in_two(job, decided, others.to_vec());
        drop(queue);
        self.settle(decided, envelope, outcome);
        others
    }

    fn settle(&self, job: Job, envelope: &Rc<Envelope>, mut outcome: Outcome) {
        let is_tried_here = matches!(outcome.met, Met::Failure);
        outcome.origin = is_tried_here.then(|| self.context.queue.borrow().sites.origin(self.site()));
        outcome::record(&self.context, job, envelope, outcome);
    }
}

impl Trail {
    fn is_new(&self, place: usize, address: SocketAddr) -> bool {
        !self.hosts.iter().any(|host| host.is_at(place, address))
    }
}
