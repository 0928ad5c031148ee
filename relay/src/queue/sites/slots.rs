//! The places for connections that a shard has, and who may have them.
//!
//! A host that is slow costs a connection for as long as its time limits last, and whoever sends mail to hosts of his own can
//! have thousands of these. So the places are shared out by what is known of a site ([`Class`]): connections that have not
//! been of use yet, and slow ones, have half of them together; beyond the first connection of a site three eighths. An
//! eighth of all is kept for sites with fewer than two.
//!
//! Nobody loses a place by being slow alone: a slow host may be an honest one. When a site waits that would have a place but for
//! slow ones, and these have more than a quarter of all, the longest-standing is [revoked](Slot::revoke): its message counts as
//! deferred. So are surplus connections on which nothing has been sent. A connection that waits for the reply to a whole
//! message, which may make a duplicate, ends so only after a minute; where messages were taken, only while slow ones have half
//! of all.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use chasqui_runtime::Instant;

use super::{SiteId, Sites};

/// A connection that takes longer to be past EHLO is slow.
const SLOW_OPENING: Duration = Duration::from_secs(8);
/// So is one that takes longer for the envelope of a message, for 256 KiB of it, or for the reply to it.
const SLOW_STAGE: Duration = Duration::from_secs(10);
/// A message that was sent whole is waited for this long, although others wait too: to end it might make a duplicate.
const FINAL_KEPT: Duration = Duration::from_secs(60);
/// A connection stands this long at least before it gives way to a site that has none.
const SURPLUS_AGE: Duration = Duration::from_secs(1);
/// Entries of a line that are of no account, at most, beside two for each site.
const STALE_MAX: usize = 64;
/// A site with fewer connections may have any place.
const FEW: usize = 2;

/// A connection's place, and what it is used for.
#[derive(Debug)]
pub(crate) struct Slot {
    site: SiteId,
    /// Among the slots of the shard.
    place: usize,
    stage: Cell<Stage>,
    /// Since when.
    since: Cell<Instant>,
    /// A transaction has ended by replies.
    is_proven: Cell<bool>,
    revoked: Cell<Option<Revoked>>,
    /// It was slow at the last look, and counts as such.
    was_slow: Cell<bool>,
    task: RefCell<Option<Waker>>,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Until it is past EHLO.
    Opening,
    Idle,
    /// A message is in hand: it is being sent, or a connection opened for it.
    Sending,
    /// A message was sent whole, and is not answered yet.
    Final,
}

/// Why a connection has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revoked {
    /// Nothing was asked of it yet.
    Surplus,
    Slow,
}

impl Slot {
    fn new(site: SiteId, place: usize, now: Instant) -> Slot {
        Slot {
            site,
            place,
            stage: Cell::new(Stage::Opening),
            since: Cell::new(now),
            is_proven: Cell::new(false),
            revoked: Cell::new(None),
            was_slow: Cell::new(false),
            task: RefCell::new(None),
        }
    }

    pub(crate) fn site(&self) -> SiteId {
        self.site
    }

    /// A stage begins.
    pub(crate) fn enter(&self, stage: Stage, now: Instant) {
        self.stage.set(stage);
        self.since.set(now);
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.is_proven.get()
    }

    /// The stage takes longer than usual.
    pub(crate) fn is_slow(&self, now: Instant) -> bool {
        let limit = match self.stage.get() {
            Stage::Idle => return false,
            Stage::Opening => SLOW_OPENING,
            Stage::Sending | Stage::Final => SLOW_STAGE,
        };
        now - self.since.get() > limit
    }

    /// Whether it may end because it is slow. `too_many`: slow ones have half of all places.
    fn is_revocable(&self, now: Instant, too_many: bool) -> bool {
        let is_kept = || (self.is_proven.get() && !too_many) || now - self.since.get() <= FINAL_KEPT;
        let is_revoked = self.revoked.get().is_some();
        !is_revoked && self.is_slow(now) && !(self.stage.get() == Stage::Final && is_kept())
    }

    pub(crate) fn revoked(&self) -> Option<Revoked> {
        self.revoked.get()
    }

    /// Has the connection end at its next wait, or at the one it is in.
    fn revoke(&self, why: Revoked) {
        self.revoked.set(Some(why));
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Runs what a connection does; where it waits, it wakes when the place is revoked.
    pub(crate) async fn occupy<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            // Set once: the whole connection is one task.
            if self.task.borrow().is_none() && self.revoked.get().is_none() {
                self.task.replace(Some(context.waker().clone()));
            }
            work.as_mut().poll(context)
        })
        .await
    }

    /// Waits for input or output, within [`Slot::occupy`]; fails when the place is revoked meanwhile.
    pub(crate) async fn unless_revoked<T>(&self, io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let mut io = pin!(io);
        poll_fn(|context| match io.as_mut().poll(context) {
            Poll::Pending if self.revoked.get().is_some() => Poll::Ready(Err(too_slow())),
            polled => polled,
        })
        .await
    }
}

