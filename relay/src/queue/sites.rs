//! Where queued jobs go: per site two queues, first attempts before retries, and the connections that serve them.
//!
//! Nothing here looks at more than the site that an event is about, so a site with a million messages costs the
//! others nothing. Connections are given out one by one, in turn, among the sites that want one.

use std::cell::Cell;
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::sync::Notify;
use chasqui_runtime::{HashMap, Instant};
use slab::Slab;

use super::messages::Job;
use crate::route::{Route, SiteKey};

/// A site of this shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SiteId(u32);

/// A retry served after this many first attempts when both wait, so that retries are not starved for good.
const FIRST_ATTEMPTS_PER_RETRY: u32 = 16;
/// Hosts remembered per site as not answering.
const DEAD_HOSTS_MAX: usize = 64;
/// How long a host that did not answer is left alone while the site has others.
const DEAD_HOST_REST: Duration = Duration::from_secs(30);

/// A retry in a site's queue; the oldest message comes first.
#[derive(Debug, PartialEq, Eq)]
struct Aged {
    arrived_ms: u64,
    job: Job,
}

/// Memory of a job in a site's queue.
#[cfg(test)]
pub(super) const ENTRY_BYTES: usize = size_of::<Aged>();

impl Ord for Aged {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.arrived_ms, &self.job).cmp(&(other.arrived_ms, &other.job))
    }
}

impl PartialOrd for Aged {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// An idle connection, waiting for work.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    called: Cell<bool>,
    wake: Notify,
}

impl Idle {
    /// Waits until there is work for this connection.
    pub(crate) async fn called(&self) {
        while !self.called.get() {
            self.wake.notified().await;
        }
    }
}

#[derive(Debug)]
struct Site {
    route: Rc<Route>,
    /// In order of arrival, but for messages that waited for a route.
    fresh: VecDeque<Aged>,
    retries: BinaryHeap<Reverse<Aged>>,
    /// Connections, those being opened included.
    connections: usize,
    /// Connections that have not finished a transaction yet.
    unproven: usize,
    idle: Vec<Rc<Idle>>,
    wanting: bool,
    /// Connections in a row that were of no use.
    failures: u32,
    /// No new connection before the probe that a timer has been set for.
    resting: bool,
    /// First attempts served since the last retry.
    since_retry: u32,
    dead_hosts: Vec<(SocketAddr, Instant)>,
    /// Why the site could not be reached.
    trouble: Option<Rc<str>>,
}

impl Site {
    fn queued(&self) -> usize {
        self.fresh.len() + self.retries.len()
    }

    fn wants_connection(&self, limit: usize) -> bool {
        // After a failure one connection at a time is tried, until one works.
        let unproven_max = if self.failures > 0 { 1 } else { self.queued() };
        !self.resting && self.connections < limit && self.unproven < unproven_max && self.has_work()
    }

    fn has_work(&self) -> bool {
        self.queued() > 0 && self.idle.is_empty()
    }

    fn is_spare(&self) -> bool {
        self.queued() == 0 && self.connections == 0 && !self.wanting && !self.resting
    }
}

/// Limits on the connections of a shard.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionLimits {
    /// To one site.
    pub(crate) per_site: usize,
    /// To all.
    pub(crate) total: usize,
}

/// The sites of a shard.
#[derive(Debug)]
pub(crate) struct Sites {
    limits: ConnectionLimits,
    sites: Slab<Site>,
    by_key: HashMap<SiteKey, SiteId>,
    /// Sites that want a connection, in turn.
    wanting: VecDeque<SiteId>,
    connections: usize,
}

impl Sites {
    pub(crate) fn new(limits: ConnectionLimits) -> Self {
        let (sites, by_key, wanting) = (Slab::new(), HashMap::default(), VecDeque::new());
        Sites { limits, sites, by_key, wanting, connections: 0 }
    }

    fn site(&mut self, site: SiteId) -> &mut Site {
        &mut self.sites[site.0 as usize]
    }

