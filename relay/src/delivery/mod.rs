//! Delivers: one task per outgoing connection, which serves the jobs of one site until there are no more.
//!
//! What a host does at connect, greeting and EHLO is held against it: when no host of a site can be used, the site rests. What
//! it answers to a message, its closing included, is the message's: the [`attempt`] at it goes on at the next host, or ends in
//! [`Shard::settle`]. On a connection that has carried mail, a close before any answer is neither's: the connection had gone
//! stale, and the message goes over a new one. A host that closes on one message after another is tried once a second.

mod attempt;
pub(crate) mod expiry;
mod link;
pub(crate) mod outcome;
pub(crate) mod scheduler;
#[cfg(test)]
mod tests;
mod transaction;

use std::net::SocketAddr;
use std::rc::Rc;

use chasqui_runtime::{now, sleep, sleep_until, turn_time, yield_now};
use futures_lite::future::or;

use crate::context::Shard;
use crate::delivery::outcome::Reason;
use crate::delivery::scheduler::{BATCH, in_hand_until};
use crate::queue::{Called, Idle, Revoked, SiteId, Slot, Stage};
use crate::tasks::Guard;

use attempt::Attempted;
use link::{Kind, Link, Trouble};

/// Addresses tried for one connection.
const ADDRESSES_MAX: usize = 20;

/// A host of a site, at one of its addresses.
#[derive(Debug, Clone)]
struct Host {
    name: Rc<str>,
    /// Among the hosts of the site's route.
    place: usize,
    address: SocketAddr,
}

impl Host {
    fn is_at(&self, place: usize, address: SocketAddr) -> bool {
        self.place == place || self.address == address
    }

    fn trouble(&self, status: &'static str, kind: Kind, text: String) -> Trouble {
        Trouble { status, text, remote: self.name.clone(), kind }
    }
}

/// Why there is no connection.
enum Unconnected {
    /// The relay is ending.
    Draining,
    /// No host can be used: what the last one did, or what we lack.
    Trouble(Trouble),
    /// There is no other host.
    NoHost,
}

/// Opens a connection in a place that a site was given, and serves the site's jobs through it, until the relay's end cuts it
/// off. `_counted` keeps it counted.
pub(crate) async fn connection(shard: Rc<Shard>, slot: Rc<Slot>, _counted: Guard) {
    let cut_off = shard.drain_ends.notified();
    or(slot.clone().occupy(use_connection(shard, slot)), cut_off).await;
}

async fn use_connection(shard: Rc<Shard>, slot: Rc<Slot>) {
    let site = slot.site();
    match connect(&shard, &slot, &[], &|| false).await {
        Ok(link) => {
            let mut service = Service { shard: shard.clone(), slot: slot.clone(), link, strayed: false };
            service.run().await;
            shard.queue.borrow_mut().sites.closed(&slot);
        }
        Err(Unconnected::Draining) => return shard.queue.borrow_mut().sites.closed(&slot),
        Err(Unconnected::NoHost) => shard.queue.borrow_mut().sites.closed(&slot),
        Err(Unconnected::Trouble(trouble)) if trouble.kind == Kind::Ours => {
            shard.lack(site, &trouble.text);
            shard.queue.borrow_mut().sites.closed(&slot);
        }
        Err(Unconnected::Trouble(trouble)) => unreachable(&shard, &slot, trouble).await,
    }
    shard.open_connections();
}

/// No host of a site can be used: it rests, and one job after the other is deferred.
async fn unreachable(shard: &Rc<Shard>, slot: &Slot, trouble: Trouble) {
    let site = slot.site();
    shard.rest_site(site, trouble.text.as_str().into());
    let origin = {
        let mut queue = shard.queue.borrow_mut();
        let origin = queue.sites.origin(site);
        queue.sites.closed(slot);
        origin
    };
    // Others may have waited for the place.
    shard.open_connections();
    let is_permanent = trouble.kind == Kind::Permanent;
    for taken in 1.. {
        let is_reachable = {
            let mut queue = shard.queue.borrow_mut();
            // While jobs were given up it may have been probed, found empty, and forgotten.
            let Some(site) = queue.sites.known(origin) else { return };
            queue.sites.trouble(site).is_none()
        };
        if is_reachable || shard.is_draining() || shard.spool.sealed().is_some() {
            return;
        }
        let (status, text) = (trouble.status.into(), trouble.text.clone());
        let reason = Reason { status, text, remote: Some(trouble.remote.clone()) };
        if !shard.give_up_one(site, reason, is_permanent).await || !is_permanent {
            return;
        }
        if taken % BATCH == 0 {
            yield_now().await;
        }
    }
}

