//! Tasks, their waiting for one another, work off the shard, and what belongs to a shard.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::sync::{Notify, Semaphore};
use chasqui_runtime::{
    HashMap, channel, now, rng, shard_local, sim, sleep, spawn, spawn_blocking, timeout, yield_now,
};

use crate::on_every_engine;

on_every_engine!(
    yielding_lets_others_run,
    blocking_work_does_not_block,
    semaphore_is_fair,
    notifications,
    locals_are_made_once,
    spawning_in_a_drop_is_harmless,
    randomness,
);

/// A task that yields runs on only after those that were ready.
async fn yielding_lets_others_run() {
    let count = Rc::new(Cell::new(0));
    for _ in 0..10 {
        let count = count.clone();
        spawn(async move { count.set(count.get() + 1) });
    }
    yield_now().await;
    assert_eq!(count.get(), 10);
}

/// Blocking work runs beside the shard, whose timers go on.
async fn blocking_work_does_not_block() {
    let work = spawn_blocking(|| {
        if !sim::is_running() {
            std::thread::sleep(Duration::from_millis(50));
        }
        7
    });
    let start = now();
    sleep(Duration::from_millis(5)).await;
    assert!(now() - start < Duration::from_millis(40));
    assert_eq!(work.await, 7);
    let abandoned = spawn_blocking(|| 8);
    drop(abandoned);
    let all: Vec<_> = (0..20).map(|number| spawn(spawn_blocking(move || number))).collect();
    for (number, task) in all.into_iter().enumerate() {
        assert_eq!(task.await, number);
    }
}

/// The semaphore serves in order of arrival, and a waiter that leaves passes its turn on.
async fn semaphore_is_fair() {
    let semaphore = Semaphore::new(2);
    let both = semaphore.try_acquire(2).unwrap();
    let large = semaphore.clone();
    let large = spawn(async move { timeout(Duration::from_millis(5), large.acquire(2)).await.is_err() });
    yield_now().await;
    let small = semaphore.clone();
    let small = spawn(async move { small.acquire(1).await.count() });
    yield_now().await;
    assert!(semaphore.try_acquire(1).is_none(), "nobody overtakes");
    assert!(large.await);
    drop(both);
    assert_eq!(small.await, 1);
    assert_eq!(semaphore.available(), 2);
}

/// `notify_one` is kept for the next waiter; `notify_all` reaches every waiter of the moment.
async fn notifications() {
    let notify = Notify::new();
    notify.notify_one();
    notify.notified().await;
    let waiting: Vec<_> = (0..3).map(|_| spawn(notify.notified())).collect();
    yield_now().await;
    notify.notify_all();
    for task in waiting {
        task.await;
    }
    assert!(timeout(Duration::from_millis(1), notify.notified()).await.is_err());
}

/// A shard's value of a type is made once, and all its tasks have the same.
async fn locals_are_made_once() {
    struct Local(Cell<u32>);
    shard_local(|| Local(Cell::new(1))).0.set(5);
    let seen = spawn(async { shard_local(|| Local(Cell::new(2))).0.get() });
    assert_eq!(seen.await, 5);
}

/// A future that spawns while its shard ends does no harm, and what it spawns is dropped.
async fn spawning_in_a_drop_is_harmless() {
    struct Spawns(channel::Sender<u8>);
    impl Drop for Spawns {
        fn drop(&mut self) {
            let sender = self.0.clone();
            drop(spawn(async move { sender.send(2).unwrap() }));
            self.0.send(1).unwrap();
        }
    }
    let (sender, mut receiver) = channel::bounded(10);
    let shards = crate::channels::shards(1, move || {
        let sender = sender.clone();
        async move {
            let spawns = Spawns(sender);
            spawn(async move {
                let _spawns = spawns;
                std::future::pending::<()>().await;
            });
            yield_now().await;
        }
    });
    assert!(shards.ended().await.into_iter().all(|ended| ended.is_ok()));
    let mut seen = Vec::new();
    while let Some(number) = receiver.recv().await {
        seen.push(number);
    }
    assert_eq!(seen, [1]);
}

/// Random numbers differ, stay in their bounds, and maps keep what is put in.
async fn randomness() {
    let mut bytes = [0; 32];
    rng().fill(&mut bytes);
    assert!(bytes.iter().any(|byte| *byte != 0));
    assert!((0..100).all(|_| rng().below(10) < 10 && rng().unit() < 1.0));
    assert_ne!(rng().next_u64(), rng().next_u64());
    let map: HashMap<u64, u64> = (0..100).map(|key| (key, key * 2)).collect();
    assert!((0..100).all(|key| map[&key] == key * 2));
}
