//! How many questions a lookup has at the name servers at the same time. Each is a socket, and more when it is sent again.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions that every lookup may have under way, whatever others do: the A and the AAAA of one host.
const OWN_QUESTIONS: usize = 2;

/// Sockets that one question may have at a server: hickory sends it again twice, from new ones.
const SOCKETS_PER_QUESTION: usize = 3;
/// Each of the other lanes, and the questions that all lookups share, are this part of the places for first tries.
const LATER_PART: usize = 2;

/// Sockets that the name servers' questions take at most, for so many places for first tries.
pub(super) const fn sockets_max(places: usize) -> usize {
    let later = later(places);
    let questions = OWN_QUESTIONS * (places + 2 * later) + later;
    questions * SOCKETS_PER_QUESTION
}

pub(super) const fn later(places: usize) -> usize {
    places.div_ceil(LATER_PART)
}

/// The questions of one lookup.
#[derive(Debug)]
pub(super) struct Budget {
    own: Arc<Semaphore>,
    /// More of them, as far as all lookups together leave some.
    spare: Arc<Semaphore>,
}

/// Leave for one question, until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    _held: OwnedSemaphorePermit,
}

impl Budget {
    pub(super) fn new(spare: Arc<Semaphore>) -> Arc<Budget> {
        Arc::new(Budget { own: Arc::new(Semaphore::new(OWN_QUESTIONS)), spare })
    }

    /// Waits for an own question when there is no other. `None` never comes: nobody closes them.
    pub(super) async fn permit(&self) -> Option<Permit> {
        match self.try_permit() {
            Some(permit) => Some(permit),
            None => Some(Permit { _held: self.own.clone().acquire_owned().await.ok()? }),
        }
    }

    pub(super) fn try_permit(&self) -> Option<Permit> {
        let own = self.own.clone().try_acquire_owned();
        let held = own.or_else(|_| self.spare.clone().try_acquire_owned()).ok()?;
        Some(Permit { _held: held })
    }
}
