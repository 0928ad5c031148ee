//! Full disks at a start: it opens, what is queued can be finished and recorded, and mail is taken when there is room again.

use std::path::Path;
use std::time::Duration;

use chasqui_runtime::sim::{self, DiskOptions, Node, Options, Simulation};
use chasqui_runtime::{sleep, timeout};

use super::*;

const CAPACITY: u64 = 1 << 30;

fn simulated() -> SpoolConfig {
    config(Path::new("/spool"))
}

/// Runs a scenario on a disk that is quick to tell.
fn on_a_disk<Fut: Future<Output = ()> + 'static>(seed: u64, scenario: impl FnOnce(Node) -> Fut + 'static) {
    let disk = DiskOptions { capacity_bytes: CAPACITY, ..DiskOptions::default() };
    let options = Options { disk, ..Options::default() };
    let outcome = Simulation::new(seed, options).run(move || scenario(sim::node("relay")));
    outcome.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
}

/// Fills a spool with so many messages, lets the reserve be made or takes it away, and fills the disk.
async fn fill(node: Node, messages: u64, with_reserve: bool, with_free: bool) {
    let filled = node.start(move || async move {
        let (spool, _) = open(simulated()).await.unwrap();
        for seed in 0..messages {
            put(&spool, &body(seed, 3000)).await.unwrap();
        }
        sleep(Duration::from_secs(60)).await;
        spool.close().await.unwrap();
    });
    filled.await.unwrap();
    for name in node.list(Path::new("/spool/shard-0")) {
        let file = name.file_name().unwrap().to_str().unwrap().to_owned();
        // A segment without groups has one block that is not zeros.
        let is_unused =
            file.starts_with("segment-") && node.peek(&name).unwrap().iter().skip(4096).all(|it| *it == 0);
        if file == "reserve" && !with_reserve || is_unused && !with_free {
            node.remove_all(&name);
        }
    }
    node.set_disk_capacity(node.disk_used());
}

/// What the relay does with what it finds on a full disk: finishes it all, and is refused mail meanwhile.
async fn drain(node: Node, is_refused: bool) {
    let drained = node.start(move || async move {
        let (spool, found) = open(simulated()).await.unwrap();
        assert!(spool.can_record(), "the disk is full, and there is a segment");
        if is_refused {
            assert_eq!(put(&spool, &body(9, 100)).await, Err(SpoolError::NoSpace));
        }
        for message in &found.messages {
            spool.states(&[delivered(message.id)]).unwrap();
            sleep(Duration::from_millis(200)).await;
        }
        timeout(Duration::from_secs(60), spool.flush()).await.expect("states find room").unwrap();
        spool.close().await.unwrap();
    });
    drained.await.unwrap();
    let again = node.start(|| async {
        let (spool, found) = open(simulated()).await.unwrap();
        assert!(found.messages.is_empty(), "{} were finished and come back", found.messages.len());
        drop(spool);
    });
    again.await.unwrap();
}

/// A start on a full disk takes the free segment that is there, else the reserve, and what is queued is finished and stays so.
#[test]
fn a_full_disk_is_drained() {
    for (messages, with_reserve, with_free) in
        [(40, true, false), (40, false, true), (0, true, false), (3, true, true)]
    {
        on_a_disk(messages, move |node| async move {
            fill(node, messages, with_reserve, with_free).await;
            drain(node, !with_free).await;
        });
    }
}

/// A little room is enough for a smaller first segment.
#[test]
fn a_smaller_first_segment() {
    on_a_disk(1, |node| async move {
        let large = || SpoolConfig { segment_size: 1 << 20, max_space: 16 << 20, ..simulated() };
        node.set_disk_capacity(400 << 10);
        let started = node.start(move || async move {
            let (spool, _) = open(large()).await.unwrap();
            assert!(spool.can_record());
            assert!(spool.own.inner().segments.active.segment.len() < 1 << 20);
        });
        started.await.unwrap();
    });
}

