//! Places jobs: at the sites that their recipients' routes say, or apart until a route is known. What comes into the queue's intake
//! is placed in turn; a job without a route is settled.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::{HashMap, now, spawn, timeout, yield_now};

use super::jobs::{self, BATCH, in_hand_until};
use super::outcome::{self, Outcome};
use super::untried;
use crate::context::Context;
use crate::queue::site_queue::SiteQueue;
use crate::queue::{Attempt, Deadline, Failure, Job, Reason, SiteId, Unplaced};
use crate::route::{Route, RouteError, domain_of};
use crate::spool::Envelope;

/// How long the recipients of a message wait for each other's routes.
const ROUTES_TOGETHER: Duration = Duration::from_millis(200);
/// What a lookup of a route takes at most, by a wide margin: hosts of many names are looked up behind each other.
const LOOKUP_MAX: Duration = Duration::from_secs(300);

/// Places the jobs of a shard.
pub(super) struct Scheduler {
    context: Rc<Context>,
    /// Jobs that wait for the route of a domain.
    waiting: RefCell<HashMap<Rc<str>, Vec<Waiting>>>,
}

/// A job that waits for the route of a domain.
#[derive(Debug)]
struct Waiting {
    job: Job,
    attempt: Attempt,
}

/// Where a group of recipients goes.
enum Placement {
    Known(Result<Rc<Route>, RouteError>),
    /// Nowhere, ever.
    Lost(Vec<Failure>),
    Unknown(Rc<str>),
    /// To a suspended domain.
    Suspended(Rc<str>),
}

impl Scheduler {
    pub(super) fn new(context: Rc<Context>) -> Rc<Scheduler> {
        Rc::new(Scheduler { context, waiting: RefCell::default() })
    }

    /// Places what comes into the queue's intake, for as long as the shard lives.
    pub(super) async fn run(self: Rc<Self>) {
        let filled = self.context.queue.borrow().intake.filled();
        loop {
            filled.notified().await;
            for placed in 1.. {
                let unplaced = self.context.queue.borrow_mut().intake.pop();
                match unplaced {
                    None => break,
                    Some(Unplaced::Job { job, envelope, attempt }) => {
                        self.tell_or_place(job, &envelope, attempt)
                    }
                    Some(Unplaced::Unrouted { domain, job, attempt }) => {
                        self.await_route(&domain, Waiting { job, attempt });
                    }
                    Some(Unplaced::Unroutable { job, error }) => {
                        self.place_routed(job, Err(error), Attempt::First);
                    }
                    Some(Unplaced::Resumed { domain, jobs }) => self.place_resumed(domain, jobs),
                }
                if placed % BATCH == 0 {
                    yield_now().await;
                }
            }
        }
    }

    /// Places a job, unless there is only something to be told of it.
    fn tell_or_place(self: &Rc<Self>, job: Job, envelope: &Rc<Envelope>, attempt: Attempt) {
        let untold = self.context.queue.borrow_mut().take_untold(&job);
        match untold {
            Some(failed) => {
                outcome::record(&self.context, job, envelope, Outcome { failed, ..Outcome::default() });
            }
            None => self.place(job, envelope, attempt),
        }
    }

    /// Puts a job where its recipients' routes say: at sites, or waiting for routes that are not known yet.
    pub(super) fn place(self: &Rc<Self>, job: Job, envelope: &Rc<Envelope>, attempt: Attempt) {
        if let [recipient] = envelope.recipients.as_slice() {
            let domain = domain_of(recipient);
            let held = self.context.queue.borrow_mut().unless_suspended(&domain, job, attempt);
            let Some(job) = held else { return };
            return match self.context.router.route_cached(&domain) {
                Some(route) => self.place_routed(job, route, attempt),
                None => self.await_route(&domain, Waiting { job, attempt }),
            };
        }
        let unknown = self.place_known(job, envelope, attempt);
        if unknown.is_empty() {
            return;
        }
        let (scheduler, envelope) = (self.clone(), envelope.clone());
        spawn(async move {
            // What becomes known together shares sites and transactions; what takes longer waits by itself.
            let lookups = async {
                for (domain, _) in &unknown {
                    // Failures are cached too, and met again below.
                    let _cached = scheduler.context.router.route(domain).await;
                }
            };
            let _late = timeout(ROUTES_TOGETHER, lookups).await;
            let groups: Vec<Job> = unknown.into_iter().map(|(_, job)| job).collect();
            let Some(job) = scheduler.context.queue.borrow_mut().messages.join(groups) else { return };
            for (domain, job) in scheduler.place_known(job, &envelope, attempt) {
                scheduler.await_route(&domain, Waiting { job, attempt });
            }
        });
    }

