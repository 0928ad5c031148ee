//! Drives the queue: routes what comes in, wakes what is due, and records what became of each attempt.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::mailbox::Receiver;
use chasqui_runtime::{Instant, now, rng, sleep_until, spawn, timeout, wall_clock, yield_now};
use futures_lite::future::or;

use crate::bounce;
use crate::deliver;
use crate::queue::leases::Call;
use crate::queue::{Attempt, Due, Job, Promise, SiteId, probe_delay, retry_delay};
use crate::route::{Route, RouteError};
use crate::shard::Shard;
use crate::spool::{Envelope, MessageId, RecoveredMessage, State, StateChange};

/// A job that waits for the route of a domain.
#[derive(Debug)]
pub(crate) struct Waiting {
    job: Job,
    attempt: Attempt,
}

/// What became of an attempt to deliver a job. Together the recipients are the job's.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) delivered: Vec<u32>,
    pub(crate) failed: Vec<Failure>,
    pub(crate) deferred: Vec<u32>,
    /// Why those were deferred: the last reply, or what happened.
    pub(crate) reason: Reason,
}

/// A recipient that is given up.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) recipient: u32,
    pub(crate) reason: Reason,
}

/// Why a recipient failed, as a notification tells it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reason {
    /// Enhanced status code.
    pub(crate) status: Cow<'static, str>,
    /// What the next hop said, or what we found.
    pub(crate) text: String,
    /// The next hop that said it; `None` when it was us.
    pub(crate) remote: Option<Rc<str>>,
}

/// Jobs handled before other tasks get a turn.
pub(crate) const BATCH: usize = 64;
/// How long the recipients of a message wait for each other's routes.
const ROUTES_TOGETHER: Duration = Duration::from_millis(200);
/// Delay until something is tried again that failed on our own side.
const OWN_TROUBLE_DELAY: Duration = Duration::from_secs(60);
/// What a lookup of a route takes at most, by a wide margin: hosts of many names are looked up behind each other.
const LOOKUP_MAX: Duration = Duration::from_secs(300);
/// What we need for a job in hand besides the time limits of connections, by a wide margin.
const OWN_TIME_MAX: Duration = Duration::from_secs(60);

/// When a job that is taken in hand now has had an event, but for the time limits of a transaction.
pub(crate) fn in_hand_until() -> Instant {
    now() + OWN_TIME_MAX
}

pub(crate) fn wall_clock_ms() -> u64 {
    u64::try_from(wall_clock().as_millis()).unwrap_or(u64::MAX)
}

/// Queues what the spool recovered, oldest first.
pub(crate) fn rebuild(shard: &Rc<Shard>, mut recovered: Vec<RecoveredMessage>) {
    recovered.sort_by_key(|message| message.envelope.arrived_ms);
    let (instant, wall_ms) = (now(), wall_clock_ms());
    for RecoveredMessage { id, envelope, open } in recovered {
        let indices: Vec<u32> = open.iter().map(|recipient| recipient.index).collect();
        let envelope = Rc::new(envelope);
        let mut by_time = BTreeMap::<Option<u64>, Vec<u32>>::new();
        let mut attempts = 0;
        for recipient in open {
            let until_ms = recipient.deferral.map(|deferral| {
                attempts = attempts.max(deferral.attempts);
                deferral.until_ms
            });
            by_time.entry(until_ms).or_default().push(recipient.index);
        }
        let mut queue = shard.queue.borrow_mut();
        let job = queue.messages.add_open(id, envelope.clone(), &indices, attempts);
        let (times, groups): (Vec<_>, Vec<_>) = by_time.into_iter().unzip();
        let jobs = if groups.len() == 1 { vec![job] } else { queue.messages.split(job, &groups) };
        drop(queue);
        for (until_ms, job) in times.into_iter().zip(jobs) {
            match until_ms {
                None => shard.place(job, &envelope, Attempt::First),
                Some(until_ms) => {
                    let wait = Duration::from_millis(until_ms.saturating_sub(wall_ms));
                    shard.queue.borrow_mut().set_timer(instant + wait, job);
                }
            }
        }
    }
    shard.filled.notify_one();
    shard.open_connections();
}

