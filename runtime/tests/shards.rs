//! Shards as threads of this process.

use std::sync::Mutex;
use std::time::Duration;

use chasqui_runtime::{Config, Shards, StartError, mailbox, run};

/// A message from a plain thread wakes a sleeping shard; the last sender's end is seen.
#[test]
fn a_thread_wakes_a_shard() {
    let (sender, receiver) = mailbox::channel(10);
    let receiver = Mutex::new(Some(receiver));
    let thread = std::thread::spawn(move || {
        for number in 0..3 {
            std::thread::sleep(Duration::from_millis(5));
            sender.send(number).unwrap();
        }
    });
    let seen = run(Config::default(), move || {
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
