//! Starts on a disk that refuses reads, and starts that only look.

use std::time::Duration;

use chasqui_runtime::sim::{self, DiskFaults, DiskOptions, Kill, Node, Options, Simulation};
use chasqui_runtime::sleep;

use super::*;

const MESSAGES: u64 = 30;

fn simulated(shard: usize, shard_count: usize) -> SpoolConfig {
    SpoolConfig { shard, shard_count, ..config(Path::new("/spool")) }
}

/// Runs a test in the simulator, with a disk whose syncs take a second, with every seed up to `seeds`.
fn on_slow_disk<Fut: Future<Output = ()> + 'static>(seeds: u64, test: fn(Node) -> Fut) {
    let disk = DiskOptions { sync_us: 1_000_000..1_100_000, stall: 0.0, ..DiskOptions::default() };
    for seed in 0..seeds {
        let options = Options { disk: disk.clone(), ..Options::default() };
        let outcome = Simulation::new(seed, options).run(move || test(sim::node("relay")));
        outcome.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

/// Messages that are queued after a start.
async fn found(node: Node, config: SpoolConfig) -> Result<Vec<Vec<u8>>, String> {
    let process = node.start(move || async move {
        let (spool, found) = open(config).await.map_err(|error| error.to_string())?;
        let mut bodies = Vec::new();
        for message in &found.messages {
            bodies.push(read(&spool, message.id).await);
        }
        assert_eq!(found.quarantined, 0, "{:?}", found.report);
        Ok(bodies)
    });
    process.await.unwrap()
}

/// A disk that refuses many reads at a start costs time and no message.
#[test]
fn reads_that_fail_now_and_then() {
    on_slow_disk(20, |node| async move {
        let sent = node.start(|| async {
            let (spool, _) = open(simulated(0, 1)).await.unwrap();
            let puts = (0..MESSAGES).map(|seed| {
                let spool = spool.clone();
                chasqui_runtime::spawn(async move { put(&spool, &body(seed, 6000)).await })
            });
            for put in puts.collect::<Vec<_>>() {
                put.await.unwrap();
            }
        });
        sent.await.unwrap();
        node.kill(Kill::PowerCut);
        node.set_disk_faults(DiskFaults { read: 0.3, ..DiskFaults::default() });
        // A start may be refused; it is tried again, as a supervisor does.
        let messages = loop {
            let opened = node.start(|| async { count(simulated(0, 1)).await });
            if let Ok(messages) = opened.await.unwrap() {
                break messages;
            }
        };
        assert_eq!(messages, MESSAGES as usize);
        node.kill(Kill::PowerCut);
        node.heal_disk();
        let mut bodies = found(node, simulated(0, 1)).await.unwrap();
        bodies.sort();
        let mut sent: Vec<_> = (0..MESSAGES).map(|seed| body(seed, 6000)).collect();
        sent.sort();
        assert!(bodies == sent, "{} messages of {MESSAGES}", bodies.len());
    });
}

/// Opens a spool and reads no body: how many messages are queued.
async fn count(config: SpoolConfig) -> Result<usize, OpenError> {
    let (_spool, recovery) = Spool::open(config).await?;
    assert_eq!(recovery.quarantined, 0, "{:?}", recovery.report);
    Ok(recovery.queued.len())
}

/// After syncs that failed, the page cache shows what the disk may not have. What a start finds then is there after a power
/// cut too, and so is what it takes in.
#[test]
fn what_failed_syncs_have_left() {
    let mut failed = 0;
    for seed in 0..60 {
        let outcome = Simulation::new(seed, Options::default()).run(|| async {
            let node = sim::node("relay");
            let first = node.start(|| async {
                let (spool, _) = open(simulated(0, 1)).await.unwrap();
                for seed in 0..80 {
                    let Ok(id) = put(&spool, &body(seed, 5000)).await else { return true };
                    if seed % 4 > 0 && spool.states(&[delivered(id)]).is_err() {
                        return true;
                    }
                    sleep(Duration::from_millis(seed % 40)).await;
                }
                false
            });
            sleep(Duration::from_millis(300)).await;
            node.set_disk_faults(DiskFaults { sync: 0.03, ..DiskFaults::default() });
            let has_failed = first.await.unwrap();
            node.heal_disk();
            let second = node.start(|| async {
                let (spool, found) = open(simulated(0, 1)).await.unwrap();
                let mut ids: Vec<MessageId> = found.messages.iter().map(|message| message.id).collect();
                ids.push(put(&spool, b"taken in afterwards").await.unwrap());
                ids
            });
            let known = second.await.unwrap();
            node.kill(Kill::PowerCut);
            let third = node.start(|| async {
                let (_spool, found) = open(simulated(0, 1)).await.unwrap();
                assert_eq!(found.quarantined, 0, "{:?}", found.report);
                found.messages.iter().map(|message| message.id).collect::<Vec<_>>()
            });
            let found = third.await.unwrap();
            assert!(known.iter().all(|id| found.contains(id)), "{known:?} {found:?}");
            has_failed
        });
        let outcome = outcome.unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
        failed += u32::from(outcome.value);
    }
    assert!(failed > 20, "only {failed} disks failed");
}

/// A segment file that can never be opened holds up the start, which names it: it may hold mail, and stays where it is.
#[test]
fn a_segment_that_cannot_be_opened() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        put(&spool, b"text").await.unwrap();
        kill(spool).await;
        let foreign = dir.join("shard-0/segment-00000009");
        std::fs::create_dir(&foreign).unwrap();
        let line = open(config(&dir)).await.err().expect("refused").to_string();
        assert!(line.contains("cannot open") && line.contains("segment-00000009"), "{line}");
        std::fs::remove_dir(&foreign).unwrap();
        let (_spool, found) = open(config(&dir)).await.unwrap();
        assert_eq!(found.messages.len(), 1);
    });
}

/// That a former shard's directory is drained may stand in the page cache alone. Once a start has said so it stays so:
/// what was delivered then is not sent again after a power cut.
#[test]
fn drained_for_good() {
    on_slow_disk(16, |node| async move {
        drop(node.start(|| async {
            let (spool, _) = open(simulated(1, 2)).await.unwrap();
            let ids = [put(&spool, b"one").await.unwrap(), put(&spool, b"two").await.unwrap()];
            for id in ids {
                spool.states(&[delivered(id)]).unwrap();
                sleep(Duration::from_millis(200)).await;
            }
            sleep(Duration::from_secs(3600)).await;
        }));
        // The second state is written behind the sync that covers the first, and waits for its own.
        while !node.peek(Path::new("/spool/shard-1/segment-00000001")).is_ok_and(|it| states_in(&it) == 2) {
            sleep(Duration::from_millis(50)).await;
        }
        node.kill(Kill::Process);
        assert_eq!(found(node, simulated(0, 1)).await.unwrap().len(), 0);
        node.kill(Kill::PowerCut);
        assert_eq!(found(node, simulated(0, 1)).await.unwrap().len(), 0, "it came back");
    });
}

/// State records in a segment whose groups begin with them.
fn states_in(segment: &[u8]) -> usize {
    let blocks = segment.chunks(BLOCK as usize).skip(1);
    let records = blocks.filter_map(|block| RecordHeader::decode(&block[GROUP_HEADER..]));
    records.filter(|(header, _)| header.kind == Kind::State).count()
}
