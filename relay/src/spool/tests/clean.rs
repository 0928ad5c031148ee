//! Cleaning: the bound on space under skewed loads, what is copied and what is not, crashes in the middle of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, ListenOptions, Parts, TcpListener, TcpStream};
use chasqui_runtime::{sleep, spawn, timeout, yield_now};

use super::*;
use crate::spool::log::inner::Inner;
use crate::spool::maintenance::victim::{exceeds_bound, victim};

/// What the test knows of a message.
#[derive(Clone, Debug)]
struct Known {
    seed: u64,
    length: usize,
    recipients: u32,
    /// Given a final state, and whether that was durable.
    finished: BTreeMap<u32, bool>,
    /// Attempts told by the last deferral, and by the last durable one.
    attempts: BTreeMap<u32, (u32, u32)>,
}

impl Known {
    fn open(&self) -> Vec<u32> {
        (0..self.recipients).filter(|index| !self.finished.contains_key(index)).collect()
    }

    /// What was recorded so far is durable.
    fn settle(&mut self) {
        self.finished.values_mut().for_each(|durable| *durable = true);
        self.attempts.values_mut().for_each(|(last, durable)| *durable = *last);
    }

    /// Compares with what was found, and goes on from that.
    fn found(&mut self, id: MessageId, found: Option<&RecoveredMessage>) {
        let open: BTreeSet<u32> =
            found.map(|found| found.open.iter().map(|it| it.index).collect()).unwrap_or_default();
        for index in 0..self.recipients {
            match (self.finished.get(&index), open.contains(&index)) {
                (None, false) => panic!("{id}: recipient {index} is lost, {self:?}"),
                (Some(true), true) => panic!("{id}: recipient {index} was durably finished and is back"),
                _ => {}
            }
        }
        self.finished.retain(|index, _| !open.contains(index));
        for it in found.iter().flat_map(|found| &found.open) {
            let known = self.attempts.get(&it.index).copied().unwrap_or_default();
            let attempts = it.deferral.as_ref().map_or(0, |deferral| deferral.attempts);
            assert!((known.1..=known.0).contains(&attempts), "{id} {}: {attempts}, {known:?}", it.index);
            self.attempts.insert(it.index, (attempts, attempts));
        }
        self.settle();
    }
}

/// A spool under a random load.
struct Load {
    spool: Rc<Spool>,
    dice: SeededRng,
    known: BTreeMap<MessageId, Known>,
    next_seed: u64,
}

impl Load {
    /// Does one thing of those that a relay does, at random.
    async fn step(&mut self) {
        match self.dice.below(12) {
            0..=3 => {
                let length = [500, 2000, 2000, 4000, 20_000][self.dice.below(5) as usize];
                let recipients = 1 + self.dice.below(3) as u32;
                let kept = self.put(length, recipients).await;
                assert!(matches!(kept, Ok(_) | Err(SpoolError::NoSpace)), "{kept:?}");
            }
            4..=7 => {
                if let Some(id) = self.any() {
                    let count = 1 + self.dice.below(2) as usize;
                    self.finish(id, count);
                }
            }
            8..=10 => {
                if let Some(id) = self.any() {
                    self.defer(id);
                }
            }
            _ => self.flush().await,
        }
        if self.known.len() > 40 {
            let id = *self.known.keys().nth(self.dice.below(40) as usize).unwrap();
            if !self.known[&id].open().is_empty() {
                self.finish(id, 9);
            }
        }
    }

    async fn put(&mut self, length: usize, recipients: u32) -> Result<MessageId, SpoolError> {
        let seed = self.next_seed;
        self.next_seed += 1;
        let mut writer = self.spool.begin(None);
        writer.write(&body(seed, length)).await?;
        let id = writer.commit(&envelope(recipients as usize)).await?;
        let (finished, attempts) = (BTreeMap::new(), BTreeMap::new());
        self.known.insert(id, Known { seed, length, recipients, finished, attempts });
        Ok(id)
    }

    fn defer(&mut self, id: MessageId) {
        let known = self.known.get_mut(&id).unwrap();
        let mut recipients = known.open();
        let keep = 1 + self.dice.below(recipients.len() as u64) as usize;
        recipients.truncate(keep);
        let attempts =
            1 + recipients.iter().map(|index| known.attempts.get(index).map_or(0, |it| it.0)).max().unwrap();
        let state =
            State::Deferred { until_ms: 9, attempts, reason: "451 4.7.1 later".repeat(4), warned: false };
        self.spool.states(&[StateChange { id, recipients: &recipients, state }]).unwrap();
        for index in recipients {
            known.attempts.entry(index).or_default().0 = attempts;
        }
    }

