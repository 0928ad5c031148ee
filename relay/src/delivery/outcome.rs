//! What became of an attempt: states for the spool, the next retry, and what the sender is to be told.
//!
//! An *attempt* is at a job: the recipients of a message that went together in one transaction, or that met the same trouble
//! before one. What the sender is to be told of it stands in one notification, which enters the spool in one group with
//! the states of these recipients.

use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::{Instant, now, spawn};
use smallvec::SmallVec;

use super::jobs::{self, in_hand_until};
use super::retry::{self, Met};
use crate::clock::{millis, wall_clock_ms};
use crate::context::Context;
use crate::dsn;
use crate::queue::messages::Facts;
use crate::queue::{Deadline, Failure, Job, Origin, Reason};
use crate::spool::{Envelope, MessageId, SpoolError, State, StateChange};

/// Indices of recipients: few, as a rule.
pub(super) type Recipients = SmallVec<[u32; 4]>;

/// What became of an attempt to deliver a job. Together the recipients are the job's.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) delivered: Recipients,
    /// What the next hop said to the message, if some of those delivered want to know of it and the next hop will not
    /// tell them.
    pub(super) relayed: Option<Reason>,
    pub(super) failed: Vec<Failure>,
    pub(super) deferred: Vec<u32>,
    /// Why those were deferred: the last reply, or what happened.
    pub(super) reason: Reason,
    /// What those deferred have met.
    pub(super) met: Met,
    /// Where it was tried.
    pub(super) origin: Option<Origin>,
}

impl Outcome {
    /// The recipients of whom nothing more is to come.
    pub(super) fn decided(&self) -> impl Iterator<Item = u32> {
        let failed = self.failed.iter().map(|failure| failure.recipient);
        self.delivered.iter().copied().chain(failed)
    }
}

/// What is decided of an attempt.
struct Decision {
    id: MessageId,
    delivered: Recipients,
    failed: Vec<u32>,
    /// Deferred, and the time to tell of it has not come.
    early: Vec<u32>,
    /// Deferred, and nothing more is to be told of it.
    told: Vec<u32>,
    /// Those of `told`, all or none, for whom the time has come by now.
    late: Vec<u32>,
    /// To be tried again soon because of trouble on our own side.
    put_off: Vec<u32>,
    /// When those deferred are tried again.
    retry: Instant,
    until_ms: u64,
    attempts: u32,
    reason: String,
    origin: Option<Origin>,
}

/// Records what became of a job, and does what follows: retries and notifications.
pub(super) fn record(context: &Rc<Context>, job: Job, envelope: &Rc<Envelope>, mut outcome: Outcome) {
    let facts = context.queue.borrow().messages.facts(&job);
    context.counters.delivered.add(outcome.delivered.len());
    if outcome.deferred.is_empty() && outcome.failed.is_empty() && outcome.relayed.is_none() {
        let delivered = &outcome.delivered;
        record_states(
            context,
            &[StateChange { id: facts.id, recipients: delivered, state: State::Delivered }],
        );
        context.queue.borrow_mut().messages.finish(job, delivered);
        return;
    }
    let age = jobs::age(context, facts);
    if !outcome.deferred.is_empty() && age >= context.config.retry.max_age {
        context.counters.expired.add(outcome.deferred.len());
        let reason = expiry(&outcome.reason);
        let fail = |recipient| Failure { recipient, reason: reason.clone() };
        outcome.failed.extend(outcome.deferred.drain(..).map(fail));
    }
    let decision = decide(context, &job, facts, age, &outcome);
    let notices = notices(context, facts.id, envelope, outcome, &decision.late);
    if notices.is_empty() {
        record_states(context, &decision.states());
        return conclude(context, job, decision);
    }
    context.queue.borrow_mut().messages.set_deadline(&job, Deadline::By(in_hand_until()));
    let (context, envelope, counted) = (context.clone(), envelope.clone(), context.deliveries.track());
    spawn(async move {
        notify(&context, job, &envelope, decision, &notices).await;
        drop(counted);
    });
}

/// Tells the sender of an attempt, in one group of the spool with its states.
async fn notify(
    context: &Rc<Context>,
    job: Job,
    envelope: &Envelope,
    mut decision: Decision,
    notices: &[dsn::Notice],
) {
    match dsn::send(context, decision.id, envelope, notices, &decision.states()).await {
        Ok((id, notification)) => {
            context.counters.notifications.add(1);
            conclude(context, job, decision);
            let arrived_ms = context.clock.now_ms();
            context.queue.borrow_mut().submit(&context.router, id, notification, arrived_ms);
        }
        Err(error) => {
            log::warn!("{}: its notification cannot be kept: {error}", decision.id);
            if error == SpoolError::NoSpace {
                let failed = notices.iter().filter(|notice| notice.action == dsn::Action::Failed);
                let failed = failed
                    .map(|notice| Failure { recipient: notice.recipient, reason: notice.reason.clone() });
                context.queue.borrow_mut().leave_untold(decision.id, failed);
            }
            decision.leave_untold(notices);
            record_states(context, &decision.states());
            conclude(context, job, decision);
        }
    }
}

