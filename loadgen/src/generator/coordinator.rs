//! Leads a run through its phases, on generator shard 0.

use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chasqui_report::{Collector, Window};
use chasqui_runtime::{Instant, now, sleep, sleep_until, wall_clock};

use super::relay_queue::{self, QueueError};
use super::shard::Shard;
use crate::ledger::RelayAnswer;
use crate::plan::{Event, Outbox};
use crate::scenario::ENDPOINTS_MAX;
use crate::shared::{Glances, Phase, RunError};

/// Time for the first attempt of every connection, twice `opening::OPEN_LIMIT`: to connect and to be greeted. What is not connected then is still tried.
const PREPARE_LIMIT: Duration = Duration::from_secs(20);
/// Between the decision to start and the start: every shard hears of it, as it looks every 5 ms (`TICK`).
const START_DELAY: Duration = Duration::from_millis(50);
/// How often conditions are looked at that no edge depends on.
const GLANCE: Duration = Duration::from_millis(5);
/// Barriers and last readings have limits of their own, which are shorter.
const STEP_LIMIT: Duration = Duration::from_secs(600);
/// How long the relay is asked again about queued messages whose envelopes its disk does not give: it tries again at
/// least every minute itself.
const UNREAD_LIMIT: Duration = Duration::from_secs(180);
const UNREAD_AGAIN: Duration = Duration::from_secs(5);

/// Called on generator shard 0 at the edges of the window; each must take less than a millisecond.
#[derive(Default)]
pub struct Hooks {
    /// At the window's start.
    pub window_start: Option<Box<dyn FnOnce() + Send>>,
    /// At the window's end, also when the run was stopped in it.
    pub window_end: Option<Box<dyn FnOnce() + Send>>,
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// What the coordinator knows in the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Conclusion {
    pub(crate) window: Window,
    pub(crate) window_start_wall: Duration,
    pub(crate) stopped_early: bool,
    pub(crate) relay: RelayAnswer,
}

/// Runs all phases. `Err`: why there is no run.
pub(crate) async fn coordinate(shard: Rc<Shard>, hooks: Hooks) -> Result<Conclusion, RunError> {
    let plan = shard.plan.clone();
    let shared = &plan.shared;
    let concluded = lead(&shard, hooks).await;
    shared.enter(Phase::Done);
    concluded
}

async fn lead(shard: &Shard, hooks: Hooks) -> Result<Conclusion, RunError> {
    let plan = &shard.plan;
    let shared = &plan.shared;
    prepare(shard).await?;

    let start = now() + START_DELAY;
    let window_start = start + plan.scenario.warmup;
    let planned_end = window_start + plan.scenario.duration;
    let window = Window { start_ns: window_start.as_nanos(), end_ns: planned_end.as_nanos() };
    let failed = |_| RunError::not_begun("a recording thread has failed");
    *shared.collector.lock().map_err(failed)? = Some(Collector::new(window));
    shared.set_times(start, planned_end);
    shared.enter(Phase::Warmup);
    let mut stopped_early = !sleep_unless_stopped(shard, window_start).await;
    let window_start_wall = wall_clock();
    if let Some(hook) = hooks.window_start {
        hook();
    }
    if !stopped_early {
        shared.enter(Phase::Window);
        stopped_early = !sleep_unless_stopped(shard, planned_end).await;
    }
    if stopped_early {
        shared.cut_window(now());
    }
    if let Some(hook) = hooks.window_end {
        hook();
    }
    let end_ns = shared.window_end().as_nanos();
    let window = Window { start_ns: window.start_ns.min(end_ns), end_ns };

    shared.enter(Phase::Draining);
    let has_arrivals = !plan.scenario.arrival_streams.is_empty();
    settle(shard, |shard| {
        let shared = &shard.plan.shared;
        let under_way = shared.sum(|shard| &shard.busy) + shared.sum(|shard| &shard.waiting);
        under_way == 0 && (!has_arrivals || shared.sum(|shard| &shard.outstanding) == 0)
    })
    .await;
    if plan.verify.reads() {
        shared.enter(Phase::Reading);
        settle(shard, |shard| shard.plan.shared.sum(|shard| &shard.unverified) == 0).await;
    }

    shared.end_drain(now());
    // The order matters: see `Evidence`.
    let relay = ask_relay(shard).await;
    shared.enter(Phase::Barrier);
    wait_for(|| shared.barriers.load(Ordering::Acquire) == plan.generators).await;
    shared.enter(Phase::LastReading);
    wait_for(|| shared.readers_done.load(Ordering::Acquire) == plan.readers).await;
    Ok(Conclusion { window, window_start_wall, stopped_early, relay })
}

/// Waits until every shard has tried its connections, and every reader its mailboxes.
async fn prepare(shard: &Shard) -> Result<(), RunError> {
    let plan = &shard.plan;
    let shared = &plan.shared;
    let limit = now() + PREPARE_LIMIT;
    let waits = |count: &AtomicUsize, wanted| count.load(Ordering::Acquire) < wanted;
    // Readers have a limit of their own.
    while waits(&shared.readers_prepared, plan.readers)
        || (waits(&shared.prepared, plan.generators) && now() < limit)
    {
        if let Some(failure) = shared.failure() {
            return Err(failure);
        }
        if shared.stops() > 0 {
            return Err(RunError::Stopped);
        }
        sleep(GLANCE).await;
    }
    if let Some(failure) = shared.failure() {
        return Err(failure);
    }
    let streams = shared.streams.lock().map_err(|_| RunError::not_begun("a thread has failed"))?.clone();
    check_streams(&streams).map_err(RunError::not_begun)?;
    if let Some(path) = &plan.scenario.relay_control {
        relay_queue::is_there(path).await.map_err(RunError::not_begun)?;
    }
    if shared.sum(|shard| &shard.connections) == 0 {
        let why = shard.notes.borrow().lines().into_iter().next();
        let why = why.unwrap_or_else(|| "no connection could be opened".into());
        return Err(RunError::NotBegun(why));
    }
    Ok(())
}