    fn finish(&mut self, id: MessageId, count: usize) {
        let known = self.known.get_mut(&id).unwrap();
        let mut recipients = known.open();
        recipients.truncate(count);
        let state = if self.dice.below(4) == 0 { State::Bounced } else { State::Delivered };
        self.spool.states(&[StateChange { id, recipients: &recipients, state }]).unwrap();
        known.finished.extend(recipients.iter().map(|index| (*index, false)));
    }

    /// Everything recorded so far is durable; forgets what is finished.
    async fn flush(&mut self) {
        self.spool.flush().await.unwrap();
        self.known.values_mut().for_each(Known::settle);
        self.known.retain(|_, known| !known.open().is_empty());
    }

    /// One that has recipients left, by chance.
    fn any(&mut self) -> Option<MessageId> {
        let open: Vec<MessageId> =
            self.known.iter().filter(|(_, known)| !known.open().is_empty()).map(|(id, _)| *id).collect();
        let at = self.dice.below(open.len().max(1) as u64) as usize;
        open.get(at).copied()
    }

    async fn check_bodies(&self) {
        for (id, known) in self.known.iter().filter(|(_, known)| !known.open().is_empty()) {
            assert!(read(&self.spool, *id).await == body(known.seed, known.length), "{id} was changed");
            let found = self.spool.envelope(*id).await.unwrap().expect("it has recipients left");
            assert_eq!(found, envelope(known.recipients as usize));
        }
    }

    fn found(&mut self, recovery: &Found) {
        assert_eq!(recovery.quarantined, 0, "{:?}", recovery.report);
        let found: BTreeMap<MessageId, &RecoveredMessage> =
            recovery.messages.iter().map(|message| (message.id, message)).collect();
        for (id, known) in &mut self.known {
            known.found(*id, found.get(id).copied());
        }
        self.known.retain(|_, known| !known.open().is_empty());
        // A message whose commit was not awaited may be there: it is of no interest.
        for id in found.keys().filter(|id| !self.known.contains_key(id)) {
            let state = State::Delivered;
            self.spool.states(&[StateChange { id: *id, recipients: &[0, 1, 2], state }]).unwrap();
        }
    }
}

fn is_at_rest(inner: &Inner, spool: &Spool) -> bool {
    inner.groups.is_quiet()
        && inner.segments.spare.is_some()
        && !inner.copying.cleaning
        && inner.segments.tables.freeing.is_none()
        && !inner.segments.table.is_unexamined()
        && inner.segments.unsynced.is_empty()
        && victim(inner, &spool.own.geometry).is_none()
        && (inner.segments.table.free_count() == 0 || !exceeds_bound(inner, &spool.own.geometry))
        && inner.segments.table.free_count() <= 1
}

/// Waits until there is nothing more to free or to clean.
async fn rest(spool: &Spool) {
    let resting = async {
        while !is_at_rest(&spool.own.inner(), spool) {
            spool.own.work.notify_one();
            spool.own.maintenance.notify_one();
            sleep(Duration::from_micros(300)).await;
        }
    };
    if timeout(Duration::from_secs(20), resting).await.is_err() {
        let inner = spool.own.inner();
        let live: Vec<_> = inner
            .segments
            .table
            .live_segments()
            .map(|(it, live)| (it, live.live_bytes(), live.stuck))
            .collect();
        panic!("no rest: {:?} {live:?} {:?}", spool.own.inner().stats, victim(&inner, &spool.own.geometry));
    }
}

fn assert_bound(spool: &Spool) {
    let stats = spool.stats();
    let bound = 2 * stats.live_bytes + 3 * spool.own.geometry.segment_size;
    assert!(stats.used_bytes <= bound, "{} > {bound}: {stats:?}", stats.used_bytes);
}

