//! Where queued jobs go: per site two queues, first attempts before retries, and the connections that serve them.
//!
//! Nothing here looks at more than the site that an event is about, so a site with a million messages costs the
//! others nothing. Connections are given out one by one, in turn, among the sites that want one.

mod hosts;
mod idle;
mod jobs;
mod overview;
mod proven;
mod slots;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;

use chasqui_runtime::sync::Notify;
use chasqui_runtime::{HashMap, Instant, sim};
use slab::Slab;

use super::leases::{Leases, SiteLease};
use super::site_queue::SiteQueue;
use crate::route::{Route, SiteKey};

pub(crate) use hosts::PAUSE;
use hosts::Record;
pub(crate) use idle::{Called, Idle};
pub(crate) use overview::ListedSite;
use proven::Proven;
use slots::{Class, Wanting};
pub(crate) use slots::{Revoked, Slot, Stage};

/// A site of this shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SiteId(NonZeroU32);

impl SiteId {
    fn of(place: usize) -> SiteId {
        SiteId(u32::try_from(place + 1).ok().and_then(NonZeroU32::new).expect("fewer sites than messages"))
    }

    fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// A site as it is now, for whoever may come back when it has been forgotten.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    site: SiteId,
    serial: u64,
}

/// Connections opened to a site before the first has proved useful.
const UNPROVEN_MAX: usize = 5;
/// Why messages of a suspended site or domain are given up.
pub(crate) const SUSPENDED: &str = "delivery was suspended by the operator";
#[derive(Debug)]
struct Site {
    route: Rc<Route>,
    /// Tells the sites apart that have had this place.
    serial: u64,
    queue: SiteQueue,
    /// Jobs that were tried here and wait for their time.
    deferred: usize,
    /// The connections and messages a second that all shards together may use.
    lease: SiteLease,
    /// By the operator: no mail is sent.
    suspended: bool,
    /// Connections, those being opened included.
    connections: usize,
    /// Connections that have not finished a transaction yet.
    unproven: usize,
    /// Connections that were slow at the last look.
    slow: usize,
    idle: Vec<Rc<Idle>>,
    /// As what it waits for a connection.
    wanting: Option<Class>,
    /// Connections in a row that were of no use.
    failures: u32,
    /// No new connection before the probe that a timer has been set for.
    resting: bool,
    /// When that is.
    probe_at: Option<Instant>,
    /// Counts what happens to the site.
    events: u32,
    /// What that count was, and since when, as the watchdog saw it.
    seen: (u32, Instant),
    /// Hosts that do not answer, or close on messages.
    records: Vec<Record>,
    /// All its hosts close on messages: one connection at a time.
    slowed: bool,
    /// While it is slowed: the youngest message was taken last.
    took_youngest: bool,
    /// Why the site could not be reached.
    trouble: Option<Rc<str>>,
}

impl Site {
    /// `is_known_good`: it has lately taken mail.
    fn wants_connection(&self, limit: usize, is_known_good: bool) -> bool {
        // After a failure one connection at a time is tried, until one works; before it, connections are added as
        // fast as others prove useful, so that a host that does not answer holds few of them.
        let proven = self.connections - self.unproven;
        let unproven_max = match self.failures {
            0 if is_known_good => self.queue.len().min(2 * UNPROVEN_MAX),
            0 => self.queue.len().min(proven + UNPROVEN_MAX),
            _ => 1,
        };
        let is_open = !self.resting && !self.suspended && !self.lease.is_waiting();
        let limit = if self.slowed { 1 } else { limit };
        is_open && self.connections < limit && self.unproven < unproven_max && self.has_work()
    }

    fn has_work(&self) -> bool {
        !self.queue.is_empty() && self.idle.is_empty()
    }

    fn is_spare(&self) -> bool {
        self.queue.is_empty()
            && self.deferred == 0
            && self.connections == 0
            && self.wanting.is_none()
            && !self.resting
            && self.lease.is_idle()
    }

    fn happened(&mut self) {
        self.events = self.events.wrapping_add(1);
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
    leases: Arc<Leases>,
    shard: usize,
    suspended: BTreeSet<SiteKey>,
    sites: Slab<Site>,
    by_key: HashMap<SiteKey, SiteId>,
    /// Of the newest site.
    serial: u64,
    wanting: Wanting,
    /// A site may be given a connection.
    may_open_one: Notify,
    /// Sites with idle connections, and some that have none any more.
    idle: BTreeSet<SiteId>,
    /// Of the connections, those being opened included.
    slots: Slab<Rc<Slot>>,
    /// Connections that have not finished a transaction yet.
    unproven: usize,
    /// Connections that were slow at the last look; those of them that had been of use.
    slow: usize,
    slow_proven: usize,
    /// `false`: a fault that is planted, and every site may have every place.
    has_reserve: bool,
    proven: Proven,
    /// See [`Sites::press`].
    pressing_ms: u64,
}

impl Sites {
    /// For the shard number `shard` of those that share `leases`.
    pub(crate) fn new(limits: ConnectionLimits, leases: Arc<Leases>, shard: usize) -> Self {
        Sites {
            limits,
            leases,
            shard,
            suspended: BTreeSet::new(),
            sites: Slab::new(),
            by_key: HashMap::default(),
            serial: 0,
            wanting: Wanting::default(),
            may_open_one: Notify::new(),
            idle: BTreeSet::new(),
            slots: Slab::new(),
            unproven: 0,
            slow: 0,
            slow_proven: 0,
            has_reserve: !sim::PlantedFault::NoReserve.is_planted(),
            proven: Proven::default(),
            pressing_ms: 0,
        }
    }