fn decide(context: &Context, job: &Job, facts: Facts, age: Duration, outcome: &Outcome) -> Decision {
    let attempts = match outcome.met {
        Met::Failure if !outcome.deferred.is_empty() => {
            context.queue.borrow_mut().messages.count_attempt(job)
        }
        _ => context.queue.borrow().messages.attempts(job),
    };
    let mut delay = retry::delay(context, outcome.met, attempts, age);
    let mut decision = Decision {
        id: facts.id,
        delivered: outcome.delivered.clone(),
        failed: outcome.failed.iter().map(|failure| failure.recipient).collect(),
        early: Vec::new(),
        told: Vec::new(),
        late: Vec::new(),
        put_off: Vec::new(),
        retry: now(),
        until_ms: 0,
        attempts,
        reason: String::new(),
        origin: outcome.origin,
    };
    if outcome.deferred.is_empty() {
        return decision;
    }
    let deferred = outcome.deferred.clone();
    match jobs::warning_age(&context.config) {
        _ if context.queue.borrow().messages.is_delay_notified(job) => decision.told = deferred,
        Some(warning) if age >= warning => {
            decision.late = deferred.clone();
            decision.told = deferred;
        }
        Some(warning) => {
            delay = delay.min(warning - age);
            decision.early = deferred;
        }
        None => decision.early = deferred,
    }
    decision.retry = now() + delay;
    decision.until_ms = wall_clock_ms() + millis(delay);
    decision.reason = format!("{} {}", outcome.reason.status, outcome.reason.text);
    decision
}

/// The spool knows what was decided: now the queue does.
fn conclude(context: &Context, job: Job, decision: Decision) {
    context.counters.bounced.add(decision.failed.len());
    let finished = [decision.delivered.as_slice(), decision.failed.as_slice()].concat();
    let mut queue = context.queue.borrow_mut();
    let Some(job) = queue.messages.finish(job, &finished) else { return };
    let is_delay_notified = !decision.told.is_empty();
    let groups = [[decision.early, decision.told].concat(), decision.put_off];
    let (deferred, put_off) = match (groups[0].is_empty(), groups[1].is_empty()) {
        (false, true) => (Some(job), None),
        (true, false) => (None, Some(job)),
        // A job that is left has recipients.
        _ => {
            let mut jobs = queue.messages.split(job, &groups).into_iter();
            (jobs.next(), jobs.next())
        }
    };
    if let Some(job) = deferred {
        context.counters.deferred.add(groups[0].len());
        queue.messages.forget_envelope(&job);
        if is_delay_notified {
            queue.messages.set_delay_notified(&job);
        }
        let site = decision.origin.and_then(|origin| queue.sites.defer(origin));
        queue.set_timer(decision.retry, job, site);
    }
    drop(queue);
    if let Some(job) = put_off {
        retry::put_off(context, job);
    }
}

/// Has the spool record states. They need not be awaited: what a crash loses is done again.
fn record_states(context: &Context, changes: &[StateChange<'_>]) {
    if let Err(error) = context.spool.states(changes) {
        // The spool has sealed itself and said why; nothing more is begun.
        log::debug!("a state was not recorded: {error}");
    }
}

/// What the sender is to be told.
fn notices(
    context: &Context,
    id: MessageId,
    envelope: &Envelope,
    outcome: Outcome,
    late: &[u32],
) -> Vec<dsn::Notice> {
    let Outcome { delivered, relayed, failed, reason, .. } = outcome;
    let relayed = relayed.map(|reason| (reason, delivered.as_slice()));
    dsn::notices(&context.config, id, envelope, dsn::Told { failed, late: (reason, late), relayed })
}

impl Decision {
    fn states(&self) -> Vec<StateChange<'_>> {
        let deferred = |warned| State::Deferred {
            until_ms: self.until_ms,
            attempts: self.attempts,
            reason: self.reason.clone(),
            warned,
        };
        let mut changes = Vec::new();
        let mut add = |recipients, state| changes.push(StateChange { id: self.id, recipients, state });
        if !self.delivered.is_empty() {
            add(&self.delivered, State::Delivered);
        }
        if !self.failed.is_empty() {
            add(&self.failed, State::Bounced);
        }
        if !self.early.is_empty() {
            add(&self.early, deferred(false));
        }
        if !self.told.is_empty() {
            add(&self.told, deferred(true));
        }
        changes
    }

    /// The notification cannot be kept. Failures and delays are to be told another time; a delivery cannot be
    /// repeated for it.
    fn leave_untold(&mut self, notices: &[dsn::Notice]) {
        let is_noticed = |it: &u32| notices.iter().any(|notice| notice.recipient == *it);
        (self.put_off, self.failed) = std::mem::take(&mut self.failed).into_iter().partition(is_noticed);
        if !self.late.is_empty() {
            self.early = std::mem::take(&mut self.told);
        }
    }
}

fn expiry(last: &Reason) -> Reason {
    let text = format!("delivery time expired; the last attempt said: {} {}", last.status, last.text);
    Reason { status: "4.4.7".into(), text, remote: last.remote.clone() }
}