/// Arrival streams that are not all of their sinks': what the others tell of would seem lost. The user names them all.
#[derive(Debug, PartialEq, Eq)]
enum StreamsError {
    /// More than any sink has.
    TooMany { count: u32 },
    /// One of `count` is not named.
    Absent { count: u32, number: u32 },
}

impl fmt::Display for StreamsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany { count } => {
                write!(f, "arrival streams: no sink has {count} of them: is it a sink's socket?")
            }
            Self::Absent { count, number } => write!(
                f,
                "arrival streams: the sink streams arrivals from {count} sockets, and number {number} (counted from 0) \
                 is not named: name all that its ready line lists"
            ),
        }
    }
}

/// Refuses arrival streams of a sink that leave out some.
fn check_streams(streams: &[(u32, u32)]) -> Result<(), StreamsError> {
    for &(_, count) in streams {
        if count as usize > ENDPOINTS_MAX {
            return Err(StreamsError::TooMany { count });
        }
        let of = |index| streams.iter().filter(|stream| **stream == (index, count)).count();
        let most = (0..count).map(of).max().unwrap_or(0);
        if let Some(number) = (0..count).find(|&index| of(index) < most) {
            return Err(StreamsError::Absent { count, number });
        }
    }
    Ok(())
}

/// `false`: the end was asked for before `until`.
async fn sleep_unless_stopped(shard: &Shard, until: Instant) -> bool {
    let mut glances = Glances::new();
    while now() < until {
        if shard.plan.shared.stops() > 0 {
            return false;
        }
        sleep_until(until.min(glances.next(shard.happened()))).await;
    }
    true
}

/// Waits until `settled`, until nothing has moved for the drain time, or until the user has had enough.
async fn settle(shard: &Shard, settled: impl Fn(&Shard) -> bool) {
    let shared = &shard.plan.shared;
    let mut events = shared.sum(|shard| &shard.events);
    let mut moved = now();
    let mut glances = Glances::new();
    // Counters are published every tick: wait for those of after the last phase.
    sleep(GLANCE * 4).await;
    while !settled(shard) && shared.stops() < 2 && now() - moved < shard.plan.scenario.drain {
        sleep_until(glances.next(events)).await;
        let events_now = shared.sum(|shard| &shard.events);
        if events_now != events {
            events = events_now;
            moved = now();
        }
    }
}

async fn wait_for(condition: impl Fn() -> bool) {
    let limit = now() + STEP_LIMIT;
    let mut glances = Glances::new();
    while !condition() && now() < limit {
        sleep_until(glances.next(0)).await;
    }
}

/// Asks the relay for its queue and enters what it says.
async fn ask_relay(shard: &Shard) -> RelayAnswer {
    let plan = &shard.plan;
    let Some(path) = &plan.scenario.relay_control else { return RelayAnswer::Foreign };
    let mut queued = Vec::new();
    let limit = now() + UNREAD_LIMIT;
    let listed = loop {
        queued.clear();
        match relay_queue::list(path, plan.run, |sequence, recipient| queued.push((sequence, recipient)))
            .await
        {
            Ok(0) => break Ok(()),
            Ok(_) if now() < limit => sleep(UNREAD_AGAIN).await,
            Ok(unread) => break Err(QueueError::Unread(unread)),
            Err(error) => break Err(error),
        }
    };
    let mut own = Vec::new();
    let mut others = Outbox::new(plan);
    for (sequence, recipient) in queued {
        let event = Event::Queued { sequence, recipient };
        match plan.owner(sequence) {
            owner if owner == shard.index => own.push(event),
            owner => {
                let _ = others.add(owner, event); // flushed below
            }
        }
    }
    shard.apply(&own);
    while !others.flush(plan) {
        sleep(GLANCE).await;
    }
    match listed {
        Ok(()) => RelayAnswer::Listed,
        Err(error) => {
            shard.lose_instrument(&error.to_string());
            RelayAnswer::Silent
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sink's streams are taken only all together; of several sinks too, and of those that do not say.
    #[test]
    fn a_missing_stream_is_refused() {
        for whole in [&[(0, 1)][..], &[(1, 2), (0, 2)], &[(0, 2), (1, 2), (0, 2), (1, 2), (0, 1)], &[]] {
            assert_eq!(check_streams(whole), Ok(()), "{whole:?}");
        }
        for (partial, absent) in
            [(&[(0, 2)][..], "1"), (&[(0, 3), (2, 3)], "1"), (&[(0, 2), (1, 2), (1, 2)], "0")]
        {
            let error = check_streams(partial).expect_err("one is missing").to_string();
            assert!(error.contains(&format!("number {absent} ")), "{error}");
        }
    }
}
