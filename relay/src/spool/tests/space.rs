//! Space and memory: recycling, refusal when full, the bound on what is in flight, adoption.

use std::time::Duration;

use chasqui_runtime::net::Parts;
use chasqui_runtime::{sim, sleep, spawn, yield_now};

use super::*;
use chasqui_protocol::smtp::data::BodyForm;

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file()).count()
}

/// Mail that is delivered as fast as it comes runs through hundreds of segments on the space of a few.
#[test]
fn recycling_bounds_the_disk() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        let mut most = 0;
        let mut waiting = std::collections::VecDeque::new();
        for round in 0..200 {
            let tasks: Vec<_> = (0..20)
                .map(|index| {
                    let spool = spool.clone();
                    spawn(async move { put(&spool, &body(round * 20 + index, 2048)).await })
                })
                .collect();
            for task in tasks {
                waiting.push_back(task.await.unwrap());
            }
            while waiting.len() > 30 {
                let id = waiting.pop_front().unwrap();
                spool.states(&[delivered(id)]).unwrap();
            }
            most = most.max(files(&dir.join("shard-0")));
        }
        let stats = spool.stats();
        assert!(stats.recycled > 100, "{stats:?}");
        assert!(most <= 10, "{most} files at most, {stats:?}");
        assert_eq!(stats.queued, 30);
        kill(spool).await;
        let (spool, recovery) = open(config(&dir)).await.unwrap();
        // The last states may not have been written yet.
        assert!((30..=50).contains(&recovery.messages.len()), "{}", recovery.messages.len());
        assert_eq!((recovery.quarantined, &recovery.report), (0, &vec![]));
        for id in waiting {
            assert!(spool.body(id).await.unwrap().is_some());
        }
    });
}

/// A segment is not overwritten while a send has a lease on it: others are used, or it loses its name.
#[test]
fn leases_hold_segments() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        let id = put(&spool, &body(0, 3000)).await.unwrap();
        let lease = spool.body(id).await.unwrap().unwrap().add_piece(0, 0, Parts::new()).unwrap();
        spool.states(&[delivered(id)]).unwrap();
        let segment = spool.own.inner().segments.active.segment.clone();
        let before = segment.read(0, 20_000).await.unwrap();
        let churn = async |count: u64| {
            for seed in 0..count {
                let id = put(&spool, &body(seed, 3000)).await.unwrap();
                spool.states(&[delivered(id)]).unwrap();
            }
        };
        churn(200).await;
        assert!(spool.stats().recycled > 5, "{:?}", spool.stats());
        let after = segment.read(0, 20_000).await.unwrap();
        assert!(after[..4096] == before[..4096], "the header is that of the leased segment");
        assert!(after.windows(3000).any(|bytes| bytes == body(0, 3000)), "the leased bytes are there");
        drop(lease);
    });
}

/// A full spool refuses mail, takes states, and takes mail again when states have freed segments.
#[test]
fn full() {
    on_shard(|dir| async move {
        let (spool, _) = open(SpoolConfig { max_space: 512 << 10, ..config(&dir) }).await.unwrap();
        let ids = fill(&spool).await;
        assert!(ids.len() > 40, "{}", ids.len());
        assert_eq!(spool.reserve(100_000).err(), Some(SpoolError::NoSpace));
        for id in &ids {
            spool.states(&[delivered(*id)]).unwrap();
        }
        spool.flush().await.unwrap();
        has_room_for(&spool, 100_000).await;
        put(&spool, &body(1, 100_000)).await.unwrap();
    });
}

/// Fills a spool with messages of 3000 bytes until it refuses more; returns their ids.
async fn fill(spool: &Spool) -> Vec<MessageId> {
    let mut ids = Vec::new();
    loop {
        match put(spool, &body(ids.len() as u64, 3000)).await {
            Ok(id) => ids.push(id),
            Err(error) => {
                assert_eq!(error, SpoolError::NoSpace);
                return ids;
            }
        }
        assert!(ids.len() < 1000);
    }
}

async fn has_room_for(spool: &Spool, bytes: u64) {
    while spool.reserve(bytes).is_err() {
        spool.own.room.notified().await;
    }
}

