//! How many connections there may be, in all and of one peer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use chasqui_protocol::peer::peer_of;

/// Connections of a peer that are few. Clients that deliver keep one or two, and some more while they open the next; whoever has
/// more than this leaves the last places to others.
const FEW: usize = 4;

/// What a [`ConnectionLimiter`] lets in. A peer is an address, or the /64 of an IPv6 one.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// Connections at a time.
    pub total: usize,
    /// Of them, those of one peer.
    pub per_peer: usize,
    /// Of the places, those that a peer with more than a few connections is not given.
    pub kept_for_few: usize,
    /// Of those, the places that only a trusted peer is given.
    pub kept_for_trusted: usize,
}

/// Why there is no place for a connection. The text is for the peer; whoever accepts answers with it, or closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitReached {
    /// The peer has as many as one may have.
    #[error("Too many connections from your address")]
    OfPeer,
    /// There are as many as there may be, or the rest is kept for others.
    #[error("Too many connections")]
    InAll,
}

/// Counts connections, all and per peer. Clones share one state, of any thread.
#[derive(Clone, Debug)]
pub struct ConnectionLimiter(Arc<State>);

#[derive(Debug)]
struct State {
    limits: ConnectionLimits,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    total: usize,
    peers: BTreeMap<IpAddr, usize>,
}

/// One connection's place, given back when dropped.
#[derive(Debug)]
#[must_use = "dropped, it gives the place back"]
pub struct Permit {
    limiter: Arc<State>,
    peer: IpAddr,
}

impl ConnectionLimiter {
    /// Nobody is connected.
    pub fn new(limits: ConnectionLimits) -> ConnectionLimiter {
        ConnectionLimiter(Arc::new(State { limits, present: Mutex::default() }))
    }

    /// Counts a connection, or says why there is no place for it. `is_trusted`: the places kept for such peers are open to it.
    pub fn enter(&self, address: IpAddr, is_trusted: bool) -> Result<Permit, LimitReached> {
        let peer = peer_of(address);
        let limits = &self.0.limits;
        let mut present = self.0.present.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = present.peers.get(&peer).copied().unwrap_or(0);
        if of_peer >= limits.per_peer {
            return Err(LimitReached::OfPeer);
        }
        let kept = match of_peer {
            _ if is_trusted => 0,
            0..FEW => limits.kept_for_trusted,
            _ => limits.kept_for_few,
        };
        if present.total >= limits.total - kept {
            return Err(LimitReached::InAll);
        }
        present.peers.insert(peer, of_peer + 1);
        present.total += 1;
        Ok(Permit { limiter: self.0.clone(), peer })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut present = self.limiter.present.lock().unwrap_or_else(PoisonError::into_inner);
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

    fn limiter(
        total: usize,
        per_peer: usize,
        kept_for_few: usize,
        kept_for_trusted: usize,
    ) -> ConnectionLimiter {
        ConnectionLimiter::new(ConnectionLimits { total, per_peer, kept_for_few, kept_for_trusted })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Limits hold for all connections and for those of one address, and a connection that ends makes room.
    #[test]
    fn connections_are_limited() {
        let limiter = limiter(3, 2, 0, 0);
        let (a, b) = (address("192.0.2.1"), address("192.0.2.2"));
        let first = limiter.enter(a, false).expect("room");
        let _second = limiter.enter(a, false).expect("room");
        assert_eq!(limiter.enter(a, false).map(drop), Err(LimitReached::OfPeer));
        let _third = limiter.enter(b, false).expect("room");
        assert_eq!(limiter.enter(b, true).map(drop), Err(LimitReached::InAll));
        drop(first);
        let _again = limiter.enter(a, false).expect("room again");
    }

    /// The addresses of a /64 have together what one address may have.
    #[test]
    fn a_prefix_is_one_peer() {
        let limiter = limiter(100, 2, 0, 0);
        let enter = |text: &str| limiter.enter(address(text), false);
        let _two = (enter("2001:db8::1").expect("room"), enter("2001:db8::2").expect("room"));
        assert_eq!(enter("2001:db8::3").map(drop), Err(LimitReached::OfPeer));
        let _other = enter("2001:db8:0:1::3").expect("another /64");
    }

    /// Strangers with many connections leave a quarter of the places, all strangers together an eighth, and trusted peers get
    /// those.
    #[test]
    fn places_are_kept_for_trusted_peers() {
        let limiter = limiter(80, 40, 20, 10);
        let mut inside = Vec::new();
        let mut enter = |text: String, is_trusted| {
            limiter.enter(address(&text), is_trusted).map(|permit| inside.push(permit)).is_ok()
        };
        let greedy = (0..80).filter(|number| enter(format!("192.0.2.{}", number % 2), false)).count();
        assert_eq!(greedy, 60, "a quarter is left");
        let many = (0..200).filter(|number| enter(format!("198.51.100.{number}"), false)).count();
        assert_eq!(many, 10, "an eighth is left");
        let ours = (0..80).filter(|_| enter("203.0.113.1".into(), true)).count();
        assert_eq!(ours, 10);
    }

    /// A /64 with many connections leaves an eighth of the places to peers with few, and nothing is kept of those that left.
    #[test]
    fn places_are_kept_for_few() {
        let limiter = limiter(80, usize::MAX, 10, 0);
        let enter = |text: String| limiter.enter(text.parse().unwrap(), false).ok();
        let greedy: Vec<Permit> =
            (0..100).filter_map(|number| enter(format!("2001:db8::{number}"))).collect();
        assert_eq!(greedy.len(), 70);
        let modest: Vec<Permit> = (0..6).filter_map(|_| enter("192.0.2.1".to_owned())).collect();
        assert_eq!(modest.len(), 4, "then it has many too");
        let others: Vec<Permit> =
            (0..20).filter_map(|number| enter(format!("198.51.100.{number}"))).collect();
        assert_eq!(others.len(), 6);
        drop((greedy, modest, others));
        let present = limiter.0.present.lock().unwrap();
        assert!(present.peers.is_empty() && present.total == 0);
    }
}
