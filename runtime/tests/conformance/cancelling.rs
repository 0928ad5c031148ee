//! Futures dropped before their end, at every point at which they wait.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use chasqui_runtime::fs::{File, OpenOptions, Segment};
use chasqui_runtime::net::{ConnectOptions, ListenOptions, Parts, TcpListener, TcpStream};
use chasqui_runtime::{channel, sleep, spawn, spawn_blocking, timeout, yield_now};

use crate::{Folder, loopback, on_every_engine, pair, scaled};

on_every_engine!(
    cancelled_read_loses_nothing,
    cancelled_send_gives_up_its_lease,
    stopped_send_tells_what_was_sent,
    cancel_at_every_await,
    cancelled_tasks_drop_their_future,
);

/// A cancelled read loses no bytes.
async fn cancelled_read_loses_nothing() {
    let (client, server) = pair().await;
    let writer = spawn(async move {
        for byte in 0..100u8 {
            client.write_all(vec![byte; 100]).await.unwrap();
            sleep(Duration::from_micros(300)).await;
        }
        client
    });
    let mut bytes = Vec::new();
    while bytes.len() < 10_000 {
        if let Ok(piece) = timeout(Duration::from_micros(100), server.read()).await {
            bytes.extend_from_slice(&piece.unwrap());
        }
    }
    let expected: Vec<u8> = (0..100u8).flat_map(|byte| [byte; 100]).collect();
    assert_eq!(bytes, expected);
    drop(writer.await);
}

/// A send that is cancelled keeps its bytes and lease until the engine is done, then gives them up.
async fn cancelled_send_gives_up_its_lease() {
    let length = scaled(32 << 20, 1 << 20) as u32;
    let segment = Segment::anonymous(u64::from(length)).unwrap();
    let (client, server) = pair().await;
    let parts = Parts::new().slice(segment.slice(0, length));
    assert!(timeout(Duration::from_millis(20), client.send(parts)).await.is_err());
    drop(client);
    let given_up = async {
        while segment.leases() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(5), given_up).await.unwrap();
    drop(server);
}

/// A send that is stopped because its peer does not read has given up its lease, and tells after which byte it can be
/// gone on with; one that is not stopped sends all.
async fn stopped_send_tells_what_was_sent() {
    let length = scaled(16 << 20, 1 << 20);
    let segment = Segment::anonymous(length as u64).unwrap();
    let bytes: Vec<u8> = (0..length).map(|at| (at / 5) as u8).collect();
    segment.append_at(0, &[&bytes]).unwrap();
    let (client, server) = pair().await;
    let interval = Duration::from_millis(20);
    let parts = Parts::new().slice(segment.slice(0, length as u32));
    let asked = Cell::new(0);
    let stop = || asked.replace(asked.get() + 1) > 0;
    let sent = client.send_unless(parts, interval, &stop).await.unwrap();
    assert!(sent < length && asked.get() > 1, "{sent} sent, asked {} times", asked.get());
    assert_eq!(segment.leases(), 0);
    let reader = spawn(async move {
        let mut found = Vec::new();
        while found.len() < length {
            found.extend_from_slice(&server.read().await.unwrap());
        }
        found
    });
    let rest = segment.slice(sent as u64, (length - sent) as u32);
    let more = client.send_unless(Parts::new().slice(rest), interval, &|| false).await.unwrap();
    assert_eq!(sent + more, length);
    assert!(reader.await == bytes);
}

/// Polls `future` at most `polls` times, then drops it; whether it came to its end.
async fn give_up_after<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        let outcome = future.as_mut().poll(context).map(Some);
        if left == 0 && outcome.is_pending() {
            return Poll::Ready(None);
        }
        outcome
    })
    .await
}

/// A piece of work over sockets, files, timers, mailboxes and other threads is dropped at each of its awaits in
/// turn; afterwards the shard does the same work whole.
async fn cancel_at_every_await() {
    let folder = Folder::new().await;
    let listener = TcpListener::bind(loopback(), &ListenOptions::default()).unwrap();
    let address = listener.local_addr();
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn(async move {
                while let Ok(piece) = stream.read().await {
                    if piece.is_empty() || stream.write_all(piece.to_vec()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    let path = folder.join("file");
    let finished = Rc::new(Cell::new(0));
    let work = || {
        let (path, finished) = (path.clone(), finished.clone());
        async move {
            let options = OpenOptions { read: true, write: true, create: true, ..OpenOptions::default() };
            let file = File::open(&path, &options).await.unwrap();
            file.write_at(b"0123456789".to_vec(), 0).await.unwrap();
            file.sync_data().await.unwrap();
            let bytes = file.read_at(0, 10).await.unwrap();
            let stream = TcpStream::connect(address, &ConnectOptions::default()).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut echoed = 0;
            while echoed < 10 {
                echoed += stream.read().await.unwrap().len();
            }
            sleep(Duration::from_micros(50)).await;
            let (sender, mut receiver) = channel::bounded(1);
            spawn(async move {
                yield_now().await;
                let _given_up = sender.send(1);
            });
            assert_eq!(receiver.recv().await, Some(1));
            assert_eq!(spawn_blocking(|| 2).await, 2);
            finished.set(finished.get() + 1);
        }
    };
    for polls in 1..200 {
        if give_up_after(polls, work()).await.is_some() {
            break;
        }
    }
    assert_eq!(finished.get(), 1, "the awaits of the work came to an end");
    work().await;
    assert_eq!(finished.get(), 2);
}

/// Cancelling a task drops what it owns, at once when it waits, and gives its result when it was done.
async fn cancelled_tasks_drop_their_future() {
    struct Mark(Rc<Cell<bool>>);
    impl Drop for Mark {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    let dropped = Rc::new(Cell::new(false));
    let mark = Mark(dropped.clone());
    let waiting = spawn(async move {
        let _mark = mark;
        std::future::pending::<()>().await;
    });
    yield_now().await;
    assert!(!dropped.get());
    assert_eq!(waiting.cancel().await, None);
    assert!(dropped.get());
    let done = spawn(async { 5 });
    while !done.is_finished() {
        yield_now().await;
    }
    assert_eq!(done.cancel().await, Some(5));
}
