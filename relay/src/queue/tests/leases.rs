//! Tests of the limits that shards share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::super::leases::{LeaseEvent, Leases};
use super::*;
use crate::route::SiteKey;

fn key() -> SiteKey {
    "a".into()
}

fn granted() -> Vec<LeaseEvent> {
    vec![LeaseEvent::Granted(key())]
}

/// A lease that is given back goes to the shard that has waited longest, which is called; nobody overtakes it.
#[test]
fn shards_are_served_in_turn() {
    let leases = Arc::new(Leases::new(4, 1, 0));
    let mut held: Vec<_> = (0..4).map(|shard| leases.lease(&key(), shard)).collect();
    assert!(held[3].acquire());
    for waiting in [1, 0] {
        assert!(!held[waiting].acquire());
        assert!(held[waiting].is_waiting());
    }
    assert_eq!(leases.events(3), [LeaseEvent::Wanted(key())], "told once");
    held[3].release();
    assert!(!held[3].acquire(), "the lease is the first waiter's, though that has not heard yet");
    for next in [1, 0, 3] {
        assert_eq!(leases.events(next).last(), granted().last());
        held[next].granted();
        assert!(held[next].acquire());
        held[next].release();
    }
    assert!(held[2].acquire(), "nobody waits any more");
}

/// What is granted and no longer wanted goes to the next.
#[test]
fn unused_grants_are_passed_on() {
    let leases = Arc::new(Leases::new(3, 1, 0));
    let mut held: Vec<_> = (0..3).map(|shard| leases.lease(&key(), shard)).collect();
    assert!(held[0].acquire());
    assert!(!held[1].acquire());
    assert!(!held[2].acquire());
    held[0].release();
    held[1].granted();
    held[1].release_unused();
    assert!(held[1].is_idle());
    assert_eq!(leases.events(2).last(), granted().last());
    held[2].granted();
    assert!(held[2].acquire());
    drop(held);
    assert_eq!(leases.len(), 0, "a site without held is forgotten");
}

/// With threads that fight for few leases, no more than the limit are held at any time and no waiter is forgotten:
/// every thread gets as many as it wants.
#[test]
fn no_waiter_is_lost() {
    const SHARDS: usize = 4;
    for limit in [1, 3] {
        let leases = Arc::new(Leases::new(SHARDS, limit, 0));
        let held = Arc::new(AtomicUsize::new(0));
        let fight = |shard| {
            let (leases, held) = (leases.clone(), held.clone());
            move || {
                let mut bell = leases.take_doorbell(shard).expect("one bell a shard");
                let mut lease = leases.lease(&key(), shard);
                for _ in 0..5000 {
                    if !lease.acquire() {
                        while !leases.events(shard).contains(&LeaseEvent::Granted(key())) {
                            block_on(bell.recv()).expect("the other end is in the table");
                        }
                        lease.granted();
                        assert!(lease.acquire());
                    }
                    assert!(held.fetch_add(1, Ordering::SeqCst) < limit);
                    held.fetch_sub(1, Ordering::SeqCst);
                    lease.release();
                }
            }
        };
        let threads: Vec<_> =
            (0..SHARDS).map(|shard| thread::Builder::new().spawn(fight(shard)).expect("a thread")).collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no assertion failed"));
    }
}

/// Over any stretch of time, a site is sent no more than its rate and a tenth of a second's messages ahead, whoever
/// asks, and all of that when it is asked for.
#[test]
fn rates_hold_across_shards() {
    for rate in [2, 50, 1000] {
        let leases = Arc::new(Leases::new(2, 100, rate));
        let held = [leases.lease(&key(), 0), leases.lease(&key(), 1)];
        let start_ns = 1_000_000_000_000;
        let mut sent = Vec::new();
        for number in 0..3 * rate as usize {
            let now = at(start_ns);
            sent.push(held[number % 2].turn(now).unwrap_or(now).as_nanos());
        }
        assert!(sent.is_sorted(), "first come, first served");
        let burst = (rate / 10).max(1) as usize;
        for (place, time_ns) in sent.iter().enumerate() {
            let due_ns = (place as u64).saturating_sub(burst as u64 - 1) * 1_000_000_000 / u64::from(rate);
            assert_eq!((time_ns - start_ns) / 1_000_000, due_ns / 1_000_000, "message {place} at {rate}/s");
        }
        let later = at(start_ns + 60_000_000_000);
        let at_once = (0..rate).take_while(|_| held[0].turn(later).is_none()).count();
        assert_eq!(at_once, burst, "quiet time is not saved up");
    }
    let free = Arc::new(Leases::new(1, 1, 0)).lease(&key(), 0);
    assert_eq!(free.turn(at(5)), None);
}