/// A spool that is full of mail which can only go back has room for the notifications, and so becomes empty.
#[test]
fn full_of_what_goes_back() {
    on_shard(|dir| async move {
        let (spool, _) = open(SpoolConfig { max_space: 512 << 10, ..config(&dir) }).await.unwrap();
        let ids = fill(&spool).await;
        let notify = async |id: MessageId| {
            let text = body(id.0, 1500);
            let mut writer = spool.begin_notification(id, text.len() as u64)?;
            writer.write(&text).await?;
            let bounced = StateChange { id, recipients: &[0], state: State::Bounced };
            writer.commit_with(&envelope(1), &[bounced]).await
        };
        let mut notifications = Vec::new();
        for id in ids {
            notifications.push(loop {
                match notify(id).await {
                    Ok(notification) => break notification,
                    Err(error) => assert_eq!(error, SpoolError::NoSpace),
                }
                // What was finished before makes room.
                spool.own.room.notified().await;
            });
        }
        for id in notifications {
            spool.states(&[delivered(id)]).unwrap();
        }
        spool.flush().await.unwrap();
        has_room_for(&spool, 100_000).await;
    });
}

/// A start with less space than is in use refuses mail and takes the states that empty it, also after several starts.
#[test]
fn less_space_than_in_use() {
    on_shard(|dir| async move {
        let (spool, _) = open(SpoolConfig { max_space: 2 << 20, ..config(&dir) }).await.unwrap();
        let ids = fill(&spool).await;
        kill(spool).await;
        let tight = SpoolConfig { max_space: 512 << 10, ..config(&dir) };
        for _ in 0..6 {
            let (spool, _) = open(tight.clone()).await.unwrap();
            assert_eq!(put(&spool, &body(1, 3000)).await, Err(SpoolError::NoSpace));
            kill(spool).await;
        }
        let (spool, _) = open(tight).await.unwrap();
        for few in ids.chunks(3) {
            let changes: Vec<_> = few.iter().map(|id| delivered(*id)).collect();
            spool.states(&changes).unwrap();
            spool.flush().await.unwrap();
        }
        has_room_for(&spool, 60_000).await;
        put(&spool, &body(1, 60_000)).await.unwrap();
    });
}

/// When no segment can be made, mail is refused at once and taken again when it can.
#[test]
fn disk_full() {
    on_shard(|dir| async move {
        let (faults, disk) = faulty();
        let (spool, _) = open_on(disk, config(&dir)).await.unwrap();
        faults.fail_create.set(true);
        let mut taken = 0;
        let refused = loop {
            match put(&spool, &body(taken, 3000)).await {
                Ok(_) => taken += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(refused, SpoolError::NoSpace);
        assert!(spool.failed().is_none());
        faults.fail_create.set(false);
        while spool.own.inner().segments.spare.is_none() {
            spool.own.room.notified().await;
        }
        put(&spool, &body(taken, 3000)).await.unwrap();
    });
}

/// Reserved space is refused to others until it is given back.
#[test]
fn reservations() {
    on_shard(|dir| async move {
        let (spool, _) = open(SpoolConfig { max_space: 512 << 10, ..config(&dir) }).await.unwrap();
        let mut held = Vec::new();
        while let Ok(reservation) = spool.reserve(20_000) {
            held.push(reservation);
            assert!(held.len() < 100);
        }
        assert!(held.len() > 4);
        assert_eq!(put(&spool, &body(1, 30_000)).await, Err(SpoolError::NoSpace));
        let mut writer = spool.begin(held.pop());
        writer.write(&body(2, 18_000)).await.unwrap();
        writer.commit(&envelope(1)).await.unwrap();
        held.clear();
        put(&spool, &body(1, 30_000)).await.unwrap();
        assert_eq!(spool.own.inner().space.reserved, 0);
    });
}

/// Many large messages at once stay within the bound on memory and all arrive; so do many slow small ones that
/// hold more than the bound together.
#[test]
fn inflight_bound() {
    on_shard(|dir| async move {
        let config = SpoolConfig {
            segment_size: 1 << 20,
            max_space: 64 << 20,
            max_inflight_bytes: 256 << 10,
            ..config(&dir)
        };
        let (spool, _) = open(config).await.unwrap();
        let tasks: Vec<_> = (0..60)
            .map(|seed| {
                let spool = spool.clone();
                let length = if seed < 20 { 600_000 } else { 12_000 };
                spawn(async move {
                    let bytes = body(seed, length);
                    let mut writer = spool.begin(None);
                    for piece in bytes.chunks(4000) {
                        writer.write(piece).await.unwrap();
                        assert!(spool.stats().inflight_bytes < 600 << 10, "{:?}", spool.stats());
                        yield_now().await;
                    }
                    let id = writer.commit(&envelope(1)).await.unwrap();
                    assert!(read(&spool, id).await == bytes);
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        assert_eq!(spool.stats().inflight_bytes, 0);
    });
}

/// An envelope that no record can hold is refused, and nothing of the message remains.
#[test]
fn envelope_too_large() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        let mut writer = spool.begin(None);
        writer.write(b"text").await.unwrap();
        assert_eq!(writer.commit(&envelope(2000)).await, Err(SpoolError::TooLarge));
        let inner = spool.own.inner();
        assert_eq!((inner.inflight(), inner.space.reserved, inner.streams.open.len()), (0, 0, 0));
    });
}

/// A raw body is refused, as no record can tell of it, and nothing of the message remains.
#[test]
fn a_raw_body_is_refused() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        let mut writer = spool.begin(None);
        writer.write(b"text").await.unwrap();
        let raw = Envelope { form: BodyForm::Raw, ..envelope(1) };
        assert_eq!(writer.commit(&raw).await, Err(SpoolError::RawBody));
        let inner = spool.own.inner();
        assert_eq!((inner.inflight(), inner.space.reserved, inner.streams.open.len()), (0, 0, 0));
    });
}

