//! The hosts of a site: which to try, and what is held against each.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::Instant;

use super::{Site, SiteId, Sites, Slot};
use crate::route::Route;

/// Hosts per site against which something is held.
const RECORDS_MAX: usize = 512;
/// How long a host that did not answer is left alone while the site has others.
const DEAD_HOST_REST: Duration = Duration::from_secs(30);
/// Messages in a row on which a host closes before it gets one a second only.
const CUT_OFF_MAX: u32 = 10;
/// What lies between two attempts then.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);

/// What is held against a host of a site.
#[derive(Debug)]
pub(super) struct Record {
    address: SocketAddr,
    /// It is left alone until then while the site has others.
    rests_until: Instant,
    /// Messages in a row on which it has closed.
    cut_off: u32,
    /// When that happened last.
    last: Instant,
}

/// What a host has done is forgotten after this long.
const RECORD_LIFE: Duration = Duration::from_secs(3600);

impl Site {
    /// What is held against a host, perhaps nothing yet; `None`: too much is held against others.
    fn record(&mut self, address: SocketAddr, now: Instant) -> Option<&mut Record> {
        let known = self.records.iter().position(|record| record.address == address);
        let place = known.or_else(|| {
            let is_room = self.records.len() < RECORDS_MAX;
            is_room
                .then(|| self.records.push(Record { address, rests_until: now, cut_off: 0, last: now }))?;
            Some(self.records.len() - 1)
        })?;
        Some(&mut self.records[place])
    }
}

impl Sites {
    /// The addresses to try, in order, with the names of their hosts' place in the route. Hosts that lately did not
    /// answer, or close on messages, come last.
    pub(crate) fn addresses(&mut self, site: SiteId, now: Instant) -> (Rc<Route>, Vec<(usize, SocketAddr)>) {
        let state = self.site(site);
        state.records.retain(|record| {
            record.rests_until > now || record.cut_off > 0 && now - record.last < RECORD_LIFE
        });
        let route = state.route.clone();
        let hosts = route.hosts.iter().enumerate();
        let mut addresses: Vec<_> = hosts
            .flat_map(|(place, host)| host.addresses.iter().map(move |&address| (place, address)))
            .collect();
        addresses.sort_by_key(|(_, address)| {
            let mut records = state.records.iter();
            records.any(|record| record.address == *address && record.rests_until > now)
        });
        (route, addresses)
    }

    /// A host did not answer.
    pub(crate) fn host_failed(&mut self, site: SiteId, address: SocketAddr, now: Instant) {
        let state = self.site(site);
        state.happened();
        if let Some(record) = state.record(address, now) {
            record.rests_until = now + DEAD_HOST_REST;
        }
    }

    /// A host has closed on a message; whether the site is to pause, because all its hosts do.
    pub(crate) fn cut_off(&mut self, site: SiteId, address: SocketAddr, now: Instant) -> bool {
        let state = self.site(site);
        state.happened();
        let Some(record) = state.record(address, now) else { return false };
        record.cut_off = record.cut_off.saturating_add(1);
        record.last = now;
        if record.cut_off < CUT_OFF_MAX {
            return false;
        }
        record.rests_until = record.rests_until.max(now + PAUSE);
        let mut addresses = state.route.hosts.iter().flat_map(|host| &host.addresses);
        let rests = |record: &Record| record.rests_until > now || record.cut_off >= CUT_OFF_MAX;
        state.slowed = addresses
            .all(|address| state.records.iter().any(|record| record.address == *address && rests(record)));
        state.slowed
    }

    /// A connection has finished a transaction: host and site work. Whether that is news.
    pub(crate) fn works(&mut self, slot: &Slot, address: SocketAddr, now: Instant) -> bool {
        let (site, is_first) = (slot.site(), self.prove_slot(slot));
        let state = self.site(site);
        state.happened();
        if !is_first && !state.records.iter().any(|record| record.address == address) {
            return false;
        }
        state.records.retain(|record| record.address != address);
        state.slowed = false;
        if is_first {
            state.unproven -= 1;
            state.failures = 0;
            state.trouble = None;
            let key = state.route.site.clone();
            self.proven.add(&key, now);
            self.reclass(site);
        }
        self.ask_for_connection(site);
        self.look_again();
        true
    }

    /// What was held against the hosts of a site is forgotten: by the operator.
    pub(crate) fn forgive(&mut self, site: SiteId) {
        if let Some(state) = self.sites.get_mut(site.place()) {
            state.records.clear();
            state.slowed = false;
        }
    }
}
