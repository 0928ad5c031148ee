//! What became of an attempt: states for the spool, the next retry, and what the sender is to be told.
//!
//! A *round* is one attempt at a job: the recipients of a message that went together in one transaction, or that met
//! the same trouble before one. What the sender is to be told of a round stands in one notification, which enters the
//! spool in one group with the states of the round.

use std::borrow::Cow;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::{Instant, now, rng, spawn};
use smallvec::SmallVec;

use crate::clock::wall_clock_ms;
use crate::context::Shard;
use crate::delivery::scheduler::in_hand_until;
use crate::dsn;
use crate::queue::messages::Facts;
use crate::queue::{Job, Origin, Promise, retry_delay};
use crate::route::RouteError;
use crate::spool::{Envelope, MessageId, SpoolError, State, StateChange};

/// Indices of recipients: few, as a rule.
pub(crate) type Recipients = SmallVec<[u32; 4]>;

/// What became of an attempt to deliver a job. Together the recipients are the job's.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) delivered: Recipients,
    /// What the next hop said to the message, if some of those delivered want to know of it and the next hop will not
    /// tell them.
    pub(crate) relayed: Option<Reason>,
    pub(crate) failed: Vec<Failure>,
    pub(crate) deferred: Vec<u32>,
    /// Why those were deferred: the last reply, or what happened.
    pub(crate) reason: Reason,
    /// What those deferred have met.
    pub(crate) met: Met,
    /// Where it was tried.
    pub(crate) origin: Option<Origin>,
}

impl Outcome {
    /// The recipients of whom nothing more is to come.
    pub(crate) fn decided(&self) -> impl Iterator<Item = u32> {
        let failed = self.failed.iter().map(|failure| failure.recipient);
        self.delivered.iter().copied().chain(failed)
    }
}

/// What the recipients of a job have met that are deferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Met {
    /// An attempt has failed: at a host, at all hosts of the site, or at the DNS.
    #[default]
    Failure,
    /// Nothing was tried: they go on waiting where they did.
    Nothing,
    /// Trouble on our own side, which may pass soon. It is no attempt.
    OwnTrouble,
    /// The message is damaged. It is no attempt, and looked at again less and less often, because memory may have been at fault
    /// and not the disk.
    Damage,
}

/// Of its age a damaged message waits this share until it is looked at again.
const DAMAGE_WAIT_SHARE: u32 = 8;

/// A recipient that is given up.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) recipient: u32,
    pub(crate) reason: Reason,
}

/// Why a recipient failed or waits, as a notification tells it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reason {
    /// Enhanced status code.
    pub(crate) status: Cow<'static, str>,
    /// What the next hop said, or what we found.
    pub(crate) text: String,
    /// The next hop that said it; `None` when it was us.
    pub(crate) remote: Option<Rc<str>>,
}

/// What of its age limit a message has left when its last but one attempt is due.
const LAST_WAIT_SHARE: u32 = 16;
const LAST_WAIT_MAX: Duration = Duration::from_secs(600);
/// When a job goes back to where it waited, after its sender was told of it.
const BACK_IN_LINE: Duration = Duration::from_secs(1);

/// What a round comes to.
struct Round {
    id: MessageId,
    delivered: Recipients,
    failed: Vec<u32>,
    /// Deferred, and the time to tell of it has not come.
    early: Vec<u32>,
    /// Deferred, and nothing more is to be told of it.
    told: Vec<u32>,
    /// Those of `told`, all or none, for whom the time has come in this round.
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

impl Reason {
    /// Why there is no route.
    pub(crate) fn of_route(error: &RouteError) -> Reason {
        Reason { status: error.enhanced().into(), text: error.to_string(), remote: None }
    }
}

impl Shard {
    /// Records what became of a job, and does what follows: retries and notifications.
    pub(crate) fn settle(self: &Rc<Self>, job: Job, envelope: &Rc<Envelope>, mut outcome: Outcome) {
        let facts = self.queue.borrow().messages.facts(&job);
        self.counters.delivered.add(outcome.delivered.len());
        if outcome.deferred.is_empty() && outcome.failed.is_empty() && outcome.relayed.is_none() {
            let delivered = &outcome.delivered;
            self.record(&[StateChange { id: facts.id, recipients: delivered, state: State::Delivered }]);
            self.queue.borrow_mut().messages.finish(job, delivered);
            return;
        }
        let age = self.age(facts);
        if !outcome.deferred.is_empty() && age >= self.config.retry.max_age {
            self.counters.expired.add(outcome.deferred.len());
            let reason = expiry(&outcome.reason);
            let fail = |recipient| Failure { recipient, reason: reason.clone() };
            outcome.failed.extend(outcome.deferred.drain(..).map(fail));
        }
        let round = self.judge(&job, facts, age, &outcome);
        let notices = dsn::notices(self, facts.id, envelope, outcome, &round.late);
        if notices.is_empty() {
            self.record(&round.states());
            return self.conclude(job, round);
        }
        self.queue.borrow_mut().messages.promise(&job, Promise::By(in_hand_until()));
        let (shard, envelope, counted) = (self.clone(), envelope.clone(), self.deliveries.enter());
        spawn(async move {
            shard.tell_round(job, &envelope, round, &notices).await;
            drop(counted);
        });
    }