    /// Places the recipients whose routes are known, and gives the others back, one job per domain.
    fn place_known(
        self: &Rc<Self>,
        job: Job,
        envelope: &Rc<Envelope>,
        attempt: Attempt,
    ) -> Vec<(Rc<str>, Job)> {
        let (placements, groups) = self.sort(&job, envelope);
        let jobs = match groups.len() {
            1 => vec![job],
            _ => self.context.queue.borrow_mut().messages.split(job, &groups),
        };
        let mut unknown = Vec::new();
        for (job, placement) in jobs.into_iter().zip(placements) {
            match placement {
                Placement::Known(route) => self.place_routed(job, route, attempt),
                Placement::Lost(failed) => {
                    let (context, envelope) = (self.context.clone(), envelope.clone());
                    spawn(async move {
                        outcome::record(&context, job, &envelope, Outcome { failed, ..Outcome::default() });
                    });
                }
                Placement::Unknown(domain) => unknown.push((domain, job)),
                Placement::Suspended(domain) => {
                    let mut queue = self.context.queue.borrow_mut();
                    let given_back = queue.unless_suspended(&domain, job, attempt);
                    debug_assert!(given_back.is_none(), "looked at above");
                }
            }
        }
        unknown
    }

    /// Where a job's recipients go, in groups. Domains that share a site share a group; so do all recipients that will never have a
    /// route, whatever the reasons, and those that have none for now for the same one. What shares a group shares its
    /// notifications (RFC 3464: one for a message and attempt).
    fn sort(&self, job: &Job, envelope: &Envelope) -> (Vec<Placement>, Vec<Vec<u32>>) {
        let mut sites = BTreeMap::<SiteId, (Rc<Route>, Vec<u32>)>::new();
        let mut late = BTreeMap::<String, (RouteError, Vec<u32>)>::new();
        let mut lost = Vec::new();
        let (mut placements, mut groups) = (Vec::new(), Vec::new());
        for (domain, mut recipients) in self.by_domain(job, envelope) {
            if self.context.queue.borrow().suspensions.is_suspended(&domain) {
                placements.push(Placement::Suspended(domain.as_ref().into()));
                groups.push(recipients);
                continue;
            }
            match self.context.router.route_cached(&domain) {
                Some(Ok(route)) => {
                    let site = self.context.queue.borrow_mut().sites.of_route(&route);
                    sites.entry(site).or_insert_with(|| (route, Vec::new())).1.append(&mut recipients);
                }
                Some(Err(error)) if error.is_permanent() => {
                    let reason = Reason::of_route(&error);
                    let fail = |recipient| Failure { recipient, reason: reason.clone() };
                    lost.extend(recipients.into_iter().map(fail));
                }
                Some(Err(error)) => {
                    let alike = late.entry(error.to_string()).or_insert_with(|| (error, Vec::new()));
                    alike.1.append(&mut recipients);
                }
                None => {
                    placements.push(Placement::Unknown(domain.as_ref().into()));
                    groups.push(recipients);
                }
            }
        }
        let known = sites.into_values().map(|(route, recipients)| (Ok(route), recipients));
        let late = late.into_values().map(|(error, recipients)| (Err(error), recipients));
        for (route, mut recipients) in known.chain(late) {
            recipients.sort_unstable();
            placements.push(Placement::Known(route));
            groups.push(recipients);
        }
        if !lost.is_empty() {
            lost.sort_unstable_by_key(|failure| failure.recipient);
            groups.push(lost.iter().map(|failure| failure.recipient).collect());
            placements.push(Placement::Lost(lost));
        }
        (placements, groups)
    }

