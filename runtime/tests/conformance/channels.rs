//! Several shards and the channels between them.

use std::cell::Cell;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chasqui_runtime::{
    Config, EngineKind, Shards, available_cores, channel, shard, shard_count, shard_local, sleep, spawn,
    yield_now,
};

use crate::{UnderTest, on_every_engine, scaled};

on_every_engine!(between_two_shards, channels_under_load, ends_are_seen, tasks_end_with_their_shard);

/// Shards on the engine under test, which share this machine's cores when there are more of them.
pub(crate) fn shards<F, Fut, T>(count: usize, main: F) -> Shards<T>
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let cores = available_cores().into_iter().cycle().take(count).collect();
    // The simulator, where nobody has said so before, ignores it.
    let engine = shard_local(|| UnderTest(EngineKind::default())).0;
    Shards::start(Config { name: "test".into(), engine, cores }, main).unwrap()
}

/// Messages cross between two shards in both directions; each shard has its own number and locals.
async fn between_two_shards() {
    let (left, right) = (channel::bounded::<u64>(100), channel::bounded::<u64>(100));
    let ends = Mutex::new([Some((left.0, right.1)), Some((right.0, left.1))]);
    let results = shards(2, move || {
        let (sender, mut receiver) = ends.lock().unwrap()[shard()].take().unwrap();
        async move {
            assert_eq!(shard_count(), 2);
            shard_local(|| Cell::new(shard() as u64));
            let sending = spawn(async move {
                for number in 0..1000 {
                    while sender.send(number).is_err() {
                        yield_now().await;
                    }
                }
            });
            for expected in 0..1000 {
                assert_eq!(receiver.recv().await, Some(expected));
            }
            sending.await;
            shard_local(|| Cell::new(9u64)).get()
        }
    });
    let locals: Vec<u64> = results.ended().await.into_iter().map(|result| result.unwrap()).collect();
    assert_eq!(locals, [0, 1]);
}

/// Messages of several shards into one channel all arrive, those of one sender in their order; a full channel says
/// so and loses nothing.
async fn channels_under_load() {
    let count = scaled(20_000, 500) as u64;
    let (sender, mut receiver) = channel::bounded::<(usize, u64)>(16);
    let senders = shards(3, move || {
        let sender = sender.clone();
        async move {
            for number in 0..count {
                while sender.send((shard(), number)).is_err() {
                    yield_now().await;
                }
                if number % 100 == 0 {
                    sleep(Duration::from_micros(20)).await;
                }
            }
        }
    });
    let mut next = [0; 3];
    for _ in 0..3 * count {
        let (from, number) = receiver.recv().await.unwrap();
        assert_eq!(number, next[from]);
        next[from] += 1;
    }
    assert!(senders.ended().await.into_iter().all(|ended| ended.is_ok()));
    assert_eq!((next, receiver.recv().await), ([count; 3], None));
}

/// The last sender's end and the receiver's are seen on the other side, also of a single message.
async fn ends_are_seen() {
    let (sender, mut receiver) = channel::bounded(2);
    sender.send(1).unwrap();
    sender.send(2).unwrap();
    assert_eq!(sender.send(3), Err(channel::SendError::Full(3)));
    let waiting = spawn(async move {
        let mut seen = Vec::new();
        while let Some(number) = receiver.recv().await {
            seen.push(number);
        }
        seen
    });
    yield_now().await;
    drop(sender);
    assert_eq!(waiting.await, [1, 2]);
    let (sender, receiver) = channel::bounded(2);
    drop(receiver);
    assert_eq!(sender.send(1), Err(channel::SendError::Closed(1)));
    let (sender, receiver) = channel::oneshot::<u8>();
    drop(sender);
    assert_eq!(receiver.await, None);
    let (sender, receiver) = channel::oneshot();
    sender.send(7).unwrap();
    assert_eq!(receiver.await, Some(7));
}

/// Tasks that still run when the main future of their shard ends are dropped, with what they own.
async fn tasks_end_with_their_shard() {
    let owned = Arc::new(());
    let kept = owned.clone();
    let shards = shards(2, move || {
        let owned = owned.clone();
        async move {
            for _ in 0..3 {
                let owned = owned.clone();
                spawn(async move {
                    let _owned = owned;
                    std::future::pending::<()>().await;
                });
            }
            yield_now().await;
        }
    });
    assert!(shards.ended().await.into_iter().all(|ended| ended.is_ok()));
    while Arc::strong_count(&kept) > 1 {
        sleep(Duration::from_millis(1)).await;
    }
}
