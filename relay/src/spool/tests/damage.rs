//! Damage of every kind to a small spool: the rest is recovered, the loss is reported.

use super::*;
use crate::spool::format::headers::RECORD_HEADER;
use crate::spool::format::message::CHUNK_META;

/// What a spool is expected to hold.
pub(super) struct Expected {
    bodies: Vec<(MessageId, Vec<u8>)>,
    finished: MessageId,
}

/// A spool over several segments, closed: mail of several sizes, some of it delivered.
pub(super) async fn filled(dir: &Path) -> Expected {
    let (spool, _) = open(config(dir)).await.unwrap();
    let mut bodies = Vec::new();
    let finished = put(&spool, &body(99, 500)).await.unwrap();
    for (seed, length) in [(1, 10), (2, 3000), (3, 30_000), (4, 5000), (5, 60_000), (6, 2000)] {
        bodies.push((put(&spool, &body(seed, length)).await.unwrap(), body(seed, length)));
        spool.states(&[delivered(finished)]).unwrap();
    }
    indexed(&spool).await;
    spool.close().await.unwrap();
    Expected { bodies, finished }
}

/// Opens a damaged copy twice; checks that what is found is unchanged, or known to be damaged before it is used.
/// Returns how many messages are missing, and the recovery, with those found damaged among its quarantined.
async fn open_damaged(dir: &Path, expected: &Expected) -> (usize, Found) {
    let (spool, mut recovery) = open(config(dir)).await.unwrap();
    let mut found = 0;
    for message in &recovery.messages {
        let known = expected.bodies.iter().find(|(id, _)| *id == message.id);
        let Some((_, body)) = known else {
            // Its tombstones were damaged; that it comes back is reported by the damage itself.
            assert_eq!(message.id, expected.finished);
            assert!(recovery.quarantined > 0, "{:?}", recovery.report);
            continue;
        };
        assert_eq!(message.envelope, envelope(1));
        assert_eq!(spool.envelope(message.id).await.unwrap(), Some(envelope(1)));
        match spool.body(message.id).await {
            Ok(_) => assert!(read(&spool, message.id).await == *body, "a message was changed"),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                continue;
            }
        }
        found += 1;
    }
    let damaged = spool.stats().damaged;
    let new = put(&spool, b"new").await.unwrap();
    kill(spool).await;
    // A second start finds the same, and does not report the same loss as a new one.
    let (spool, again) = open(config(dir)).await.unwrap();
    let ids = |recovery: &Found| recovery.messages.iter().map(|message| message.id).collect::<Vec<_>>();
    let mut expected_ids = ids(&recovery);
    expected_ids.push(new);
    expected_ids.sort_unstable();
    assert_eq!(ids(&again), expected_ids);
    kill(spool).await;
    recovery.quarantined += damaged;
    recovery.report.extend((damaged > 0).then(|| "damaged at the first read".to_owned()));
    (expected.bodies.len() - found, recovery)
}

/// One damaged byte anywhere in any segment of a closed spool: what is lost is reported as quarantined, everything
/// else is there. At most the messages with a piece in that group are lost.
#[test]
fn every_block_damaged() {
    on_shard(|dir| async move {
        let expected = filled(&dir).await;
        let shard = dir.join("shard-0");
        let mut names: Vec<_> =
            std::fs::read_dir(&shard).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let mut damaged_runs = 0;
        for path in names {
            let blocks = std::fs::metadata(&path).unwrap().len() / 4096;
            for block in 0..blocks {
                let at = (block * 4096) as usize + if block % 2 == 0 { 40 } else { 100 };
                let mut bytes = std::fs::read(&path).unwrap();
                if bytes[block as usize * 4096..][..4096].iter().all(|byte| *byte == 0) {
                    continue;
                }
                let copy = temp_dir();
                let target = copy.path().join("shard-0");
                copy_dir(&shard, &target);
                bytes[at] ^= 0x55;
                std::fs::write(target.join(path.file_name().unwrap()), bytes).unwrap();
                let (missing, recovery) = open_damaged(copy.path(), &expected).await;
                assert!(missing <= 3, "{missing} missing: {:?}", recovery.report);
                assert!(missing == 0 || recovery.quarantined > 0, "{path:?} {block}: {:?}", recovery.report);
                assert_eq!(recovery.report.is_empty(), recovery.quarantined + recovery.discarded == 0);
                damaged_runs += usize::from(recovery.quarantined > 0);
            }
        }
        assert!(damaged_runs > 20, "{damaged_runs}");
    });
}

