//! A run from outside the shards: started, watched, stopped, judged.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chasqui_report::{Collector, Connections, Due, Recording, Validity, Window};
use chasqui_runtime::mailbox;
use chasqui_runtime::{Config, EngineKind, SeededRng, Shards, process, wall_clock};
use futures_lite::future::block_on;

use crate::anomalies::{Anomaly, name_queue_ids};
use crate::directory::Directory;
use crate::generator::{self, Hooks};
use crate::ledger::{Counts, Evidence, RelayAnswer};
use crate::notes::Notes;
use crate::plan::{INBOX_BATCHES_MAX, Plan};
use crate::reader;
use crate::scenario::{Scenario, ScenarioError, Verify};
use crate::schedule::Rate;
use crate::shared::{Phase, Progress, Shared};

/// Lost, missing, pending and corrupted recipients that are named in the notes.
const SAMPLES_MAX: usize = 10;

/// On which cores the load generator runs.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The engine of all its shards.
    pub engine: EngineKind,
    /// One generator shard per entry.
    pub generators: Vec<usize>,
    /// One reader shard per entry; none are needed where arrivals verify. May repeat a generator's core.
    pub readers: Vec<usize>,
}

/// Why a run could not be started. One line; the user acts on it.
#[derive(Debug)]
pub enum StartError {
    /// The scenario cannot be run.
    Scenario(ScenarioError),
    /// Too few cores for something, or too many.
    Placement(&'static str),
    /// The limit on open files is lower than what the connections need.
    OpenFiles {
        /// Connections and what else is open.
        needed: u64,
        /// The limit.
        allowed: u64,
    },
    /// The shards could not be started.
    Shards(chasqui_runtime::StartError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scenario(error) => error.fmt(f),
            Self::Placement(what) => write!(f, "placement: {what}"),
            Self::OpenFiles { needed, allowed } => {
                write!(
                    f,
                    "the run needs {needed} open files and {allowed} are allowed: raise ulimit -n, or lower connections"
                )
            }
            Self::Shards(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

/// Why a started run has no outcome. One line.
#[derive(Debug)]
pub enum RunError {
    /// It could not begin: nothing to connect to, or an instrument that does not work. The user's to mend.
    NotBegun(String),
    /// It was stopped before it began.
    Stopped,
    /// A thread has panicked.
    Panicked(String),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBegun(reason) => f.write_str(reason),
            Self::Stopped => f.write_str(generator::STOPPED),
            Self::Panicked(thread) => write!(f, "internal error: a {thread} thread has panicked"),
        }
    }
}

impl std::error::Error for RunError {}

/// Counts inside the window. Recipients, but for the octets of accepted messages, which count once a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throughput {
    /// Answered 250.
    pub accepted: u64,
    /// Arrived at a sink; `None` without arrival streams.
    pub arrived: Option<u64>,
    /// Verified; `None` when mailboxes are read after the window.
    pub verified: Option<u64>,
    /// Octets of accepted messages, before dot-stuffing.
    pub accepted_octets: u64,
    /// Octets that arrived, trace fields included.
    pub arrived_octets: u64,
}

/// Everything a run came to.
pub struct Outcome {
    /// The run's id, as in its stamps.
    pub run: u64,
    /// What was asked for.
    pub scenario: Scenario,
    /// The measured window on CLOCK_MONOTONIC.
    pub window: Window,
    /// When it began, since the Unix epoch.
    pub window_start_wall: Duration,
    /// It was stopped before the window's planned end.
    pub stopped_early: bool,
    /// From the start until everything was known.
    pub took: Duration,
    /// What was due in the window.
    pub due: Due,
    /// The connections that the load went over.
    pub connections: Connections,
    /// The ledger of the whole run.
    pub ledger: Counts,
    /// Latencies of what was due in the window.
    pub recording: Recording,
    /// Counts in the window.
    pub throughput: Throughput,
    /// Recipients accepted before the window's end that had not arrived by then; `None` without arrival streams.
    pub backlog_end: Option<u64>,
    /// How well an open loop kept its schedule.
    pub validity: Option<Validity>,
    /// CPU time of live readers in the window.
    pub verify_cpu: Option<Duration>,
    /// Instruments that were lost in the run, one line each: it is invalid then.
    pub broken: Vec<String>,
    /// Whether the relay listed its queue; `None` for a foreign MTA.
    pub relay_answered: Option<bool>,
    /// What a person should know: refusals, broken connections, samples of what went wrong.
    pub notes: Vec<String>,
    /// Every recipient that was not delivered unchanged, once.
    pub anomalies: Vec<Anomaly>,
    /// Memory of the ledger.
    pub ledger_bytes: u64,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("ledger", &self.ledger)
            .field("throughput", &self.throughput)
            .field("backlog_end", &self.backlog_end)
            .field("validity", &self.validity)
            .field("due", &self.due)
            .field("connections", &self.connections)
            .field("broken", &self.broken)
            .field("notes", &self.notes)
            .finish_non_exhaustive()
    }
}