/// Under a skewed load (some messages stay for the whole run, sizes from 1 KiB to 3 MiB, completion in random order,
/// partly finished recipients, deferrals over and over) the segments never take more than twice what counts and three
/// segments, and at the end every message is there, unchanged, with its states; after a restart too.
#[test]
fn skewed_load() {
    for class in [Durability::Synced, Durability::Buffered] {
        on_shard(move |dir| async move {
            let config = SpoolConfig { segment_size: 256 << 10, max_space: 64 << 20, class, ..config(&dir) };
            let (spool, _) = open(config.clone()).await.unwrap();
            let dice = SeededRng::new(7);
            let mut load = Load { spool, dice, known: BTreeMap::new(), next_seed: 0 };
            let mut staying = BTreeSet::new();
            for round in 0..2000 {
                let length = match load.dice.below(200) {
                    0 => 3 << 20,
                    1..=6 => 100_000 + load.dice.below(300_000) as usize,
                    _ => 1024 + load.dice.below(5000) as usize,
                };
                let recipients = 1 + load.dice.below(3) as u32 * load.dice.below(4) as u32;
                let id = load.put(length, recipients).await.unwrap();
                if load.dice.below(100) == 0 {
                    staying.insert(id);
                }
                if load.dice.below(3) == 0 || staying.contains(&id) {
                    load.defer(id);
                }
                while load.known.len() > 60 + staying.len() {
                    let id = load.any().unwrap();
                    match staying.contains(&id) {
                        true => load.defer(id),
                        false => load.finish(id, 9),
                    }
                    if load.dice.below(2) == 0 {
                        load.flush().await;
                    }
                }
                if let Some(id) = load.any().filter(|id| !staying.contains(id)) {
                    load.finish(id, 1);
                }
                load.flush().await;
                rest(&load.spool).await;
                assert_bound(&load.spool);
                if round % 500 == 0 {
                    load.check_bodies().await;
                }
            }
            let stats = load.spool.stats();
            assert!(stats.cleaned > 100, "{stats:?}");
            assert!(stats.copied_bytes < stats.bytes, "{stats:?}");
            load.check_bodies().await;
            load.spool.close().await.unwrap();
            let Load { spool, dice, known, next_seed } = load;
            drop(spool);
            let (spool, recovery) = open(config).await.unwrap();
            let mut load = Load { spool, dice, known, next_seed };
            load.found(&recovery);
            load.check_bodies().await;
            rest(&load.spool).await;
            assert_bound(&load.spool);
        });
    }
}

/// When everything is delivered at once, nothing is copied.
#[test]
fn ordinary_mail_is_not_copied() {
    on_shard(|dir| async move {
        let config = SpoolConfig { segment_size: 1 << 20, max_space: 64 << 20, ..config(&dir) };
        let (spool, _) = open(config).await.unwrap();
        for round in 0..150 {
            let tasks: Vec<_> = (0..60)
                .map(|index| {
                    let spool = spool.clone();
                    spawn(async move {
                        let id = put(&spool, &body(round * 60 + index, 2048)).await.unwrap();
                        spool.states(&[delivered(id)]).unwrap();
                    })
                })
                .collect();
            for task in tasks {
                task.await;
            }
        }
        spool.flush().await.unwrap();
        rest(&spool).await;
        let stats = spool.stats();
        assert!(stats.recycled > 15, "{stats:?}");
        assert_eq!((stats.cleaned, stats.copied_bytes, stats.live_bytes), (0, 0, 0), "{stats:?}");
        assert!(stats.used_bytes <= 3 << 20, "{stats:?}");
    });
}

/// A body that is read while its message is copied again and again is read whole, piece by piece, and what is leased
/// stays as it is.
#[test]
fn reading_while_copying() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        let text = body(1, 90_000);
        let id = put(&spool, &text).await.unwrap();
        let reading = spool.body(id).await.unwrap().unwrap();
        let mut read = Vec::new();
        let first = reading.add_piece(0, 0, Parts::new()).unwrap();
        let mut seed = 2;
        while read.len() < text.len() {
            read.extend(reading.read(read.len() as u64, 3000).await.unwrap());
            for _ in 0..30 {
                let id = put(&spool, &body(seed, 3000)).await.unwrap();
                spool.states(&[delivered(id)]).unwrap();
                seed += 1;
            }
            spool.flush().await.unwrap();
            rest(&spool).await;
        }
        assert!(read == text);
        let stats = spool.stats();
        assert!(stats.cleaned > 2 && stats.recycled > 20, "{stats:?}");
        drop(first);
        spool.states(&[delivered(id)]).unwrap();
        assert!(reading.add_piece(0, 0, Parts::new()).is_err() && spool.body(id).await.unwrap().is_none());
    });
}

