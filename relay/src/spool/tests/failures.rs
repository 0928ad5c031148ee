//! Disks that fail or are full, at each thing that is written: what is refused and how, and what goes on afterwards.

use std::io::ErrorKind;
use std::time::Duration;

use chasqui_runtime::{JoinHandle, now, sleep, spawn};

use super::*;
use crate::spool::disk::segment_path;
use crate::spool::format::headers::Kind;
use crate::spool::format::table::Status;

/// Waits for something that nobody announces.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if is_so() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("{what}: not within ten seconds");
}

/// What was acknowledged to one sender and stays: ids, and seeds of bodies.
type Sent = Result<Vec<(MessageId, u64)>, SpoolError>;

/// Mail that is delivered at once, from several senders; gives what was acknowledged and not yet given a state.
fn mail(spool: &Rc<Spool>, senders: u64) -> Vec<JoinHandle<Sent>> {
    let sender = |number: u64, spool: Rc<Spool>| async move {
        let mut kept = Vec::new();
        for seed in (0..40).map(|count| number * 1000 + count) {
            let id = put(&spool, &body(seed, 3000)).await?;
            match seed % 8 {
                0 => kept.push((id, seed)),
                _ => drop(spool.states(&[delivered(id)])?),
            }
        }
        Ok(kept)
    };
    (0..senders).map(|number| spawn(sender(number, spool.clone()))).collect()
}

/// A file system without room, at a group of mail, a seal or a table: nothing is sealed or lost, mail is refused with
/// 452 meanwhile, and all goes on when there is room again.
#[test]
fn no_room_to_write() {
    for kind in [Kind::Message, Kind::Seal, Kind::Table] {
        on_shard(move |dir| async move {
            let (faults, disk) = faulty();
            let (spool, _) = open_on(disk, config(&dir)).await.unwrap();
            faults.fail_groups.set(Some((kind, ErrorKind::StorageFull)));
            let senders = mail(&spool, 6);
            until("a write that finds no room", || faults.failed.get() > 0).await;
            until("mail is refused", || spool.reserve(1).err() == Some(SpoolError::NoSpace)).await;
            assert_eq!(put(&spool, b"refused").await, Err(SpoolError::NoSpace));
            faults.fail_groups.set(None);
            until("mail is taken again", || spool.reserve(1).is_ok()).await;
            let mut kept = Vec::new();
            for sender in senders {
                // Who was admitted before got no refusal; who came meanwhile did.
                match sender.await {
                    Ok(acknowledged) => kept.extend(acknowledged),
                    Err(refused) => assert_eq!(refused, SpoolError::NoSpace),
                }
            }
            for sender in mail(&spool, 2) {
                kept.extend(sender.await.unwrap());
            }
            assert!(spool.failed().is_none());
            spool.close().await.unwrap();
            drop(spool);
            let (spool, recovery) = open(config(&dir)).await.unwrap();
            assert_eq!(recovery.quarantined, 0, "{:?}", recovery.report);
            for (id, seed) in kept {
                assert!(read(&spool, id).await == body(seed, 3000));
            }
        });
    }
}

/// A disk that fails, at a group of mail, a seal or a table: sealed with the reason, and what was acknowledged is there
/// at the next start.
#[test]
fn failed_writes_seal() {
    for kind in [Kind::Message, Kind::Seal, Kind::Table] {
        on_shard(move |dir| async move {
            let (faults, disk) = faulty();
            let (spool, _) = open_on(disk, config(&dir)).await.unwrap();
            let mut kept = Vec::new();
            for seed in 0..3 {
                kept.push((put(&spool, &body(seed, 3000)).await.unwrap(), seed));
            }
            faults.fail_groups.set(Some((kind, ErrorKind::Other)));
            for sender in mail(&spool, 6) {
                assert!(matches!(sender.await, Err(SpoolError::Failed(_))));
            }
            let why = spool.failed().expect("a write has failed");
            assert!(why.contains("write failed"), "{why}");
            assert!(matches!(put(&spool, b"late").await, Err(SpoolError::Failed(_))));
            kill(spool).await;
            let (spool, recovery) = open(config(&dir)).await.unwrap();
            assert_eq!(recovery.quarantined, 0, "{:?}", recovery.report);
            for (id, seed) in kept {
                assert!(read(&spool, id).await == body(seed, 3000));
            }
        });
    }
}

/// Fills segments, and finishes nearly everything in them; returns what is left.
async fn sparse(spool: &Spool) -> Vec<(MessageId, u64)> {
    let mut left = Vec::new();
    let mut finished = Vec::new();
    for seed in 0..100 {
        let id = put(spool, &body(seed, 3000)).await.unwrap();
        if seed % 10 == 0 { left.push((id, seed)) } else { finished.push(id) }
    }
    for id in finished {
        spool.states(&[delivered(id)]).unwrap();
    }
    left
}

