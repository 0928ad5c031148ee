//! Shards as threads of this process.

use std::sync::Mutex;
use std::time::Duration;

use chasqui_runtime::{Config, EngineKind, Shards, StartError, channel, run, sleep, spawn};

const ENGINES: [EngineKind; 2] = [EngineKind::Uring, EngineKind::Glommio];

/// A message from a plain thread wakes a sleeping shard; the last sender's end is seen.
#[test]
fn a_thread_wakes_a_shard() {
    ENGINES.into_iter().for_each(wake_a_shard);
}

fn wake_a_shard(engine: EngineKind) {
    let (sender, receiver) = channel::bounded(10);
    let receiver = Mutex::new(Some(receiver));
    let thread = std::thread::spawn(move || {
        for number in 0..3 {
            std::thread::sleep(Duration::from_millis(5));
            sender.send(number).unwrap();
        }
    });
    let seen = run(Config { engine, ..Config::default() }, move || {
        let mut receiver = receiver.lock().unwrap().take().unwrap();
        async move {
            let mut seen = Vec::new();
            while let Some(number) = receiver.recv().await {
                seen.push(number);
            }
            seen
        }
    })
    .unwrap();
    thread.join().unwrap();
    assert_eq!(seen, [0, 1, 2]);
}

/// A core outside the affinity mask is refused by name.
#[test]
fn unknown_core_is_refused() {
    let config = Config { cores: vec![100_000], ..Config::default() };
    let error = Shards::<()>::start(config, || async {}).unwrap_err();
    assert!(matches!(error, StartError::NoSuchCore { core: 100_000, .. }));
    assert!(error.to_string().contains("core 100000 is not among"));
}

/// A panic of a task ends its shard, which drops its other tasks, and reaches whoever joins it.
#[test]
fn a_panic_ends_its_shard() {
    for engine in ENGINES {
        let (sender, mut receiver) = channel::bounded::<()>(1);
        let shards = Shards::<()>::start(Config { engine, ..Config::default() }, move || {
            let owned = sender.clone();
            spawn(async move {
                let _owned = owned;
                std::future::pending::<()>().await;
            });
            async {
                sleep(Duration::from_millis(1)).await;
                panic!("of the test");
            }
        });
        let ended = shards.unwrap().join().remove(0).unwrap_err();
        assert_eq!(ended.downcast_ref::<&str>(), Some(&"of the test"));
        assert_eq!(futures_lite::future::block_on(receiver.recv()), None, "what the tasks owned is gone");
    }
}