/// Wakes what is due, for as long as the shard lives.
pub(crate) async fn timers(shard: Rc<Shard>) {
    loop {
        let next = shard.queue.borrow().timers.next();
        let set = shard.timer_set.notified();
        match next {
            None => set.await,
            Some(at) => or(sleep_until(at), set).await,
        }
        for woken in 0.. {
            let due = shard.queue.borrow_mut().timers.pop_due(now());
            match due {
                None => break,
                Some(_) if shard.is_draining() => {}
                Some(Due::Site(site)) => shard.probe(site),
                Some(Due::Job(job)) => shard.retry(job).await,
            }
            if woken % BATCH == BATCH - 1 {
                yield_now().await;
            }
        }
    }
}

/// Hears what other shards have to say of the limits of sites, for as long as the shard lives.
pub(crate) async fn calls(shard: Rc<Shard>, mut bell: Receiver<()>) {
    while bell.recv().await.is_some() {
        for call in shard.leases.calls(chasqui_runtime::shard()) {
            let mut queue = shard.queue.borrow_mut();
            match call {
                Call::Granted(site) => queue.sites.granted(&site),
                Call::Wanted(site) => queue.sites.wanted(&site),
            }
        }
        shard.open_connections();
    }
}

impl Shard {
    /// Queues a message that the spool has committed.
    pub(crate) fn enqueue(self: &Rc<Self>, id: MessageId, envelope: Rc<Envelope>) {
        let job = self.queue.borrow_mut().messages.add(id, envelope.clone());
        self.filled.notify_one();
        self.place(job, &envelope, Attempt::First);
        self.open_connections();
    }

    /// The envelope of a job's message, from memory or the spool. `None`: the spool cannot read it now.
    pub(crate) async fn envelope(&self, job: &Job) -> Option<Rc<Envelope>> {
        let (id, known) = {
            let queue = self.queue.borrow();
            (queue.messages.facts(job).id, queue.messages.envelope(job))
        };
        if known.is_some() {
            return known;
        }
        match self.spool.envelope(id).await {
            Ok(envelope) => envelope.map(Rc::new),
            Err(error) => {
                log::warn!("the envelope of {id} cannot be read: {error}");
                None
            }
        }
    }

    /// Puts a job where its recipients' routes say: at sites, or waiting for routes that are not known yet.
    pub(crate) fn place(self: &Rc<Self>, job: Job, envelope: &Rc<Envelope>, attempt: Attempt) {
        if let [recipient] = envelope.recipients.as_slice() {
            let domain = domain_of(recipient);
            let Some(job) = self.unless_held(&domain, job, attempt) else { return };
            return match self.router.route_cached(&domain) {
                Some(route) => self.place_routed(job, route, attempt),
                None => self.await_route(&domain, Waiting { job, attempt }),
            };
        }
        let unknown = self.place_known(job, envelope, attempt);
        if unknown.is_empty() {
            return;
        }
        let (shard, envelope) = (self.clone(), envelope.clone());
        spawn(async move {
            // What becomes known together shares sites and transactions; what takes longer waits by itself.
            let lookups = async {
                for (domain, _) in &unknown {
                    // Failures are cached too, and met again below.
                    let _cached = shard.router.route(domain).await;
                }
            };
            let _late = timeout(ROUTES_TOGETHER, lookups).await;
            let groups: Vec<Job> = unknown.into_iter().map(|(_, job)| job).collect();
            let Some(job) = shard.queue.borrow_mut().messages.join(groups) else { return };
            for (domain, job) in shard.place_known(job, &envelope, attempt) {
                shard.await_route(&domain, Waiting { job, attempt });
            }
            shard.open_connections();
        });
    }

