//! The limits of a site that hold across shards: connections by leases, messages a second by a GCRA cell.
//!
//! One [`SiteLimits`] per site and process. A lease is one atomic subtraction while there are any; a shard that finds
//! none is queued, and whoever gives a lease back hands it to a shard that waits and rings its doorbell: of those that have
//! the fewest, the one that has waited longest. So
//! no lease is free while a shard waits, and no wake-up is lost: the balance, changed in one step, says which of the
//! two came first, and the one that came first leaves the other a grant or a place in the queue.
//!
//! A shard that holds more than its share while others wait gives leases up after a message, idle connections at once
//! (see [`SiteLease::must_give_way`]). Locks are taken when a shard waits or is called, never for a message.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chasqui_runtime::channel::{self, Receiver, Sender};
use chasqui_runtime::{Instant, sim};

use crate::route::SiteKey;

/// Messages that a connection sends before it gives way to a shard that has none, where a site allows fewer
/// connections than there are shards that want one.
const TURN_MESSAGES: u32 = 64;
/// Part of a second by which messages may come early: a tenth of a second's messages may go in one burst.
const BURST_PARTS: u64 = 10;
/// Sites that nobody needs may be kept, at least.
const SITES_KEPT: usize = 1024;

/// The limits of all sites of a relay, shared by its shards.
#[derive(Debug)]
pub(crate) struct Leases {
    connections_max: usize,
    /// Nanoseconds from one message to the next; 0 without a limit.
    interval_ns: u64,
    table: Mutex<Table>,
    shards: Vec<Inbox>,
}

#[derive(Debug, Default)]
struct Table {
    sites: BTreeMap<SiteKey, Arc<SiteLimits>>,
    /// Sites at which those that nobody needs any more are looked for.
    prune_at: usize,
}

/// What other shards have sent a shard.
#[derive(Debug)]
struct Inbox {
    events: Mutex<Vec<LeaseEvent>>,
    doorbell: Sender<()>,
    receiver: Mutex<Option<Receiver<()>>>,
}

/// What a shard sends another about the leases of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeaseEvent {
    /// A lease of this site that the shard has waited for is now its own.
    Granted(SiteKey),
    /// A shard waits for a lease of this site: idle connections are to be closed.
    Wanted(SiteKey),
}

