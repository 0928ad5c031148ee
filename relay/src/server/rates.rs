//! Messages and recipients of a peer, or of a user, in a minute, over all shards.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use chasqui_protocol::peer::peer_of;
use chasqui_runtime::turn_time;

/// Peers counted in one minute; of more, those outside `networks` are refused, and the others not counted.
const PEERS_MAX: usize = 65_536;
const MINUTE_NS: u64 = 60_000_000_000;

/// What is limited.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Counted {
    Message,
    Recipient,
}

/// Counts what each peer begins. A minute is any sixty seconds: the last whole minute counts by the part of it that they cover.
#[derive(Debug)]
pub(crate) struct Rates<K> {
    /// By [`Counted`]; 0: no limit.
    limits: [u32; 2],
    counts: Mutex<Counts<K>>,
}

#[derive(Debug)]
struct Counts<K> {
    minute: u64,
    now: BTreeMap<K, [u32; 2]>,
    before: BTreeMap<K, [u32; 2]>,
}

impl Rates<IpAddr> {
    /// Counts one more of a peer's, if it may have that. `may_relay`: the address is in `networks`.
    pub(crate) fn take(&self, what: Counted, address: IpAddr, may_relay: bool) -> bool {
        let limit = self.limits[what as usize];
        limit == 0 || self.take_at(turn_time().as_nanos(), what, limit, peer_of(address), may_relay)
    }
}

impl Rates<Box<str>> {
    /// Counts one more of a user's, if it may have that; none: no limit.
    pub(crate) fn take_of_user(&self, what: Counted, limit: Option<NonZeroU32>, user: &str) -> bool {
        limit.is_none_or(|limit| self.take_at(turn_time().as_nanos(), what, limit.get(), user.into(), false))
    }
}

impl<K: Ord> Rates<K> {
    pub(crate) fn new(messages: u32, recipients: u32) -> Self {
        let counts = Counts { minute: 0, now: BTreeMap::new(), before: BTreeMap::new() };
        Rates { limits: [messages, recipients], counts: Mutex::new(counts) }
    }

    fn take_at(&self, now_ns: u64, what: Counted, limit: u32, peer: K, may_relay: bool) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.turn_to(now_ns / MINUTE_NS);
        let left = MINUTE_NS - now_ns % MINUTE_NS;
        let before = counts.before.get(&peer).map_or(0, |count| count[what as usize]);
        let before = u64::from(before) * (left / 1_000_000) / (MINUTE_NS / 1_000_000);
        if !counts.now.contains_key(&peer) && counts.now.len() >= PEERS_MAX {
            return may_relay;
        }
        let count = &mut counts.now.entry(peer).or_default()[what as usize];
        let may = before + u64::from(*count) < u64::from(limit);
        *count += u32::from(may);
        may
    }
}

impl<K: Ord> Counts<K> {
    fn turn_to(&mut self, minute: u64) {
        // Shards' clocks may differ by a turn of their loops.
        if minute > self.minute {
            let last = std::mem::take(&mut self.now);
            self.before = if minute == self.minute + 1 { last } else { BTreeMap::new() };
            self.minute = minute;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer gets its limit in any minute and others get theirs; what the minute before used up comes back bit by bit.
    #[test]
    fn rates_are_limited() {
        let rates = Rates::new(10, 0);
        let peer = |number: u32| IpAddr::from(number.to_be_bytes());
        let take = |second: u64, number| {
            rates.take_at(second * 1_000_000_000, Counted::Message, 10, peer(number), false)
        };
        let taken = |second, number| (0..20).filter(|_| take(second, number)).count();
        assert_eq!((taken(59, 1), taken(59, 2)), (10, 10));
        assert_eq!(taken(60, 1), 0);
        assert_eq!(taken(90, 1), 5, "half of the minute before counts");
        assert_eq!(taken(240, 1), 10);
    }

    /// The counters have a limit: then strangers who are not counted yet wait, and `networks` do not.
    #[test]
    fn counters_are_limited() {
        let rates = Rates::<IpAddr>::new(1, 0);
        let take = |number: u32, may_relay| {
            rates.take_at(0, Counted::Message, 1, number.to_be_bytes().into(), may_relay)
        };
        assert!((0..PEERS_MAX as u32).all(|number| take(number, false)));
        assert!(!take(u32::MAX, false) && take(u32::MAX, true) && !take(7, true));
        assert_eq!(rates.counts.lock().unwrap().now.len(), PEERS_MAX);
    }
}