/// A run that goes on.
#[derive(Debug)]
pub struct Running {
    plan: Arc<Plan>,
    generators: Shards<generator::Part>,
    readers: Option<Shards<reader::Part>>,
}

/// Ends a run from another thread.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Plan>);

impl Stopper {
    /// As [`Running::stop`].
    pub fn stop(&self) {
        self.0.shared.stop();
    }
}

/// Whether the limit on open files suffices.
fn check_open_files(scenario: &Scenario, placement: &Placement, allowed: u64) -> Result<(), StartError> {
    // Each reader has some sessions at a time, a live IMAP reader one for each mailbox; each shard its rings and streams.
    let readers = if scenario.verify().reads() { placement.readers.len() } else { 0 };
    let shards = placement.generators.len() + readers;
    let live_imap = match (scenario.verify(), scenario.imap, scenario.pop3) {
        (Verify::Live, Some(_), Some(_)) => scenario.mailboxes() / 2,
        (Verify::Live, Some(_), None) => scenario.mailboxes(),
        _ => 0,
    };
    let needed = scenario.connections + live_imap + reader::SESSIONS_MAX * readers + 32 * shards + 32;
    let needed = needed as u64;
    if needed > allowed { Err(StartError::OpenFiles { needed, allowed }) } else { Ok(()) }
}

/// Starts a run. It goes through all its phases by itself.
pub fn start(scenario: Scenario, placement: Placement, hooks: Hooks) -> Result<Running, StartError> {
    scenario.check().map_err(StartError::Scenario)?;
    let verify = scenario.verify();
    if placement.generators.is_empty() {
        return Err(StartError::Placement("the generator has no core: name at least one"));
    }
    if placement.readers.is_empty() && verify.reads() {
        return Err(StartError::Placement("the readers have no core: name at least one"));
    }
    if placement.generators.len() > scenario.connections {
        return Err(StartError::Placement("there are more generator cores than connections: name fewer"));
    }
    check_open_files(&scenario, &placement, process::open_files_max().unwrap_or(u64::MAX))?;
    let reader_cores = if verify.reads() { placement.readers } else { Vec::new() };
    let (inboxes, receivers): (Vec<_>, Vec<_>) =
        placement.generators.iter().map(|_| mailbox::channel(INBOX_BATCHES_MAX)).unzip();
    let plan = Arc::new(Plan {
        verify,
        run: run_id(),
        bounce_zone: scenario.bounce_zone(),
        directory: Arc::new(Directory::new(&scenario)),
        shared: Shared::new(placement.generators.len()),
        generators: placement.generators.len(),
        readers: reader_cores.len(),
        inboxes,
        scenario,
    });

    let config = |name: &str, cores| Config { name: name.into(), engine: placement.engine, cores };
    // Each shard takes its own; the closure is called once per shard.
    let receivers: Arc<[_]> = receivers.into_iter().map(|receiver| Mutex::new(Some(receiver))).collect();
    let hooks = Arc::new(Mutex::new(Some(hooks)));
    let generator_plan = plan.clone();
    let generators = Shards::start(config("loadgen", placement.generators), move || {
        let shard = chasqui_runtime::shard();
        let receiver = receivers[shard].lock().ok().and_then(|mut receiver| receiver.take());
        let receiver = receiver.expect("a shard's main is called once");
        let hooks = if shard == 0 { hooks.lock().ok().and_then(|mut hooks| hooks.take()) } else { None };
        generator::generate(generator_plan.clone(), receiver, hooks)
    })
    .map_err(StartError::Shards)?;

    let readers = if reader_cores.is_empty() {
        None
    } else {
        let reader_plan = plan.clone();
        let started =
            Shards::start(config("verify", reader_cores), move || reader::read(reader_plan.clone()));
        Some(started.map_err(|error| {
            // The generator must not wait for readers that will never come.
            plan.shared.fail(error.to_string());
            StartError::Shards(error)
        })?)
    };
    Ok(Running { plan, generators, readers })
}

/// A number that no other run has: from the wall clock, to the nanosecond, and the process.
fn run_id() -> u64 {
    let nanos = wall_clock().as_nanos() as u64;
    SeededRng::new(nanos ^ (u64::from(process::id()) << 40)).next_u64()
}

