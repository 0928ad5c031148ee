//! How many connections there may be, in all and of one peer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// Connections at a time of which nobody knows yet whose they are.
    pub unnamed: usize,
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
    /// Of them, those of which nobody knows yet whose they are.
    unnamed: usize,
    peers: BTreeMap<IpAddr, usize>,
}

/// One connection's place, given back when dropped.
#[derive(Debug)]
#[must_use = "dropped, it gives the place back"]
pub struct Permit {
    limiter: Arc<State>,
    /// None: nobody knows yet whose it is.
    peer: Option<IpAddr>,
}

impl ConnectionLimiter {
    /// Nobody is connected.
    pub fn new(limits: ConnectionLimits) -> ConnectionLimiter {
        ConnectionLimiter(Arc::new(State { limits, present: Mutex::default() }))
    }

    /// Counts a connection, or says why there is no place for it. `is_trusted`: the places kept for such peers are open to it.
    pub fn enter(&self, address: IpAddr, is_trusted: bool) -> Result<Permit, LimitReached> {
        let peer = peer_of(address);
        self.0.present().enter(&self.0.limits, peer, is_trusted)?;
        Ok(Permit { limiter: self.0.clone(), peer: Some(peer) })
    }

    /// Counts a connection that a proxy has opened and has not yet said for whom: of all places, the kept ones among them, but of
    /// few at a time. [`Permit::pass_to`] is next.
    pub fn enter_unnamed(&self) -> Result<Permit, LimitReached> {
        let (limits, mut present) = (&self.0.limits, self.0.present());
        if present.unnamed >= limits.unnamed || present.total >= limits.total {
            return Err(LimitReached::InAll);
        }
        present.add(None);
        Ok(Permit { limiter: self.0.clone(), peer: None })
    }
}

impl Permit {
    /// Counts the connection as one of this peer's from now on, or says why that has no place for it: then it stays whose it was.
    pub fn pass_to(&mut self, address: IpAddr, is_trusted: bool) -> Result<(), LimitReached> {
        let peer = peer_of(address);
        let mut present = self.limiter.present();
        present.remove(self.peer);
        match present.enter(&self.limiter.limits, peer, is_trusted) {
            Ok(()) => self.peer = Some(peer),
            Err(reached) => {
                present.add(self.peer);
                return Err(reached);
            }
        }
        Ok(())
    }
}

impl State {
    fn present(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Present {
    fn enter(
        &mut self,
        limits: &ConnectionLimits,
        peer: IpAddr,
        is_trusted: bool,
    ) -> Result<(), LimitReached> {
        let of_peer = self.peers.get(&peer).copied().unwrap_or(0);
        if of_peer >= limits.per_peer {
            return Err(LimitReached::OfPeer);
        }
        let kept = match of_peer {
            _ if is_trusted => 0,
            0..FEW => limits.kept_for_trusted,
            _ => limits.kept_for_few,
        };
        if self.total >= limits.total - kept {
            return Err(LimitReached::InAll);
        }
        self.add(Some(peer));
        Ok(())
    }

    fn add(&mut self, peer: Option<IpAddr>) {
        self.total += 1;
        match peer {
            Some(peer) => *self.peers.entry(peer).or_default() += 1,
            None => self.unnamed += 1,
        }
    }

    fn remove(&mut self, peer: Option<IpAddr>) {
        self.total -= 1;
        let Some(peer) = peer else {
            self.unnamed -= 1;
            return;
        };
        if let Some(of_peer) = self.peers.get_mut(&peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                self.peers.remove(&peer);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.present().remove(self.peer);
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
        ConnectionLimiter::new(ConnectionLimits {
            total,
            per_peer,
            kept_for_few,
            kept_for_trusted,
            unnamed: 2,
        })
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

    /// Who comes by a proxy counts as himself from when that says who it is: thousands by one proxy are no peer with too many, few
    /// wait to be named at a time, and who has too many himself is told so.
    #[test]
    fn connections_get_names() {
        let limiter = limiter(8, 2, 4, 2);
        let (a, b) = (address("192.0.2.1"), address("192.0.2.2"));
        let mut named = Vec::new();
        for peer in [a, b, a] {
            let mut permit = limiter.enter_unnamed().expect("room");
            permit.pass_to(peer, false).expect("room");
            named.push(permit);
        }
        let mut waiting = [limiter.enter_unnamed().expect("room"), limiter.enter_unnamed().expect("room")];
        assert_eq!(limiter.enter_unnamed().map(drop), Err(LimitReached::InAll));
        assert_eq!(waiting[0].pass_to(a, true), Err(LimitReached::OfPeer));
        assert_eq!(limiter.enter_unnamed().map(drop), Err(LimitReached::InAll), "it still waits");
        waiting[0].pass_to(b, false).expect("room");
        let _third = limiter.enter_unnamed().expect("room");
        // A client of a client's: XCLIENT.
        named[0].pass_to(address("192.0.2.3"), false).expect("room");
        named[0].pass_to(a, false).expect("room again");
        drop((named, waiting, _third));
        let present = limiter.0.present();
        assert!(present.peers.is_empty() && (present.total, present.unnamed) == (0, 0));
    }
}