struct TwoShards {
    leases: Arc<Leases>,
    queues: [Queue; 2],
    sites: [SiteId; 2],
}

impl TwoShards {
    fn new(limit: usize) -> TwoShards {
        let leases = Arc::new(Leases::new(2, limit, 0));
        let limits = ConnectionLimits { per_site: limit, total: 1000 };
        let mut queues = [0, 1].map(|shard| Queue::new(limits, leases.clone(), shard));
        let sites = [0, 1].map(|shard| queues[shard].sites.of_route(&route("a")));
        TwoShards { leases, queues, sites }
    }

    fn fill(&mut self, shard: usize, count: u64) {
        for arrived_ms in 0..count {
            let job = add(&mut self.queues[shard], arrived_ms);
            self.queues[shard].push(self.sites[shard], Attempt::First, job);
        }
    }

    /// Delivers the calls that have come, and opens what can be; how many.
    fn open(&mut self, shard: usize) -> usize {
        for call in self.leases.events(shard) {
            match call {
                LeaseEvent::Granted(key) => self.queues[shard].sites.granted(&key),
                LeaseEvent::Wanted(key) => self.queues[shard].sites.wanted(&key),
            }
        }
        let opened = open_all(&mut self.queues[shard]).len();
        (0..opened).for_each(|_| assert!(works(&mut self.queues[shard], self.sites[shard], host(), true)));
        opened + if opened > 0 { self.open(shard) } else { 0 }
    }
}

/// A shard that has all connections of a site gives half of them up, message by message, to another that has mail for
/// it; and no more, so that connections are not passed to and fro.
#[test]
fn connections_are_shared_by_shards() {
    let mut two = TwoShards::new(10);
    two.fill(0, 1000);
    assert_eq!(two.open(0), 10);
    two.fill(1, 1000);
    assert_eq!(two.open(1), 0);
    for _ in 0..5 {
        assert!(two.queues[0].sites.must_give_way(two.sites[0], 1));
        closed(&mut two.queues[0], two.sites[0], true);
        assert_eq!(two.open(1), 1, "it is handed over");
        assert_eq!(two.open(0), 0);
    }
    assert!(!two.queues[0].sites.must_give_way(two.sites[0], 1), "it has its half");
    assert!(!two.queues[1].sites.must_give_way(two.sites[1], 1));
}

/// A site that allows one connection is served by the shards in turn.
#[test]
fn fewer_connections_than_shards() {
    let mut two = TwoShards::new(1);
    two.fill(0, 1000);
    two.fill(1, 1000);
    assert_eq!((two.open(0), two.open(1)), (1, 0));
    for turn in 0..10 {
        let (has, waits) = (turn % 2, 1 - turn % 2);
        assert!(
            !two.queues[has].sites.must_give_way(two.sites[has], 1),
            "a connection is worth some messages"
        );
        assert!(two.queues[has].sites.must_give_way(two.sites[has], 64));
        closed(&mut two.queues[has], two.sites[has], true);
        assert_eq!((two.open(has), two.open(waits)), (0, 1));
    }
}

/// An idle connection is closed when another shard needs its lease, and one that ends meanwhile does not stay idle.
#[test]
fn idle_connections_give_way() {
    let mut two = TwoShards::new(1);
    two.fill(0, 1);
    assert_eq!(two.open(0), 1);
    assert!(two.queues[0].sites.take(two.sites[0]).is_some());
    let idle = Rc::new(Idle::default());
    assert!(two.queues[0].sites.rest(two.sites[0], &idle));
    two.fill(1, 1);
    assert_eq!(two.open(1), 0);
    two.open(0);
    assert_eq!(block_on(poll_once(idle.called())), Some(Called::Close));
    assert!(!two.queues[0].sites.rest(two.sites[0], &idle), "another shard waits");
    closed(&mut two.queues[0], two.sites[0], true);
    assert_eq!(two.open(1), 1);
}
