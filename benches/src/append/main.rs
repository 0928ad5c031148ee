//! Time from a record's arrival to its durable append, by append path, under group commit.
//!
//! `cargo run --release -p chasqui-benches --features append-paths --bin append -- [FOLDER] [ROUNDS] [SECONDS]` makes three segments of
//! 128 MiB in FOLDER (the current one by default), removes them at the end, and runs every path at every load for
//! SECONDS (3) in each of ROUNDS (5), the paths in turn and in another order each round, because the machine and its
//! disk do other things too. Loads: Poisson arrivals of 2,000, 10,000 and 20,000 records of 2.3 KB a second, where times
//! count from the intended arrival, and a closed loop of 100 waiters. Figures are medians over the rounds. Progress
//! goes to stderr; stdout gets one line of JSON, times in microseconds.

mod log;

use std::cell::Cell;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::fs::Segment;
use chasqui_runtime::{Config, now, process, rng, run, sleep, sleep_until, spawn};

use log::{Log, Path};

const SEGMENTS: usize = 3;
const SEGMENT_BYTES: u64 = 128 << 20;
const WARM_UP: Duration = Duration::from_millis(500);
/// Between two runs, so that none pays for what another left to the disk.
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Clone, Copy)]
enum Load {
    PerSecond(u32),
    Waiters(usize),
}

const LOADS: [Load; 4] =
    [Load::PerSecond(2_000), Load::PerSecond(10_000), Load::PerSecond(20_000), Load::Waiters(100)];

impl Load {
    fn name(self) -> String {
        match self {
            Load::PerSecond(rate) => format!("{rate}/s"),
            Load::Waiters(count) => format!("{count} waiters"),
        }
    }
}

/// One run of one path under one load. Times in microseconds.
#[derive(Clone, Copy)]
struct Figures {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
    /// Longest time that the shard was held by an append.
    held_max: f64,
    cpu_per_message: f64,
    messages_per_sync: f64,
    messages_per_s: f64,
}

impl Figures {
    const NAMES: [&str; 8] = [
        "p50_us",
        "p99_us",
        "p999_us",
        "max_us",
        "held_max_us",
        "cpu_us_per_message",
        "messages_per_sync",
        "messages_per_s",
    ];

    fn values(&self) -> [f64; 8] {
        let Figures { p50, p99, p999, max, held_max, cpu_per_message, messages_per_sync, messages_per_s } =
            *self;
        [p50, p99, p999, max, held_max, cpu_per_message, messages_per_sync, messages_per_s]
    }

    /// `"NAME":MEDIAN,…`, and the least and greatest p99.9.
    fn json(runs: &[Figures]) -> String {
        let sorted = |of: &dyn Fn(&Figures) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let median = |index: usize| sorted(&|run| run.values()[index])[(runs.len() - 1) / 2];
        let medians: Vec<String> = Self::NAMES
            .iter()
            .enumerate()
            .map(|(at, name)| format!("\"{name}\":{:.1}", median(at)))
            .collect();
        let tails = sorted(&|run| run.p999);
        format!("{{{},\"p999_range_us\":[{:.1},{:.1}]}}", medians.join(","), tails[0], tails[runs.len() - 1])
    }
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let folder = PathBuf::from(arguments.next().unwrap_or_else(|| ".".into()));
    let mut number = |name: &str, default: u64| match arguments.next().map(|text| (text.parse(), text)) {
        None => Ok(default),
        Some((Ok(number), _)) if number > 0 => Ok(number),
        Some((_, text)) => Err(format!("{name} {text:?} is no positive whole number")),
    };
    let read = number("ROUNDS", 5).and_then(|rounds| Ok((rounds as usize, number("SECONDS", 3)?)));
    let (rounds, window) = match read {
        Ok((rounds, seconds)) => (rounds, Duration::from_secs(seconds)),
        Err(line) => {
            eprintln!("append: {line}");
            return ExitCode::from(2);
        }
    };
    let paths: Vec<PathBuf> =
        (0..SEGMENTS).map(|index| folder.join(format!("append-bench-{index}.tmp"))).collect();
    let files = paths.clone();
    let measured = run(Config::default(), move || {
        let files = files.clone();
        async move { measure_all(&files, rounds, window).await }
    });
    for path in &paths {
        // After a failure not all of them exist.
        let _gone = std::fs::remove_file(path);
    }
    match measured
        .map_err(|error| error.to_string())
        .and_then(|measured| measured.map_err(|it| it.to_string()))
    {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(line) => {
            eprintln!("append: {line}");
            ExitCode::FAILURE
        }
    }
}