/// Connects to the first host of a site that can be used and is none of `tried`, unless it is too late for what is to be sent.
async fn connect(
    shard: &Rc<Shard>,
    slot: &Rc<Slot>,
    tried: &[Host],
    is_too_late: &dyn Fn() -> bool,
) -> Result<Link, Unconnected> {
    let site = slot.site();
    let (route, addresses) = shard.queue.borrow_mut().sites.addresses(site, now());
    let is_untried =
        |(place, address): &(usize, SocketAddr)| !tried.iter().any(|host| host.is_at(*place, *address));
    let is_all = addresses.len() <= ADDRESSES_MAX && tried.is_empty();
    let (mut last, mut lacking): (Option<Trouble>, Option<Trouble>) = (None, None);
    for (place, address) in addresses.into_iter().filter(is_untried).take(ADDRESSES_MAX) {
        if shard.is_draining() {
            return Err(Unconnected::Draining);
        }
        if slot.revoked().is_some() || is_too_late() {
            break;
        }
        let host = Host { name: route.hosts[place].name.as_str().into(), place, address };
        let opened = async { Link::open(shard, slot, host).await.map_err(Unconnected::Trouble) };
        let drained = async {
            shard.drain_begins.notified().await;
            Err(Unconnected::Draining)
        };
        match or(opened, drained).await {
            Ok(link) => {
                shard.counters.connections_made.add(1);
                return Ok(link);
            }
            // Ports may lack for one address alone.
            Err(Unconnected::Trouble(trouble)) if trouble.kind == Kind::Ours => lacking = Some(trouble),
            // It had hardly been tried.
            Err(_) if slot.revoked() == Some(Revoked::Surplus) => return Err(Unconnected::NoHost),
            Err(Unconnected::Trouble(mut trouble)) => {
                if !is_all {
                    trouble.kind = Kind::Temporary;
                }
                shard.queue.borrow_mut().sites.host_failed(site, address, now());
                // One host that may take mail later is reason enough to wait.
                if last.as_ref().is_none_or(|last| last.kind == Kind::Permanent) {
                    last = Some(trouble);
                }
            }
            Err(ended) => return Err(ended),
        }
    }
    Err(lacking.or(last).map_or(Unconnected::NoHost, Unconnected::Trouble))
}

/// Serves a site's jobs through a connection.
struct Service {
    shard: Rc<Shard>,
    slot: Rc<Slot>,
    link: Link,
    /// It leads to another host than the first to be used.
    strayed: bool,
}

impl Service {
    fn site(&self) -> SiteId {
        self.slot.site()
    }

    async fn run(&mut self) {
        let shard = self.shard.clone();
        let idle = Rc::new(Idle::default());
        let mut sent = 0;
        while !self.link.is_closed() && !self.strayed && self.slot.revoked().is_none() {
            self.slot.enter(Stage::Idle, turn_time());
            let may_send = !shard.is_draining() && sent < shard.config.delivery.messages_per_connection;
            let give_way = shard.queue.borrow_mut().sites.must_give_way(self.site(), sent);
            if !may_send || give_way || shard.spool.sealed().is_some() {
                break;
            }
            if !self.await_turn().await {
                continue;
            }
            let job = shard.queue.borrow_mut().take(self.site(), in_hand_until());
            let Some(job) = job else {
                if self.wait_for_work(&idle).await {
                    continue;
                }
                break;
            };
            match self.attempt(job).await {
                Attempted::Settled => sent += 1,
                Attempted::Aside => {}
            }
        }
        if !self.link.is_closed() {
            self.link.quit().await;
        }
    }

    /// Waits until the site may be sent its next message; `false`: the relay is ending.
    async fn await_turn(&self) -> bool {
        let turn = self.shard.queue.borrow_mut().sites.turn(self.site(), turn_time());
        if let Some(at) = turn {
            or(sleep_until(at), self.shard.drain_begins.notified()).await;
            return !self.shard.is_draining();
        }
        true
    }

    /// Keeps an idle connection for a while. `true`: there may be work.
    async fn wait_for_work(&mut self, idle: &Rc<Idle>) -> bool {
        let (shard, site) = (self.shard.clone(), self.site());
        if shard.queue.borrow_mut().sites.rest(site, idle) {
            let ended = async {
                // Whatever the server says now ends the connection: 421, or its closing.
                or(self.link.hear_out(), sleep(shard.config.delivery.idle)).await;
                Called::Close
            };
            if or(idle.called(), ended).await == Called::Work {
                return true;
            }
            let called = shard.queue.borrow_mut().sites.stop_resting(site, idle);
            if called == Some(Called::Work) && !self.link.is_closed() {
                return true;
            }
        }
        false
    }
}
