//! `chasqui simulate`: the whole chain in the deterministic simulator, seed after seed, in search of lost mail.

mod behaviour;
mod book;
mod chain;
mod draw;
mod front;
mod habits;
mod keeper;
mod lines;
mod neighbours;
mod play;
mod treat;

use std::any::Any;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{ExitCode, exit};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chasqui_runtime::sim::Kill;
use chasqui_runtime::{available_cores, now};
use log::LevelFilter;
use serde_json::json;

use crate::arguments::Simulate;
use crate::exit::Failure;
use crate::logging;
use draw::Draw;
use neighbours::Delays;
use play::{Played, play};

/// The faults that can be planted, by the names of `sim::bug`.
pub(crate) const BUGS: [&str; 10] = [
    "ack-before-sync",
    "rewrite-durable-block",
    "no-unstuffing",
    "lost-lease-waiter",
    "early-tombstone",
    "recycle-under-lease",
    "append-after-recovery",
    "drop-reply-at-close",
    "stall-on-421",
    "no-reserve",
];

/// Time between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Exit code when mail was lost, duplicated without cause, corrupted or stuck.
const BROKEN: u8 = 4;
/// Exit code when the results could not be written.
const UNREAD: i32 = 1;

/// Plays the seeds, or a crash at every operation of the disk.
pub(crate) fn run(options: &Simulate) -> Result<ExitCode, Failure> {
    logging::install(if options.verbose { LevelFilter::Debug } else { LevelFilter::Off });
    let kept = match options.every_disk_operation {
        Some(step) => every_disk_operation(options.from, step),
        None if options.neighbours => neighbours(options),
        None => seeds(options),
    };
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
}

/// Plays seed after seed; whether all kept the promise.
fn seeds(options: &Simulate) -> bool {
    let bug = options.bug;
    let mut played = play_all(options.seeds, options.first, |number| {
        let seed = options.from.wrapping_add(number);
        let draw = || if options.quiet { Draw::quiet(seed, None) } else { Draw::of(seed, bug) };
        let played = attempt(|| play(draw()));
        print(&line(seed, &played));
        let quiet = if options.quiet { " --quiet" } else { "" };
        let bug = bug.map_or_else(String::new, |name| format!(" --bug {name}"));
        tell(&format!("seed {seed}"), &played, || format!("--seeds 1 --from {seed}{quiet}{bug}"));
        (seed, played.is_broken())
    });
    let count = played.len();
    played.retain(|(_, broken)| *broken);
    let failed: Vec<u64> = played.into_iter().map(|(seed, _)| seed).collect();
    print(&json!({ "seeds": count, "failed": failed }).to_string());
    failed.is_empty()
}

/// Plays each seed without and with receivers that misbehave with some senders' mail; whether all others' delay stays
/// bearable, and all kept the promise.
fn neighbours(options: &Simulate) -> bool {
    let played = play_all(options.seeds, false, |number| {
        let seed = options.from.wrapping_add(number);
        let [without, with] = [false, true].map(|treated| {
            let played = attempt(|| play(neighbours::draw(seed, treated, options.bug)));
            let what = format!("seed {seed}, {} trouble", if treated { "with" } else { "without" });
            tell(&what, &played, || format!("--neighbours --seeds 1 --from {seed}"));
            played
        });
        let is_broken = without.is_broken() || with.is_broken();
        let mut delays = Delays { without: without.delays, with: with.delays };
        print(&json!({ "seed": seed, "delays": delays.judge().1 }).to_string());
        ((seed, delays), is_broken)
    });
    let failed: Vec<u64> = played.iter().filter(|(_, broken)| *broken).map(|((seed, _), _)| *seed).collect();
    let mut all = Delays::default();
    for ((_, delays), _) in played {
        all.without.extend(delays.without);
        all.with.extend(delays.with);
    }
    let (ratio, delays) = all.judge();
    print(&json!({ "seeds": options.seeds, "failed": failed, "delays": delays }).to_string());
    failed.is_empty() && Delays::is_bearable(ratio)
}

