//! From a site to a connection: its hosts are tried in turn.

use std::net::SocketAddr;
use std::rc::Rc;

use chasqui_runtime::now;
use futures_lite::future::or;

use super::link::{Host, Kind, Link, Trouble};
use crate::context::Context;
use crate::queue::{Revoked, Slot};

/// Addresses tried for one connection.
pub(super) const ADDRESSES_MAX: usize = 20;

/// Why there is no connection.
pub(super) enum Unconnected {
    /// The relay is ending.
    Draining,
    /// No host can be used: what the last one did, or what we lack.
    Trouble(Trouble),
    /// There is no other host.
    NoHost,
}

/// Connects to the first host of a site that can be used and is none of `tried`, unless it is too late for what is to be sent.
pub(super) async fn connect(
    context: &Rc<Context>,
    slot: &Rc<Slot>,
    tried: &[Host],
    is_too_late: &dyn Fn() -> bool,
) -> Result<Link, Unconnected> {
    let site = slot.site();
    let (route, addresses) = context.queue.borrow_mut().sites.addresses(site, now());
    let is_untried =
        |(place, address): &(usize, SocketAddr)| !tried.iter().any(|host| host.is_at(*place, *address));
    let is_all = addresses.len() <= ADDRESSES_MAX && tried.is_empty();
    let (mut last, mut lacking): (Option<Trouble>, Option<Trouble>) = (None, None);
    for (place, address) in addresses.into_iter().filter(is_untried).take(ADDRESSES_MAX) {
        if context.is_draining() {
            return Err(Unconnected::Draining);
        }
        if slot.revoked().is_some() || is_too_late() {
            break;
        }
        let host = Host { name: route.hosts[place].name.as_str().into(), place, address };
        let opened = async { Link::open(context, slot, host, route.tls).await.map_err(Unconnected::Trouble) };
        let drained = async {
            context.drain.notified().await;
            Err(Unconnected::Draining)
        };
        match or(opened, drained).await {
            Ok(link) => {
                context.counters.connections_made.add(1);
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
                context.queue.borrow_mut().sites.host_failed(site, address, now());
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
