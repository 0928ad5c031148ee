//! Log lines that others can cause: said now and then, however often it happens.

use std::cell::Cell;
use std::time::Duration;

use crate::time::{Instant, now};

/// How often one thing is said at most.
const EVERY: Duration = Duration::from_secs(60);

/// Tells when something that happens often is to be said again: at most once a minute.
#[derive(Debug, Default)]
pub struct Seldom {
    said: Cell<Option<Instant>>,
    times: Cell<u64>,
}

impl Seldom {
    /// It has happened once more. `Some`: say it, and how often it has happened since it was said last.
    pub fn happened(&self) -> Option<u64> {
        let times = self.times.get() + 1;
        let now = now();
        if self.said.get().is_some_and(|said| now - said < EVERY) {
            self.times.set(times);
            return None;
        }
        self.said.set(Some(now));
        self.times.set(0);
        Some(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Options, Simulation};
    use crate::sleep;

    /// However often it happens, it is said once a minute, with how often it was.
    #[test]
    fn once_a_minute() {
        let outcome = Simulation::new(1, Options::default()).run(|| async {
            let seldom = Seldom::default();
            let mut said = Vec::new();
            for _ in 0..1500 {
                said.extend(seldom.happened());
                sleep(Duration::from_millis(100)).await;
            }
            said
        });
        let said = outcome.unwrap().value;
        assert!(said.len() == 3 && said[0] == 1, "{said:?}");
        assert!(said[1..].iter().all(|times| (590..=601).contains(times)), "{said:?}");
    }
}