/// Plays a quiet run, then again with a crash at its disk operations 1, 1 + `step` and so on, once by the death of the
/// process and once by a power cut; whether all kept the promise.
fn every_disk_operation(seed: u64, step: u64) -> bool {
    let whole = attempt(|| play(Draw::quiet(seed, None)));
    tell("without a crash", &whole, || format!("--every-disk-operation {step} --from {seed}"));
    let crashes = whole.disk_operations.div_ceil(step) * 2;
    let crash = |number: u64| {
        let how = if number.is_multiple_of(2) { Kill::Process } else { Kill::PowerCut };
        (1 + number / 2 * step, how)
    };
    let mut played = play_all(crashes, false, |number| {
        let (operation, how) = crash(number);
        let played = attempt(|| play(Draw::quiet(seed, Some((operation, how)))));
        let what = format!("crash ({how:?}) at operation {operation}");
        tell(&what, &played, || format!("--every-disk-operation {step} --from {seed}"));
        (number, played.is_broken())
    });
    played.retain(|(_, broken)| *broken);
    let failed: Vec<String> = played.iter().map(|(number, _)| format!("{:?}", crash(*number))).collect();
    let sum = json!({ "operations": whole.disk_operations, "crashes": crashes, "messages": whole.messages, "failed": failed });
    print(&sum.to_string());
    failed.is_empty() && !whole.is_broken()
}

/// Prints a line; when nobody reads any more, there is nobody to play on for.
fn print(line: &str) {
    if let Err(error) = writeln!(io::stdout(), "{line}") {
        if error.kind() != io::ErrorKind::BrokenPipe {
            eprintln!("chasqui: cannot write to standard output: {error}");
        }
        exit(UNREAD);
    }
}

/// Says why a play has failed, and how to play it again.
fn tell(what: &str, played: &Played, again: impl FnOnce() -> String) {
    if played.is_broken() {
        eprintln!("{what}: {}\n  scripts/simulate {}", played.violations.join("; "), again());
    }
}

/// Has every core take the next number until all are done, or one result is broken and `first` is asked for; results
/// in the order of the numbers.
fn play_all<N: Send>(count: u64, first: bool, play: impl Fn(u64) -> (N, bool) + Sync) -> Vec<(N, bool)> {
    let (next, told) = (AtomicU64::new(0), AtomicU64::new(0));
    let results = Mutex::new(Vec::new());
    let begun = now();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let (name, broken) = play(number);
            if broken && first {
                next.store(count, Ordering::Relaxed);
            }
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push((number, (name, broken)));
            let seconds = (now() - begun).as_secs();
            let step = seconds / PROGRESS_EVERY.as_secs();
            if told.fetch_max(step, Ordering::Relaxed) < step {
                eprintln!("{} of {count} in {seconds} s", results.len());
            }
        }
    };
    std::thread::scope(|scope| available_cores().into_iter().for_each(|_| drop(scope.spawn(work))));
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

/// A panic is a violation too.
fn attempt(play: impl FnOnce() -> Played) -> Played {
    catch_unwind(AssertUnwindSafe(play)).unwrap_or_else(|panic| Played {
        violations: vec![format!("panicked: {}", message(&*panic))],
        ..Played::default()
    })
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message")
}

fn line(seed: u64, played: &Played) -> String {
    json!({
        "seed": seed,
        "trace": format!("{:016x}", played.trace),
        "events": played.events,
        "virtual_s": played.elapsed.as_secs(),
        "messages": played.messages,
        "accepted": played.accepted,
        "verified": played.verified,
        "bounced": played.bounced,
        "duplicated": played.duplicated,
        "crashes": played.crashes,
        "recycled": played.recycled,
        "disk_operations": played.disk_operations,
        "violations": played.violations,
    })
    .to_string()
}
