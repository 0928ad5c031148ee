//! Connections that have no work.

use std::cell::Cell;
use std::rc::Rc;

use chasqui_runtime::sync::Notify;

use super::{SiteId, Sites};

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
    fn reset(&self) {
        self.called.set(None);
    }

    /// What it has been called for, if it has.
    fn was_called(&self) -> Option<Called> {
        self.called.get()
    }

    pub(super) fn call(&self, called: Called) {
        self.called.set(Some(called));
        self.wake.notify_one();
    }
}

impl Sites {
    /// Puts a connection among the idle ones of its site. `false`: its place is needed elsewhere.
    pub(crate) fn rest(&mut self, site: SiteId, idle: &Rc<Idle>) -> bool {
        idle.reset();
        let is_crowded = self.is_crowded();
        let state = self.site(site);
        let may_rest = !is_crowded && !state.suspended && !state.lease.others_wait();
        if may_rest {
            state.idle.push(idle.clone());
            self.idle.insert(site);
        }
        may_rest
    }

    /// Takes a connection out again; gives what it has been called for meanwhile.
    pub(crate) fn stop_resting(&mut self, site: SiteId, idle: &Rc<Idle>) -> Option<Called> {
        let waiting = &mut self.site(site).idle;
        waiting.retain(|other| !Rc::ptr_eq(other, idle));
        idle.was_called()
    }

    /// Calls every idle connection: the relay is ending.
    pub(crate) fn call_all(&mut self) {
        for (_, site) in self.sites.iter_mut() {
            site.idle.drain(..).for_each(|idle| idle.call(Called::Work));
        }
    }
}
