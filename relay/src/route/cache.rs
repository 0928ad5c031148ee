//! A shard's cache of routes: bounded, second-chance eviction, one flight per name.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::sync::Notify;
use chasqui_runtime::{HashMap, Instant};

use super::{Route, RouteError};

/// A cached error that is not permanent lives this long after the first failure (RFC 9520, section 3.2).
const FAILURE_TTL_MIN: Duration = Duration::from_secs(1);
/// Each further failure in a row doubles that, up to this.
const FAILURE_TTL_MAX: Duration = Duration::from_secs(30);

/// What a lookup ends with.
pub(crate) type Answer = Result<Rc<Route>, RouteError>;

/// A lookup under way, which any number of callers wait for.
#[derive(Default)]
pub(super) struct Flight {
    answer: RefCell<Option<Answer>>,
    landed: Notify,
}

impl Flight {
    pub(super) fn land(&self, answer: Answer) {
        *self.answer.borrow_mut() = Some(answer);
        self.landed.notify_all();
    }

    pub(super) async fn answer(&self) -> Answer {
        loop {
            if let Some(answer) = self.answer.borrow().clone() {
                return answer;
            }
            self.landed.notified().await;
        }
    }
}

enum State {
    Flying(Rc<Flight>),
    Route(Rc<Route>),
    Error { error: RouteError, expires: Instant },
}

struct Slot {
    name: Rc<str>,
    state: State,
    /// Asked for since the hand last passed.
    referenced: bool,
    /// Temporary failures in a row.
    failures: u32,
}

/// What the cache has for a name.
pub(super) enum Cached {
    Fresh(Answer),
    Flying(Rc<Flight>),
    Stale,
    Missing,
}

/// At most `entries_max` names, and beyond that only names that are being looked up.
pub(super) struct Cache {
    index: HashMap<Rc<str>, usize>,
    slots: Vec<Slot>,
    hand: usize,
    entries_max: usize,
    evictions: u64,
}

impl Cache {
    pub(super) fn new(entries_max: usize) -> Cache {
        Cache {
            index: HashMap::default(),
            slots: Vec::new(),
            hand: 0,
            entries_max: entries_max.max(1),
            evictions: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Allocates nothing when the answer is fresh.
    pub(super) fn get(&mut self, name: &str, now: Instant) -> Cached {
        let Some(&at) = self.index.get(name) else { return Cached::Missing };
        let slot = &mut self.slots[at];
        slot.referenced = true;
        match &slot.state {
            State::Flying(flight) => Cached::Flying(flight.clone()),
            State::Route(route) if now < route.expires => Cached::Fresh(Ok(route.clone())),
            State::Error { error, expires } if now < *expires => Cached::Fresh(Err(error.clone())),
            State::Route(_) | State::Error { .. } => Cached::Stale,
        }
    }

    /// Notes that `name` is being looked up; tells whether the last lookup was a temporary failure.
    pub(super) fn take_off(&mut self, name: &str) -> (Rc<Flight>, bool) {
        let flight = Rc::new(Flight::default());
        let at = self.slot_for(name);
        let slot = &mut self.slots[at];
        slot.state = State::Flying(flight.clone());
        (flight, slot.failures > 0)
    }

    /// Keeps a route until it expires.
    pub(super) fn keep_route(&mut self, name: &str, route: Rc<Route>) {
        let at = self.slot_for(name);
        self.slots[at].failures = 0;
        self.slots[at].state = State::Route(route);
    }

    /// Keeps an error: a permanent one for `ttl`, a temporary one for 1 to 30 s, twice as long each time.
    pub(super) fn keep_error(&mut self, name: &str, error: RouteError, ttl: Duration, now: Instant) {
        let at = self.slot_for(name);
        let slot = &mut self.slots[at];
        let ttl = if error.is_permanent() {
            slot.failures = 0;
            ttl
        } else {
            let doubled = FAILURE_TTL_MIN * 2_u32.pow(slot.failures.min(8));
            slot.failures = slot.failures.saturating_add(1);
            doubled.min(FAILURE_TTL_MAX)
        };
        slot.state = State::Error { error, expires: now + ttl };
    }

    /// Temporary errors are asked about again when they are wanted.
    pub(super) fn forget_failures(&mut self) {
        for slot in &mut self.slots {
            if let State::Error { error, expires } = &mut slot.state
                && !error.is_permanent()
            {
                (*expires, slot.failures) = (Instant::from_nanos(0), 0);
            }
        }
    }

    fn slot_for(&mut self, name: &str) -> usize {
        if let Some(&at) = self.index.get(name) {
            return at;
        }
        let name: Rc<str> = name.into();
        let state = State::Error { error: RouteError::NullMx, expires: Instant::from_nanos(0) };
        // Not yet referenced: names that come once leave before names that are asked for again.
        let slot = Slot { name: name.clone(), state, referenced: false, failures: 0 };
        let at = match self.victim() {
            Some(at) => {
                let old = std::mem::replace(&mut self.slots[at], slot);
                self.index.remove(&old.name);
                self.evictions += 1;
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        self.index.insert(name, at);
        at
    }

    /// The slot to give up: the next one that was not asked for since the hand last passed. `None` while
    /// there is room, or when every slot is in flight.
    fn victim(&mut self) -> Option<usize> {
        if self.slots.len() < self.entries_max {
            return None;
        }
        for _ in 0..2 * self.slots.len() {
            let at = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[at];
            if matches!(slot.state, State::Flying(_)) {
                continue;
            }
            if !std::mem::take(&mut slot.referenced) {
                return Some(at);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> Instant {
        Instant::from_nanos(second * 1_000_000_000)
    }

    fn temporary() -> RouteError {
        RouteError::Temporary("no answer".into())
    }

    /// Proves that failures are remembered for 1, 2, 4 … 30 s, and from 1 s again after a success.
    #[test]
    fn failures_back_off() {
        let mut cache = Cache::new(4);
        let mut now = 100;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            cache.keep_error("a", temporary(), Duration::from_secs(3600), at(now));
            assert!(matches!(cache.get("a", at(now + seconds - 1)), Cached::Fresh(Err(_))));
            assert!(matches!(cache.get("a", at(now + seconds)), Cached::Stale));
            now += 100;
        }
        cache.keep_error("a", RouteError::NullMx, Duration::from_secs(50), at(now));
        assert!(matches!(cache.get("a", at(now + 49)), Cached::Fresh(Err(RouteError::NullMx))));
        cache.keep_error("a", temporary(), Duration::from_secs(3600), at(now));
        assert!(matches!(cache.get("a", at(now + 1)), Cached::Stale));
    }

    /// Proves that the cache stays within its size, and keeps the names that are asked for and in flight.
    #[test]
    fn eviction_spares_what_is_used() {
        let mut cache = Cache::new(3);
        let _flight = cache.take_off("flying");
        cache.keep_error("used", RouteError::NullMx, Duration::from_secs(1000), at(0));
        for i in 0..100 {
            cache.keep_error(&format!("n{i}"), RouteError::NullMx, Duration::from_secs(1000), at(0));
            assert!(matches!(cache.get("used", at(1)), Cached::Fresh(_)), "after {i}");
        }
        assert_eq!(cache.len(), 3);
        assert_eq!(cache.evictions(), 99);
        assert!(matches!(cache.get("flying", at(1)), Cached::Flying(_)));
        assert!(matches!(cache.get("n99", at(1)), Cached::Fresh(_)));
        assert!(matches!(cache.get("n98", at(1)), Cached::Missing));
    }
}