    /// Places the recipients whose routes are known, and gives the others back, one job per domain. Domains that
    /// share a site share a job, and so do recipients that have no route.
    fn place_known(self: &Rc<Self>, job: Job, envelope: &Envelope, attempt: Attempt) -> Vec<(Rc<str>, Job)> {
        let mut recipients = Vec::new();
        self.queue.borrow().messages.recipients(&job, &mut recipients);
        let mut by_domain = BTreeMap::<Cow<'_, str>, Vec<u32>>::new();
        for recipient in recipients {
            by_domain.entry(domain_of(&envelope.recipients[recipient as usize])).or_default().push(recipient);
        }
        let mut sites = BTreeMap::<SiteId, (Rc<Route>, Vec<u32>)>::new();
        let (mut ways, mut groups) = (Vec::new(), Vec::new());
        for (domain, mut recipients) in by_domain {
            if self.queue.borrow().held.is_suspended(&domain) {
                ways.push(Way::Held(domain.as_ref().into()));
                groups.push(recipients);
                continue;
            }
            let way = match self.router.route_cached(&domain) {
                Some(Ok(route)) => {
                    let site = self.queue.borrow_mut().sites.of_route(&route);
                    sites.entry(site).or_insert_with(|| (route, Vec::new())).1.append(&mut recipients);
                    continue;
                }
                Some(Err(error)) => Way::Known(Err(error)),
                None => Way::Unknown(domain.as_ref().into()),
            };
            ways.push(way);
            groups.push(recipients);
        }
        for (route, mut recipients) in sites.into_values() {
            recipients.sort_unstable();
            ways.push(Way::Known(Ok(route)));
            groups.push(recipients);
        }
        let jobs = match groups.len() {
            1 => vec![job],
            _ => self.queue.borrow_mut().messages.split(job, &groups),
        };
        let mut unknown = Vec::new();
        for (job, way) in jobs.into_iter().zip(ways) {
            match way {
                Way::Known(route) => self.place_routed(job, route, attempt),
                Way::Unknown(domain) => unknown.push((domain, job)),
                Way::Held(domain) => {
                    let given_back = self.unless_held(&domain, job, attempt);
                    debug_assert!(given_back.is_none(), "looked at above");
                }
            }
        }
        unknown
    }

    /// Keeps a job of a suspended domain; gives it back when the domain is not.
    pub(crate) fn unless_held(&self, domain: &str, job: Job, attempt: Attempt) -> Option<Job> {
        let mut queue = self.queue.borrow_mut();
        if queue.held.is_empty() { Some(job) } else { queue.hold(domain, attempt, job) }
    }

    pub(crate) fn place_routed(
        self: &Rc<Self>,
        job: Job,
        route: Result<Rc<Route>, RouteError>,
        attempt: Attempt,
    ) {
        let route = match route {
            Ok(route) => route,
            Err(error) => {
                let shard = self.clone();
                spawn(async move { shard.no_route(job, &error).await });
                return;
            }
        };
        let mut queue = self.queue.borrow_mut();
        let site = queue.sites.of_route(&route);
        queue.push(site, attempt, job);
    }

    /// Has a job wait for a route; the first to wait for a domain has it looked up.
    fn await_route(self: &Rc<Self>, domain: &str, waiting: Waiting) {
        self.queue.borrow_mut().messages.promise(&waiting.job, Promise::By(now() + LOOKUP_MAX));
        let mut waiters = self.waiting.borrow_mut();
        if let Some(jobs) = waiters.get_mut(domain) {
            return jobs.push(waiting);
        }
        let domain: Rc<str> = domain.into();
        waiters.insert(domain.clone(), vec![waiting]);
        let shard = self.clone();
        spawn(async move {
            let route = shard.router.route(&domain).await;
            let jobs = shard.waiting.borrow_mut().remove(&domain).unwrap_or_default();
            for (placed, Waiting { job, attempt }) in jobs.into_iter().enumerate() {
                if let Some(job) = shard.unless_held(&domain, job, attempt) {
                    shard.place_routed(job, route.clone(), attempt);
                }
                if placed % BATCH == BATCH - 1 {
                    shard.open_connections();
                    yield_now().await;
                }
            }
            shard.open_connections();
        });
    }