impl Running {
    /// The run's id in stamps and reverse-paths.
    pub fn run(&self) -> u64 {
        self.plan.run
    }

    /// Figures of the moment. Cheap.
    pub fn progress(&self) -> Progress {
        self.plan.shared.progress(self.plan.scenario.warmup)
    }

    /// Ends the run early: nothing more is sent, what is under way is drained, everything is judged. A second
    /// call ends the drain too.
    pub fn stop(&self) {
        self.plan.shared.stop();
    }

    /// [`Running::stop`] for another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.plan.clone())
    }

    /// Whether [`Running::join`] would return at once, or nearly.
    pub fn is_finished(&self) -> bool {
        self.plan.shared.phase() == Phase::Done
    }

    /// Waits for the end and judges. Blocks the thread.
    pub fn join(self) -> Result<Outcome, RunError> {
        block_on(self.ended())
    }

    /// Waits for the end and judges.
    pub async fn ended(self) -> Result<Outcome, RunError> {
        let Self { plan, generators, readers } = self;
        let parts: Vec<generator::Part> =
            generators.ended().await.into_iter().collect::<Result<_, _>>().map_err(|_| {
                plan.shared.enter(Phase::Done); // the readers end
                RunError::Panicked("load generator".into())
            })?;
        let read: Vec<reader::Part> = match readers {
            Some(readers) => readers.ended().await.into_iter().collect::<Result<_, _>>(),
            None => Ok(Vec::new()),
        }
        .map_err(|_| RunError::Panicked("reader".into()))?;
        judge(&plan, parts, read)
    }
}

fn judge(plan: &Plan, mut parts: Vec<generator::Part>, read: Vec<reader::Part>) -> Result<Outcome, RunError> {
    let conclusion =
        parts
            .iter_mut()
            .find_map(|part| part.conclusion.take())
            .unwrap_or_else(|| Err("the run had no coordinator".into()))
            .map_err(|reason| {
                if reason == generator::STOPPED { RunError::Stopped } else { RunError::NotBegun(reason) }
            })?;
    let took = plan.shared.took();
    let has_arrivals = !plan.scenario.arrival_streams.is_empty();
    let mut mailboxes_whole = vec![false; plan.directory.count()];
    for mailbox in read.iter().flat_map(|part| &part.whole) {
        mailboxes_whole[*mailbox as usize] = true;
    }
    let mut broken = broken(plan, &parts, &mailboxes_whole);
    let evidence = Evidence {
        relay: conclusion.relay,
        arrivals_whole: has_arrivals.then(|| parts.iter().all(|part| part.arrivals_whole)),
        mailboxes_whole: &mailboxes_whole,
    };
    let (mut ledger, mut figures) = (Counts::default(), generator::Figures::default());
    let (mut notes, mut anomalies) = (Notes::default(), Vec::new());
    let (mut unsent_in_window, mut ledger_bytes, mut reached) = (0, 0, 0);
    let mut loop_late = Duration::ZERO;
    let mut lost = Notes::default();
    for mut part in parts {
        let (refusals, first) = (std::mem::take(&mut part.refusals), anomalies.len());
        ledger += part.ledger.judge(&evidence, part.unsent, |sequence, mailbox, due_ns, what| {
            let recipient = plan.directory.address(mailbox);
            let reply = refusals.of(sequence).map(str::to_owned);
            anomalies.push(Anomaly { sequence, recipient, what, due_ns, reply, queue_id: None });
        });
        name_queue_ids(&mut anomalies[first..], &part.queue_ids, plan.generators as u64);
        figures += part.figures;
        ledger_bytes += part.ledger.bytes() + part.queue_ids.bytes();
        unsent_in_window += part.unsent_in_window;
        reached += part.connected_max;
        loop_late = loop_late.max(part.loop_late);
        notes.merge(part.notes);
        lost.merge(part.broken);
    }
    let window_cpu: Vec<Duration> = read.iter().filter_map(|part| part.window_cpu).collect();
    for part in read {
        notes.merge(part.notes);
        lost.merge(part.broken);
    }
    broken.extend(lost.lines());
    let mut lines = notes.lines();
    if plan.verify == Verify::Nothing {
        // Nobody looked what became of accepted mail.
        anomalies.retain(|anomaly| matches!(anomaly.what, "rejected" | "unknown"));
    }
    lines.extend(samples(&anomalies));

    let window = conclusion.window;
    let collector = plan.shared.collector.lock().ok().and_then(|mut collector| collector.take());
    let mut collector = collector.unwrap_or_else(|| Collector::new(window));
    collector.end_early(window.end_ns);
    let recording = collector.finish();
    Ok(Outcome {
        run: plan.run,
        scenario: plan.scenario.clone(),
        window,
        window_start_wall: conclusion.window_start_wall,
        stopped_early: conclusion.stopped_early,
        took,
        due: Due {
            messages: figures.intended + unsent_in_window,
            unsent: unsent_in_window,
            answered: figures.answered,
        },
        connections: Connections {
            asked: plan.scenario.connections as u64,
            reached,
            refused: figures.refused,
            replies_421: figures.replies_421,
            emfile: figures.emfile,
        },
        ledger,
        recording,
        throughput: Throughput {
            accepted: figures.accepted,
            arrived: has_arrivals.then_some(figures.arrived),
            verified: matches!(plan.verify, Verify::Live | Verify::Arrival).then_some(figures.verified),
            accepted_octets: figures.accepted_octets,
            arrived_octets: figures.arrived_octets,
        },
        backlog_end: has_arrivals.then_some(ledger.backlog_end),
        validity: validity(plan, window, &figures, unsent_in_window, loop_late),
        verify_cpu: (!window_cpu.is_empty()).then(|| window_cpu.iter().sum()),
        broken,
        relay_answered: match conclusion.relay {
            RelayAnswer::Foreign => None,
            RelayAnswer::Listed => Some(true),
            RelayAnswer::Silent => Some(false),
        },
        notes: lines,
        anomalies,
        ledger_bytes,
    })
}