/// The limits of one site.
#[derive(Debug)]
struct SiteLimits {
    /// Leases that are free, less the shards that wait for one.
    balance: AtomicI64,
    waiters: Mutex<Waiters>,
    /// Shards that hold a lease or wait for one.
    parties: AtomicUsize,
    /// Leases that each shard holds.
    held: Box<[AtomicUsize]>,
    /// Per shard: a call that a lease is wanted lies in its box.
    notified: Box<[AtomicBool]>,
    /// GCRA: when the next message is due at the earliest, as nanoseconds of the monotonic clock.
    due_ns: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiters {
    /// Shards, in the order in which they began to wait.
    waiting: VecDeque<usize>,
    /// Leases given back for shards that are about to enter `waiting`.
    grants: usize,
}

/// A shard's part in the limits of a site.
#[derive(Debug)]
pub(crate) struct SiteLease {
    leases: Arc<Leases>,
    key: SiteKey,
    limits: Arc<SiteLimits>,
    shard: usize,
    /// Leases that were granted and have no connection yet.
    unused: usize,
    waiting: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leases {
    /// For `shards` shards: at most `connections_max` connections to a site, and `rate` messages a second, 0 for any.
    pub(crate) fn new(shards: usize, connections_max: usize, rate: u32) -> Self {
        let inbox = |_| {
            let (doorbell, receiver) = channel::bounded(1);
            Inbox { events: Mutex::default(), doorbell, receiver: Mutex::new(Some(receiver)) }
        };
        let interval_ns = if rate == 0 { 0 } else { 1_000_000_000 / u64::from(rate) };
        let shards = (0..shards).map(inbox).collect();
        Leases { connections_max, interval_ns, table: Mutex::default(), shards }
    }

    /// The doorbell of a shard, for the shard alone: rung when there are calls.
    pub(crate) fn take_doorbell(&self, shard: usize) -> Option<Receiver<()>> {
        lock(&self.shards.get(shard)?.receiver).take()
    }

    /// What has come for a shard.
    pub(crate) fn events(&self, shard: usize) -> Vec<LeaseEvent> {
        let events = mem::take(&mut *lock(&self.shards[shard].events));
        for event in &events {
            if let LeaseEvent::Wanted(key) = event
                && let Some(site) = lock(&self.table).sites.get(key)
            {
                site.notified[shard].store(false, Ordering::SeqCst);
            }
        }
        events
    }

    fn send(&self, shard: usize, event: LeaseEvent) {
        let inbox = &self.shards[shard];
        lock(&inbox.events).push(event);
        // Full: it has been rung and not been heard yet. Closed: the shard has ended, and with it the relay.
        let _rung = inbox.doorbell.send(());
    }

    /// The part of a shard in a site's limits.
    pub(crate) fn lease(self: &Arc<Self>, key: &SiteKey, shard: usize) -> SiteLease {
        let mut table = lock(&self.table);
        if table.sites.len() >= table.prune_at {
            let now_ns = chasqui_runtime::now().as_nanos();
            table.sites.retain(|_, site| Arc::strong_count(site) > 1 || site.is_in_debt(now_ns));
            table.prune_at = 2 * table.sites.len() + SITES_KEPT;
        }
        let limits = table.sites.entry(key.clone()).or_insert_with(|| {
            Arc::new(SiteLimits {
                balance: AtomicI64::new(i64::try_from(self.connections_max).unwrap_or(i64::MAX)),
                waiters: Mutex::default(),
                parties: AtomicUsize::new(0),
                held: self.shards.iter().map(|_| AtomicUsize::new(0)).collect(),
                notified: self.shards.iter().map(|_| AtomicBool::new(false)).collect(),
                due_ns: AtomicU64::new(0),
            })
        });
        let limits = limits.clone();
        SiteLease { leases: self.clone(), key: key.clone(), limits, shard, unused: 0, waiting: false }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.table).sites.len()
    }
}

impl SiteLease {
    /// Takes a lease for a connection. `false`: there is none, and the shard now waits for a [`LeaseEvent::Granted`].
    pub(crate) fn acquire(&mut self) -> bool {
        debug_assert!(!self.waiting, "a shard waits once");
        if self.unused > 0 {
            self.unused -= 1;
            return true;
        }
        if self.held() == 0 {
            self.limits.parties.fetch_add(1, Ordering::SeqCst);
        }
        if self.limits.balance.fetch_sub(1, Ordering::SeqCst) > 0 {
            self.count_held();
            return true;
        }
        let mut waiters = lock(&self.limits.waiters);
        if waiters.grants > 0 {
            waiters.grants -= 1;
            self.count_held();
            return true;
        }
        waiters.waiting.push_back(self.shard);
        drop(waiters);
        self.waiting = true;
        for other in (0..self.leases.shards.len()).filter(|&other| other != self.shard) {
            if !self.limits.notified[other].swap(true, Ordering::SeqCst) {
                self.leases.send(other, LeaseEvent::Wanted(self.key.clone()));
            }
        }
        false
    }

    /// A lease that this shard waited for has come; the next [`SiteLease::acquire`] uses it.
    pub(crate) fn granted(&mut self) {
        debug_assert!(self.waiting, "only who waits is granted a lease");
        self.waiting = false;
        self.count_held();
        self.unused += 1;
    }

    /// Gives back what was granted and is no longer wanted.
    pub(crate) fn release_unused(&mut self) {
        for _ in 0..mem::take(&mut self.unused) {
            self.release();
        }
    }