    /// Tells the sender of a round, in one group of the spool with its states.
    async fn tell_round(
        self: &Rc<Self>,
        job: Job,
        envelope: &Envelope,
        mut round: Round,
        notices: &[dsn::Notice],
    ) {
        match dsn::send(self, round.id, envelope, notices, &round.states()).await {
            Ok((id, notification)) => {
                self.counters.notifications.add(1);
                self.conclude(job, round);
                self.enqueue(id, notification);
            }
            Err(error) => {
                log::warn!("{}: its notification cannot be kept: {error}", round.id);
                if error == SpoolError::NoSpace {
                    self.short_of_room.borrow_mut().insert(round.id);
                }
                round.leave_untold(notices);
                self.record(&round.states());
                self.conclude(job, round);
            }
        }
    }

    fn judge(&self, job: &Job, facts: Facts, age: Duration, outcome: &Outcome) -> Round {
        let retry = &self.config.retry;
        // The last attempts are made shortly before the message expires, so that there is time to wait for a connection,
        // and when it does, not after; so is the one that a warning tells of.
        let last = retry.max_age - (retry.max_age / LAST_WAIT_SHARE).min(LAST_WAIT_MAX);
        let end = if age < last { last } else { retry.max_age };
        let attempts = match outcome.met {
            Met::Failure if !outcome.deferred.is_empty() => {
                self.queue.borrow_mut().messages.count_attempt(job)
            }
            _ => self.queue.borrow().messages.attempts(job),
        };
        let scheduled = retry_delay(retry, attempts, rng().unit());
        let own = self.own_trouble_delay();
        let delay = match outcome.met {
            Met::Failure => scheduled,
            Met::Nothing => scheduled.min(BACK_IN_LINE),
            Met::OwnTrouble => own,
            Met::Damage => own.max((age / DAMAGE_WAIT_SHARE).min(retry.max)),
        };
        let mut delay = delay.min(end.saturating_sub(age));
        let mut round = Round {
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
            return round;
        }
        let deferred = outcome.deferred.clone();
        match self.warning_age() {
            _ if self.queue.borrow().messages.is_told(job) => round.told = deferred,
            Some(warning) if age >= warning => {
                round.late = deferred.clone();
                round.told = deferred;
            }
            Some(warning) => {
                delay = delay.min(warning - age);
                round.early = deferred;
            }
            None => round.early = deferred,
        }
        round.retry = now() + delay;
        round.until_ms = wall_clock_ms() + millis(delay);
        round.reason = format!("{} {}", outcome.reason.status, outcome.reason.text);
        round
    }

    /// Age at which the sender of an undelivered message is warned, if ever.
    pub(crate) fn warning_age(&self) -> Option<Duration> {
        let bounce = &self.config.bounce;
        Some(bounce.delay_warning).filter(|age| bounce.enabled && !age.is_zero())
    }

    /// The spool knows what a round came to: now the queue does.
    fn conclude(&self, job: Job, round: Round) {
        self.counters.bounced.add(round.failed.len());
        let finished = [round.delivered.as_slice(), round.failed.as_slice()].concat();
        let mut queue = self.queue.borrow_mut();
        let Some(job) = queue.messages.finish(job, &finished) else { return };
        let is_told = !round.told.is_empty();
        let groups = [[round.early, round.told].concat(), round.put_off];
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
            self.counters.deferred.add(groups[0].len());
            queue.messages.forget_envelope(&job);
            if is_told {
                queue.messages.set_told(&job);
            }
            let site = round.origin.and_then(|origin| queue.sites.defer(origin));
            queue.set_timer(round.retry, job, site);
            self.timer_set.notify_one();
        }
        drop(queue);
        if let Some(job) = put_off {
            self.put_off(job);
        }
    }

    /// Has the spool record states. They need not be awaited: what a crash loses is done again.
    fn record(&self, changes: &[StateChange<'_>]) {
        if let Err(error) = self.spool.states(changes) {
            // The spool has sealed itself and said why; nothing more is begun.
            log::debug!("a state was not recorded: {error}");
        }
    }
}

impl Round {
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

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
