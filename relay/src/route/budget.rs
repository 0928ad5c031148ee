//! How many questions a lookup has at the name servers at the same time. Each is a socket, and more when it is sent again.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Questions that every lookup may have under way, whatever others do: the A and the AAAA of one host.
pub(super) const OWN_QUESTIONS: usize = 2;

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
