//! How many clients may be connected, over all shards.

use std::cell::RefCell;

use chasqui_transport::connection_limiter::LimitReached;
use chasqui_transport::{ConnectionLimiter, ConnectionLimits, Permit, TaskGuard};

use super::policy::Client;
use crate::config::{Limits, Listener};

/// A session's place, given back when dropped.
pub(super) struct Place {
    _counted: TaskGuard,
    /// Of the listener's limits, if it has any, and of the relay's. Boxed: every session's future holds it.
    permits: Box<RefCell<(Option<Permit>, Permit)>>,
}

impl Place {
    pub(super) fn new(counted: TaskGuard, permits: (Option<Permit>, Permit)) -> Place {
        Place { _counted: counted, permits: Box::new(RefCell::new(permits)) }
    }

    /// Counts the session as this client's. After an error it has no place.
    pub(super) fn pass_to(&self, client: &Client) -> Result<(), LimitReached> {
        let (here, of_relay) = &mut *self.permits.borrow_mut();
        let pass = |permit: &mut Permit| permit.pass_to(client.peer, client.may_relay);
        here.as_mut().map_or(Ok(()), pass)?;
        pass(of_relay)
    }
}

/// For the clients of all listeners.
pub(super) fn of_relay(limits: &Limits) -> ConnectionLimiter {
    limiter(limits.connections, limits.connections_per_peer)
}

/// For the clients of a listener that has limits of its own.
pub(super) fn of_listener(listener: &Listener, limits: &Limits) -> Option<ConnectionLimiter> {
    let Listener { connections, connections_per_peer, .. } = listener;
    let has_own = connections.is_some() || connections_per_peer.is_some();
    let total = connections.unwrap_or(limits.connections);
    let per_peer = connections_per_peer.unwrap_or(limits.connections_per_peer);
    has_own.then(|| limiter(total, per_peer))
}

/// Connections at a time that may wait for a PROXY header, in small relays.
const UNNAMED_MIN: usize = 16;

/// Of the places, a quarter is kept for peers that may relay and for those that have few connections, and half of that quarter
/// for the former alone. A sixteenth may be taken by connections whose PROXY header has not come: a proxy sends it at once, and one that
/// does not leaves half of the last places.
fn limiter(total: usize, per_peer: usize) -> ConnectionLimiter {
    let (kept_for_few, kept_for_trusted) = (total / 4, total / 8);
    let unnamed = (total / 16).max(UNNAMED_MIN);
    ConnectionLimiter::new(ConnectionLimits { total, per_peer, kept_for_few, kept_for_trusted, unnamed })
}