/// A send that waits for its reader holds a segment that was cleaned for a moment only: it goes on from the copy, and what
/// arrives is the message.
#[test]
fn slow_send_moves_to_the_copy() {
    on_shard(|dir| async move {
        let config = SpoolConfig { segment_size: 4 << 20, max_space: 64 << 20, ..config(&dir) };
        let (spool, _) = open(config).await.unwrap();
        let text = body(1, 250_000);
        let id = put(&spool, &text).await.unwrap();
        let home = spool.own.inner().segments.active.segment.clone();
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap();
        let address = listener.local_addr();
        let client = TcpStream::connect(address, &ConnectOptions::default()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        // Until nothing more goes into the socket's buffers, so that what is sent of the message waits.
        let interval = Duration::from_millis(20);
        let mut filled = 0;
        loop {
            let filling = Parts::new().bytes(vec![7; 32 << 20]);
            match client.send_unless(filling, 5 * interval, &|| true).await.unwrap() {
                0 => break,
                more => filled += more,
            }
        }
        let sending = spawn({
            let reading = spool.body(id).await.unwrap().unwrap();
            async move {
                let send = async |parts: Parts, stop: &dyn Fn() -> bool| {
                    client.send_unless(parts, interval, stop).await
                };
                reading.send_piece(0, b"head".to_vec(), b"tail", send).await.unwrap();
                client
            }
        });
        while home.leases() == 0 {
            yield_now().await;
        }
        let mut seed = 10;
        while spool.stats().cleaned == 0 {
            for _ in 0..20 {
                let id = put(&spool, &body(seed, 100_000)).await.unwrap();
                spool.states(&[delivered(id)]).unwrap();
                seed += 1;
            }
            spool.flush().await.unwrap();
            rest(&spool).await;
        }
        while home.leases() > 0 && !sending.is_finished() {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(!sending.is_finished(), "nobody has read anything");
        let mut found = Vec::new();
        while found.len() < filled + 4 + text.len() + 4 {
            found.extend_from_slice(&server.read().await.unwrap());
        }
        assert!(found[filled..] == [b"head", text.as_slice(), b"tail"].concat());
        drop(sending.await);
    });
}

/// A spool that refuses mail because it is full of segments in which little counts takes mail again, without a single
/// message being finished meanwhile.
#[test]
fn full_of_little() {
    on_shard(|dir| async move {
        let config = SpoolConfig { max_space: 1 << 20, ..config(&dir) };
        let (spool, _) = open(config).await.unwrap();
        let dice = SeededRng::new(1);
        let mut load = Load { spool, dice, known: BTreeMap::new(), next_seed: 0 };
        while load.put(3000, 1).await.is_ok() {}
        // Every fourth stays, in every segment.
        let ids: Vec<MessageId> = load.known.keys().copied().collect();
        for (index, id) in ids.into_iter().enumerate().filter(|(index, _)| index % 4 > 0) {
            load.finish(id, 1);
            assert!(index < 1000);
        }
        load.flush().await;
        rest(&load.spool).await;
        assert_bound(&load.spool);
        let before = load.known.len();
        while load.put(3000, 1).await.is_ok() {}
        assert!(load.known.len() > 2 * before, "{} and {before}", load.known.len());
        load.check_bodies().await;
    });
}

/// Crashes at random moments, many of them while segments are cleaned: no recipient is lost, none that was durably
/// finished is back, no deferral is older than the last durable one.
fn crashes(class: Durability, seeds: std::ops::Range<u64>) {
    on_shard(move |dir| {
        let seeds = seeds.clone();
        async move {
            let (mut cleaned, mut torn) = (0, 0);
            for seed in seeds {
                let dir = dir.join(seed.to_string());
                let config = SpoolConfig { class, ..config(&dir) };
                let mut dice = SeededRng::new(seed);
                let (mut known, mut next_seed) = (BTreeMap::new(), 0);
                let mut unsynced: Vec<Unsynced> = Vec::new();
                for _ in 0..10 {
                    let (faults, disk) = faulty();
                    faults.count.set(unsynced.last().map_or(0, |write| write.number));
                    faults.unsynced.replace(std::mem::take(&mut unsynced));
                    let (spool, recovery) = open_on(disk, config.clone()).await.unwrap();
                    let mut load = Load { spool, dice, known, next_seed };
                    load.found(&recovery);
                    load.check_bodies().await;
                    torn += recovery.discarded;
                    for _ in 0..load.dice.below(150) {
                        load.step().await;
                    }
                    // The crash finds a batch of copies before its sync, or a table, or nothing.
                    let mut waiting = Vec::new();
                    if load.dice.below(3) > 0 {
                        faults.hold_syncs();
                        for _ in 0..load.dice.below(60) {
                            if load.dice.below(20) == 0 {
                                let spool = load.spool.clone();
                                waiting.push(spawn(async move { put(&spool, &body(0, 2000)).await }));
                            }
                            yield_now().await;
                        }
                    }
                    for commit in waiting {
                        commit.cancel().await;
                    }
                    cleaned += load.spool.stats().cleaned;
                    kill(load.spool).await;
                    (dice, known, next_seed) = (load.dice, load.known, load.next_seed);
                    if class == Durability::Synced && dice.below(2) == 0 {
                        faults.lose_unsynced(&mut dice);
                    }
                    unsynced = faults.take_unsynced();
                }
                std::fs::remove_dir_all(&dir).unwrap();
            }
            assert!(cleaned > 40, "only {cleaned} segments were cleaned");
            assert!(class != Durability::Synced || torn > 0, "no group was torn");
        }
    });
}

/// Power cuts and kills in class `synced`.
#[test]
fn power_cuts_while_cleaning() {
    crashes(Durability::Synced, 0..12);
}

/// The death of the process in class `buffered`.
#[test]
fn kills_while_cleaning() {
    crashes(Durability::Buffered, 50..56);
}