    /// Notified when [`Sites::next_to_open`] may have something to say, but for what holds for the relay as a whole.
    pub(crate) fn may_open_one(&self) -> Notify {
        self.may_open_one.clone()
    }

    /// Has who opens connections look whether one may be opened now.
    pub(crate) fn look_again(&self) {
        if self.is_held_up() {
            self.may_open_one.notify_one();
        }
    }

    fn site(&mut self, site: SiteId) -> &mut Site {
        &mut self.sites[site.place()]
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
        self.serial += 1;
        let site = Site {
            route: route.clone(),
            serial: self.serial,
            queue: SiteQueue::default(),
            deferred: 0,
            lease: self.leases.lease(&route.site, self.shard),
            suspended: self.suspended.contains(&route.site),
            connections: 0,
            unproven: 0,
            slow: 0,
            idle: Vec::new(),
            wanting: None,
            failures: 0,
            resting: false,
            probe_at: None,
            events: 1,
            seen: (0, Instant::from_nanos(0)),
            records: Vec::new(),
            slowed: false,
            took_youngest: false,
            trouble: None,
        };
        let id = SiteId::of(self.sites.insert(site));
        self.by_key.insert(route.site.clone(), id);
        id
    }

    /// Calls an idle connection, or has the site ask for one more.
    fn ask_for_connection(&mut self, site: SiteId) {
        let state = self.site(site);
        if state.suspended {
            return;
        }
        if let Some(idle) = state.idle.pop() {
            idle.call(Called::Work);
        } else if state.wanting.is_none() && self.wants_connection(site) {
            self.wait_in_line(site, false);
            self.make_way();
        }
    }

    /// Has an idle connection closed if that is what another site waits for.
    fn make_way(&mut self) {
        while self.is_crowded()
            && let Some(site) = self.idle.pop_first()
        {
            let state = self.sites.get_mut(site.place());
            if let Some(idle) = state.and_then(|state| state.idle.pop()) {
                idle.call(Called::Close);
                self.idle.insert(site);
                return;
            }
        }
    }

    fn wants_connection(&self, site: SiteId) -> bool {
        let state = &self.sites[site.place()];
        let is_known_good = state.connections == state.unproven && self.proven.contains(&state.route.site);
        state.wants_connection(self.limits.per_site, is_known_good)
    }

    /// A place for a connection that may be opened now; the caller opens it. Sites whose connections are all in use
    /// wait for a lease and are passed over.
    pub(crate) fn next_to_open(&mut self, now: Instant) -> Option<Rc<Slot>> {
        while let Some(site) = self.next_wanting() {
            self.site(site).wanting = None;
            if self.wants_connection(site) {
                let state = self.site(site);
                if !state.lease.acquire() {
                    continue;
                }
                state.connections += 1;
                state.unproven += 1;
                state.happened();
                let slot = self.add_slot(site, now);
                self.ask_for_connection(site);
                return Some(slot);
            }
            self.site(site).lease.release_unused();
            self.forget_if_spare(site);
        }
        None
    }

    /// A lease that this shard waited for has come.
    pub(crate) fn granted(&mut self, key: &SiteKey) {
        // A site whose lease waits is not forgotten.
        let Some(&site) = self.by_key.get(key) else { return };
        self.site(site).lease.granted();
        if !self.wants_connection(site) {
            if self.site(site).wanting.is_none() {
                self.site(site).lease.release_unused();
                self.forget_if_spare(site);
            }
            return;
        }
        if !self.may_open(self.class(site)) {
            // Others may use it until there is a place here.
            self.site(site).lease.release_unused();
        }
        // It has waited its turn.
        if self.site(site).wanting.is_none() {
            self.wait_in_line(site, true);
            self.make_way();
        }
        self.look_again();
    }

    /// Another shard waits for a lease: idle connections are closed.
    pub(crate) fn wanted(&mut self, key: &SiteKey) {
        let Some(&site) = self.by_key.get(key) else { return };
        for idle in self.site(site).idle.drain(..) {
            idle.call(Called::Close);
        }
    }