    /// Gives a lease back: to the shard that has waited longest, if there is one.
    pub(crate) fn release(&mut self) {
        let held = self.limits.held[self.shard].fetch_sub(1, Ordering::SeqCst) - 1;
        if held == 0 && !self.waiting {
            self.limits.parties.fetch_sub(1, Ordering::SeqCst);
        }
        if self.limits.balance.fetch_add(1, Ordering::SeqCst) >= 0 {
            return;
        }
        let mut waiters = lock(&self.limits.waiters);
        let next = waiters.next(&self.limits.held);
        waiters.grants += usize::from(next.is_none());
        drop(waiters);
        if let Some(next) = next.filter(|_| !sim::PlantedFault::LostLeaseWaiter.is_planted()) {
            self.leases.send(next, LeaseEvent::Granted(self.key.clone()));
        }
    }

    fn held(&self) -> usize {
        self.limits.held[self.shard].load(Ordering::Relaxed)
    }

    fn count_held(&self) {
        self.limits.held[self.shard].fetch_add(1, Ordering::SeqCst);
    }

    /// The shard holds no lease and waits for none.
    pub(crate) fn is_idle(&self) -> bool {
        self.held() == 0 && !self.waiting
    }

    /// The shard waits for a lease.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// Another shard waits for a lease.
    pub(crate) fn others_wait(&self) -> bool {
        self.limits.balance.load(Ordering::Relaxed) < -i64::from(self.waiting)
    }

    /// A connection that has sent `sent` messages is to give its lease up: another shard waits, and this one has more
    /// than its share, or has had its turn where there are too few leases for every shard to have one.
    pub(crate) fn must_give_way(&self, sent: u32) -> bool {
        if !self.others_wait() {
            return false;
        }
        let parties = self.limits.parties.load(Ordering::Relaxed).max(1);
        let share = self.leases.connections_max.div_ceil(parties);
        self.held() > share || (self.leases.connections_max < parties && sent >= TURN_MESSAGES)
    }

    /// Reserves the site's next turn to be sent a message: when that is. `None`: at once, there is no limit.
    pub(crate) fn turn(&self, now: Instant) -> Option<Instant> {
        let interval_ns = self.leases.interval_ns;
        if interval_ns == 0 {
            return None;
        }
        let early_ns = (1_000_000_000 / BURST_PARTS).saturating_sub(interval_ns);
        let mut turn_ns = 0;
        let advance = |due_ns: u64| {
            turn_ns = due_ns.max(now.as_nanos());
            Some(turn_ns + interval_ns)
        };
        // `advance` never refuses.
        let _due = self.limits.due_ns.fetch_update(Ordering::SeqCst, Ordering::SeqCst, advance);
        let at = Instant::from_nanos(turn_ns.saturating_sub(early_ns));
        (at > now).then_some(at)
    }
}

impl Waiters {
    /// The shard to be served next: of those with the fewest leases, the one that has waited longest.
    fn next(&mut self, held: &[AtomicUsize]) -> Option<usize> {
        let of = |shard: &usize| held[*shard].load(Ordering::Relaxed);
        let (place, _) = self.waiting.iter().enumerate().min_by_key(|(_, shard)| of(shard))?;
        self.waiting.remove(place)
    }
}

impl SiteLimits {
    /// Turns beyond this moment are taken: to forget the site would allow a second burst.
    fn is_in_debt(&self, now_ns: u64) -> bool {
        self.due_ns.load(Ordering::SeqCst) > now_ns
    }
}

impl Drop for SiteLease {
    fn drop(&mut self) {
        self.release_unused();
        let mut table = lock(&self.leases.table);
        // The table's and this one. A site in debt is looked at again when the table has grown.
        let is_last = Arc::strong_count(&self.limits) == 2;
        if is_last
            && (self.leases.interval_ns == 0 || !self.limits.is_in_debt(chasqui_runtime::now().as_nanos()))
        {
            table.sites.remove(&self.key);
        }
    }
}