/// A segment cut short at every block, or missing: no panic, the loss is reported, the rest is there.
#[test]
fn truncated_and_missing() {
    on_shard(|dir| async move {
        let expected = filled(&dir).await;
        let shard = dir.join("shard-0");
        for number in 1..=3 {
            let name = format!("segment-{number:08}");
            for blocks in [None, Some(0), Some(1), Some(2), Some(5), Some(9)] {
                let copy = temp_dir();
                let target = copy.path().join("shard-0");
                copy_dir(&shard, &target);
                match blocks {
                    None => std::fs::remove_file(target.join(&name)).unwrap(),
                    Some(blocks) => {
                        let file = std::fs::File::options().write(true).open(target.join(&name)).unwrap();
                        file.set_len(blocks * 4096 + 77).unwrap();
                    }
                }
                let (missing, recovery) = open_damaged(copy.path(), &expected).await;
                assert!(missing == 0 || recovery.quarantined > 0, "{name} {blocks:?}: {:?}", recovery.report);
            }
        }
    });
}

/// Files with swapped names, a copy of a segment, and a segment of another spool: the first are read all the same,
/// the others are moved aside.
#[test]
fn swapped_copied_and_foreign() {
    on_shard(|dir| async move {
        let expected = filled(&dir).await;
        let shard = dir.join("shard-0");
        let path = |number: u32| shard.join(format!("segment-{number:08}"));
        std::fs::rename(path(1), shard.join("swap")).unwrap();
        std::fs::rename(path(2), path(1)).unwrap();
        std::fs::rename(shard.join("swap"), path(2)).unwrap();
        std::fs::copy(path(3), path(60)).unwrap();
        let other = temp_dir();
        let foreign = filled(other.path()).await;
        std::fs::copy(other.path().join("shard-0/segment-00000002"), path(61)).unwrap();

        let (missing, recovery) = open_damaged(&dir, &expected).await;
        assert_eq!(missing, 0, "{:?}", recovery.report);
        assert_eq!(recovery.quarantined, 2, "{:?}", recovery.report);
        assert!(recovery.messages.iter().all(|message| foreign.bodies.iter().all(|(_, body)| {
            let own = expected.bodies.iter().find(|(id, _)| *id == message.id);
            own.is_some_and(|(_, own)| own != body) || own.is_some()
        })));
        assert_eq!(std::fs::read_dir(shard.join("quarantine")).unwrap().count(), 2);
    });
}

/// A damaged segment is not recycled: when nothing in it counts any more it is kept for inspection.
#[test]
fn damaged_segments_are_kept() {
    on_shard(|dir| async move {
        let expected = filled(&dir).await;
        let path = dir.join("shard-0/segment-00000001");
        let mut bytes = std::fs::read(&path).unwrap();
        let (_, large) = &expected.bodies[1];
        let at =
            bytes.windows(large.len()).position(|window| window == large).expect("it is in this segment");
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (spool, recovery) = open(config(&dir)).await.unwrap();
        let mut damaged = 0;
        for message in &recovery.messages {
            damaged += usize::from(spool.body(message.id).await.is_err());
        }
        assert_eq!((damaged, recovery.quarantined), (1, 0), "{:?}", recovery.report);
        for message in &recovery.messages {
            spool.states(&[delivered(message.id)]).unwrap();
        }
        spool.flush().await.unwrap();
        let aside = dir.join("shard-0/quarantine/segment-00000001.0");
        let mut seed = 0;
        while !aside.exists() {
            seed += 1;
            assert!(seed < 500, "the damaged segment is moved when nothing in it counts");
            let id = put(&spool, &body(seed, 3000)).await.unwrap();
            spool.states(&[delivered(id)]).unwrap();
        }
        assert_eq!(std::fs::read(&aside).unwrap(), bytes);
        spool.close().await.unwrap();
        drop(spool);
        let (_spool, recovery) = open(config(&dir)).await.unwrap();
        assert_eq!((recovery.quarantined, recovery.messages.len()), (0, 0), "{:?}", recovery.report);
        assert_eq!(expected.bodies.len(), 6);
    });
}

/// What one start has discarded, a later one does not find, even if the disk gives it back whole.
#[test]
fn discarded_stays_discarded() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        let kept = put(&spool, b"kept").await.unwrap();
        let lost = put(&spool, b"lost").await.unwrap();
        let end = spool.own.inner().segments.active.end as usize;
        kill(spool).await;
        let path = dir.join("shard-0/segment-00000001");
        let whole = std::fs::read(&path).unwrap();
        let mut torn = whole.clone();
        torn[end - 4096 + 70] ^= 1;
        std::fs::write(&path, &torn).unwrap();
        let (spool, recovery) = open(config(&dir)).await.unwrap();
        assert_eq!((recovery.discarded, recovery.quarantined), (1, 0), "{:?}", recovery.report);
        kill(spool).await;
        std::fs::write(&path, &whole).unwrap();
        let (spool, recovery) = open(config(&dir)).await.unwrap();
        let found: Vec<_> = recovery.messages.iter().map(|message| message.id).collect();
        assert_eq!(found, [kept]);
        assert!(
            recovery.report.is_empty() && spool.body(lost).await.unwrap().is_none(),
            "{:?}",
            recovery.report
        );
    });
}