    /// A job's recipients by the domains of their addresses, in lower case.
    fn by_domain<'a>(&self, job: &Job, envelope: &'a Envelope) -> BTreeMap<Cow<'a, str>, Vec<u32>> {
        let mut recipients = Vec::new();
        self.context.queue.borrow().messages.recipients(job, &mut recipients);
        let mut by_domain = BTreeMap::<Cow<'_, str>, Vec<u32>>::new();
        for recipient in recipients {
            by_domain.entry(domain_of(&envelope.recipients[recipient as usize])).or_default().push(recipient);
        }
        by_domain
    }

    fn place_routed(self: &Rc<Self>, job: Job, route: Result<Rc<Route>, RouteError>, attempt: Attempt) {
        let route = match route {
            Ok(route) => route,
            Err(error) => {
                let context = self.context.clone();
                spawn(async move { untried::no_route(&context, job, &error).await });
                return;
            }
        };
        let mut queue = self.context.queue.borrow_mut();
        let site = queue.sites.of_route(&route);
        if attempt == Attempt::Retry
            && let Some(trouble) = queue.sites.trouble(site)
            && jobs::is_warning_due(&self.context, &queue.messages, &job)
        {
            // At a site that nobody reaches it might wait for long without another attempt.
            queue.messages.set_deadline(&job, Deadline::By(in_hand_until()));
            drop(queue);
            let (context, text) = (self.context.clone(), trouble.to_string());
            let reason = Reason { status: "4.4.1".into(), text, remote: None };
            spawn(async move { untried::tell_delay(&context, job, reason).await });
            return;
        }
        queue.push(site, attempt, job);
    }

    /// Has a job wait for a route; the first to wait for a domain has it looked up.
    fn await_route(self: &Rc<Self>, domain: &str, waiting: Waiting) {
        self.context.queue.borrow_mut().messages.set_deadline(&waiting.job, Deadline::By(now() + LOOKUP_MAX));
        let mut waiters = self.waiting.borrow_mut();
        if let Some(jobs) = waiters.get_mut(domain) {
            return jobs.push(waiting);
        }
        let domain: Rc<str> = domain.into();
        waiters.insert(domain.clone(), vec![waiting]);
        let scheduler = self.clone();
        spawn(async move {
            let route = scheduler.context.router.route(&domain).await;
            let jobs = scheduler.waiting.borrow_mut().remove(&domain).unwrap_or_default();
            for (placed, Waiting { job, attempt }) in jobs.into_iter().enumerate() {
                scheduler.place_at(&domain, job, route.clone(), attempt);
                if placed % BATCH == BATCH - 1 {
                    yield_now().await;
                }
            }
        });
    }

    /// Places what waited for a domain.
    fn place_resumed(self: &Rc<Self>, domain: Rc<str>, mut jobs: SiteQueue) {
        let scheduler = self.clone();
        spawn(async move {
            let route = scheduler.context.router.route(&domain).await;
            for placed in 1.. {
                let Some((attempt, job)) = jobs.take(0) else { break };
                scheduler.place_at(&domain, job, route.clone(), attempt);
                if placed % BATCH == 0 {
                    yield_now().await;
                }
            }
        });
    }

    /// Places a job of one domain, whose route is known, unless the domain is suspended.
    fn place_at(
        self: &Rc<Self>,
        domain: &str,
        job: Job,
        route: Result<Rc<Route>, RouteError>,
        attempt: Attempt,
    ) {
        let job = self.context.queue.borrow_mut().unless_suspended(domain, job, attempt);
        if let Some(job) = job {
            self.place_routed(job, route, attempt);
        }
    }
}
