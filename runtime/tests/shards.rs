//! Shards, tasks, timers, mailboxes and files.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use chasqui_runtime::fs::{self, File, OpenOptions, Segment};
use chasqui_runtime::sync::{Notify, Semaphore};
use chasqui_runtime::{
    Config, Shards, StartError, available_cores, mailbox, now, offload, run, shard, shard_count, shard_local,
    sleep, sleep_until, spawn, timeout, yield_now,
};

/// Sleeping tasks wake in the order of their deadlines, none early.
#[test]
fn timers_fire_in_order() {
    run(Config::default(), || async {
        let order = Rc::new(RefCell::new(Vec::new()));
        let start = now();
        let tasks: Vec<_> = [30u64, 10, 20, 0, 40]
            .into_iter()
            .map(|millis| {
                let order = order.clone();
                spawn(async move {
                    sleep_until(start + Duration::from_millis(millis)).await;
                    assert!(now() >= start + Duration::from_millis(millis));
                    order.borrow_mut().push(millis);
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        assert_eq!(*order.borrow(), [0, 10, 20, 30, 40]);
        assert!(timeout(Duration::from_millis(1), std::future::pending::<()>()).await.is_err());
        assert_eq!(timeout(Duration::from_secs(60), async { 5 }).await, Ok(5));
    })
    .unwrap();
}

/// Tasks that still run when the main future ends are dropped, with what they own.
#[test]
fn shard_end_drops_tasks() {
    struct Dropped(mailbox::Sender<u32>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.send(1).unwrap();
        }
    }
    let (sender, mut receiver) = mailbox::channel(10);
    run(Config::default(), move || {
        let sender = sender.clone();
        async move {
            for _ in 0..3 {
                let guard = Dropped(sender.clone());
                spawn(async move {
                    let _guard = guard;
                    std::future::pending::<()>().await;
                });
            }
            yield_now().await;
        }
    })
    .unwrap();
    assert_eq!((0..4).filter_map(|_| receiver.try_recv()).count(), 3);
}

/// Messages cross between two shards in both directions; each shard has its own locals.
#[test]
fn mailboxes_between_shards() {
    const COUNT: u64 = 20_000;
    let core = available_cores()[0];
    let other = *available_cores().last().unwrap();
    let (to_one, one) = mailbox::channel::<u64>(64);
    let (to_zero, zero) = mailbox::channel::<u64>(64);
    let ends = Mutex::new((Some(one), Some(zero)));
    let config = Config { cores: vec![core, other], ..Config::default() };
    let results = Shards::start(config, move || {
        let (mut ends, to_one, to_zero) = (ends.lock().unwrap(), to_one.clone(), to_zero.clone());
        let (sender, receiver) =
            if shard() == 0 { (to_one, ends.1.take()) } else { (to_zero, ends.0.take()) };
        let mut receiver = receiver.unwrap();
        async move {
            assert_eq!(shard_count(), 2);
            shard_local(|| Cell::new(0u64)).set(shard() as u64);
            let sending = spawn(async move {
                for number in 0..COUNT {
                    while sender.send(number).is_err() {
                        yield_now().await;
                    }
                }
            });
            for number in 0..COUNT {
                assert_eq!(receiver.recv().await, Some(number));
            }
            sending.await;
            shard_local(|| Cell::new(9u64)).get()
        }
    })
    .unwrap()
    .join();
    let locals: Vec<u64> = results.into_iter().map(|result| result.unwrap()).collect();
    assert_eq!(locals, [0, 1]);
}

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

/// Blocking work runs beside the shard, whose timers go on.
#[test]
fn offloaded_work_does_not_block() {
    run(Config::default(), || async {
        let work = offload(|| {
            std::thread::sleep(Duration::from_millis(50));
            7
        });
        let start = now();
        sleep(Duration::from_millis(5)).await;
        assert!(now() - start < Duration::from_millis(40));
        assert_eq!(work.await, 7);
    })
    .unwrap();
}

/// The semaphore serves in order of arrival, and a waiter that leaves passes its turn on.
#[test]
fn semaphore_is_fair() {
    run(Config::default(), || async {
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
    })
    .unwrap();
}

/// `notify_one` is kept for the next waiter; `notify_all` reaches every waiter of the moment.
#[test]
fn notifications() {
    run(Config::default(), || async {
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
    })
    .unwrap();
}

/// Files keep what was written, reads stop at the end, and errors come through.
#[test]
fn files_and_directories() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_owned();
    run(Config::default(), move || {
        let root = root.clone();
        async move {
            let path = root.join("a/b");
            fs::create_dir_all(&path).await.unwrap();
            let all = OpenOptions { read: true, write: true, create: true, ..OpenOptions::default() };
            let file = File::open(&path.join("file"), &all).await.unwrap();
            let returned = file.write_at(b"0123456789".to_vec(), 5).await.unwrap();
            assert!(returned.is_empty() && returned.capacity() >= 10);
            file.allocate(0, 100).await.unwrap();
            file.sync_data().await.unwrap();
            assert_eq!(file.len().await.unwrap(), 100);
            assert_eq!(file.read_at(5, 10).await.unwrap(), b"0123456789");
            assert_eq!(file.read_at(95, 10).await.unwrap(), [0; 5]);
            let lock = fs::lock_dir(&path).await.unwrap();
            assert!(fs::lock_dir(&path).await.is_err(), "a locked directory is refused");
            drop(lock);
            fs::lock_dir(&path).await.unwrap();
            fs::rename(&path.join("file"), &path.join("renamed")).await.unwrap();
            fs::sync_dir(&path).await.unwrap();
            assert_eq!(fs::read_dir(&path).await.unwrap(), [path.join("renamed")]);
            let segment = Segment::create(&path.join("segment"), 1 << 20).await.unwrap();
            segment.append_at(4096, &[b"ab", b"", b"cd"]).unwrap();
            segment.sync().await.unwrap();
            assert_eq!(segment.read(4095, 6).unwrap(), b"\0abcd\0");
            assert!(segment.append_at((1 << 20) - 1, &[b"ab"]).is_err(), "nothing is written past the end");
            let again = Segment::open(&path.join("segment")).await.unwrap();
            assert_eq!((again.len(), again.read_async(4096, 4).await.unwrap()), (1 << 20, b"abcd".to_vec()));
            assert!(Segment::create(&path.join("segment"), 1).await.is_err());
            fs::remove_file(&path.join("segment")).await.unwrap();
            assert!(
                File::open(&path.join("missing"), &OpenOptions { read: true, ..OpenOptions::default() })
                    .await
                    .is_err()
            );
        }
    })
    .unwrap();
}

/// A core outside the affinity mask is refused by name.
#[test]
fn unknown_core_is_refused() {
    let config = Config { cores: vec![100_000], ..Config::default() };
    let error = Shards::<()>::start(config, || async {}).unwrap_err();
    assert!(matches!(error, StartError::NoSuchCore { core: 100_000, .. }));
    assert!(error.to_string().contains("core 100000 is not among"));
}
