//! The handshake between a shard that goes to sleep and a thread that hands it work: publish, fence, ring only if
//! the `sleeping` flag is set; the shard looks at its queue again after setting the flag.
//!
//! `tests/handshake.rs` runs this very file under loom; therefore the atomics come from `super`.

use super::atomic::{AtomicBool, Ordering, fence};

/// The `sleeping` flag of one shard.
pub(crate) struct Handshake {
    sleeping: AtomicBool,
}

impl Handshake {
    pub(crate) fn new() -> Self {
        Self { sleeping: AtomicBool::new(false) }
    }

    /// Called after work was published: whether the shard must be woken. One caller among many rings.
    pub(crate) fn must_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel)
    }

    /// Announces that the shard is about to sleep. False: work has come meanwhile, do not sleep.
    pub(crate) fn prepare_sleep(&self, nothing_to_do: impl FnOnce() -> bool) -> bool {
        // A swap, though nobody asks what was there: it takes its place right behind the swap of a ringer who came
        // too late for the last sleep. For a store only the atomicity of that swap says so, which loom does not know.
        self.sleeping.swap(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if nothing_to_do() {
            return true;
        }
        self.sleeping.store(false, Ordering::Relaxed);
        false
    }

    /// The sleep is over.
    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }
}
