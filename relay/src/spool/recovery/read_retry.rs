//! Reading again what the disk has refused: a path that flaps or a controller that resets gives errors for a moment, and a
//! start that took them for damage would give up mail that is there.

use std::io;
use std::time::Duration;

use chasqui_runtime::{now, sleep};

/// First pause before an operation is tried again; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(1);
/// Pauses of one operation: half a second together. FORMAT.md, *Recovery*, 1.
const TRIES_MORE: u32 = 9;
/// What may be spent on operations of a start that fail, pauses and the time until they do: a disk with many bad blocks must
/// not keep it from its end.
const SPENT_MAX: Duration = Duration::from_secs(10);

/// What a start may still spend on reading again.
#[derive(Debug)]
pub(crate) struct ReadRetry {
    left: Duration,
}

impl ReadRetry {
    pub(crate) fn new() -> ReadRetry {
        ReadRetry { left: SPENT_MAX }
    }

    /// Tries an operation until the disk does it or nothing is left to spend; the last error is the outcome then.
    pub(crate) async fn run<T>(&mut self, attempt: impl AsyncFn() -> io::Result<T>) -> io::Result<T> {
        let mut pause = PAUSE_FIRST;
        for _ in 0..TRIES_MORE {
            let before = now();
            match attempt().await {
                Err(_) if pause <= self.left => {}
                outcome => return outcome,
            }
            sleep(pause).await;
            self.left = self.left.saturating_sub(now() - before);
            pause *= 2;
        }
        attempt().await
    }
}
