//! Commits, group commit, states, streams.

use std::time::Duration;

use chasqui_runtime::{now, sleep, spawn, timeout, yield_now};

use super::*;

/// What was committed is found after a close and an open, with envelope and body unchanged, also when the body is
/// empty, contains what the spool writes itself, or is larger than a segment.
#[test]
fn round_trip() {
    on_shard(|dir| async move {
        let mut image = b"CHASQGRP".repeat(600);
        image.extend(b"CREC".repeat(600));
        let bodies = [vec![], b"x".to_vec(), image, body(1, 2048), body(2, 100_000), body(3, 200_000)];
        let (spool, recovery) = open(config(&dir)).await.unwrap();
        assert!(recovery.messages.is_empty() && recovery.report.is_empty());
        let mut ids = Vec::new();
        for body in &bodies {
            let id = put(&spool, body).await.unwrap();
            assert_eq!(read(&spool, id).await, *body);
            assert_eq!(spool.envelope(id).await.unwrap(), Some(envelope(1)));
            ids.push(id);
        }
        spool.close().await.unwrap();
        assert_eq!(put(&spool, b"late").await, Err(SpoolError::Closed));
        drop(spool);

        let (spool, recovery) = open(config(&dir)).await.unwrap();
        assert_eq!((recovery.discarded, recovery.quarantined, &recovery.report), (0, 0, &vec![]));
        let found: Vec<MessageId> = recovery.messages.iter().map(|message| message.id).collect();
        assert_eq!(found, ids);
        for ((message, body), id) in recovery.messages.iter().zip(&bodies).zip(&ids) {
            assert_eq!(message.envelope, envelope(1));
            assert_eq!(read(&spool, *id).await, *body);
        }
        let new = put(&spool, b"new").await.unwrap();
        assert!(!ids.contains(&new), "ids are never used again");
    });
}

/// No commit resolves before a sync that was issued after its write has completed.
#[test]
fn commit_waits_for_its_sync() {
    on_shard(|dir| async move {
        let (faults, disk) = faulty();
        let (spool, _) = open_on(disk, config(&dir)).await.unwrap();
        faults.hold_syncs.set(true);
        let started = faults.started.notified();
        let first = spawn({
            let spool = spool.clone();
            async move { put(&spool, b"first").await }
        });
        started.await;
        let second = spawn({
            let spool = spool.clone();
            async move { put(&spool, b"second").await }
        });
        for _ in 0..100 {
            yield_now().await;
        }
        assert!(!first.is_finished() && !second.is_finished());
        // The second was written after the sync of the first was issued: it has to wait for the next.
        let before = faults.syncs.get();
        let next = faults.started.notified();
        faults.released.notify_all();
        faults.hold_syncs.set(false);
        first.await.unwrap();
        next.await;
        second.await.unwrap();
        assert!(faults.syncs.get() > before);
        let inner = spool.own.inner();
        assert_eq!(inner.groups.watermark.settled(), inner.groups.watermark.appended());
    });
}

/// A thousand concurrent commits share a few syncs.
#[test]
fn group_commit() {
    on_shard(|dir| async move {
        let config = SpoolConfig { segment_size: 4 << 20, max_space: 64 << 20, ..config(&dir) };
        let (spool, _) = open(config).await.unwrap();
        let before = spool.stats();
        let tasks: Vec<_> = (0..1000)
            .map(|seed| {
                let spool = spool.clone();
                spawn(async move { put(&spool, &body(seed, 2048)).await })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let after = spool.stats();
        assert_eq!(after.messages - before.messages, 1000);
        assert_eq!(after.synced_messages, 1000);
        assert!(after.syncs - before.syncs <= 10, "{} syncs", after.syncs - before.syncs);
    });
}

/// A state does not start a group of its own at once, enters one that a commit starts, and is durable after 50 ms
/// without one; states of one call share one group.
#[test]
fn states_linger() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        let ids = [put(&spool, b"a").await.unwrap(), put(&spool, b"b").await.unwrap()];
        let groups = spool.stats().groups;
        let start = now();
        let ticket = spool.states(&[delivered(ids[0])]).unwrap();
        let third = put(&spool, b"c").await.unwrap();
        spool.settled(ticket).await.unwrap();
        assert_eq!(spool.stats().groups, groups + 1);

        let ticket = spool.states(&[delivered(ids[1]), delivered(third)]).unwrap();
        spool.settled(ticket).await.unwrap();
        assert!(now() - start >= Duration::from_millis(50));
        assert_eq!(spool.stats().groups, groups + 2);
        for id in [ids[0], third] {
            assert!(spool.body(id).await.unwrap().is_none());
        }
        kill(spool).await;
        let (_spool, recovery) = open(config(&dir)).await.unwrap();
        assert!(recovery.messages.is_empty());
    });
}

