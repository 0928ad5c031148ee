//! Plays one after the other, on every core: of seeds, of neighbours, of crashes at operations of the disk.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chasqui_runtime::sim::{Kill, PlantedFault};
use chasqui_runtime::{available_cores, now};
use serde_json::{Value, json};

use crate::delays::Delays;
use crate::plan::{Plan, neighbours};
use crate::runner::{Outcome, run};

/// Time between two words on how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// What is to be played.
#[derive(Clone, Debug)]
pub enum Series {
    /// Seed after seed.
    Seeds {
        /// The first.
        from: u64,
        /// How many.
        count: u64,
        /// Nothing goes wrong in them.
        quiet: bool,
        /// The fault that is planted.
        planted: Option<PlantedFault>,
        /// The first seed that fails ends it.
        first: bool,
    },
    /// Each seed without and with receivers that misbehave with some senders' mail, to compare the delays of all others'.
    Neighbours {
        /// The first seed.
        from: u64,
        /// How many.
        count: u64,
        /// The fault that is planted.
        planted: Option<PlantedFault>,
    },
    /// A quiet run, then again with a crash at its disk operations 1, 1 + `step` and so on, once by the death of the process
    /// and once by a power cut.
    EveryDiskOperation {
        /// The seed of all of them.
        seed: u64,
        /// Operations from one crash to the next.
        step: u64,
    },
}

/// What a series says while it is played.
#[derive(Debug)]
pub enum Said<'a> {
    /// A play is over, or as the last all are.
    Line(Value),
    /// A play is not as was promised.
    Broken {
        /// Which one.
        what: String,
        /// Why, one line each.
        violations: &'a [String],
        /// What plays it again.
        again: Series,
    },
    /// How far it is.
    Progress {
        /// Plays that are over.
        played: usize,
        /// Plays in all.
        count: u64,
        /// Since its start.
        after: Duration,
    },
}

