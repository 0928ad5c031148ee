//! Power cuts at random moments of random work: what was acknowledged is there, unchanged.

use std::collections::BTreeMap;

use chasqui_runtime::{JoinHandle, spawn, yield_now};

use super::*;

/// What became of a message, as its owner knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Acknowledged,
    /// Delivered; whether that is durable is not known.
    Delivered,
    /// Delivered, and that was durable before the crash.
    Gone,
}

struct Run {
    dir: PathBuf,
    dice: SeededRng,
    class: Durability,
    known: BTreeMap<MessageId, (u64, Known)>,
    next_seed: u64,
    /// Writes that a power cut may still undo.
    unsynced: Vec<Unsynced>,
    discarded: u64,
    recycled: u64,
}

type Outcome = (u64, Result<MessageId, SpoolError>);

fn length_of(seed: u64) -> usize {
    match seed % 5 {
        0 => 20,
        4 => 15_000,
        _ => 2000,
    }
}

impl Run {
    /// Opens, checks, works, and crashes.
    async fn incarnation(&mut self) {
        let (faults, disk) = faulty();
        faults.count.set(self.unsynced.last().map_or(0, |write| write.number));
        faults.unsynced.replace(std::mem::take(&mut self.unsynced));
        let config = SpoolConfig { class: self.class, ..config(&self.dir) };
        let (spool, recovery) = open_on(disk, config).await.unwrap();
        assert_eq!(recovery.quarantined, 0, "{:?}", recovery.report);
        self.discarded += recovery.discarded;
        self.check(&spool, &recovery).await;

        let mut tasks: Vec<JoinHandle<Outcome>> = Vec::new();
        let mut settling = Vec::new();
        let mut streams = Vec::new();
        for _ in 0..self.dice.below(120) {
            match self.dice.below(10) {
                0..=4 => {
                    let (seed, spool) = (self.next_seed, spool.clone());
                    self.next_seed += 1;
                    tasks.push(spawn(async move { (seed, put(&spool, &body(seed, length_of(seed))).await) }));
                }
                5..=7 => {
                    let waiting =
                        self.known.iter_mut().filter(|(_, (_, known))| *known == Known::Acknowledged);
                    if let Some((id, (_, known))) = waiting.last() {
                        *known = Known::Delivered;
                        settling.push((*id, spool.states(&[delivered(*id)]).unwrap()));
                    }
                }
                8 => {
                    let mut writer = spool.begin(None);
                    if writer.write(&body(0, 9_000)).await.is_ok() {
                        streams.push(writer);
                    }
                    if self.dice.below(2) == 0 {
                        streams.pop();
                    }
                }
                _ => {
                    if self.dice.below(2) == 0 {
                        spool.flush().await.unwrap();
                        for (id, ticket) in settling.drain(..) {
                            spool.settled(ticket).await.unwrap();
                            self.known.get_mut(&id).unwrap().1 = Known::Gone;
                        }
                    } else {
                        yield_now().await;
                    }
                }
            }
            self.harvest(&mut tasks).await;
        }
        self.perhaps_hold_syncs(&faults).await;
        self.harvest(&mut tasks).await;
        for task in tasks {
            task.cancel().await;
        }
        drop(streams);
        self.recycled += spool.stats().recycled;
        kill(spool).await;
        if self.class == Durability::Synced && self.dice.below(2) == 0 {
            faults.lose_unsynced(&mut self.dice);
        }
        self.unsynced = faults.take_unsynced();
    }

    /// The crash finds a sync under way, or not.
    async fn perhaps_hold_syncs(&mut self, faults: &Faults) {
        if self.dice.below(3) > 0 {
            faults.hold_syncs.set(true);
            for _ in 0..self.dice.below(30) {
                yield_now().await;
            }
        }
    }

    async fn harvest(&mut self, tasks: &mut Vec<JoinHandle<Outcome>>) {
        for task in std::mem::take(tasks) {
            if !task.is_finished() {
                tasks.push(task);
                continue;
            }
            match task.await {
                (seed, Ok(id)) => assert!(self.known.insert(id, (seed, Known::Acknowledged)).is_none()),
                (_, Err(SpoolError::NoSpace)) => {}
                (_, Err(error)) => panic!("{error}"),
            }
        }
    }

    /// Compares what was found with what is known, and goes on from what was found.
    async fn check(&mut self, spool: &Spool, recovery: &Found) {
        let mut found = BTreeMap::new();
        for message in &recovery.messages {
            let bytes = read(spool, message.id).await;
            let seed = (0..self.next_seed).find(|seed| body(*seed, length_of(*seed)) == bytes);
            let seed = seed.unwrap_or_else(|| panic!("{} is no message that was sent", message.id));
            found.insert(message.id, (seed, Known::Acknowledged));
        }
        for (id, (seed, known)) in &self.known {
            match (known, found.get(id)) {
                (_, Some((other, _))) if other != seed => panic!("{id} was changed from {seed} to {other}"),
                (Known::Acknowledged, None) => panic!("{id} (body {seed}) was acknowledged and is lost"),
                (Known::Gone, Some(_)) => panic!("{id} was durably delivered and is back"),
                _ => {}
            }
        }
        self.known.retain(|_, (_, known)| *known == Known::Gone);
        self.known.append(&mut found);
    }
}

fn crashes(class: Durability, seeds: std::ops::Range<u64>) {
    on_shard(move |dir| {
        let seeds = seeds.clone();
        async move {
            let (mut discarded, mut recycled) = (0, 0);
            for seed in seeds {
                let dice = SeededRng::new(seed);
                let dir = dir.join(seed.to_string());
                let mut run = Run {
                    dir,
                    dice,
                    class,
                    known: BTreeMap::new(),
                    next_seed: 0,
                    unsynced: Vec::new(),
                    discarded: 0,
                    recycled: 0,
                };
                for _ in 0..8 {
                    run.incarnation().await;
                }
                discarded += run.discarded;
                recycled += run.recycled;
                std::fs::remove_dir_all(&run.dir).unwrap();
            }
            assert!(recycled > 20, "only {recycled} segments were recycled");
            assert!(class != Durability::Synced || discarded > 20, "only {discarded} groups were torn");
        }
    });
}

/// In class `synced`, power cuts and kills lose nothing acknowledged and bring back nothing durably finished, over many
/// incarnations with recycling.
#[test]
fn power_cuts() {
    crashes(Durability::Synced, 0..12);
}

/// In class `buffered` the same holds for the death of the process.
#[test]
fn kills() {
    crashes(Durability::Buffered, 100..106);
}
