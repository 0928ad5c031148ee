//! Disks: what a power cut leaves, what a failed sync loses, full disks and errors.

use std::io;
use std::path::Path;
use std::time::Duration;

use chasqui_runtime::fs::{self, File, OpenOptions, Segment};
use chasqui_runtime::sim::{self, DiskOperation, Kill, Options, Simulation};
use chasqui_runtime::{channel, sleep};

use crate::simulate;

const ALL: OpenOptions =
    OpenOptions { read: true, write: true, create: true, create_new: false, truncate: false, regular: false };

/// Writes a synced and an unsynced part, is killed by `how`, and tells what the disk holds of both then.
fn after_a_kill(seed: u64, how: Kill) -> (Vec<u8>, Vec<u8>) {
    let run = Simulation::new(seed, Options::default()).run(move || async move {
        let node = sim::node("disk");
        let (sender, mut receiver) = channel::bounded(1);
        let writing = node.start(move || async move {
            fs::create_dir_all(Path::new("/spool")).await.unwrap();
            let segment = Segment::create(Path::new("/spool/segment"), 64 * 1024).await.unwrap();
            fs::sync_dir(Path::new("/")).await.unwrap();
            fs::sync_dir(Path::new("/spool")).await.unwrap();
            segment.append_at(0, &[&[1; 8192]]).unwrap();
            segment.sync().await.unwrap();
            segment.append_at(8192, &[&[2; 8192]]).unwrap();
            let _ = sender.send(());
            std::future::pending::<()>().await;
        });
        receiver.recv().await.unwrap();
        node.kill(how);
        assert!(writing.await.is_err());
        let reading = node.start(|| async {
            let segment = Segment::open(Path::new("/spool/segment")).await.unwrap();
            (segment.read(0, 8192).unwrap(), segment.read(8192, 8192).unwrap())
        });
        reading.await.unwrap()
    });
    run.unwrap().value
}

/// What was synced survives a power cut; what was not is kept, lost, or torn between its sectors, never inside
/// one. The death of a process alone loses nothing that was written.
#[test]
fn unsynced_writes_may_be_lost_and_torn() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..100 {
        let (synced, unsynced) = after_a_kill(seed, Kill::PowerCut);
        assert!(synced == [1; 8192]);
        let sectors: Vec<&[u8]> = unsynced.chunks(512).collect();
        assert!(sectors.iter().all(|sector| **sector == [0; 512] || **sector == [2; 512]));
        match sectors.iter().filter(|sector| sector[0] == 2).count() {
            0 => lost += 1,
            16 => kept += 1,
            _ => torn += 1,
        }
        let (synced, unsynced) = after_a_kill(seed, Kill::Process);
        assert!(synced == [1; 8192] && unsynced == [2; 8192]);
    }
    assert!(kept > 10 && lost > 10 && torn > 20, "{kept} kept, {lost} lost, {torn} torn");
}

/// A sync covers what was written before it began, and not what was written while it ran.
#[test]
fn a_sync_covers_what_came_before_it() {
    let mut lost = 0;
    for seed in 0..60 {
        let outcome = simulate(seed, || async {
            let node = sim::node("disk");
            let writing = node.start(|| async {
                let file = File::open(Path::new("/file"), &ALL).await.unwrap();
                file.allocate(0, 8192).await.unwrap();
                file.sync_data().await.unwrap();
                fs::sync_dir(Path::new("/")).await.unwrap();
                let segment = Segment::open(Path::new("/file")).await.unwrap();
                segment.append_at(0, &[&[1; 4096]]).unwrap();
                let mut sync = Box::pin(segment.sync());
                assert!(futures_lite::future::poll_once(&mut sync).await.is_none());
                segment.append_at(4096, &[&[2; 4096]]).unwrap();
                sync.await.unwrap();
            });
            writing.await.unwrap();
            node.kill(Kill::PowerCut);
            let bytes = node.peek(Path::new("/file")).unwrap();
            assert!(bytes[..4096] == [1; 4096]);
            bytes[4096..] != [2; 4096]
        });
        lost += u32::from(outcome.value);
    }
    assert!(lost > 10, "{lost} of 60 lost");
}

/// After a failed sync a second one that succeeds has not written what the first one dropped.
#[test]
fn a_failed_sync_is_not_mended_by_another() {
    let mut lost = 0;
    for seed in 0..60 {
        let outcome = simulate(seed, || async {
            let node = sim::node("disk");
            let writing = node.start(move || async move {
                let segment = Segment::create(Path::new("/segment"), 8192).await.unwrap();
                fs::sync_dir(Path::new("/")).await.unwrap();
                segment.append_at(0, &[&[1; 4096]]).unwrap();
                node.fail_disk(DiskOperation::Sync, 1);
                assert!(segment.sync().await.is_err());
                segment.sync().await.unwrap();
                assert!(segment.read(0, 4096).unwrap() == [1; 4096], "the page cache still has it");
            });
            writing.await.unwrap();
            node.kill(Kill::PowerCut);
            node.peek(Path::new("/segment")).unwrap()[..4096] != [1; 4096]
        });
        lost += u32::from(outcome.value);
    }
    assert!(lost > 30, "{lost} of 60 lost");
}

