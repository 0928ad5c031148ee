//! Who has failed too often: an address for all users, and a user from all addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use chasqui_protocol::peer::peer_of;
use chasqui_runtime::turn_time;

/// The minutes of the clock.
pub(super) const MINUTE_NS: u64 = 60_000_000_000;
/// Addresses and users counted in one minute, each; of more those that are not counted yet may not try.
const COUNTED_MAX: usize = 65_536;

/// Counts failures over all shards. A minute is one of the clock's.
#[derive(Debug)]
pub(super) struct Failures {
    per_peer: u32,
    per_user: u32,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    minute: u64,
    peers: BTreeMap<IpAddr, u32>,
    users: BTreeMap<Box<str>, u32>,
}

impl Failures {
    /// With the failures that an address, and a user, may have in a minute.
    pub(super) fn new(per_peer: u32, per_user: u32) -> Failures {
        Failures { per_peer, per_user, counts: Mutex::default() }
    }

    /// Whether an address may try.
    pub(super) fn may_try(&self, peer: IpAddr) -> bool {
        let counts = self.counts();
        match counts.peers.get(&peer_of(peer)) {
            Some(count) => *count < self.per_peer,
            None => counts.peers.len() < COUNTED_MAX,
        }
    }

    /// Whether somebody may try to be this user.
    pub(super) fn may_be_tried(&self, user: &str) -> bool {
        let counts = self.counts();
        counts.users.get(user).is_none_or(|count| *count < self.per_user)
    }

    /// An exchange has failed, for this user if it came to one.
    pub(super) fn add(&self, peer: IpAddr, user: Option<&str>) {
        let mut counts = self.counts();
        *counts.peers.entry(peer_of(peer)).or_default() += 1;
        if let Some(user) = user
            && (counts.users.len() < COUNTED_MAX || counts.users.contains_key(user))
        {
            *counts.users.entry(user.into()).or_default() += 1;
        }
    }

    fn counts(&self) -> std::sync::MutexGuard<'_, Counts> {
        let minute = turn_time().as_nanos() / MINUTE_NS;
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        // Shards' clocks may differ by a turn of their loops.
        if minute > counts.minute {
            *counts = Counts { minute, ..Counts::default() };
        }
        counts
    }
}
