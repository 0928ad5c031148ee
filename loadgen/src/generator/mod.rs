//! A generator shard: its connections, its share of the schedule, its ledger, and the arrival streams that
//! fall to it.
//!
//! The shard that sent a message owns its entry. Arrival streams are dealt out over the generator shards;
//! what a stream or a reader tells of a message that another shard owns goes to that shard's inbox in
//! batches. With one generator shard, the usual case on a small machine, nothing of the sending and arriving
//! crosses threads.

mod arrivals;
mod broken;
mod connection;
mod coordinator;
mod figures;
mod opening;
mod recipients;
mod relay_queue;
mod shard;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chasqui_runtime::channel::Receiver;
use chasqui_runtime::{Instant, JoinHandle, now, sleep, sleep_until, spawn, spawn_blocking};

pub(crate) use coordinator::Conclusion;
pub use coordinator::Hooks;
pub(crate) use figures::Figures;

use crate::ledger::{Ledger, QueueIds, Refusals};
use crate::notes::Notes;
use crate::plan::{Item, Plan};
use crate::schedule::pacer;
use crate::shared::{Glances, Phase, RunError, TICK};
use arrivals::{ArrivalStream, StreamError};
use shard::Shard;

/// Ticks between the publications of what costs more: five a second, for people.
const SLOW_TICKS: u32 = 40;
/// Ticks between looks at closed seconds of the recording: two in each second.
const RECORDING_TICKS: u32 = 100;
/// Recipients whose censored samples are entered before they are handed on: three samples of 24 octets each, under 4 MB.
const CENSORED_BATCH: usize = 50_000;
/// How often the timer of the loop's probe runs: twice in the lateness that counts (`ValidityLimits::late_by`).
const PROBE: Duration = Duration::from_millis(5);
/// How long a shard waits for the ends of those that send it events: as long as an answer to a reader may take.
const ENDS_LIMIT: Duration = Duration::from_secs(30);

/// What a generator shard leaves.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) ledger: Ledger,
    pub(crate) figures: Figures,
    pub(crate) notes: Notes,
    /// Why messages were not accepted.
    pub(crate) refusals: Refusals,
    /// The ids of what was accepted.
    pub(crate) queue_ids: QueueIds,
    /// Instruments that were lost in the run.
    pub(crate) broken: Notes,
    /// Most connections that were open at one time.
    pub(crate) connected_max: u64,
    /// By how much a timer of the loop was late in the window, added up.
    pub(crate) loop_late: Duration,
    /// Recipients of messages that were intended and never begun.
    pub(crate) unsent: u64,
    /// Messages of those that were intended in the window.
    pub(crate) unsent_in_window: u64,
    /// Every stream of this shard answered the barrier.
    pub(crate) arrivals_whole: bool,
    /// From shard 0 only.
    pub(crate) conclusion: Option<Result<Conclusion, RunError>>,
}

/// The main future of a generator shard.
pub(crate) async fn generate(plan: Arc<Plan>, inbox: Receiver<Item>, hooks: Option<Hooks>) -> Part {
    let index = chasqui_runtime::shard();
    let shard = Shard::new(plan.clone(), index);
    let ends = Rc::new(std::cell::Cell::new(0));
    spawn(receive(shard.clone(), inbox, ends.clone()));
    let coordinator = hooks.map(|hooks| spawn(coordinator::coordinate(shard.clone(), hooks)));

    let streams = match subscribe(&shard).await {
        Ok(streams) => streams,
        Err(reason) => {
            plan.shared.fail(reason);
            Vec::new()
        }
    };
    let targets = &plan.scenario.targets;
    for number in 0..shard.connections() {
        // Each shard has connections to all of them, as far as it has enough.
        let target = targets[(number + index) % targets.len()].clone();
        spawn(connection::keep(shard.clone(), target));
    }
    drive(&shard).await;

    let mut arrivals_whole = true;
    if plan.shared.phase() < Phase::Done {
        for stream in &streams {
            arrivals_whole &= stream.barrier().await;
        }
        arrivals::tell_end(&shard).await;
        plan.shared.barriers.fetch_add(1, Ordering::AcqRel);
    }
    finish(shard, ends.as_ref(), coordinator, arrivals_whole).await
}

async fn subscribe(shard: &Rc<Shard>) -> Result<Vec<Rc<ArrivalStream>>, StreamError> {
    let mut streams = Vec::new();
    for (number, path) in shard.plan.scenario.arrival_streams.iter().enumerate() {
        if number % shard.plan.generators == shard.index {
            streams.push(ArrivalStream::subscribe(shard, path).await?);
        }
    }
    Ok(streams)
}

async fn receive(shard: Rc<Shard>, mut inbox: Receiver<Item>, ends: Rc<std::cell::Cell<usize>>) {
    while let Some(item) = inbox.recv().await {
        match item {
            Item::Events(events) => shard.apply(&events),
            Item::End => ends.set(ends.get() + 1),
        }
    }
}

