//! Connections that have no work.

use std::cell::Cell;

use chasqui_runtime::sync::Notify;

/// An idle connection, waiting for work.
#[derive(Debug, Default)]
pub(crate) struct Idle {
    called: Cell<Option<Called>>,
    wake: Notify,
}

/// What an idle connection is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Called {
    /// There may be work.
    Work,
    /// Its place is needed elsewhere, or it is not to be used.
    Close,
}

impl Idle {
    /// Waits until this connection is called.
    pub(crate) async fn called(&self) -> Called {
        loop {
            match self.called.get() {
                Some(called) => return called,
                None => self.wake.notified().await,
            }
        }
    }

    /// Begins to wait.
    pub(super) fn reset(&self) {
        self.called.set(None);
    }

    /// What it has been called for, if it has.
    pub(super) fn was_called(&self) -> Option<Called> {
        self.called.get()
    }

    pub(super) fn call(&self, called: Called) {
        self.called.set(Some(called));
        self.wake.notify_one();
    }
}