/// With fewer shards than before, shard 0 delivers what the others had: states and bounces go into their
/// directories, and a drained directory is reported.
#[test]
fn adoption() {
    on_shard(|dir| async move {
        let of = |shard, shard_count| SpoolConfig { shard, shard_count, ..config(&dir) };
        let mut ids = Vec::new();
        for shard in 0..3 {
            let (spool, _) = open(of(shard, 3)).await.unwrap();
            ids.push(put(&spool, &body(shard as u64, 9_000)).await.unwrap());
            kill(spool).await;
        }
        let (spool, recovery) = open(of(0, 1)).await.unwrap();
        let found: Vec<_> = recovery.messages.iter().map(|message| message.id).collect();
        assert_eq!(found, ids);
        for (shard, id) in ids.iter().enumerate() {
            assert!(read(&spool, *id).await == body(shard as u64, 9_000));
        }
        let mut writer = spool.begin_notification(ids[2], 0).unwrap();
        writer.write(b"report").await.unwrap();
        let bounced = StateChange { id: ids[2], recipients: &[0], state: State::Bounced };
        let report = writer.commit_with(&envelope(1), &[bounced]).await.unwrap();
        let ticket = spool.states(&[delivered(ids[0]), delivered(ids[1])]).unwrap();
        spool.settled(ticket).await.unwrap();
        kill(spool).await;

        let (spool, recovery) = open(of(0, 1)).await.unwrap();
        let found: Vec<_> = recovery.messages.iter().map(|message| message.id).collect();
        assert_eq!(found, [report]);
        assert_eq!(recovery.report.len(), 1, "{:?}", recovery.report);
        assert!(recovery.report[0].contains("shard-1"));
        assert_eq!(read(&spool, report).await, b"report");
        kill(spool).await;
        let (_spool, recovery) = open(of(2, 3)).await.unwrap();
        assert_eq!(recovery.messages.len(), 1);
    });
}

/// A full spool rests: what waits for space looks for it now and then, not all the time.
#[test]
fn a_full_spool_rests() {
    let options = sim::Options { events_max: 200_000, ..sim::Options::default() };
    let outcome = sim::Simulation::new(1, options).run(|| async {
        let node = sim::node("relay");
        let process = node.start(|| async {
            let config = SpoolConfig { max_space: 256 << 10, ..config(Path::new("/spool")) };
            let (spool, _) = Spool::open(config).await.unwrap();
            let mut ids = Vec::new();
            while let Ok(id) = put(&spool, &body(ids.len() as u64, 3000)).await {
                ids.push(id);
            }
            let reason = "not now".to_owned();
            let state = State::Deferred { until_ms: 0, attempts: 1, reason, warned: false };
            for _ in 0..400 {
                let change = StateChange { id: ids[0], recipients: &[0], state: state.clone() };
                spool.states(&[change]).unwrap();
                sleep(Duration::from_millis(100)).await;
            }
            assert!(spool.reserve(20_000).is_err(), "it is full");
            let before = sim::events();
            sleep(Duration::from_secs(600)).await;
            sim::events() - before
        });
        process.await.unwrap()
    });
    let events = outcome.unwrap_or_else(|failure| panic!("{failure}")).value;
    assert!(events < 10_000, "{events} in ten minutes");
}