/// Names are durable once their directory was synced; of later changes a prefix survives a power cut.
#[test]
fn names_survive_in_their_order() {
    let mut counts = [0; 5];
    for seed in 0..100 {
        let outcome = simulate(seed, || async {
            let node = sim::node("disk");
            let writing = node.start(|| async {
                let directory = Path::new("/names");
                fs::create_dir_all(directory).await.unwrap();
                File::open(&directory.join("durable"), &ALL).await.unwrap();
                fs::sync_dir(Path::new("/")).await.unwrap();
                fs::sync_dir(directory).await.unwrap();
                for name in ["0", "1", "2"] {
                    File::open(&directory.join(name), &ALL).await.unwrap();
                }
                fs::rename(&directory.join("durable"), &directory.join("renamed")).await.unwrap();
            });
            writing.await.unwrap();
            node.kill(Kill::PowerCut);
            node.start(|| async { fs::read_dir(Path::new("/names")).await.unwrap() }).await.unwrap()
        });
        let names: Vec<String> =
            outcome.value.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        let states = [
            vec!["durable"],
            vec!["0", "durable"],
            vec!["0", "1", "durable"],
            vec!["0", "1", "2", "durable"],
            vec!["0", "1", "2", "renamed"],
        ];
        let state = states.iter().position(|state| *state == names);
        counts[state.unwrap_or_else(|| panic!("{names:?} is no prefix"))] += 1;
    }
    assert!(counts.iter().all(|count| *count > 3), "{counts:?}");
}

/// A full disk refuses writes with ENOSPC until there is room, and planned errors hit the operation they name.
#[test]
fn disks_fill_up_and_fail() {
    simulate(1, || async {
        let node = sim::node("disk");
        node.set_disk_capacity(40_960);
        let working = node.start(move || async move {
            let file = File::open(Path::new("/file"), &ALL).await.unwrap();
            file.write_at(vec![1; 40_960], 0).await.unwrap();
            assert_eq!(fs::available_bytes(Path::new("/")).await.unwrap(), 0);
            let full = file.write_at(vec![1; 1], 40_960).await.unwrap_err();
            assert_eq!(full.kind(), io::ErrorKind::StorageFull);
            file.write_at(vec![2; 100], 0).await.unwrap();
            assert!(Segment::create(Path::new("/segment"), 4096).await.is_err());
            fs::remove_file(Path::new("/segment")).await.unwrap();
            node.set_disk_capacity(81_920);
            let segment = Segment::create(Path::new("/segment"), 4096).await.unwrap();
            assert_eq!(node.disk_used(), 45_056);
            node.fail_disk(DiskOperation::Write, 1);
            assert_eq!(segment.append_at(0, &[b"x"]).unwrap_err().raw_os_error(), Some(5));
            segment.append_at(0, &[b"x"]).unwrap();
            node.fail_disk(DiskOperation::Read, 1);
            assert!(segment.read(0, 1).is_err());
            assert_eq!(segment.read(0, 1).unwrap(), b"x");
        });
        working.await.unwrap();
    });
}

/// A process can be ended at every single operation of its disk, and nothing it does afterwards counts.
#[test]
fn a_kill_at_each_disk_operation() {
    let run = |number: u64| {
        Simulation::new(9, Options::default()).run(move || async move {
            let node = sim::node("disk");
            node.kill_at_disk_operation(number, Kill::Process);
            let writing = node.start(|| async {
                let segment = Segment::create(Path::new("/segment"), 8192).await.unwrap();
                for index in 0..4 {
                    if segment.append_at(index, &[b"x"]).is_err() {
                        sleep(Duration::from_secs(1)).await;
                    }
                }
                segment.sync().await.unwrap();
            });
            let ended = writing.await;
            let written = node.peek(Path::new("/segment")).unwrap_or_default();
            (ended.is_ok(), written.iter().filter(|byte| **byte == b'x').count(), node.disk_operations())
        })
    };
    let (whole, written, operations) = run(u64::MAX).unwrap().value;
    assert!(whole && written == 4 && operations > 8);
    let mut last = 0;
    for number in 1..=operations {
        let (ended, written, counted) = run(number).unwrap().value;
        assert_eq!((ended, counted), (false, number));
        assert!(written >= last, "more is written the later the end comes");
        last = written;
    }
    assert_eq!(last, 4);
}

/// A disk that was healed fails neither by chance nor as planned.
#[test]
fn healed_disks_fail_no_more() {
    let outcome = Simulation::new(1, Options::default()).run(|| async {
        let node = sim::node("disk");
        node.fail_disk(DiskOperation::Write, 5);
        node.set_disk_faults(sim::DiskFaults { read: 1.0, write: 1.0, sync: 1.0 });
        node.heal_disk();
        let working = node.start(|| async {
            let segment = Segment::create(Path::new("/segment"), 8192).await?;
            segment.append_at(0, &[b"x"])?;
            segment.sync().await?;
            segment.read(0, 1)
        });
        working.await.unwrap().map_err(|error| error.kind())
    });
    assert_eq!(outcome.unwrap().value, Ok(b"x".to_vec()));
}
