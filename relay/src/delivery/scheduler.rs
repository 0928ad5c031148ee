//! Drives the queue: routes what comes in and wakes what is due. What became of an attempt is for [`crate::delivery::outcome`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::mailbox::Receiver;
use chasqui_runtime::sync::Semaphore;
use chasqui_runtime::{
    HashSet, Instant, now, offload, process, rng, sleep, sleep_until, spawn, timeout, turn_time, yield_now,
};
use futures_lite::future::or;

use crate::clock::wall_clock_ms;
use crate::context::Shard;
use crate::delivery;
use crate::delivery::outcome::{Failure, Met, Outcome, Reason};
use crate::queue::leases::Call;
use crate::queue::messages::Facts;
use crate::queue::{Attempt, Due, Job, Messages, Origin, PAUSE, Promise, Queue, SiteId, probe_delay};
use crate::route::{Route, RouteError};
use crate::spool::{Envelope, Handover, MessageId, RecoveredMessage};
use crate::tasks::Guard;

/// A job that waits for the route of a domain.
#[derive(Debug)]
pub(crate) struct Waiting {
    job: Job,
    attempt: Attempt,
}

/// Jobs handled before other tasks get a turn.
pub(crate) const BATCH: usize = 64;
/// Retries that read their envelopes at the same time.
const RETRIES_AT_ONCE: usize = 64;
/// How long the recipients of a message wait for each other's routes.
const ROUTES_TOGETHER: Duration = Duration::from_millis(200);
/// Delay until something is tried again that failed on our own side, unless retries wait less.
const OWN_TROUBLE_DELAY: Duration = Duration::from_secs(60);
/// How often it is looked whether slow receivers hold connections that others wait for.
const RELIEF_EVERY: Duration = Duration::from_millis(250);
/// Time between two looks at what waits for room in the spool.
const ROOM_AGAIN: Duration = Duration::from_secs(1);
/// Time between two log lines that tell what we lack.
const LACK_LOG_EVERY: Duration = Duration::from_secs(10);
/// What a lookup of a route takes at most, by a wide margin: hosts of many names are looked up behind each other.
const LOOKUP_MAX: Duration = Duration::from_secs(300);
/// What we need for a job in hand besides the time limits of connections, by a wide margin.
const OWN_TIME_MAX: Duration = Duration::from_secs(60);

/// When a job that is taken in hand now has had an event, but for the time limits of a transaction.
pub(crate) fn in_hand_until() -> Instant {
    turn_time() + OWN_TIME_MAX
}

/// Queues what the spool has recovered, nearly the oldest first. Mail is taken and delivered meanwhile.
pub(crate) async fn refill(shard: Rc<Shard>, mut recovered: Handover, counted: (Guard, Guard)) {
    let (refilling, _delivering) = counted;
    let mut refilling = Some(refilling);
    loop {
        while !shard.is_draining()
            && let Some(batch) = recovered.next().await
        {
            shard.unqueued.set(recovered.len());
            requeue(&shard, batch);
            yield_now().await;
        }
        if refilling.take().is_some() {
            // What the start needed is large, and lies between what stays.
            offload(process::give_back_memory).await;
        }
        if shard.is_draining() || !recovered.again() {
            return;
        }
        let drain = shard.drain_begins.notified();
        or(sleep_until(now() + shard.own_trouble_delay()), drain).await;
    }
}

fn requeue(shard: &Rc<Shard>, mut recovered: Vec<RecoveredMessage>) {
    let arrival_ms = |envelope: &Envelope| shard.past.borrow().arrival_ms(&shard.clock, envelope);
    recovered.sort_by_cached_key(|message| arrival_ms(&message.envelope));
    let (instant, wall_ms) = (now(), wall_clock_ms());
    let retry = &shard.config.retry;
    for RecoveredMessage { id, envelope, open } in recovered {
        let indices: Vec<u32> = open.iter().map(|recipient| recipient.index).collect();
        let envelope = Rc::new(envelope);
        let mut by_time = BTreeMap::<Option<(u64, bool)>, Vec<u32>>::new();
        let mut attempts = 0;
        for recipient in open {
            let deferral = recipient.deferral.map(|deferral| {
                attempts = attempts.max(deferral.attempts);
                (deferral.until_ms, deferral.warned)
            });
            by_time.entry(deferral).or_default().push(recipient.index);
        }
        let mut queue = shard.queue.borrow_mut();
        let job = queue.messages.add_open(id, envelope.clone(), &indices, attempts);
        queue.messages.set_arrival(&job, arrival_ms(&envelope));
        let (times, groups): (Vec<_>, Vec<_>) = by_time.into_iter().unzip();
        let jobs = if groups.len() == 1 { vec![job] } else { queue.messages.split(job, &groups) };
        drop(queue);
        for (deferral, job) in times.into_iter().zip(jobs) {
            let Some((until_ms, told)) = deferral else {
                shard.place(job, &envelope, Attempt::First);
                continue;
            };
            // A wall clock that was ahead when it was deferred must not keep it for longer than any retry.
            let longest = retry.max.mul_f64(1.0 - retry.jitter * rng().unit());
            let wait = Duration::from_millis(until_ms.saturating_sub(wall_ms)).min(longest);
            let mut queue = shard.queue.borrow_mut();
            if told {
                queue.messages.set_told(&job);
            }
            queue.set_timer(instant + wait, job, None);
        }
    }
    shard.filled.notify_one();
    shard.timer_set.notify_one();
    shard.open_connections();
}