/// From the first connection to the barrier: publishes, follows the phases, hands on what was recorded.
async fn drive(shard: &Rc<Shard>) {
    let shared = &shard.plan.shared;
    let (mut ticks, mut prepared, mut started) = (0u32, false, false);
    let mut glances = Glances::new();
    while shared.phase() < Phase::Barrier {
        if !prepared && shard.attempted.get() == shard.connections() {
            prepared = true;
            shard.publish(true);
            shared.prepared.fetch_add(1, Ordering::AcqRel);
        }
        if let (false, Some(start), Some(window_start)) = (started, shared.start(), shard.plan.window_start())
        {
            started = true;
            let end = shared.window_end();
            shard.set_window(window_start, end);
            let pacing = shard.clone();
            spawn(async move { pacing.pacer.run(start, end).await });
            if shard.pacer.is_open() {
                spawn(probe_loop(shard.clone(), window_start));
            }
        }
        if started {
            shard.cut_window(shared.window_end());
            end_sending(shard);
        }
        shard.publish(ticks.is_multiple_of(SLOW_TICKS));
        if ticks.is_multiple_of(RECORDING_TICKS) {
            hand_on_recorded(shard, false).await;
        }
        ticks = ticks.wrapping_add(1);
        // The start is announced only a moment before.
        let next = if started { glances.next(shard.happened()) } else { now() + TICK };
        sleep_until(next).await;
    }
}

/// Measures in the window how late a timer of this loop runs. A generator that is starved has not read replies that have
/// long come: its connections look busy, and the server slow.
async fn probe_loop(shard: Rc<Shard>, window_start: Instant) {
    let late_by = shard.plan.scenario.limits.late_by;
    let mut next = window_start;
    sleep_until(next).await;
    while next < shard.window().1 {
        next += PROBE;
        sleep_until(next).await;
        let at = now();
        let late = at.saturating_sub(next);
        if late > late_by {
            shard.loop_late.set(shard.loop_late.get() + late);
        }
        next = next.max(at);
    }
}

/// After the window nothing new is sent, but for what has waited for a connection, and that for a while.
fn end_sending(shard: &Shard) {
    let at = now();
    let end = shard.window().1;
    if !shard.pacer.has_ended() && at >= end && (at >= end + pacer::GRACE || shard.pacer.waiting(at) == 0) {
        shard.pacer.end();
        shard.publish(true);
    }
}

/// Merges closed seconds into the run's recording, off the shard.
async fn hand_on_recorded(shard: &Shard, all: bool) {
    let batch = if all {
        shard.recorder.borrow_mut().take().map(chasqui_report::Recorder::finish)
    } else {
        shard.recorder.borrow_mut().as_mut().and_then(|recorder| recorder.take_closed(now().as_nanos()))
    };
    let Some(batch) = batch else { return };
    let plan = shard.plan.clone();
    spawn_blocking(move || {
        if let Ok(mut collector) = plan.shared.collector.lock()
            && let Some(collector) = &mut *collector
        {
            collector.absorb(batch);
        }
    })
    .await;
}

/// Waits until nobody sends events any more, and hands everything over.
async fn finish(
    shard: Rc<Shard>,
    ends: &std::cell::Cell<usize>,
    coordinator: Option<JoinHandle<Result<Conclusion, RunError>>>,
    arrivals_whole: bool,
) -> Part {
    let plan = shard.plan.clone();
    let mut glances = Glances::new();
    while plan.shared.phase() < Phase::Done {
        shard.publish(false);
        sleep_until(glances.next(shard.happened())).await;
    }
    let conclusion = match coordinator {
        Some(coordinator) => Some(coordinator.await),
        None => None,
    };
    let limit = now() + ENDS_LIMIT;
    let senders = plan.generators - 1 + plan.readers;
    let failed = plan.shared.start().is_none();
    while ends.get() < senders && !failed && now() < limit {
        sleep(TICK).await;
    }
    shard.pacer.end();
    let never_sent = shard.pacer.never_sent();
    let (window_start, end) = shard.window();
    let unsent_in_window = never_sent.iter().filter(|due| (window_start..end).contains(*due)).count() as u64;
    let unsent = if failed { 0 } else { censor(&shard, &never_sent).await };
    hand_on_recorded(&shard, true).await;
    shard.ledger.borrow_mut().give_up_replies();
    shard.publish(false);
    let ledger = shard.ledger.borrow_mut().take();
    Part {
        ledger,
        figures: shard.figures.get(),
        notes: shard.notes.take(),
        refusals: shard.refusals.take(),
        queue_ids: shard.queue_ids.take(),
        broken: shard.broken.take(),
        connected_max: shard.connected_max.get(),
        loop_late: shard.loop_late.get(),
        unsent,
        unsent_in_window,
        arrivals_whole,
        conclusion,
    }
}

/// Gives every message that was due in the window the samples it does not have: the time it has waited. How many recipients those
/// would have had that were never sent.
async fn censor(shard: &Shard, never_sent: &[Instant]) -> u64 {
    let end = shard.plan.shared.drain_end();
    for batch in shard.unfinished(end).chunks(CENSORED_BATCH) {
        batch.iter().for_each(|one| shard.censor_recipient(one));
        hand_on_recorded(shard, false).await;
    }
    let (mut mailboxes, mut unsent) = (Vec::new(), 0);
    for batch in never_sent.chunks(CENSORED_BATCH) {
        unsent += batch.iter().map(|due| shard.censor_unsent(*due, end, &mut mailboxes)).sum::<u64>();
        hand_on_recorded(shard, false).await;
    }
    unsent
}