impl Series {
    /// Plays it and says what comes of it meanwhile, from the threads of all cores; whether all kept the promise.
    pub fn run(&self, say: &(impl Fn(Said<'_>) + Sync)) -> bool {
        match *self {
            Series::Seeds { from, count, quiet, planted, first } => {
                let again = |seed| Series::Seeds { from: seed, count: 1, quiet, planted, first: false };
                let plan = |seed| if quiet { Plan::quiet(seed, None) } else { Plan::of(seed, planted) };
                seeds(from, count, first, plan, again, say)
            }
            Series::Neighbours { from, count, planted } => both_worlds(from, count, planted, say),
            Series::EveryDiskOperation { seed, step } => every_disk_operation(seed, step, say),
        }
    }
}

/// Plays seed after seed.
fn seeds(
    from: u64,
    count: u64,
    first: bool,
    plan: impl Fn(u64) -> Plan + Sync,
    again: impl Fn(u64) -> Series + Sync,
    say: &(impl Fn(Said<'_>) + Sync),
) -> bool {
    let mut played = run_all(count, first, say, |number| {
        let seed = from.wrapping_add(number);
        let outcome = attempt(|| run(plan(seed)));
        say(Said::Line(line(seed, &outcome)));
        tell(format!("seed {seed}"), &outcome, || again(seed), say);
        (seed, outcome.is_broken())
    });
    let count = played.len();
    played.retain(|(_, broken)| *broken);
    let failed: Vec<u64> = played.into_iter().map(|(seed, _)| seed).collect();
    say(Said::Line(json!({ "seeds": count, "failed": failed })));
    failed.is_empty()
}

/// Plays each seed without and with receivers that misbehave with some senders' mail; whether all others' delay stays
/// bearable, and all kept the promise.
fn both_worlds(
    from: u64,
    count: u64,
    planted: Option<PlantedFault>,
    say: &(impl Fn(Said<'_>) + Sync),
) -> bool {
    let played = run_all(count, false, say, |number| {
        let seed = from.wrapping_add(number);
        let [without, with] = [false, true].map(|treated| {
            let outcome = attempt(|| run(neighbours::plan(seed, treated, planted)));
            let what = format!("seed {seed}, {} trouble", if treated { "with" } else { "without" });
            tell(what, &outcome, || Series::Neighbours { from: seed, count: 1, planted }, say);
            outcome
        });
        let is_broken = without.is_broken() || with.is_broken();
        let mut delays = Delays { without: without.delays, with: with.delays };
        say(Said::Line(json!({ "seed": seed, "delays": delays.judge().1 })));
        ((seed, delays), is_broken)
    });
    let failed: Vec<u64> = played.iter().filter(|(_, broken)| *broken).map(|((seed, _), _)| *seed).collect();
    let mut all = Delays::default();
    for ((_, delays), _) in played {
        all.without.extend(delays.without);
        all.with.extend(delays.with);
    }
    let (ratio, delays) = all.judge();
    say(Said::Line(json!({ "seeds": count, "failed": failed, "delays": delays })));
    failed.is_empty() && Delays::is_bearable(ratio)
}

/// Plays a quiet run, then again with a crash at its disk operations 1, 1 + `step` and so on, once by the death of the
/// process and once by a power cut; whether all kept the promise.
fn every_disk_operation(seed: u64, step: u64, say: &(impl Fn(Said<'_>) + Sync)) -> bool {
    let again = || Series::EveryDiskOperation { seed, step };
    let whole = attempt(|| run(Plan::quiet(seed, None)));
    tell("without a crash".into(), &whole, again, say);
    let crashes = whole.disk_operations.div_ceil(step) * 2;
    let crash = |number: u64| {
        let how = if number.is_multiple_of(2) { Kill::Process } else { Kill::PowerCut };
        (1 + number / 2 * step, how)
    };
    let mut played = run_all(crashes, false, say, |number| {
        let (operation, how) = crash(number);
        let outcome = attempt(|| run(Plan::quiet(seed, Some((operation, how)))));
        tell(format!("crash ({how:?}) at operation {operation}"), &outcome, again, say);
        (number, outcome.is_broken())
    });
    played.retain(|(_, broken)| *broken);
    let failed: Vec<String> = played.iter().map(|(number, _)| format!("{:?}", crash(*number))).collect();
    let operations = whole.disk_operations;
    say(Said::Line(json!({
        "operations": operations, "crashes": crashes, "messages": whole.messages, "failed": failed,
    })));
    failed.is_empty() && !whole.is_broken()
}

/// Says why a play has failed, and what plays it again.
fn tell(what: String, outcome: &Outcome, again: impl FnOnce() -> Series, say: &impl Fn(Said<'_>)) {
    if outcome.is_broken() {
        say(Said::Broken { what, violations: &outcome.violations, again: again() });
    }
}

/// Has every core take the next number until all are done, or one result is broken and `first` is asked for; results
/// in the order of the numbers.
fn run_all<N: Send>(
    count: u64,
    first: bool,
    say: &(impl Fn(Said<'_>) + Sync),
    run: impl Fn(u64) -> (N, bool) + Sync,
) -> Vec<(N, bool)> {
    let (next, told) = (AtomicU64::new(0), AtomicU64::new(0));
    let results = Mutex::new(Vec::new());
    let begun = now();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let (name, broken) = run(number);
            if broken && first {
                next.store(count, Ordering::Relaxed);
            }
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push((number, (name, broken)));
            let after = now() - begun;
            let step = after.as_secs() / PROGRESS_EVERY.as_secs();
            if told.fetch_max(step, Ordering::Relaxed) < step {
                say(Said::Progress { played: results.len(), count, after });
            }
        }
    };
    std::thread::scope(|scope| available_cores().into_iter().for_each(|_| drop(scope.spawn(work))));
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

/// A panic is a violation too.
fn attempt(run: impl FnOnce() -> Outcome) -> Outcome {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| Outcome {
        violations: vec![format!("panicked: {}", message(&*panic))],
        ..Outcome::default()
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

fn line(seed: u64, outcome: &Outcome) -> Value {
    json!({
        "seed": seed,
        "trace": format!("{:016x}", outcome.trace),
        "events": outcome.events,
        "virtual_s": outcome.elapsed.as_secs(),
        "messages": outcome.messages,
        "accepted": outcome.accepted,
        "verified": outcome.verified,
        "bounced": outcome.bounced,
        "duplicated": outcome.duplicated,
        "crashes": outcome.crashes,
        "recycled": outcome.recycled,
        "disk_operations": outcome.disk_operations,
        "violations": outcome.violations,
    })
}