    async fn no_route(self: &Rc<Self>, job: Job, error: &RouteError) {
        let reason = Reason { status: error.enhanced().into(), text: error.to_string(), remote: None };
        self.give_up_or_defer(job, reason, error.is_permanent()).await;
    }

    /// Settles a job whose recipients all met the same fate without an attempt to deliver them.
    pub(crate) async fn give_up_or_defer(self: &Rc<Self>, job: Job, reason: Reason, permanent: bool) {
        let Some(envelope) = self.envelope(&job).await else { return self.put_off(job) };
        let mut recipients = Vec::new();
        self.queue.borrow().messages.recipients(&job, &mut recipients);
        let outcome = if permanent {
            let fail = |recipient| Failure { recipient, reason: reason.clone() };
            Outcome { failed: recipients.into_iter().map(fail).collect(), ..Outcome::default() }
        } else {
            Outcome { deferred: recipients, reason, ..Outcome::default() }
        };
        self.settle(job, &envelope, outcome);
    }

    /// Opens the connections that sites want and the limits allow.
    pub(crate) fn open_connections(self: &Rc<Self>) {
        while !self.is_draining() {
            let Some(site) = self.queue.borrow_mut().sites.next_to_open() else { return };
            spawn(deliver::connection(self.clone(), site, self.deliveries.enter()));
        }
    }

    /// Defers one job of a site that could not be reached.
    pub(crate) async fn defer_one(self: &Rc<Self>, site: SiteId, reason: Reason) {
        let job = self.queue.borrow_mut().take(site, in_hand_until());
        if let Some(job) = job {
            self.give_up_or_defer(job, reason, false).await;
        }
    }

    /// A connection to a site was of no use: the site rests, and is probed later.
    pub(crate) fn rest_site(&self, site: SiteId, trouble: Rc<str>) {
        let mut queue = self.queue.borrow_mut();
        if let Some(failures) = queue.sites.useless(site, trouble) {
            let delay = probe_delay(&self.config.retry, failures, rng().unit());
            queue.timers.set(now() + delay, Due::Site(site));
            queue.sites.probe_at(site, now() + delay);
            drop(queue);
            self.timer_set.notify_one();
        }
    }

    /// A site's rest is over: one connection is tried.
    fn probe(self: &Rc<Self>, site: SiteId) {
        self.queue.borrow_mut().sites.probe(site);
        self.open_connections();
    }

    /// A job's delay is over.
    async fn retry(self: &Rc<Self>, job: Job) {
        let Some(envelope) = self.envelope(&job).await else { return self.put_off(job) };
        self.place(job, &envelope, Attempt::Retry);
        self.open_connections();
    }

    /// Tries a job again later because of trouble on our own side; the spool is not told.
    pub(crate) fn put_off(&self, job: Job) {
        self.queue.borrow_mut().set_timer(now() + OWN_TROUBLE_DELAY, job);
        self.timer_set.notify_one();
    }

