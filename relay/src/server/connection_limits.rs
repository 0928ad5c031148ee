//! Incoming connections, counted over all shards.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use chasqui_protocol::peer::peer_of;

use crate::config::{Limits, Listener};

/// Connections of a peer that are few: the last places but those kept for `networks` are for peers that have no more.
const FEW: usize = 4;

/// Counts incoming connections, all and per peer.
///
/// Of the places, a quarter is kept for peers in `networks` and for those that have few connections, and half of that quarter
/// for `networks` alone.
#[derive(Debug)]
pub(crate) struct Visitors {
    total_max: usize,
    per_peer_max: usize,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    total: usize,
    peers: BTreeMap<IpAddr, usize>,
}

/// One counted connection; leaves when dropped.
#[derive(Debug)]
pub(crate) struct Visit {
    visitors: Arc<Visitors>,
    peer: IpAddr,
}

impl Visitors {
    pub(crate) fn new(total_max: usize, per_peer_max: usize) -> Self {
        Visitors { total_max, per_peer_max, present: Mutex::default() }
    }

    /// For the clients of a listener that has limits of its own.
    pub(crate) fn of_listener(listener: &Listener, limits: &Limits) -> Option<Arc<Visitors>> {
        let Listener { connections, connections_per_peer, .. } = listener;
        let has_own = connections.is_some() || connections_per_peer.is_some();
        let total = connections.unwrap_or(limits.connections);
        let per_peer = connections_per_peer.unwrap_or(limits.connections_per_peer);
        has_own.then(|| Arc::new(Visitors::new(total, per_peer)))
    }

    /// Counts a connection, or says why there is no room. `may_relay`: the address is in `networks`.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, may_relay: bool) -> Result<Visit, &'static str> {
        let peer = peer_of(address);
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = present.peers.get(&peer).copied().unwrap_or(0);
        if of_peer >= self.per_peer_max {
            return Err("Too many connections from your address");
        }
        let kept = match of_peer {
            _ if may_relay => 0,
            0..FEW => self.total_max / 8,
            _ => self.total_max / 4,
        };
        if present.total >= self.total_max - kept {
            return Err("Too many connections");
        }
        present.peers.insert(peer, of_peer + 1);
        present.total += 1;
        Ok(Visit { visitors: self.clone(), peer })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut present = self.visitors.present.lock().unwrap_or_else(PoisonError::into_inner);
        present.total -= 1;
        if let Some(of_peer) = present.peers.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                present.peers.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Limits hold for all connections and for those of one address, and a connection that ends makes room.
    #[test]
    fn visitors_are_limited() {
        let visitors = Arc::new(Visitors::new(3, 2));
        let (a, b) = (address("192.0.2.1"), address("192.0.2.2"));
        let first = visitors.enter(a, false).expect("room");
        let _second = visitors.enter(a, false).expect("room");
        assert_eq!(visitors.enter(a, false).map(drop), Err("Too many connections from your address"));
        let _third = visitors.enter(b, false).expect("room");
        assert_eq!(visitors.enter(b, true).map(drop), Err("Too many connections"));
        drop(first);
        visitors.enter(a, false).expect("room again");
    }

    /// The addresses of a /64 have together what one address may have.
    #[test]
    fn a_prefix_is_one_peer() {
        let visitors = Arc::new(Visitors::new(100, 2));
        let enter = |text: &str| visitors.enter(address(text), false);
        let _two = (enter("2001:db8::1").expect("room"), enter("2001:db8::2").expect("room"));
        assert_eq!(enter("2001:db8::3").map(drop), Err("Too many connections from your address"));
        enter("2001:db8:0:1::3").expect("another /64");
    }

    /// Strangers with many connections leave a quarter of the places, all strangers together an eighth, and `networks` get
    /// those.
    #[test]
    fn places_are_kept() {
        let visitors = Arc::new(Visitors::new(80, 40));
        let mut inside = Vec::new();
        let mut enter = |text: String, may_relay| {
            let visit = visitors.enter(address(&text), may_relay);
            visit.map(|visit| inside.push(visit)).is_ok()
        };
        let greedy = (0..80).filter(|number| enter(format!("192.0.2.{}", number % 2), false)).count();
        assert_eq!(greedy, 60, "a quarter is left");
        let many = (0..200).filter(|number| enter(format!("198.51.100.{number}"), false)).count();
        assert_eq!(many, 10, "an eighth is left");
        let ours = (0..80).filter(|_| enter("203.0.113.1".into(), true)).count();
        assert_eq!(ours, 10);
    }
}
