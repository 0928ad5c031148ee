//! What the rings of this process have done so far, for whoever measures it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::sim;

/// Counts over all shards of this process, those that have ended included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounts {
    /// Entries that the kernel took.
    pub submitted: u64,
    /// Completions that were taken.
    pub completed: u64,
    /// Calls of io_uring_enter.
    pub enters: u64,
}

/// The counts of one ring. Its shard alone writes them, once for each enter and each list of completions.
#[derive(Debug, Default)]
pub(super) struct Counters {
    submitted: AtomicU64,
    completed: AtomicU64,
    enters: AtomicU64,
}

static RINGS: Mutex<Vec<Arc<Counters>>> = Mutex::new(Vec::new());

impl Counters {
    /// The counters of a new ring.
    pub(super) fn register() -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        RINGS.lock().unwrap_or_else(PoisonError::into_inner).push(counters.clone());
        counters
    }

    pub(super) fn entered(&self, submitted: usize) {
        add(&self.enters, 1);
        add(&self.submitted, submitted);
    }

    pub(super) fn reaped(&self, completed: usize) {
        add(&self.completed, completed);
    }
}

/// Without a locked instruction: there is one writer.
fn add(counter: &AtomicU64, count: usize) {
    counter.store(counter.load(Ordering::Relaxed) + count as u64, Ordering::Relaxed);
}

/// What the rings of this process have done; `None` where no shard runs on the uring engine.
pub fn ring_counts() -> Option<RingCounts> {
    if sim::is_running() {
        return None;
    }
    let rings = RINGS.lock().unwrap_or_else(PoisonError::into_inner);
    if rings.is_empty() {
        return None;
    }
    let sum =
        |of: fn(&Counters) -> &AtomicU64| rings.iter().map(|ring| of(ring).load(Ordering::Relaxed)).sum();
    Some(RingCounts {
        submitted: sum(|ring| &ring.submitted),
        completed: sum(|ring| &ring.completed),
        enters: sum(|ring| &ring.enters),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, run, sleep};
    use std::time::Duration;

    /// A shard that sleeps enters its ring, and what it submitted is counted.
    #[test]
    fn a_shard_is_counted() {
        let before = ring_counts().unwrap_or_default();
        run(Config::default(), || sleep(Duration::from_millis(1))).expect("the shard starts");
        let after = ring_counts().expect("a ring was set up");
        assert!(after.enters > before.enters && after.submitted > before.submitted, "{before:?} {after:?}");
    }
}
