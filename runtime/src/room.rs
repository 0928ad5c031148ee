//! The places of a channel: how many are taken.
//!
//! `tests/handshake.rs` runs this very file under loom; therefore the atomics come from `super`.

use super::atomic::{AtomicUsize, Ordering};

/// Places that senders take and the receiver gives back.
pub(crate) struct Room {
    taken: AtomicUsize,
    places: usize,
}

impl Room {
    pub(crate) fn new(places: usize) -> Self {
        Self { taken: AtomicUsize::new(0), places }
    }

    /// Takes a place; `false`: there is none. More are never counted than there are, not for a moment: another sender would find
    /// a channel full that the receiver has just emptied, and who rings a bell would take it for rung.
    pub(crate) fn take(&self) -> bool {
        let more = |taken| (taken < self.places).then_some(taken + 1);
        loop {
            if self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok() {
                return true;
            }
            // Changed, if by nothing: so whoever gives a place back after this sees what the sender has laid down before.
            if self.taken.fetch_add(0, Ordering::AcqRel) >= self.places {
                return false;
            }
        }
    }

    /// Gives back the place of a message that was taken out.
    pub(crate) fn give_back(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }
}