/// A state does not wait for a sync that takes long: it is in the page cache soon, so that a kill does not undo it,
/// and settled only when a later sync has covered it.
#[test]
fn states_pass_a_slow_sync() {
    on_shard(|dir| async move {
        let (faults, disk) = faulty();
        let (spool, _) = open_on(disk, config(&dir)).await.unwrap();
        let id = put(&spool, b"a").await.unwrap();
        faults.hold_syncs.set(true);
        let started = faults.started.notified();
        let held = spawn({
            let spool = spool.clone();
            async move { put(&spool, b"held").await }
        });
        started.await;
        let (groups, start) = (spool.stats().groups, now());
        let ticket = spool.states(&[delivered(id)]).unwrap();
        while spool.stats().groups == groups {
            sleep(Duration::from_millis(5)).await;
        }
        assert!(now() - start < Duration::from_millis(500), "the sync is held until the test lets it go");
        assert!(timeout(Duration::from_millis(20), spool.settled(ticket)).await.is_err());
        kill(spool).await;
        assert!(held.await.is_err());

        let (_spool, recovery) = open(config(&dir)).await.unwrap();
        assert!(recovery.messages.iter().all(|message| message.id != id));
        assert_eq!(recovery.messages.len(), 1);
    });
}

/// Each recipient has a state of its own, which survives; the last final one ends the message.
#[test]
fn states_by_recipient() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        let mut writer = spool.begin(None);
        writer.write(b"text\r\n").await.unwrap();
        let id = writer.commit(&envelope(100)).await.unwrap();
        let but_three: Vec<u32> = (0..100).filter(|index| ![5, 70, 99].contains(index)).collect();
        let reason = || "451 4.7.1 Greylisted".to_owned();
        let deferred =
            |until_ms| State::Deferred { until_ms, attempts: 1, reason: reason(), warned: until_ms == 8 };
        let changes = [
            StateChange { id, recipients: &but_three, state: State::Delivered },
            StateChange { id, recipients: &[5, 70], state: deferred(7) },
        ];
        spool.states(&changes).unwrap();
        spool.states(&[StateChange { id, recipients: &[5], state: State::Bounced }]).unwrap();
        spool.states(&[StateChange { id, recipients: &[70], state: deferred(8) }]).unwrap();
        spool.flush().await.unwrap();
        kill(spool).await;

        let (spool, recovery) = open(config(&dir)).await.unwrap();
        let [first, second] = recovery.messages[0].open.as_slice() else { panic!("two are left") };
        assert_eq!((first.index, second.index, &second.deferral), (70, 99, &None));
        let deferral = first.deferral.clone().unwrap();
        assert_eq!((deferral.until_ms, deferral.attempts, deferral.warned), (8, 1, true));
        let at = deferral.reason;
        let segment = spool.own.inner().segments.table.segment(at.ordinal).unwrap().clone();
        let said = segment.read(at.offset.into(), at.length as usize).await.unwrap();
        assert_eq!(said, reason().as_bytes());
        spool.states(&[StateChange { id, recipients: &[70, 99], state: State::Delivered }]).unwrap();
        assert!(spool.body(id).await.unwrap().is_none());
    });
}