/// The first of what no reply has told of.
fn samples(anomalies: &[Anomaly]) -> impl Iterator<Item = String> {
    let is_told = |what| !matches!(what, "rejected" | "unknown" | "bounced" | "duplicated");
    let told = anomalies.iter().filter(move |anomaly| is_told(anomaly.what)).take(SAMPLES_MAX);
    told.map(|Anomaly { what, sequence, recipient, .. }| format!("{what}: message {sequence} to {recipient}"))
}

/// Mailboxes that could not be read to their end. An arrival stream that broke has told so itself.
fn broken(plan: &Plan, parts: &[generator::Part], mailboxes_whole: &[bool]) -> Vec<String> {
    let mut lines = Vec::new();
    let unread = mailboxes_whole.iter().filter(|whole| !**whole).count();
    if plan.readers > 0 && unread > 0 {
        let all = mailboxes_whole.len();
        lines.push(format!("{unread} of {all} mailboxes could not be read to their end"));
    }
    if parts.iter().any(|part| !part.arrivals_whole) {
        lines.push("an arrival stream was lost: what has not arrived may have".to_owned());
    }
    lines
}

/// How well an open loop kept to its schedule: what was due in the window against what was begun in it, and whose fault
/// the difference is.
fn validity(
    plan: &Plan,
    window: Window,
    figures: &generator::Figures,
    unsent: u64,
    loop_late: Duration,
) -> Option<Validity> {
    if plan.scenario.rate == Rate::Max {
        return None;
    }
    let limits = plan.scenario.limits;
    let wanted = figures.intended + unsent;
    let seconds = window.seconds();
    let per_s = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let share = |count: u64| if wanted > 0 { count as f64 / wanted as f64 } else { 0.0 };
    Some(Validity {
        wanted_per_s: per_s(wanted),
        achieved_per_s: per_s(figures.begun),
        late_share: share(figures.late + unsent),
        late_while_free_share: share(figures.late_while_free),
        loop_late_share: if seconds > 0.0 { loop_late.as_secs_f64() / seconds } else { 0.0 },
        late_after_us: limits.late_by.as_secs_f64() * 1e6,
        late_share_max: limits.late_share_max,
        rate_share_min: limits.achieved_share_min,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run that needs more open files than are allowed is refused with both numbers.
    #[test]
    fn open_files_are_compared() {
        let placement = Placement { engine: EngineKind::Uring, generators: vec![0], readers: vec![0] };
        let pop3 =
            Scenario { connections: 800, pop3: Some(([127, 0, 0, 1], 110).into()), ..Scenario::default() };
        assert!(check_open_files(&pop3, &placement, 1024).is_ok());
        let many = Scenario { connections: 1000, ..pop3.clone() };
        let refused = check_open_files(&many, &placement, 1024).unwrap_err().to_string();
        assert!(refused.contains("1160 open files") && refused.contains("1024 are allowed"), "{refused}");
        let imap = Scenario { imap: pop3.pop3, pop3: None, ..pop3 };
        let refused = check_open_files(&imap, &placement, 1024).unwrap_err().to_string();
        assert!(refused.contains("1060 open files"), "a session for each of the 100 mailboxes: {refused}");
    }
}
