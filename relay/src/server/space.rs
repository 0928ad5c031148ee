//! What each peer may hold of a shard's spool for messages on their way: what it has declared, or sent if that is more.
//!
//! A peer outside `networks` (who writes to the postmaster, then) may hold a sixteenth of what is free, all of them together a
//! quarter; a peer in `networks` half. A peer's only message may have more, so that one is taken as long as there is room.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};

use chasqui_protocol::peer::peer_of;
use chasqui_runtime::HashMap;

/// Octets by which a share grows at least.
const STEP: u64 = 16 << 10;

/// The shares of a shard's peers.
#[derive(Default)]
pub(crate) struct Space {
    peers: RefCell<HashMap<IpAddr, Weak<PeerSpace>>>,
    /// Held by peers outside `networks`.
    strangers: Cell<u64>,
}

/// What the connections of one peer hold together.
pub(crate) struct PeerSpace {
    space: Rc<Space>,
    peer: IpAddr,
    may_relay: bool,
    held: Cell<u64>,
}

/// What one message holds; given back when dropped.
pub(crate) struct Share {
    of: Rc<PeerSpace>,
    bytes: u64,
}

impl Space {
    /// The account of a peer, for a connection of it. `may_relay`: the address is in `networks`.
    pub(crate) fn of(self: &Rc<Self>, address: IpAddr, may_relay: bool) -> Rc<PeerSpace> {
        let peer = peer_of(address);
        let mut peers = self.peers.borrow_mut();
        // A /64 may be in `networks` in part.
        let known = peers.get(&peer).and_then(Weak::upgrade).filter(|known| known.may_relay == may_relay);
        known.unwrap_or_else(|| {
            let account = Rc::new(PeerSpace { space: self.clone(), peer, may_relay, held: Cell::new(0) });
            peers.insert(peer, Rc::downgrade(&account));
            account
        })
    }
}

impl PeerSpace {
    /// Whether the peer may hold `more` octets than it does, of which `own` are the asking message's, while `free` are free.
    fn may_have(&self, more: u64, own: u64, free: u64) -> bool {
        let held = self.held.get();
        let is_only = held == own;
        if self.may_relay {
            return is_only || held + more <= (free + held) / 2;
        }
        let strangers = self.space.strangers.get();
        let whole = free + strangers;
        strangers + more <= whole / 4 && (is_only || held + more <= whole / 16)
    }

    fn add(&self, bytes: u64) {
        self.held.set(self.held.get() + bytes);
        if !self.may_relay {
            self.space.strangers.set(self.space.strangers.get() + bytes);
        }
    }

    fn remove(&self, bytes: u64) {
        self.held.set(self.held.get() - bytes);
        if !self.may_relay {
            self.space.strangers.set(self.space.strangers.get() - bytes);
        }
    }
}

impl Drop for PeerSpace {
    fn drop(&mut self) {
        let mut peers = self.space.peers.borrow_mut();
        if peers.get(&self.peer).is_some_and(|there| there.strong_count() == 0) {
            peers.remove(&self.peer);
        }
    }
}

impl Share {
    /// Nothing yet.
    pub(crate) fn new(of: &Rc<PeerSpace>) -> Share {
        Share { of: of.clone(), bytes: 0 }
    }

    /// Has the share cover `bytes`; false: the peer may not hold that much while `free()` octets of the spool are free.
    pub(crate) fn cover(&mut self, bytes: u64, free: impl FnOnce() -> u64) -> bool {
        let Some(missing) = bytes.checked_sub(self.bytes).filter(|missing| *missing > 0) else { return true };
        let more = missing.max(STEP);
        let may = self.of.may_have(more, self.bytes, free());
        if may {
            self.of.add(more);
            self.bytes += more;
        }
        may
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.remove(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: u64 = 1 << 30;

    /// Shares of 1 MiB that the peer gets, of a gibibyte that is free besides what these hold and `others`.
    fn shares(space: &Rc<Space>, address: &str, may_relay: bool, others: u64) -> Vec<Share> {
        let account = space.of(address.parse().unwrap(), may_relay);
        let mut shares = Vec::new();
        loop {
            let mut share = Share::new(&account);
            let held = others + account.held.get();
            if !share.cover(1 << 20, || FREE - held) {
                return shares;
            }
            shares.push(share);
        }
    }

    /// A stranger holds a sixteenth of what is free, all strangers a quarter, a peer of ours half, and the next half of the
    /// rest; what is given back can be had again, and no account is left.
    #[test]
    fn shares_are_fair() {
        let space = Rc::new(Space::default());
        let one = shares(&space, "192.0.2.1", false, 0);
        assert_eq!(one.len(), 64);
        let mut strangers = Vec::new();
        for number in 2..10 {
            strangers.push(shares(&space, &format!("192.0.2.{number}"), false, space.strangers.get()));
        }
        let held = space.strangers.get();
        assert_eq!(held, FREE / 4);
        let ours = shares(&space, "203.0.113.1", true, held);
        assert_eq!(ours.len(), 384);
        assert_eq!(shares(&space, "203.0.113.2", true, held + (384 << 20)).len(), 192);
        drop((one, strangers, ours));
        assert_eq!(shares(&space, "2001:db8::1", false, 0).len(), 64);
        assert_eq!((space.strangers.get(), space.peers.borrow().len()), (0, 0));
    }

    /// A peer's only message is taken as long as there is room, however large a part of it that is; a stranger's has a quarter.
    #[test]
    fn one_message_is_taken() {
        let space = Rc::new(Space::default());
        let mut share = Share::new(&space.of("203.0.113.1".parse().unwrap(), true));
        assert!((1..=60).all(|mib| share.cover(mib << 20, || (64 - mib) << 20)));
        let mut share = Share::new(&space.of("192.0.2.1".parse().unwrap(), false));
        assert!(share.cover(16 << 20, || 64 << 20) && !share.cover(17 << 20, || 48 << 20));
    }
}
