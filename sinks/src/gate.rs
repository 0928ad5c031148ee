//! How many connections a service of one shard has, and may have.

use std::cell::Cell;
use std::rc::Rc;

use chasqui_runtime::sync::Notify;

/// Counts connections. Clones share one state.
#[derive(Clone)]
pub(crate) struct Gate(Rc<State>);

struct State {
    inside: Cell<usize>,
    inside_max: usize,
    emptied: Notify,
}

/// One connection's place, given back when dropped.
pub(crate) struct Pass(Rc<State>);

impl Gate {
    pub(crate) fn new(inside_max: usize) -> Gate {
        Gate(Rc::new(State { inside: Cell::new(0), inside_max, emptied: Notify::new() }))
    }

    /// `None`: there are as many as there may be.
    pub(crate) fn enter(&self) -> Option<Pass> {
        let inside = self.0.inside.get();
        if inside >= self.0.inside_max {
            return None;
        }
        self.0.inside.set(inside + 1);
        Some(Pass(self.0.clone()))
    }

    /// Waits until nobody is inside.
    pub(crate) async fn emptied(&self) {
        while self.0.inside.get() > 0 {
            self.0.emptied.notified().await;
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.inside.set(self.0.inside.get() - 1);
        if self.0.inside.get() == 0 {
            self.0.emptied.notify_all();
        }
    }
}
