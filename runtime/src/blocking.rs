//! Blocking work on helper threads, so that a shard never waits for it.

use std::future::Future;
use std::sync::OnceLock;

use crossbeam::channel::{self, Sender};

use crate::channel::oneshot;
use crate::shard::unpin_thread;
use crate::sim;

pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Helper threads: what runs here waits for disk or directory, and a start, a cleaner and an index at once keep no more busy.
const THREADS: usize = 4;
static POOL: OnceLock<Sender<Job>> = OnceLock::new();

/// Runs `work` on a helper thread and gives its result. Dropping the future lets the work run on.
pub fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = T> {
    let (sender, receiver) = oneshot();
    let job: Job = Box::new(move || {
        let _abandoned = sender.send(work());
    });
    match sim::here() {
        Some(here) => here.spawn_blocking(job),
        None => pool().send(job).expect("the helper threads live as long as the process"),
    }
    async move {
        match receiver.await {
            Some(result) => result,
            // The work of a simulated process that was killed is not done; what waits for it is about to be dropped.
            None if sim::is_running() => std::future::pending().await,
            None => panic!("blocking work must not panic"),
        }
    }
}

fn pool() -> &'static Sender<Job> {
    POOL.get_or_init(|| {
        let (sender, receiver) = channel::unbounded::<Job>();
        for index in 0..THREADS {
            let receiver = receiver.clone();
            std::thread::Builder::new()
                .name(format!("blocking-{index}"))
                .spawn(move || {
                    unpin_thread();
                    receiver.iter().for_each(|job| {
                        // A panic ends the one job; whoever waits for it is told by the missing result.
                        let _panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                    });
                })
                .expect("a helper thread can be started");
        }
        sender
    })
}