    /// A connection that has sent `sent` messages is to be closed after the last: the site is suspended, or other
    /// sites or shards wait for a connection and it is their turn.
    pub(crate) fn must_give_way(&mut self, site: SiteId, sent: u32) -> bool {
        let is_crowded = self.is_crowded();
        let state = self.site(site);
        state.suspended || (sent > 0 && (is_crowded || state.lease.must_give_way(sent)))
    }

    /// When the site may be sent its next message; `None`: now. The turn is taken, whether it is used or not.
    pub(crate) fn turn(&mut self, site: SiteId, now: Instant) -> Option<Instant> {
        let state = self.site(site);
        if state.queue.is_empty() {
            return None;
        }
        state.lease.turn(now)
    }

    /// A connection has ended, after work or for lack of it.
    pub(crate) fn closed(&mut self, slot: &Slot) {
        self.remove_slot(slot);
        let site = slot.site();
        let state = self.site(site);
        state.connections -= 1;
        state.unproven -= usize::from(!slot.is_proven());
        state.lease.release();
        state.happened();
        self.reclass(site);
        self.ask_for_connection(site);
        self.forget_if_spare(site);
        self.look_again();
    }

    /// No host of a site can be used. The site rests until [`Sites::probe`]; gives how often in a row that was so, or `None`
    /// when it rests already.
    pub(crate) fn failed(&mut self, site: SiteId, trouble: Rc<str>) -> Option<u32> {
        let state = self.site(site);
        state.trouble = Some(trouble);
        if !self.pause(site) {
            return None;
        }
        let state = &self.sites[site.place()];
        if state.connections == state.unproven {
            self.proven.remove(&state.route.site);
        }
        let state = self.site(site);
        state.failures = state.failures.saturating_add(1);
        Some(state.failures)
    }

    /// No new connection is opened until [`Sites::probe`]; `false`: that is so already.
    pub(crate) fn pause(&mut self, site: SiteId) -> bool {
        let state = self.site(site);
        state.happened();
        !std::mem::replace(&mut state.resting, true)
    }

    /// The site as it is now.
    pub(crate) fn origin(&self, site: SiteId) -> Origin {
        Origin { site, serial: self.sites[site.place()].serial }
    }

    /// The site, if it has not been forgotten.
    pub(crate) fn known(&self, origin: Origin) -> Option<SiteId> {
        let state = self.sites.get(origin.site.place())?;
        (state.serial == origin.serial).then_some(origin.site)
    }

    /// Why nothing is sent to the site: it is suspended, or has no connection that works and the last attempt to get
    /// one failed.
    pub(crate) fn trouble(&mut self, site: SiteId) -> Option<Rc<str>> {
        let state = self.site(site);
        if state.suspended {
            return Some(SUSPENDED.into());
        }
        state.trouble.clone().filter(|_| state.failures > 0 && state.connections == state.unproven)
    }

    /// A timer is set for the site's probe.
    pub(crate) fn probe_at(&mut self, site: SiteId, at: Instant) {
        self.site(site).probe_at = Some(at);
    }

    /// The rest of a site is over: one connection may be tried.
    pub(crate) fn probe(&mut self, site: SiteId) {
        let state = self.site(site);
        state.resting = false;
        state.happened();
        self.ask_for_connection(site);
        self.forget_if_spare(site);
    }

    fn forget_if_spare(&mut self, site: SiteId) {
        if self.site(site).is_spare() {
            let gone = self.sites.remove(site.place());
            self.by_key.remove(&gone.route.site);
        }
    }

    /// Every known site.
    pub(crate) fn ids(&self) -> Vec<SiteId> {
        self.sites.iter().map(|(place, _)| SiteId::of(place)).collect()
    }

    /// The site of a key, if it is known.
    pub(crate) fn of_key(&self, key: &SiteKey) -> Option<SiteId> {
        self.by_key.get(key).copied()
    }

    /// Suspends a site, known or not, or resumes it; `false`: it was so already.
    pub(crate) fn suspend(&mut self, key: &SiteKey, suspended: bool) -> bool {
        let changed = if suspended { self.suspended.insert(key.clone()) } else { self.suspended.remove(key) };
        if let Some(&site) = self.by_key.get(key) {
            let state = self.site(site);
            state.suspended = suspended;
            state.happened();
            if suspended {
                for idle in state.idle.drain(..) {
                    idle.call(Called::Close);
                }
            }
            self.ask_for_connection(site);
            self.look_again();
        }
        changed
    }

    /// Open connections, those being opened included.
    pub(crate) fn connections(&self) -> usize {
        self.slots.len()
    }

    /// Known sites.
    pub(crate) fn len(&self) -> usize {
        self.sites.len()
    }
}