/// Wakes what is due, for as long as the shard lives. A retry reads its envelope from the disk: many do at a time.
pub(crate) async fn timers(shard: Rc<Shard>) {
    let retrying = Semaphore::new(RETRIES_AT_ONCE);
    loop {
        let next = shard.queue.borrow().timers.next();
        let set = shard.timer_set.notified();
        match next {
            None => set.await,
            Some(at) => or(sleep_until(at), set).await,
        }
        for woken in 0.. {
            let due = shard.queue.borrow_mut().pop_due(now());
            match due {
                None => break,
                Some(_) if shard.is_draining() => {}
                Some(Due::Site(site)) => shard.probe(site),
                Some(Due::Job(job, _)) => {
                    let (shard, permit) = (shard.clone(), retrying.acquire(1).await);
                    spawn(async move {
                        shard.retry(job).await;
                        drop(permit);
                    });
                }
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

/// Sees to it that slow receivers keep no connection from others, for as long as the shard lives.
pub(crate) async fn relieve(shard: Rc<Shard>) {
    loop {
        shard.held_up.notified().await;
        let mut pause = RELIEF_EVERY;
        while shard.may_deliver() && shard.queue.borrow().sites.is_held_up() {
            sleep(pause).await;
            let is_urgent = shard.queue.borrow_mut().sites.relieve(now());
            pause = if is_urgent { RELIEF_EVERY } else { RELIEF_EVERY * 8 };
            shard.open_connections();
        }
    }
}

/// Tries again at once what waits for room in the spool, when there is some; for as long as the shard lives.
pub(crate) async fn room(shard: Rc<Shard>) {
    loop {
        shard.spool.space_returns().await;
        let short = shard.short_of_room.take();
        if !short.is_empty() {
            shard.hurry(&short);
        }
        shard.open_connections();
        // One pass over the timers a second at most.
        sleep(ROOM_AGAIN).await;
    }
}

impl Shard {
    /// Makes deferred jobs of these messages due.
    fn hurry(&self, messages: &HashSet<MessageId>) {
        let mut queue = self.queue.borrow_mut();
        let Queue { timers, messages: queued, .. } = &mut *queue;
        timers.hurry(now(), |due| match due {
            Due::Job(job, _) => messages.contains(&queued.facts(job).id),
            Due::Site(_) => false,
        });
        drop(queue);
        self.timer_set.notify_one();
    }

    /// Queues a message that the spool has committed.
    pub(crate) fn enqueue(self: &Rc<Self>, id: MessageId, envelope: Rc<Envelope>) {
        let job = {
            let messages = &mut self.queue.borrow_mut().messages;
            let job = messages.add(id, envelope.clone());
            messages.set_arrival(&job, self.clock.now_ms());
            job
        };
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
    /// share a site share a job; so do all recipients that will never have a route, whatever the reasons, and those
    /// that have none for now for the same one. What shares a job shares its notifications (RFC 3464: one for a
    /// message and round).
    fn place_known(
        self: &Rc<Self>,
        job: Job,
        envelope: &Rc<Envelope>,
        attempt: Attempt,
    ) -> Vec<(Rc<str>, Job)> {
        let mut recipients = Vec::new();
        self.queue.borrow().messages.recipients(&job, &mut recipients);
        let mut by_domain = BTreeMap::<Cow<'_, str>, Vec<u32>>::new();
        for recipient in recipients {
            by_domain.entry(domain_of(&envelope.recipients[recipient as usize])).or_default().push(recipient);
        }
        let mut sites = BTreeMap::<SiteId, (Rc<Route>, Vec<u32>)>::new();
        let mut late = BTreeMap::<String, (RouteError, Vec<u32>)>::new();
        let mut lost = Vec::new();
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
                Some(Err(error)) if error.is_permanent() => {
                    let reason = Reason::of_route(&error);
                    let fail = |recipient| Failure { recipient, reason: reason.clone() };
                    lost.extend(recipients.into_iter().map(fail));
                    continue;
                }
                Some(Err(error)) => {
                    let alike = late.entry(error.to_string()).or_insert_with(|| (error, Vec::new()));
                    alike.1.append(&mut recipients);
                    continue;
                }
                None => Way::Unknown(domain.as_ref().into()),
            };
            ways.push(way);
            groups.push(recipients);
        }
        let known = sites.into_values().map(|(route, recipients)| (Ok(route), recipients));
        let late = late.into_values().map(|(error, recipients)| (Err(error), recipients));
        for (route, mut recipients) in known.chain(late) {
            recipients.sort_unstable();
            ways.push(Way::Known(route));
            groups.push(recipients);
        }
        if !lost.is_empty() {
            lost.sort_unstable_by_key(|failure| failure.recipient);
            groups.push(lost.iter().map(|failure| failure.recipient).collect());
            ways.push(Way::Lost(lost));
        }
        let jobs = match groups.len() {
            1 => vec![job],
            _ => self.queue.borrow_mut().messages.split(job, &groups),
        };
        let mut unknown = Vec::new();
        for (job, way) in jobs.into_iter().zip(ways) {
            match way {
                Way::Known(route) => self.place_routed(job, route, attempt),
                Way::Lost(failed) => {
                    let (shard, envelope) = (self.clone(), envelope.clone());
                    spawn(async move {
                        shard.settle(job, &envelope, Outcome { failed, ..Outcome::default() });
                    });
                }
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
        if attempt == Attempt::Retry
            && let Some(trouble) = queue.sites.trouble(site)
            && self.is_warning_due(&queue.messages, &job)
        {
            // At a site that nobody reaches it might wait for long without another attempt.
            queue.messages.promise(&job, Promise::By(in_hand_until()));
            drop(queue);
            let (shard, text) = (self.clone(), trouble.to_string());
            let reason = Reason { status: "4.4.1".into(), text, remote: None };
            spawn(async move { shard.tell_delay(job, reason).await });
            return;
        }
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
        if let RouteError::Lacking(_) = error {
            let reason = Reason::of_route(error);
            return self.wait_on(job, reason, Met::OwnTrouble).await;
        }
        self.give_up_or_defer(job, Reason::of_route(error), error.is_permanent(), None).await;
    }

    /// Settles a job whose recipients all met the same fate without an attempt to deliver them.
    async fn give_up_or_defer(
        self: &Rc<Self>,
        job: Job,
        reason: Reason,
        permanent: bool,
        origin: Option<Origin>,
    ) {
        let Some(envelope) = self.envelope(&job).await else { return self.put_off(job) };
        let mut recipients = Vec::new();
        self.queue.borrow().messages.recipients(&job, &mut recipients);
        let outcome = if permanent {
            let fail = |recipient| Failure { recipient, reason: reason.clone() };
            Outcome { failed: recipients.into_iter().map(fail).collect(), ..Outcome::default() }
        } else {
            Outcome { deferred: recipients, reason, origin, ..Outcome::default() }
        };
        self.settle(job, &envelope, outcome);
    }

    /// Settles a job that goes on waiting without an attempt, because of its age: its sender is told, or it is too old.
    pub(crate) async fn tell_delay(self: &Rc<Self>, job: Job, reason: Reason) {
        self.wait_on(job, reason, Met::Nothing).await;
    }

    /// Settles a job that was not tried.
    async fn wait_on(self: &Rc<Self>, job: Job, reason: Reason, met: Met) {
        let Some(envelope) = self.envelope(&job).await else { return self.put_off(job) };
        let mut deferred = Vec::new();
        self.queue.borrow().messages.recipients(&job, &mut deferred);
        self.settle(job, &envelope, Outcome { deferred, reason, met, ..Outcome::default() });
    }

    /// Opens the connections that sites want and the limits allow.
    pub(crate) fn open_connections(self: &Rc<Self>) {
        while self.may_deliver() {
            let Some(slot) = self.queue.borrow_mut().sites.next_to_open(turn_time()) else { break };
            spawn(delivery::connection(self.clone(), slot, self.deliveries.enter()));
        }
        if self.may_deliver() && self.queue.borrow().sites.is_held_up() {
            self.held_up.notify_one();
        }
    }

    /// What is delivered while nothing can be recorded would be delivered again.
    pub(crate) fn may_deliver(&self) -> bool {
        !self.is_draining() && self.spool.can_record()
    }

    /// Defers one job of a site that could not be reached, or gives it up; `false`: there is none.
    pub(crate) async fn give_up_one(self: &Rc<Self>, site: SiteId, reason: Reason, permanent: bool) -> bool {
        let (job, origin) = {
            let mut queue = self.queue.borrow_mut();
            (queue.take(site, in_hand_until()), queue.sites.origin(site))
        };
        let Some(mut job) = job else { return false };
        if permanent {
            // Those before it have been returned, or nearly: a million that fail at once are not all in hand.
            drop(self.composing.acquire(1).await);
            let Some(envelope) = self.envelope(&job).await else {
                self.put_off(job);
                return true;
            };
            match self.hold_suspended(job, &envelope) {
                Some(others) => job = others,
                None => return true,
            }
        }
        self.give_up_or_defer(job, reason, permanent, Some(origin)).await;
        true
    }

    /// No host of a site can be used: it rests, and is probed later.
    pub(crate) fn rest_site(&self, site: SiteId, trouble: Rc<str>) {
        let failures = self.queue.borrow_mut().sites.failed(site, trouble);
        if let Some(failures) = failures {
            self.probe_later(site, probe_delay(&self.config.retry, failures, rng().unit()));
        }
    }

    /// No new connection to a site for a moment.
    pub(crate) fn pause_site(&self, site: SiteId) {
        if self.queue.borrow_mut().sites.pause(site) {
            self.probe_later(site, PAUSE);
        }
    }

    /// A connection could not be opened for lack of something that is ours. That says nothing of the site.
    pub(crate) fn lack(&self, site: SiteId, text: &str) {
        let now = now();
        if self.lacked.get().is_none_or(|lacked| now - lacked >= LACK_LOG_EVERY) {
            self.lacked.set(Some(now));
            log::warn!("{text}: mail waits; raise the limit on open files, or lower delivery.connections");
        }
        self.pause_site(site);
    }

    fn probe_later(&self, site: SiteId, delay: Duration) {
        let mut queue = self.queue.borrow_mut();
        queue.timers.set(now() + delay, Due::Site(site));
        queue.sites.probe_at(site, now() + delay);
        drop(queue);
        self.timer_set.notify_one();
    }

    /// Whether the sender of a job that has not been delivered is to be told so now.
    pub(crate) fn is_warning_due(&self, messages: &Messages, job: &Job) -> bool {
        let age = self.age(messages.facts(job));
        self.warning_age().is_some_and(|warning| age >= warning) && !messages.is_told(job)
    }

    /// How long ago a message has arrived, by the relay's clock.
    pub(crate) fn age(&self, facts: Facts) -> Duration {
        Duration::from_millis(self.clock.now_ms().saturating_sub(facts.arrived_ms))
    }

    /// A message has reached its age limit.
    pub(crate) fn is_expired(&self, job: &Job) -> bool {
        let facts = self.queue.borrow().messages.facts(job);
        self.age(facts) >= self.config.retry.max_age
    }

    /// A site's rest is over: one connection is tried.
    fn probe(self: &Rc<Self>, site: SiteId) {
        self.queue.borrow_mut().sites.probe(site);
        self.open_connections();
    }

    /// A job's delay is over.
    async fn retry(self: &Rc<Self>, job: Job) {
        let Some(envelope) = self.envelope(&job).await else { return self.put_off(job) };
        let is_told = self.queue.borrow().messages.is_told(&job);
        self.place(job, &envelope, if is_told { Attempt::Told } else { Attempt::Retry });
        self.open_connections();
    }

    /// Tries a job again later because of trouble on our own side; the spool is not told.
    pub(crate) fn put_off(&self, job: Job) {
        self.queue.borrow_mut().set_timer(now() + self.own_trouble_delay(), job, None);
        self.timer_set.notify_one();
    }

    /// Delay until something is tried again that failed on our own side.
    pub(crate) fn own_trouble_delay(&self) -> Duration {
        OWN_TROUBLE_DELAY.min(self.config.retry.max)
    }
}

/// Where a group of recipients goes.
enum Way {
    Known(Result<Rc<Route>, RouteError>),
    /// Nowhere, ever.
    Lost(Vec<Failure>),
    Unknown(Rc<str>),
    /// To a suspended domain.
    Held(Rc<str>),
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