fn too_slow() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "too slow while others waited for a connection")
}

/// What is known of a site that wants a connection: which places it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// It has lately taken mail, and has few connections.
    Few,
    /// It has lately taken mail, and has some connections.
    Many,
    /// Nothing is known of it, and it has no connection.
    First,
    /// It lately failed or was slow, and has no connection.
    Again,
    /// It has connections, of which none has taken mail yet or some are slow.
    Further,
}

const CLASSES: [Class; 5] = [Class::Few, Class::First, Class::Many, Class::Again, Class::Further];

/// Sites that want a connection, in turn. What a site waits as stands in [`super::Site::wanting`]: entries in other lines are
/// of no account any more.
#[derive(Debug, Default)]
pub(super) struct Wanting {
    lines: [VecDeque<SiteId>; CLASSES.len()],
    /// The class that is served next.
    turn: usize,
}

impl Wanting {
    fn line(&mut self, class: Class) -> &mut VecDeque<SiteId> {
        &mut self.lines[class as usize]
    }

    fn count(&self, class: Class) -> usize {
        self.lines[class as usize].len()
    }
}

impl Sites {
    pub(super) fn class(&self, site: SiteId) -> Class {
        let state = &self.sites[site.place()];
        let has_working = state.connections > state.unproven;
        let is_clean = (state.failures == 0 || has_working) && state.slow == 0 && !state.slowed;
        let is_proven = has_working || self.proven.contains(&state.route.site);
        match (is_clean, is_proven) {
            (true, true) if state.connections < FEW => Class::Few,
            (true, true) => Class::Many,
            (true, false) if state.connections == 0 => Class::First,
            _ if state.connections == 0 => Class::Again,
            _ => Class::Further,
        }
    }

    /// Puts a site that wants a connection in its line.
    pub(super) fn wait_in_line(&mut self, site: SiteId, is_next: bool) {
        let class = self.class(site);
        self.site(site).wanting = Some(class);
        let (known, line) = (self.sites.len(), self.wanting.line(class));
        if is_next {
            line.push_front(site)
        } else {
            line.push_back(site)
        }
        if line.len() > 2 * known + STALE_MAX {
            let sites = &self.sites;
            let is_waiting =
                |site: &SiteId| sites.get(site.place()).is_some_and(|state| state.wanting == Some(class));
            line.retain(is_waiting);
        }
        self.may_open_one.notify_one();
    }

    /// More is known of a site that waits: it may belong in another line.
    pub(super) fn reclass(&mut self, site: SiteId) {
        let waits_as = self.sites[site.place()].wanting;
        if waits_as.is_some_and(|class| class != self.class(site)) {
            self.wait_in_line(site, false);
        }
    }

    /// Connections at which this class gets no more.
    fn total_max(&self, class: Class) -> usize {
        let total = self.limits.total;
        match class {
            _ if !self.has_reserve => total,
            Class::Few | Class::First | Class::Again => total,
            Class::Many | Class::Further => total - total / 8,
        }
    }

    /// Whether slow connections, and those that have not been of use yet, leave this class its share.
    fn has_share(&self, class: Class) -> bool {
        let (total, held) = (self.limits.total, self.unproven + self.slow_proven);
        match class {
            _ if !self.has_reserve => true,
            Class::Few | Class::Many => true,
            Class::First | Class::Again => held < total.div_ceil(2),
            Class::Further => held < (total * 3 / 8).max(1),
        }
    }

    pub(super) fn may_open(&self, class: Class) -> bool {
        self.connections() < self.total_max(class) && self.has_share(class)
    }

    /// Sites wait for a connection that the limit on all connections does not allow: others should give theirs up.
    pub(in super::super) fn is_crowded(&self) -> bool {
        let is_full = |class: Class| self.connections() >= self.total_max(class) && self.has_share(class);
        // As a rule there is room for all.
        self.connections() >= self.total_max(Class::Many)
            && CLASSES.into_iter().any(|class| self.wanting.count(class) > 0 && is_full(class))
    }

    /// The next site in turn that may have a connection now, taken out of the line.
    pub(super) fn next_wanting(&mut self) -> Option<SiteId> {
        for _ in CLASSES {
            let class = CLASSES[self.wanting.turn % CLASSES.len()];
            self.wanting.turn = (self.wanting.turn + 1) % CLASSES.len();
            while self.may_open(class)
                && let Some(site) = self.wanting.line(class).pop_front()
            {
                let waits_as = self.sites.get(site.place()).and_then(|state| state.wanting);
                if waits_as != Some(class) {
                    continue;
                }
                // More may be known of it since it began to wait.
                if self.class(site) == class {
                    return Some(site);
                }
                self.wait_in_line(site, false);
            }
        }
        None
    }

