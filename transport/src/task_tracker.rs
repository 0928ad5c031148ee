//! How many tasks of a kind there are.

use std::cell::Cell;
use std::rc::Rc;

use chasqui_runtime::sync::Notify;

/// Counts the tasks of a kind, and tells when the last has ended. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct TaskTracker(Rc<State>);

#[derive(Debug, Default)]
struct State {
    count: Cell<usize>,
    empty: Notify,
}

/// Keeps a task counted in a [`TaskTracker`].
#[derive(Debug)]
#[must_use = "dropped, it counts no longer"]
pub struct TaskGuard(Rc<State>);

impl TaskTracker {
    /// Counts one more task, until its guard is dropped.
    pub fn track(&self) -> TaskGuard {
        self.0.count.set(self.0.count.get() + 1);
        TaskGuard(self.0.clone())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.count.get()
    }

    /// Waits until there are none.
    pub async fn empty(&self) {
        while self.count() > 0 {
            self.0.empty.notified().await;
        }
    }
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        if self.0.count.get() == 0 {
            self.0.empty.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chasqui_runtime::sim::{Options, Simulation};
    use chasqui_runtime::{now, sleep, spawn};

    use super::*;

    /// The wait ends with the last task, and at once where there is none.
    #[test]
    fn the_last_task_ends_the_wait() {
        let outcome = Simulation::new(1, Options::default()).run(|| async {
            let tasks = TaskTracker::default();
            tasks.empty().await;
            let begun = now();
            for seconds in 1..=3 {
                let guard = tasks.track();
                spawn(async move {
                    sleep(Duration::from_secs(seconds)).await;
                    drop(guard);
                });
            }
            assert_eq!(tasks.count(), 3);
            tasks.empty().await;
            assert!(now() - begun >= Duration::from_secs(3) && tasks.count() == 0);
        });
        outcome.unwrap();
    }
}