/// Without any room a start opens nonetheless: nothing is taken, nothing can be recorded, ids are not given twice, and all
/// begins within seconds when there is room; with and without queued mail.
#[test]
fn a_start_without_any_room() {
    for messages in [0, 5] {
        on_a_disk(messages, move |node| async move {
            fill(node, messages, false, false).await;
            let run = node.start(move || async move {
                let (spool, found) = open(simulated()).await.unwrap();
                assert_eq!(found.messages.len() as u64, messages);
                let early = spool.begin(None).id();
                for _ in 0..3 {
                    assert!(!spool.can_record());
                    assert_eq!(spool.reserve(1).err(), Some(SpoolError::NoSpace));
                    assert_eq!(put(&spool, b"refused").await, Err(SpoolError::NoSpace));
                    sleep(Duration::from_secs(10)).await;
                }
                for message in &found.messages {
                    assert!(!read(&spool, message.id).await.is_empty());
                }
                timeout(Duration::from_secs(10), spool.space_returns()).await.expect("it is told of");
                assert!(spool.can_record());
                let id = put(&spool, b"taken").await.unwrap();
                assert!(id != early && found.messages.iter().all(|message| message.id != id));
                spool.close().await.unwrap();
            });
            sleep(Duration::from_secs(35)).await;
            node.set_disk_capacity(CAPACITY);
            run.await.unwrap();
            let again = node.start(|| async {
                let (_spool, found) = open(simulated()).await.unwrap();
                assert_eq!((found.quarantined, found.report), (0, Vec::<String>::new()));
                found.messages.len() as u64
            });
            assert_eq!(again.await.unwrap(), messages + 1);
        });
    }
}

/// A spool that never found room ends when it is told to.
#[test]
fn the_end_without_any_room() {
    for messages in [0, 2] {
        on_a_disk(messages, move |node| async move {
            fill(node, messages, false, false).await;
            let run = node.start(|| async {
                let (spool, found) = open(simulated()).await.unwrap();
                for message in &found.messages {
                    spool.states(&[delivered(message.id)]).unwrap();
                }
                let closed = timeout(Duration::from_secs(30), spool.close()).await.expect("it ends");
                assert_eq!(closed.is_ok(), found.messages.is_empty());
            });
            run.await.unwrap();
        });
    }
}

/// A directory that was removed, moved or replaced is seen at the next commit: who waits is told, and nothing more is taken.
#[test]
fn a_directory_that_is_gone() {
    for replaced in [false, true] {
        on_shard(move |dir| async move {
            let (spool, _) = open(config(&dir)).await.unwrap();
            put(&spool, b"text").await.unwrap();
            let own = dir.join("shard-0");
            std::fs::rename(&own, dir.join("elsewhere")).unwrap();
            if replaced {
                std::fs::create_dir(&own).unwrap();
            }
            sleep(Duration::from_millis(1050)).await;
            assert!(matches!(put(&spool, b"lost").await, Err(SpoolError::Failed(_))));
            let why = spool.failed().expect("it was seen");
            assert!(why.contains("directory was removed or replaced"), "{why}");
            assert!(!spool.can_record());
        });
    }
}

/// So is a segment that is written to and has lost its name.
#[test]
fn a_segment_that_is_gone() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        put(&spool, b"text").await.unwrap();
        std::fs::remove_file(dir.join("shard-0/segment-00000001")).unwrap();
        sleep(Duration::from_millis(1050)).await;
        spool.look();
        let why = spool.failed().expect("it was seen");
        assert!(why.contains("segment that is written to was removed"), "{why}");
    });
}

/// What is no file does not hang a start: a pipe in the place of a segment is told of.
#[test]
fn a_pipe_for_a_segment() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        spool.close().await.unwrap();
        drop(spool);
        let path = dir.join("shard-0/segment-00000077");
        let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let refused = timeout(Duration::from_secs(10), open(config(&dir))).await.expect("it does not hang");
        let line = refused.err().expect("refused").to_string();
        assert!(line.contains("segment-00000077: it is not a regular file"), "{line}");
    });
}