/// Messages are handed over in batches, in order of their ids, whatever lies between them.
#[test]
fn handed_over_in_batches() {
    on_shard(|dir| async move {
        let config = SpoolConfig { segment_size: 2 << 20, max_space: 16 << 20, ..config(&dir) };
        let (spool, _) = open(config.clone()).await.unwrap();
        let mut ids = Vec::new();
        for round in 0..30 {
            let task = |index| {
                let spool = spool.clone();
                spawn(async move { put(&spool, &body(index, 100 * index as usize)).await.unwrap() })
            };
            let tasks: Vec<_> = (0..30).map(task).collect();
            for (index, task) in tasks.into_iter().enumerate() {
                let id = task.await;
                match (round + index) % 5 {
                    0 => drop(spool.states(&[delivered(id)]).unwrap()),
                    _ => ids.push(id),
                }
            }
        }
        spool.close().await.unwrap();
        drop(spool);
        let (spool, mut recovery) = Spool::open(config).await.unwrap();
        assert_eq!(recovery.queued.len(), ids.len());
        let (mut batches, mut found) = (0, Vec::new());
        while let Some(batch) = recovery.queued.next().await {
            batches += 1;
            assert!(batch.iter().all(|message| message.envelope == envelope(1) && message.open.len() == 1));
            found.extend(batch.iter().map(|message| message.id));
            assert_eq!(recovery.queued.len(), ids.len() - found.len());
        }
        assert_eq!(found, ids);
        assert!(batches >= 3 && !recovery.queued.again(), "{batches}");
        assert_eq!(spool.stats().queued, ids.len() as u64);
    });
}

/// A bounce and the state that causes it share one group: after a crash at any time both are there or neither.
#[test]
fn bounce_and_state_are_one() {
    on_shard(|dir| async move {
        let (faults, disk) = faulty();
        let (spool, _) = open_on(disk, config(&dir)).await.unwrap();
        let id = put(&spool, b"original").await.unwrap();
        faults.hold_syncs.set(true);
        let started = faults.started.notified();
        let bounce = spawn({
            let spool = spool.clone();
            async move {
                let mut writer = spool.begin_notification(id, 0).unwrap();
                writer.write(b"report").await.unwrap();
                let change = StateChange { id, recipients: &[0], state: State::Bounced };
                writer.commit_with(&envelope(1), &[change]).await
            }
        });
        started.await;
        bounce.cancel().await;
        kill(spool).await;
        for seed in 0..20 {
            let copy = temp_dir();
            copy_dir(&dir.join("shard-0"), &copy.path().join("shard-0"));
            let mut dice = SeededRng::new(seed);
            tear_last_group(&copy.path().join("shard-0"), &mut dice);
            let (spool, recovery) = open(config(copy.path())).await.unwrap();
            assert_eq!(recovery.messages.len(), 1, "{:?}", recovery.report);
            let text = read(&spool, recovery.messages[0].id).await;
            assert!(if recovery.messages[0].id == id { text == b"original" } else { text == b"report" });
            kill(spool).await;
        }
        faults.release_syncs();
    });
}

/// Damages the last group of the fullest segment, or not.
fn tear_last_group(dir: &Path, dice: &mut SeededRng) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let Some(last) = bytes.chunks(4096).rposition(|block| block.starts_with(b"CHASQGRP")) else {
            continue;
        };
        if last > 1 && dice.below(2) == 0 {
            bytes[last * 4096 + dice.below(300) as usize] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
}

/// A large message that was not committed leaves nothing, whether its sender went away or the process died.
#[test]
fn uncommitted_stream() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        let mut gone = spool.begin(None);
        gone.write(&body(1, 90_000)).await.unwrap();
        drop(gone);
        let mut cut_off = spool.begin(None);
        cut_off.write(&body(2, 90_000)).await.unwrap();
        let id = put(&spool, b"whole").await.unwrap();
        drop(cut_off);
        spool.flush().await.unwrap();
        kill(spool).await;
        let (spool, recovery) = open(config(&dir)).await.unwrap();
        assert_eq!(recovery.messages.len(), 1);
        assert_eq!(recovery.messages[0].id, id);
        assert_eq!((recovery.discarded, recovery.quarantined), (2, 0), "{:?}", recovery.report);
        assert_eq!(spool.stats().queued, 1);
    });
}

