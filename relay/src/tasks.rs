//! Tasks of a kind, counted.

use std::cell::Cell;
use std::rc::Rc;

use chasqui_runtime::sync::Notify;

/// Counts the tasks of a kind, and tells when the last has ended.
#[derive(Clone, Default)]
pub(crate) struct Census(Rc<CensusState>);

#[derive(Default)]
struct CensusState {
    count: Cell<usize>,
    gone: Notify,
}

/// Keeps a task counted in a [`Census`].
pub(crate) struct Guard {
    census: Census,
    on_drop: Option<Box<dyn FnOnce()>>,
}

impl Census {
    pub(crate) fn enter(&self) -> Guard {
        self.0.count.set(self.0.count.get() + 1);
        Guard { census: self.clone(), on_drop: None }
    }

    pub(crate) fn count(&self) -> usize {
        self.0.count.get()
    }

    pub(crate) async fn empty(&self) {
        while self.count() > 0 {
            self.0.gone.notified().await;
        }
    }
}

impl Guard {
    /// Does something more when the task ends.
    pub(crate) fn and(mut self, on_drop: impl FnOnce() + 'static) -> Guard {
        self.on_drop = Some(Box::new(on_drop));
        self
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let state = &self.census.0;
        state.count.set(state.count.get() - 1);
        if state.count.get() == 0 {
            state.gone.notify_all();
        }
        if let Some(on_drop) = self.on_drop.take() {
            on_drop();
        }
    }
}