    pub(super) fn add_slot(&mut self, site: SiteId, now: Instant) -> Rc<Slot> {
        self.unproven += 1;
        let entry = self.slots.vacant_entry();
        let slot = Rc::new(Slot::new(site, entry.key(), now));
        entry.insert(slot.clone());
        slot
    }

    pub(super) fn remove_slot(&mut self, slot: &Slot) {
        self.count_slow(slot, false);
        if slot.revoked() == Some(Revoked::Slow) {
            self.proven.remove(&self.sites[slot.site.place()].route.site);
        }
        self.unproven -= usize::from(!slot.is_proven());
        self.slots.remove(slot.place);
    }

    /// Counts a connection among the slow ones, or no more.
    fn count_slow(&mut self, slot: &Slot, is_slow: bool) {
        if slot.was_slow.replace(is_slow) == is_slow {
            return;
        }
        let change = |count: &mut usize, by: usize| {
            *count = if is_slow { *count + by } else { *count - by };
        };
        change(&mut self.sites[slot.site.place()].slow, 1);
        change(&mut self.slow, 1);
        change(&mut self.slow_proven, usize::from(slot.is_proven()));
        self.reclass(slot.site);
    }

    /// A connection has been of use for the first time.
    pub(super) fn prove_slot(&mut self, slot: &Slot) -> bool {
        let is_first = !slot.is_proven.replace(true);
        self.unproven -= usize::from(is_first);
        self.slow_proven += usize::from(is_first && slot.was_slow.get());
        is_first
    }

    #[cfg(test)]
    pub(in super::super) fn slots(&self) -> impl Iterator<Item = Rc<Slot>> {
        self.slots.iter().map(|(_, slot)| slot.clone())
    }

    /// Sites wait for places that others hold.
    pub(crate) fn is_held_up(&self) -> bool {
        CLASSES.into_iter().any(|class| self.wanting.count(class) > 0)
    }

    /// Looks at how the places are used, and takes from slow and surplus connections what sites wait for that have a right to
    /// it; `false`: none such waits. To be called every now and then while [`Sites::is_held_up`].
    pub(crate) fn relieve(&mut self, now: Instant) -> bool {
        let slots: Vec<Rc<Slot>> = self.slots.iter().map(|(_, slot)| slot.clone()).collect();
        for slot in &slots {
            self.count_slow(slot, slot.is_slow(now));
        }
        self.make_way();
        if !self.has_reserve {
            self.look_again();
            return false;
        }
        let rightful = [Class::Few, Class::Many, Class::First, Class::Again].into_iter();
        let mut needed: usize =
            rightful.filter(|class| !self.may_open(*class)).map(|class| self.wanting.count(class)).sum();
        let is_any_waiting = needed > 0;
        self.revoke_surplus(now, &mut needed);
        needed = needed.min(self.slow.saturating_sub(self.limits.total / 4));
        self.revoke_slow(now, needed);
        self.look_again();
        is_any_waiting
    }

    /// Ends connections of sites that have others, none of which has been of use: no message was sent.
    fn revoke_surplus(&self, now: Instant, needed: &mut usize) {
        let is_surplus = |slot: &&Rc<Slot>| {
            slot.stage.get() == Stage::Opening
                && slot.revoked().is_none()
                && now - slot.since.get() > SURPLUS_AGE
        };
        let mut kept = BTreeSet::new();
        for slot in self.slots.iter().map(|(_, slot)| slot).filter(is_surplus) {
            if *needed > 0 && !kept.insert(slot.site) {
                slot.revoke(Revoked::Surplus);
                *needed -= 1;
            }
        }
    }

    /// Ends slow connections, first those of sites that lately failed or never took mail, of these the longest-standing.
    fn revoke_slow(&self, now: Instant, count: usize) {
        if count == 0 {
            return;
        }
        let too_many = self.slow * 2 >= self.limits.total;
        let slots = self.slots.iter().map(|(_, slot)| slot);
        let mut slow: Vec<&Rc<Slot>> = slots.filter(|slot| slot.is_revocable(now, too_many)).collect();
        slow.sort_by_key(|slot| {
            let state = &self.sites[slot.site.place()];
            let is_known_good = slot.is_proven() || self.proven.contains(&state.route.site);
            (state.failures == 0, is_known_good, slot.since.get())
        });
        slow.into_iter().take(count).for_each(|slot| slot.revoke(Revoked::Slow));
    }
}