/// Of sealed segments the index is read: a damaged body is found at its first read, however often it is asked for, and
/// its envelope is known all the same. When the index is damaged too, the segment is read.
#[test]
fn damaged_body_in_an_indexed_segment() {
    on_shard(|dir| async move {
        let expected = filled(&dir).await;
        let path = dir.join("shard-0/segment-00000001");
        let mut bytes = std::fs::read(&path).unwrap();
        let (id, body) = &expected.bodies[1];
        let at =
            bytes.windows(body.len()).position(|window| window == body).expect("it is in the first segment");
        bytes[at + 100] ^= 1;
        std::fs::write(&path, &bytes).unwrap();

        let (spool, recovery) = open(config(&dir)).await.unwrap();
        assert_eq!((recovery.quarantined, recovery.messages.len()), (0, 6), "{:?}", recovery.report);
        for _ in 0..2 {
            let damaged = spool.body(*id).await.map(|_| ()).unwrap_err();
            assert_eq!((damaged.kind(), spool.stats().damaged), (io::ErrorKind::InvalidData, 1));
            assert_eq!(spool.envelope(*id).await.unwrap(), Some(envelope(1)));
        }
        for (other, body) in expected.bodies.iter().filter(|(other, _)| other != id) {
            assert!(read(&spool, *other).await == *body);
        }
        assert_eq!(spool.stats().damaged, 1);
        kill(spool).await;

        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (_spool, recovery) = open(config(&dir)).await.unwrap();
        assert!(recovery.quarantined > 0 && recovery.messages.iter().all(|message| message.id != *id));
    });
}

/// Records of an indexed segment that a disk has written in each other's place are whole, and damage all the same.
#[test]
fn records_in_each_others_place() {
    on_shard(|dir| async move {
        let expected = filled(&dir).await;
        let (id, body) = &expected.bodies[2];
        let mut swapped = 0;
        for number in 1..=3 {
            let path = dir.join(format!("shard-0/segment-{number:08}"));
            let mut bytes = std::fs::read(&path).unwrap();
            // Chunks of one length, by the piece of the body that each has.
            let length = 6144;
            let record = RECORD_HEADER + CHUNK_META as usize;
            let places: Vec<usize> = body
                .chunks_exact(length)
                .filter_map(|piece| bytes.windows(length).position(|window| window == piece))
                .collect();
            let [one, other, ..] = places[..] else { continue };
            for at in 0..record + length {
                bytes.swap(one - record + at, other - record + at);
            }
            std::fs::write(&path, &bytes).unwrap();
            swapped += 1;
            break;
        }
        assert_eq!(swapped, 1, "two of its chunks are in one segment");
        let (spool, recovery) = open(config(&dir)).await.unwrap();
        assert_eq!((recovery.quarantined, recovery.messages.len()), (0, 6), "{:?}", recovery.report);
        let damaged = spool.body(*id).await.map(|_| ()).unwrap_err();
        assert_eq!(damaged.kind(), io::ErrorKind::InvalidData);
        for (other, body) in expected.bodies.iter().filter(|(other, _)| other != id) {
            assert!(read(&spool, *other).await == *body);
        }
    });
}

/// An index that is torn, or of an earlier use of its segment, is none: the segment is read, and all is there.
#[test]
fn torn_indexes() {
    on_shard(|dir| async move {
        let expected = filled(&dir).await;
        let shard = dir.join("shard-0");
        let (mut torn, mut runs) = (0, 0);
        for path in std::fs::read_dir(&shard).unwrap().map(|entry| entry.unwrap().path()) {
            let mut bytes = std::fs::read(&path).unwrap();
            let index = bytes.len() - 64;
            if &bytes[index..index + 8] != b"CHASQIDX" {
                continue;
            }
            torn += 1;
            // The place of the length, the epoch, and the last groups before the trailer's block or in it.
            for at in [index + 13, index + 24, index - 4096 - 200, index - 3000] {
                let before = bytes[at];
                bytes[at] ^= 0x21;
                let copy = temp_dir();
                copy_dir(&shard, &copy.path().join("shard-0"));
                std::fs::write(copy.path().join("shard-0").join(path.file_name().unwrap()), &bytes).unwrap();
                let (missing, recovery) = open_damaged(copy.path(), &expected).await;
                assert_eq!((missing, recovery.quarantined), (0, 0), "{:?}", recovery.report);
                bytes[at] = before;
                runs += 1;
            }
        }
        assert!(torn >= 2 && runs == 4 * torn, "{torn} segments had an index");
    });
}