/// After a failed sync everyone who waits is refused, nothing more is taken, and no sync is tried again.
#[test]
fn failed_sync_seals() {
    on_shard(|dir| async move {
        let (faults, disk) = faulty();
        let (spool, _) = open_on(disk, config(&dir)).await.unwrap();
        let kept = put(&spool, b"kept").await.unwrap();
        while spool.own.inner().segments.spare.is_none() {
            spool.own.room.notified().await;
        }
        faults.fail_sync.set(true);
        let before = faults.syncs.get();
        let refused = put(&spool, b"refused").await;
        let Err(SpoolError::Failed(why)) = refused else { panic!("{refused:?}") };
        assert!(why.contains("fdatasync failed"), "{why}");
        faults.fail_sync.set(false);
        assert!(matches!(put(&spool, b"more").await, Err(SpoolError::Failed(_))));
        assert!(matches!(spool.states(&[delivered(kept)]), Err(SpoolError::Failed(_))));
        assert!(matches!(spool.flush().await, Err(SpoolError::Failed(_))));
        assert_eq!(spool.failed(), Some(why));
        assert_eq!(read(&spool, kept).await, b"kept");
        assert_eq!(faults.syncs.get(), before + 1);
        assert!(spool.close().await.is_err());
        drop(spool);
        let (_spool, recovery) = open(config(&dir)).await.unwrap();
        assert!(recovery.messages.iter().any(|message| message.id == kept));
    });
}

/// A failed write seals as well.
#[test]
fn failed_write_seals() {
    on_shard(|dir| async move {
        let (faults, disk) = faulty();
        let (spool, _) = open_on(disk, config(&dir)).await.unwrap();
        faults.fail_append.set(true);
        assert!(matches!(put(&spool, b"refused").await, Err(SpoolError::Failed(_))));
    });
}

/// Class `buffered` resolves without a sync, survives the death of the process, and `flush` syncs.
#[test]
fn buffered() {
    on_shard(|dir| async move {
        let (faults, disk) = faulty();
        let config = SpoolConfig { class: Durability::Buffered, ..config(&dir) };
        let (spool, _) = open_on(disk, config.clone()).await.unwrap();
        while spool.own.inner().segments.spare.is_none() {
            spool.own.room.notified().await;
        }
        let before = faults.syncs.get();
        let id = put(&spool, b"text").await.unwrap();
        assert_eq!(faults.syncs.get(), before);
        spool.flush().await.unwrap();
        assert_eq!(faults.syncs.get(), before + 1);
        assert_eq!(spool.stats().synced_messages, 1);
        let second = put(&spool, b"second").await.unwrap();
        kill(spool).await;
        let (_spool, recovery) = open(config).await.unwrap();
        let found: Vec<_> = recovery.messages.iter().map(|message| message.id).collect();
        assert_eq!(found, [id, second]);
    });
}

/// After 50 ms without mail the watermark is on disk, so that damage to the last group is known for damage; then
/// the spool is quiet.
#[test]
fn idle_watermark() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        put(&spool, b"text").await.unwrap();
        while spool.own.inner().groups.watermark.watermark_is_due() {
            sleep(Duration::from_millis(5)).await;
        }
        while spool.own.inner().segments.spare.is_none() {
            spool.own.room.notified().await;
        }
        let groups = spool.stats().groups;
        let round = timeout(Duration::from_millis(150), spool.own.room.notified()).await;
        assert!(round.is_err(), "a round without work");
        assert_eq!(spool.stats().groups, groups);
    });
}

/// A directory has one user at a time, and tmpfs is refused for class `synced`.
#[test]
fn refusals() {
    on_shard(|dir| async move {
        let (_spool, _) = open(config(&dir)).await.unwrap();
        let second = open(config(&dir)).await;
        assert!(matches!(second, Err(OpenError::Locked(_))));
        let shm = Path::new("/dev/shm");
        if fs::filesystem_kind(shm).await.is_ok_and(|kind| kind == fs::FilesystemKind::Memory) {
            let volatile = tempfile::tempdir_in(shm).unwrap();
            let refused = open(config(volatile.path())).await.err().unwrap();
            assert!(refused.to_string().contains("buffered"), "{refused}");
        }
    });
}

/// A file of an unknown format version is refused with a line that names file and versions, and left alone.
#[test]
fn unknown_version() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        spool.close().await.unwrap();
        drop(spool);
        let path = dir.join("shard-0/segment-00000001");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[12] = 9;
        let crc = crc32c::crc32c(&bytes[12..4096]);
        bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, &bytes).unwrap();
        let refused = open(config(&dir)).await.err().unwrap().to_string();
        assert!(refused.contains("version 9") && refused.contains("segment-00000001"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    });
}
