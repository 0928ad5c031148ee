//! How many connections a service of one shard has, and may have.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use chasqui_protocol::peer::peer_of;
use chasqui_runtime::HashMap;
use chasqui_runtime::sync::Notify;

/// Connections of a peer that are few: the last eighth of the places is for peers that have no more.
const FEW: usize = 4;

/// Counts connections, all and per peer. Clones share one state.
#[derive(Clone)]
pub(crate) struct Gate(Rc<State>);

struct State {
    inside: Cell<usize>,
    inside_max: usize,
    peers: RefCell<HashMap<IpAddr, usize>>,
    emptied: Notify,
}

/// One connection's place, given back when dropped.
pub(crate) struct Pass {
    gate: Rc<State>,
    peer: IpAddr,
}

impl Gate {
    pub(crate) fn new(inside_max: usize) -> Gate {
        let state =
            State { inside: Cell::new(0), inside_max, peers: RefCell::default(), emptied: Notify::new() };
        Gate(Rc::new(state))
    }

    /// `None`: there are as many as there may be, or as many as may be of a peer that has many.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Pass> {
        let peer = peer_of(address);
        let mut peers = self.0.peers.borrow_mut();
        let of_peer = peers.get(&peer).copied().unwrap_or(0);
        let kept = if of_peer < FEW { 0 } else { self.0.inside_max / 8 };
        let inside = self.0.inside.get();
        if inside >= self.0.inside_max - kept {
            return None;
        }
        peers.insert(peer, of_peer + 1);
        self.0.inside.set(inside + 1);
        Some(Pass { gate: self.0.clone(), peer })
    }

    /// Waits until nobody is inside.
    pub(crate) async fn emptied(&self) {
        while self.0.inside.get() > 0 {
            self.0.emptied.notified().await;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut peers = self.gate.peers.borrow_mut();
        if let Some(of_peer) = peers.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                peers.remove(&self.peer);
            }
        }
        self.gate.inside.set(self.gate.inside.get() - 1);
        if self.gate.inside.get() == 0 {
            self.gate.emptied.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A /64 with many connections leaves an eighth of the places to peers with few, and nothing is kept of those that left.
    #[test]
    fn places_are_kept() {
        let gate = Gate::new(80);
        let enter = |text: String| gate.enter(text.parse().unwrap());
        let greedy: Vec<Pass> = (0..100).filter_map(|number| enter(format!("2001:db8::{number}"))).collect();
        assert_eq!(greedy.len(), 70);
        let modest: Vec<Pass> = (0..6).filter_map(|_| enter("192.0.2.1".to_owned())).collect();
        assert_eq!(modest.len(), 4, "then it has many too");
        let others: Vec<Pass> = (0..20).filter_map(|number| enter(format!("198.51.100.{number}"))).collect();
        assert_eq!(others.len(), 6);
        drop((greedy, modest, others));
        assert!(gate.0.peers.borrow().is_empty() && gate.0.inside.get() == 0);
    }
}
