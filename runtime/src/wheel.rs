//! Hierarchical timing wheel (Varghese and Lauck, 1987): seven levels of 64 slots, insert and remove in O(1).
//!
//! A tick is 2^14 ns (16.4 µs), so the wheel spans 2^42 ticks, more than two years. Deadlines are rounded up:
//! a timer never fires early and fires at most one tick late, plus the wait for the shard.

use std::task::Waker;

use slab::Slab;

const TICK_SHIFT: u32 = 14;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
const LEVELS: usize = 7;
const MAX_TICKS: u64 = (1 << (SLOT_BITS as usize * LEVELS)) - 1;
const NONE: u32 = u32::MAX;
/// `Entry::level` of a timer that stands in no level yet.
const UNSTARTED: u8 = u8::MAX;

struct Entry {
    /// In ticks; of a timer that is not started, how long it runs, in nanoseconds.
    deadline: u64,
    level: u8,
    slot: u8,
    previous: u32,
    next: u32,
    waker: Option<Waker>,
}

/// Names a timer from its insertion to its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerKey(u32);

struct Level {
    occupied: u64,
    heads: [u32; SLOTS],
}

/// Timers of one shard. Times are nanoseconds of the runtime's clock.
pub(crate) struct Wheel {
    elapsed: u64,
    entries: Slab<Entry>,
    levels: [Level; LEVELS],
    /// The first of those that [`Wheel::start`] will start.
    unstarted: u32,
}

impl Wheel {
    pub(crate) fn new(now_ns: u64) -> Self {
        Self {
            elapsed: now_ns >> TICK_SHIFT,
            entries: Slab::new(),
            levels: std::array::from_fn(|_| Level { occupied: 0, heads: [NONE; SLOTS] }),
            unstarted: NONE,
        }
    }

    /// Adds a timer that wakes `waker` once `deadline_ns` has passed.
    pub(crate) fn insert(&mut self, deadline_ns: u64, waker: Waker) -> TimerKey {
        let tick = self.tick(deadline_ns);
        let key = self.entries.insert(Entry {
            deadline: tick,
            level: 0,
            slot: 0,
            previous: NONE,
            next: NONE,
            waker: Some(waker),
        }) as u32;
        self.link(key);
        TimerKey(key)
    }

    /// Adds a timer that runs `duration_ns` from the next [`Wheel::start`] on: whoever has no need of the clock but for
    /// this saves reading it.
    pub(crate) fn insert_after(&mut self, duration_ns: u64, waker: Waker) -> TimerKey {
        let key = self.entries.insert(Entry {
            deadline: duration_ns,
            level: UNSTARTED,
            slot: 0,
            previous: NONE,
            next: self.unstarted,
            waker: Some(waker),
        }) as u32;
        if let Some(next) = self.entries.get_mut(self.unstarted as usize) {
            next.previous = key;
        }
        self.unstarted = key;
        TimerKey(key)
    }

    /// Starts what [`Wheel::insert_after`] has added.
    pub(crate) fn start(&mut self, now_ns: u64) {
        let mut key = std::mem::replace(&mut self.unstarted, NONE);
        while key != NONE {
            let Entry { deadline, next, .. } = self.entries[key as usize];
            self.entries[key as usize].deadline = self.tick(now_ns.saturating_add(deadline));
            self.link(key);
            key = next;
        }
    }

    fn tick(&self, deadline_ns: u64) -> u64 {
        deadline_ns.div_ceil(1 << TICK_SHIFT).clamp(self.elapsed + 1, self.elapsed + MAX_TICKS)
    }

    /// Replaces the waker of a timer that has not fired; returns whether it still stands.
    pub(crate) fn rearm(&mut self, key: TimerKey, waker: &Waker) -> bool {
        match &mut self.entries[key.0 as usize].waker {
            Some(current) => {
                current.clone_from(waker);
                true
            }
            None => false,
        }
    }

    /// Removes a timer, fired or not.
    pub(crate) fn remove(&mut self, key: TimerKey) {
        if self.entries[key.0 as usize].waker.is_some() {
            self.unlink(key.0);
        }
        self.entries.remove(key.0 as usize);
    }

    /// The earliest time, in nanoseconds, at which [`Wheel::expire`] may have work.
    pub(crate) fn next_wake(&self) -> Option<u64> {
        self.next_slot().map(|(_, _, tick)| tick << TICK_SHIFT)
    }

