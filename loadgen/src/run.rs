//! A run from outside the shards: started, watched, stopped, waited for.

use std::fmt;
use std::sync::{Arc, Mutex};

use chasqui_report::Verify;
use chasqui_runtime::channel;
use chasqui_runtime::{Config, EngineKind, SeededRng, Shards, process, wall_clock};
use chasqui_transport::tls::{self, ClientTls, RootsError};
use futures_lite::future::block_on;

use crate::generator::{self, Hooks};
use crate::outcome::{self, Outcome};
use crate::plan::{INBOX_BATCHES_MAX, Plan};
use crate::reader;
use crate::scenario::{Directory, Scenario, ScenarioError, TlsTrust};
use crate::shared::{Phase, Progress, RunError, Shared};

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
    /// There are no roots to verify certificates by.
    Roots(RootsError),
    /// TLS itself could not be set up.
    Tls(tls::Error),
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
            Self::Roots(error) => write!(f, "TLS: {error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Shards(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

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
    let live_imap = match (scenario.verify(), &scenario.imap, &scenario.pop3) {
        (Verify::Live, Some(_), Some(_)) => scenario.mailboxes() / 2,
        (Verify::Live, Some(_), None) => scenario.mailboxes(),
        _ => 0,
    };
    let needed = scenario.connections + live_imap + reader::SESSIONS_MAX * readers + 32 * shards + 32;
    let needed = needed as u64;
    if needed > allowed { Err(StartError::OpenFiles { needed, allowed }) } else { Ok(()) }
}

/// What the connections share of TLS. Reads the roots, and blocks the thread for it.
fn client_tls(scenario: &Scenario) -> Result<Option<ClientTls>, StartError> {
    if !scenario.speaks_tls() {
        return Ok(None);
    }
    let wanted = &scenario.tls;
    let roots = match &wanted.trust {
        TlsTrust::Verified(roots) => roots.as_deref(),
        TlsTrust::Any => None,
    };
    let tls = ClientTls::new(roots, wanted.resumption).map_err(StartError::Tls)?;
    if wanted.verifies() {
        tls.load_roots().map_err(StartError::Roots)?;
    }
    Ok(Some(tls))
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
        placement.generators.iter().map(|_| channel::bounded(INBOX_BATCHES_MAX)).unzip();
    let plan = Arc::new(Plan {
        verify,
        tls: client_tls(&scenario)?,
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
            plan.shared.fail(&error);
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
        let mut parts: Vec<generator::Part> =
            generators.ended().await.into_iter().collect::<Result<_, _>>().map_err(|_| {
                plan.shared.enter(Phase::Done); // the readers end
                RunError::Panicked("load generator".into())
            })?;
        let read: Vec<reader::Part> = match readers {
            Some(readers) => readers.ended().await.into_iter().collect::<Result<_, _>>(),
            None => Ok(Vec::new()),
        }
        .map_err(|_| RunError::Panicked("reader".into()))?;
        let conclusion = conclusion(&mut parts)?;
        Ok(outcome::judge(&plan, &conclusion, parts, read))
    }
}

/// What the coordinator came to, taken from the part of the shard that it was on.
fn conclusion(parts: &mut [generator::Part]) -> Result<generator::Conclusion, RunError> {
    let concluded = parts.iter_mut().find_map(|part| part.conclusion.take());
    concluded.unwrap_or_else(|| Err(RunError::not_begun("the run had no coordinator")))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// A run that needs more open files than are allowed is refused with both numbers.
    #[test]
    fn open_files_are_compared() {
        let placement = Placement { engine: EngineKind::Uring, generators: vec![0], readers: vec![0] };
        let pop3 = Scenario {
            connections: 800,
            pop3: Some(SocketAddr::from(([127, 0, 0, 1], 110)).into()),
            ..Scenario::default()
        };
        assert!(check_open_files(&pop3, &placement, 1024).is_ok());
        let many = Scenario { connections: 1000, ..pop3.clone() };
        let refused = check_open_files(&many, &placement, 1024).unwrap_err().to_string();
        assert!(refused.contains("1160 open files") && refused.contains("1024 are allowed"), "{refused}");
        let imap = Scenario { imap: pop3.pop3, pop3: None, ..pop3 };
        let refused = check_open_files(&imap, &placement, 1024).unwrap_err().to_string();
        assert!(refused.contains("1060 open files"), "a session for each of the 100 mailboxes: {refused}");
    }
}
