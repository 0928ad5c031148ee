//! Benches of code that needs a shard: the shard lives as long as the bench, and is told how many rounds to make.

use std::future::Future;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chasqui_runtime::process::thread_cpu;
use chasqui_runtime::{Config, Shards, channel};

/// A shard that makes rounds when it is told to.
pub(crate) struct OnShard {
    orders: Option<channel::Sender<u64>>,
    times: mpsc::Receiver<Duration>,
    shards: Option<Shards<()>>,
}

/// The shard's side.
pub(crate) struct Rounds {
    orders: channel::Receiver<u64>,
    times: mpsc::Sender<Duration>,
}

impl OnShard {
    /// Runs `serve`, which prepares what it needs and then takes [`Rounds::next`] until there are no more.
    pub(crate) fn start<F, Fut>(serve: F) -> OnShard
    where
        F: Fn(Rounds) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let (orders, taken) = channel::bounded(1);
        let (done, times) = mpsc::channel();
        let rounds = Arc::new(Mutex::new(Some(Rounds { orders: taken, times: done })));
        let shards = Shards::start(Config { name: "bench".into(), ..Config::default() }, move || {
            serve(rounds.lock().expect("nobody panics with the lock").take().expect("one shard"))
        });
        OnShard { orders: Some(orders), times, shards: Some(shards.expect("the shard starts")) }
    }

    /// CPU of the shard's thread, user and system, for so many rounds. What the kernel's workers do is not in it.
    pub(crate) fn time(&self, rounds: u64) -> Duration {
        let orders = self.orders.as_ref().expect("until the end");
        orders.send(rounds).expect("the shard takes one order at a time");
        self.times.recv().expect("the shard lives")
    }
}

impl Drop for OnShard {
    /// Waits for the shard's end: what it works on, such as a folder, goes after it. It also ends when no round was wanted.
    fn drop(&mut self) {
        self.orders = None;
        if let Some(shards) = self.shards.take() {
            drop(shards.join());
        }
    }
}

impl Rounds {
    /// Calls `make` with the number of rounds whenever they are wanted, and times it.
    pub(crate) async fn serve(mut self, mut make: impl AsyncFnMut(u64)) {
        while let Some(rounds) = self.orders.recv().await {
            let before = thread_cpu();
            make(rounds).await;
            if self.times.send(thread_cpu() - before).is_err() {
                return;
            }
        }
    }
}