async fn measure_all(files: &[PathBuf], rounds: usize, window: Duration) -> std::io::Result<String> {
    let mut segments = Vec::new();
    for file in files {
        segments.push(Segment::create(file, SEGMENT_BYTES).await?);
    }
    let mut loads = Vec::new();
    for load in LOADS {
        let mut runs = Path::ALL.map(|_| Vec::new());
        for round in 0..rounds {
            for turn in 0..Path::ALL.len() {
                let index = (round + turn) % Path::ALL.len();
                let figures = measure(Path::ALL[index], load, &segments, window).await?;
                let Figures { p50, p99, p999, max, held_max, cpu_per_message, .. } = figures;
                eprintln!(
                    "{:>12} {:>14}: p50 {p50:8.0}  p99 {p99:8.0}  p99.9 {p999:8.0}  max {max:8.0}  \
                     held {held_max:8.0} µs; CPU {cpu_per_message:5.2} µs a message",
                    load.name(),
                    Path::ALL[index].name()
                );
                runs[index].push(figures);
                sleep(PAUSE).await;
            }
        }
        let paths = Path::ALL.iter().zip(&runs);
        let paths: Vec<String> =
            paths.map(|(path, runs)| format!("\"{}\":{}", path.name(), Figures::json(runs))).collect();
        loads.push(format!("\"{}\":{{{}}}", load.name(), paths.join(",")));
    }
    Ok(format!("{{\"rounds\":{rounds},\"seconds\":{},{}}}", window.as_secs(), loads.join(",")))
}

async fn measure(path: Path, load: Load, segments: &[Segment], window: Duration) -> std::io::Result<Figures> {
    let log = Log::new(path, segments)?;
    let committer = spawn(log::run(log.clone()));
    let over = Rc::new(Cell::new(false));
    let arrivals = match load {
        Load::PerSecond(rate) => Some(spawn(arrive(log.clone(), rate, over.clone()))),
        Load::Waiters(waiters) => {
            log.close_loop(waiters)?;
            None
        }
    };
    sleep(WARM_UP).await;
    let own = process::id();
    let (start, cpu_before) = (now(), process::cpu_time(own)?);
    log.observe();
    sleep(window).await;
    let observed = log.observe();
    let (elapsed, cpu) = (now() - start, process::cpu_time(own)? - cpu_before);
    over.set(true);
    if let Some(arrivals) = arrivals {
        arrivals.await?;
    }
    log.end();
    committer.await?;

    let mut waits = observed.waits;
    if waits.is_empty() {
        return Err(std::io::Error::other("no record became durable within the window: use more seconds"));
    }
    waits.sort_unstable();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let at = |share: f64| micros(waits[((waits.len() - 1) as f64 * share) as usize]);
    let messages = waits.len() as f64;
    Ok(Figures {
        p50: at(0.5),
        p99: at(0.99),
        p999: at(0.999),
        max: at(1.0),
        held_max: micros(observed.held_max),
        cpu_per_message: micros(cpu) / messages,
        messages_per_sync: messages / observed.syncs.max(1) as f64,
        messages_per_s: messages / elapsed.as_secs_f64(),
    })
}

/// Poisson arrivals on schedule, whatever the log does, until `over`.
async fn arrive(log: Rc<Log>, rate: u32, over: Rc<Cell<bool>>) -> std::io::Result<()> {
    let mut next = now();
    while !over.get() {
        sleep_until(next).await;
        let now = now();
        while next <= now {
            log.enter(next)?;
            next += Duration::from_secs_f64(-(1.0 - rng().unit()).ln() / f64::from(rate));
        }
    }
    Ok(())
}