    /// The site of a route, which is remembered as its newest.
    pub(crate) fn of_route(&mut self, route: &Rc<Route>) -> SiteId {
        if let Some(&site) = self.by_key.get(&route.site) {
            let known = &mut self.site(site).route;
            if !Rc::ptr_eq(known, route) {
                *known = route.clone();
            }
            return site;
        }
        let site = Site {
            route: route.clone(),
            fresh: VecDeque::new(),
            retries: BinaryHeap::new(),
            connections: 0,
            unproven: 0,
            idle: Vec::new(),
            wanting: false,
            failures: 0,
            resting: false,
            since_retry: 0,
            dead_hosts: Vec::new(),
            trouble: None,
        };
        let id = SiteId(self.sites.insert(site) as u32);
        self.by_key.insert(route.site.clone(), id);
        id
    }

    /// Queues a first attempt.
    pub(crate) fn push_fresh(&mut self, site: SiteId, arrived_ms: u64, job: Job) {
        self.site(site).fresh.push_back(Aged { arrived_ms, job });
        self.attend(site);
    }

    /// Queues a retry.
    pub(crate) fn push_retry(&mut self, site: SiteId, arrived_ms: u64, job: Job) {
        self.site(site).retries.push(Reverse(Aged { arrived_ms, job }));
        self.attend(site);
    }

    /// Calls an idle connection, or has the site ask for one more.
    fn attend(&mut self, site: SiteId) {
        let limit = self.limits.per_site;
        let state = self.site(site);
        if let Some(idle) = state.idle.pop() {
            idle.called.set(true);
            idle.wake.notify_one();
        } else if !state.wanting && state.wants_connection(limit) {
            state.wanting = true;
            self.wanting.push_back(site);
        }
    }

    /// The next site that may open a connection now; the caller opens it.
    pub(crate) fn next_to_open(&mut self) -> Option<SiteId> {
        while self.connections < self.limits.total {
            let site = self.wanting.pop_front()?;
            let limit = self.limits.per_site;
            let state = self.site(site);
            state.wanting = false;
            if state.wants_connection(limit) {
                state.connections += 1;
                state.unproven += 1;
                self.connections += 1;
                self.attend(site);
                return Some(site);
            }
            self.forget_if_spare(site);
        }
        None
    }

    /// Sites wait for a connection that the limit on all connections does not allow: others should give theirs up.
    pub(crate) fn is_crowded(&self) -> bool {
        self.connections >= self.limits.total && !self.wanting.is_empty()
    }

    /// The addresses to try, in order, with the names of their hosts' place in the route. Hosts that lately did not
    /// answer come last.
    pub(crate) fn addresses(&mut self, site: SiteId, now: Instant) -> (Rc<Route>, Vec<(usize, SocketAddr)>) {
        let state = self.site(site);
        state.dead_hosts.retain(|(_, until)| *until > now);
        let route = state.route.clone();
        let hosts = route.hosts.iter().enumerate();
        let mut addresses: Vec<_> = hosts
            .flat_map(|(place, host)| host.addresses.iter().map(move |&address| (place, address)))
            .collect();
        addresses.sort_by_key(|(_, address)| state.dead_hosts.iter().any(|(dead, _)| dead == address));
        (route, addresses)
    }

    /// A host did not answer.
    pub(crate) fn host_failed(&mut self, site: SiteId, address: SocketAddr, now: Instant) {
        let dead = &mut self.site(site).dead_hosts;
        dead.retain(|(other, _)| *other != address);
        if dead.len() < DEAD_HOSTS_MAX {
            dead.push((address, now + DEAD_HOST_REST));
        }
    }

    /// A connection has finished its first transaction: the site works.
    pub(crate) fn proven(&mut self, site: SiteId) {
        let state = self.site(site);
        state.unproven -= 1;
        state.failures = 0;
        state.trouble = None;
        self.attend(site);
    }

    /// A connection has ended, after work or for lack of it.
    pub(crate) fn closed(&mut self, site: SiteId, proven: bool) {
        self.connections -= 1;
        let state = self.site(site);
        state.connections -= 1;
        state.unproven -= usize::from(!proven);
        self.attend(site);
        self.forget_if_spare(site);
    }

