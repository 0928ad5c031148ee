//! That an end has begun.

use std::cell::Cell;
use std::rc::Rc;

use chasqui_runtime::sync::{Notified, Notify};

/// Tells the tasks of a shard that it ends: no new work, and what is under way is finished. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Drain(Rc<State>);

#[derive(Debug, Default)]
struct State {
    begun: Cell<bool>,
    changed: Notify,
}

impl Drain {
    /// Begins, for good.
    pub fn begin(&self) {
        self.0.begun.set(true);
        self.0.changed.notify_all();
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.0.begun.get()
    }

    /// Ready when it begins after the first poll: look at [`Drain::has_begun`] before.
    pub fn notified(&self) -> Notified {
        self.0.changed.notified()
    }
}