/// Copies that find no room are made when there is room again; the originals are there meanwhile.
#[test]
fn no_room_for_copies() {
    on_shard(|dir| async move {
        let (faults, disk) = faulty();
        let (spool, _) = open_on(disk, config(&dir)).await.unwrap();
        let left = sparse(&spool).await;
        let before = spool.stats().cleaned;
        faults.fail_groups.set(Some((Kind::Message, ErrorKind::StorageFull)));
        spool.flush().await.unwrap();
        until("a copy that finds no room", || faults.failed.get() > 0).await;
        for (id, seed) in &left {
            assert!(read(&spool, *id).await == body(*seed, 3000));
        }
        assert!(spool.failed().is_none());
        faults.fail_groups.set(None);
        until("cleaning goes on", || spool.stats().cleaned > before).await;
        for (id, seed) in left {
            assert!(read(&spool, id).await == body(seed, 3000));
        }
    });
}

/// Copies that a disk refuses seal the spool as any other write, and nothing is lost by it.
#[test]
fn failed_copies_seal() {
    on_shard(|dir| async move {
        let (faults, disk) = faulty();
        let (spool, _) = open_on(disk, config(&dir)).await.unwrap();
        let left = sparse(&spool).await;
        faults.fail_groups.set(Some((Kind::Message, ErrorKind::Other)));
        // The flush or the copies are first.
        let _ = spool.flush().await;
        until("a copy fails", || spool.failed().is_some()).await;
        kill(spool).await;
        let (spool, recovery) = open(config(&dir)).await.unwrap();
        assert_eq!(recovery.quarantined, 0, "{:?}", recovery.report);
        for (id, seed) in left {
            assert!(read(&spool, id).await == body(seed, 3000));
        }
    });
}

/// When a spare cannot be made because the disk fails, mail gets 451 and not 452, with the reason; when it can, mail is
/// taken again.
#[test]
fn failing_disk_is_not_a_full_one() {
    on_shard(|dir| async move {
        let (faults, disk) = faulty();
        let (spool, _) = open_on(disk, config(&dir)).await.unwrap();
        faults.create_error.set(Some(ErrorKind::Other));
        let mut kept = Vec::new();
        let refused = loop {
            match put(&spool, &body(kept.len() as u64, 3000)).await {
                Ok(id) => kept.push(id),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, SpoolError::DiskFails(_)), "{refused:?}");
        assert!(matches!(spool.reserve(100_000).err(), Some(SpoolError::DiskFails(_))));
        assert!(spool.failed().is_none());
        faults.create_error.set(None);
        until("mail is taken again", || spool.reserve(100_000).is_ok()).await;
        put(&spool, &body(99, 30_000)).await.unwrap();
        for (seed, id) in kept.into_iter().enumerate() {
            assert!(read(&spool, id).await == body(seed as u64, 3000));
        }
    });
}

/// While the disk is full it is asked for a new file once a second, however much is written meanwhile.
#[test]
fn a_full_disk_is_left_in_peace() {
    on_shard(|dir| async move {
        let (faults, disk) = faulty();
        let (spool, _) = open_on(disk, config(&dir)).await.unwrap();
        faults.fail_create.set(true);
        let mut kept = Vec::new();
        while let Ok(id) = put(&spool, &body(1, 3000)).await {
            kept.push(id);
        }
        faults.creates.set(0);
        let begun = now();
        // Every other one, so that no segment becomes free.
        for id in kept.into_iter().step_by(2) {
            spool.states(&[delivered(id)]).unwrap();
            spool.flush().await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
        let most = 1 + begun.elapsed().as_secs();
        assert!(faults.creates.get() <= most, "asked {} times", faults.creates.get());
        faults.fail_create.set(false);
        until("mail is taken again", || spool.reserve(3000).is_ok()).await;
        put(&spool, &body(2, 3000)).await.unwrap();
    });
}

/// A segment whose new header could not be synced is not tried again: nobody knows what is on the disk. Others are.
#[test]
fn failed_sync_of_a_spare() {
    on_shard(|dir| async move {
        let (faults, disk) = faulty();
        let (spool, _) = open_on(disk, config(&dir)).await.unwrap();
        until("a spare and a free segment", || {
            let inner = spool.own.inner();
            inner.segments.spare.is_some() && inner.segments.table.free_count() == 1
        })
        .await;
        let free = {
            let inner = spool.own.inner();
            let mut entries = inner.segments.table.entries();
            entries.find(|entry| entry.status == Status::Free).expect("one is free").file
        };
        *faults.fail_syncs_of.borrow_mut() = Some(segment_path(&dir.join("shard-0"), free));
        let mut seed = 0;
        while spool.own.inner().segments.active.identity.ordinal == 1 {
            put(&spool, &body(seed, 3000)).await.unwrap();
            seed += 1;
        }
        until("the header cannot be synced", || spool.own.inner().segments.spare_failed.is_some()).await;
        assert!(spool.failed().is_none());
        let before = spool.stats().recycled;
        *faults.fail_syncs_of.borrow_mut() = None;
        until("another one is made", || spool.own.inner().segments.spare.is_some()).await;
        assert_eq!(spool.stats().recycled, before);
        for seed in 100..140 {
            put(&spool, &body(seed, 3000)).await.unwrap();
        }
        kill(spool).await;
        let (_spool, recovery) = open(config(&dir)).await.unwrap();
        assert_eq!((recovery.quarantined, recovery.messages.len() as u64), (0, seed + 40));
    });
}