    /// A connection has ended without being of use: no host could be reached, or none would talk. The site rests
    /// until [`Sites::probe`]; gives how often in a row it has failed, or `None` when it rests already.
    pub(crate) fn useless(&mut self, site: SiteId, trouble: Rc<str>) -> Option<u32> {
        self.connections -= 1;
        let state = self.site(site);
        state.connections -= 1;
        state.unproven -= 1;
        state.trouble = Some(trouble);
        if std::mem::replace(&mut state.resting, true) {
            return None;
        }
        state.failures = state.failures.saturating_add(1);
        Some(state.failures)
    }

    /// The site has no connection that works, and the last attempt to get one failed: why.
    pub(crate) fn trouble(&mut self, site: SiteId) -> Option<Rc<str>> {
        let state = self.site(site);
        state.trouble.clone().filter(|_| state.failures > 0 && state.connections == state.unproven)
    }

    /// The rest of a site is over: one connection may be tried.
    pub(crate) fn probe(&mut self, site: SiteId) {
        self.site(site).resting = false;
        self.attend(site);
        self.forget_if_spare(site);
    }

    fn forget_if_spare(&mut self, site: SiteId) {
        if self.site(site).is_spare() {
            let gone = self.sites.remove(site.0 as usize);
            self.by_key.remove(&gone.route.site);
        }
    }

    /// The site's next job: first attempts before retries.
    pub(crate) fn take(&mut self, site: SiteId) -> Option<Job> {
        let state = self.site(site);
        let retry_is_due = state.since_retry >= FIRST_ATTEMPTS_PER_RETRY && !state.retries.is_empty();
        if !retry_is_due && let Some(first) = state.fresh.pop_front() {
            state.since_retry += 1;
            return Some(first.job);
        }
        state.since_retry = 0;
        state.retries.pop().map(|Reverse(retry)| retry.job)
    }

    /// Puts a job that could not be tried back at the head of its site's queue.
    pub(crate) fn put_back(&mut self, site: SiteId, arrived_ms: u64, job: Job) {
        self.site(site).fresh.push_front(Aged { arrived_ms, job });
        self.attend(site);
    }

    /// A job of a message that arrived before `arrived_ms` and is `wanted`, if there is one at the head of a queue, with
    /// why the site could not be reached.
    pub(crate) fn take_older(
        &mut self,
        site: SiteId,
        arrived_ms: u64,
        wanted: impl Fn(&Job) -> bool,
    ) -> Option<(Job, Option<Rc<str>>)> {
        let state = self.site(site);
        let old = |aged: &Aged| aged.arrived_ms <= arrived_ms && wanted(&aged.job);
        let job = if state.fresh.front().is_some_and(old) {
            state.fresh.pop_front()?.job
        } else if state.retries.peek().is_some_and(|Reverse(retry)| old(retry)) {
            state.retries.pop()?.0.job
        } else {
            return None;
        };
        Some((job, state.trouble.clone()))
    }

    /// Puts a connection among the idle ones of its site.
    pub(crate) fn rest(&mut self, site: SiteId, idle: &Rc<Idle>) {
        idle.called.set(false);
        self.site(site).idle.push(idle.clone());
    }

    /// Takes a connection out again. `false`: it has been called meanwhile and must look for work.
    pub(crate) fn stop_resting(&mut self, site: SiteId, idle: &Rc<Idle>) -> bool {
        let waiting = &mut self.site(site).idle;
        let place = waiting.iter().position(|other| Rc::ptr_eq(other, idle));
        place.map(|place| waiting.remove(place)).is_some()
    }

    /// Calls every idle connection: the relay is ending.
    pub(crate) fn call_all(&mut self) {
        for (_, site) in self.sites.iter_mut() {
            for idle in site.idle.drain(..) {
                idle.called.set(true);
                idle.wake.notify_one();
            }
        }
    }

    /// Open connections, those being opened included.
    pub(crate) fn connections(&self) -> usize {
        self.connections
    }

    /// Known sites.
    pub(crate) fn len(&self) -> usize {
        self.sites.len()
    }
}