    /// Records what became of a job, and does what follows: retries and notifications.
    pub(crate) fn settle(self: &Rc<Self>, job: Job, envelope: &Rc<Envelope>, mut outcome: Outcome) {
        let facts = self.queue.borrow().messages.facts(&job);
        if !outcome.deferred.is_empty() {
            let age = Duration::from_millis(wall_clock_ms().saturating_sub(facts.arrived_ms));
            if age >= self.config.retry.max_age {
                self.counters.expired.add(outcome.deferred.len());
                let reason = expiry(&outcome.reason);
                let fail = |recipient| Failure { recipient, reason: reason.clone() };
                outcome.failed.extend(outcome.deferred.drain(..).map(fail));
            }
        }
        let Outcome { delivered, failed, deferred, reason } = outcome;
        self.counters.delivered.add(delivered.len());
        if deferred.is_empty() && failed.is_empty() {
            self.record(&[StateChange { id: facts.id, recipients: &delivered, state: State::Delivered }]);
            self.queue.borrow_mut().messages.finish(job, &delivered);
            return;
        }
        if !delivered.is_empty() {
            self.record(&[StateChange { id: facts.id, recipients: &delivered, state: State::Delivered }]);
        }
        let Some(job) = self.queue.borrow_mut().messages.finish(job, &delivered) else { return };
        let groups = [deferred, failed.iter().map(|failure| failure.recipient).collect()];
        let (to_defer, to_fail) = match (groups[0].is_empty(), groups[1].is_empty()) {
            (false, true) => (Some(job), None),
            (true, false) => (None, Some(job)),
            _ => {
                let mut jobs = self.queue.borrow_mut().messages.split(job, &groups).into_iter();
                (jobs.next(), jobs.next())
            }
        };
        if let Some(job) = to_defer {
            self.defer(job, &groups[0], &reason);
        }
        if let Some(job) = to_fail {
            let (shard, envelope) = (self.clone(), envelope.clone());
            let counted = self.deliveries.enter();
            spawn(async move {
                let _place = shard.composing.acquire(1).await;
                bounce::give_up(&shard, job, &envelope, &failed).await;
                drop(counted);
            });
        }
    }

    fn defer(self: &Rc<Self>, job: Job, recipients: &[u32], reason: &Reason) {
        self.counters.deferred.add(recipients.len());
        let retry = &self.config.retry;
        let wall_ms = wall_clock_ms();
        let mut queue = self.queue.borrow_mut();
        let facts = queue.messages.facts(&job);
        let age = Duration::from_millis(wall_ms.saturating_sub(facts.arrived_ms));
        // The last attempt is made when the message expires, not after.
        let left = retry.max_age.saturating_sub(age);
        let delay = retry_delay(retry, age, rng().unit()).min(left);
        let attempts = queue.messages.count_attempt(&job);
        queue.messages.forget_envelope(&job);
        queue.set_timer(now() + delay, job);
        drop(queue);
        self.timer_set.notify_one();
        let until_ms = wall_ms + millis(delay);
        let state =
            State::Deferred { until_ms, attempts, reason: format!("{} {}", reason.status, reason.text) };
        self.record(&[StateChange { id: facts.id, recipients, state }]);
    }

    /// Has the spool record states. They need not be awaited: what a crash loses is done again.
    pub(crate) fn record(&self, changes: &[StateChange<'_>]) {
        if let Err(error) = self.spool.states(changes) {
            // The spool has sealed itself and said why; nothing more is begun.
            log::debug!("a state was not recorded: {error}");
        }
    }

    /// Recipients of a job are finished, and the spool knows.
    pub(crate) fn finish(&self, job: Job, recipients: &[u32]) {
        let rest = self.queue.borrow_mut().messages.finish(job, recipients);
        debug_assert!(rest.is_none(), "a job is finished whole");
    }
}

/// Where a group of recipients goes.
enum Way {
    Known(Result<Rc<Route>, RouteError>),
    Unknown(Rc<str>),
    /// To a suspended domain.
    Held(Rc<str>),
}

fn expiry(last: &Reason) -> Reason {
    let text = format!("delivery time expired; the last attempt said: {} {}", last.status, last.text);
    Reason { status: "4.4.7".into(), text, remote: last.remote.clone() }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The domain of an address, in lower case. Addresses were parsed when they came in.
pub(crate) fn domain_of(address: &str) -> Cow<'_, str> {
    let domain = address.rsplit_once('@').map_or(address, |(_, domain)| domain);
    if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(domain.to_ascii_lowercase())
    } else {
        Cow::Borrowed(domain)
    }
}