    /// Fires every timer whose deadline is at or before `now_ns`: its waker goes to `fire`.
    pub(crate) fn expire(&mut self, now_ns: u64, mut fire: impl FnMut(Waker)) {
        let now = now_ns >> TICK_SHIFT;
        while let Some((level, slot, tick)) = self.next_slot() {
            if tick > now {
                break;
            }
            self.elapsed = self.elapsed.max(tick);
            let mut key = std::mem::replace(&mut self.levels[level].heads[slot], NONE);
            self.levels[level].occupied &= !(1 << slot);
            while key != NONE {
                let entry = &mut self.entries[key as usize];
                let next = entry.next;
                if entry.deadline <= now {
                    if let Some(waker) = entry.waker.take() {
                        fire(waker);
                    }
                } else {
                    self.link(key);
                }
                key = next;
            }
        }
        self.elapsed = self.elapsed.max(now);
    }

    /// The first occupied slot with the tick at which it starts.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        self.levels.iter().enumerate().find_map(|(level, state)| {
            if state.occupied == 0 {
                return None;
            }
            let shift = SLOT_BITS * level as u32;
            let current = (self.elapsed >> shift) as usize % SLOTS;
            let distance = state.occupied.rotate_right(current as u32).trailing_zeros() as usize;
            let slot = (current + distance) % SLOTS;
            let span = 1u64 << (shift + SLOT_BITS);
            let mut tick = (self.elapsed & !(span - 1)) + ((slot as u64) << shift);
            if tick + (1 << shift) <= self.elapsed {
                tick += span; // only the top level wraps
            }
            Some((level, slot, tick))
        })
    }

    fn link(&mut self, key: u32) {
        let entry = &mut self.entries[key as usize];
        let differing = (self.elapsed ^ entry.deadline) | (SLOTS as u64 - 1);
        let level = ((63 - differing.leading_zeros()) / SLOT_BITS).min(LEVELS as u32 - 1) as usize;
        let slot = (entry.deadline >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        let head = std::mem::replace(&mut self.levels[level].heads[slot], key);
        (entry.level, entry.slot, entry.previous, entry.next) = (level as u8, slot as u8, NONE, head);
        if head != NONE {
            self.entries[head as usize].previous = key;
        }
        self.levels[level].occupied |= 1 << slot;
    }

    fn unlink(&mut self, key: u32) {
        let Entry { level, slot, previous, next, .. } = self.entries[key as usize];
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
        if previous != NONE {
            self.entries[previous as usize].next = next;
            return;
        }
        if level == UNSTARTED {
            self.unstarted = next;
            return;
        }
        let level = &mut self.levels[level as usize];
        level.heads[slot as usize] = next;
        if next == NONE {
            level.occupied &= !(1 << slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::rng::SeededRng;

    struct Mark(AtomicU64);
    impl Wake for Mark {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Against a sorted list: random inserts, removals and advances fire exactly the due timers, never early.
    #[test]
    fn agrees_with_a_sorted_list() {
        for seed in 0..200 {
            let mut rng = SeededRng::new(seed);
            let mut now = rng.below(1 << 50);
            let mut wheel = Wheel::new(now);
            let mut live: Vec<(u64, TimerKey, Arc<Mark>)> = Vec::new();
            for _ in 0..300 {
                match rng.below(4) {
                    0 | 1 => {
                        let range = 1 << rng.below(48);
                        let mark = Arc::new(Mark(AtomicU64::new(0)));
                        let (duration, waker) = (rng.below(range), Waker::from(mark.clone()));
                        let key = match rng.below(2) {
                            0 => wheel.insert_after(duration, waker),
                            _ => wheel.insert(now + duration, waker),
                        };
                        live.push((now + duration, key, mark));
                    }
                    2 if !live.is_empty() => {
                        let (_, key, mark) = live.swap_remove(rng.below(live.len() as u64) as usize);
                        wheel.remove(key);
                        assert_eq!(mark.0.load(Ordering::Relaxed), 0);
                    }
                    _ => {
                        wheel.start(now);
                        let range = 1 << rng.below(46);
                        now += rng.below(range);
                        wheel.expire(now, Waker::wake);
                        live.retain(|(deadline, key, mark)| {
                            let fired = mark.0.load(Ordering::Relaxed);
                            assert!(fired == 0 || *deadline <= now, "fired early");
                            assert!(fired == 1 || *deadline + (2 << TICK_SHIFT) > now, "did not fire");
                            if fired == 1 {
                                wheel.remove(*key);
                            }
                            fired == 0
                        });
                        if let Some(next) = wheel.next_wake() {
                            let earliest = live.iter().map(|(d, ..)| *d).min().expect("a timer stands");
                            assert!(next <= earliest + (2 << TICK_SHIFT), "would oversleep");
                        }
                    }
                }
            }
        }
    }
}
