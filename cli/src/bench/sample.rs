//! What the processes have used, read at the edges of the window.

use crate::children::Child;
use crate::exit::Failure;
use crate::rings;
use crate::signals::helper;
use chasqui_protocol::control::{Request, RingCounts, Rings, Stats};
use chasqui_runtime::now;
use chasqui_runtime::process::cpu_time;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// How long a child may take to answer on its control socket: a saturated one answers between two rounds of its loop.
const CONTROL_WITHIN: Duration = Duration::from_secs(5);

/// The processes of a bench by their ids; the load generator is this one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processes {
    pub(crate) relay: u32,
    pub(crate) sinks: u32,
    pub(crate) loadgen: u32,
}

impl Processes {
    /// The two children and this process.
    pub(crate) fn new(relay: &Child, sinks: &Child) -> Processes {
        Processes { relay: relay.pid(), sinks: sinks.pid(), loadgen: std::process::id() }
    }

    /// As they stand in `run.json`, for tools that trace them.
    pub(crate) fn to_json(self) -> serde_json::Value {
        serde_json::json!({ "relay": self.relay, "sinks": self.sinks, "loadgen": self.loadgen })
    }
}

/// CPU clocks and counters at one moment; `None` where a process did not answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sample {
    relay: Option<Duration>,
    sinks: Option<Duration>,
    loadgen: Option<Duration>,
    syncs: Option<Answer>,
    sinks_ring: Option<RingCounts>,
    loadgen_ring: Option<RingCounts>,
}

/// Counters with the moments, CLOCK_MONOTONIC nanoseconds, between which the relay read them.
#[derive(Debug, Clone, Copy)]
struct Answer {
    counts: Stats,
    asked_ns: u64,
    answered_ns: u64,
}

/// What was used between the two edges of the window.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    pub(crate) relay: Option<Duration>,
    pub(crate) sinks: Option<Duration>,
    pub(crate) loadgen: Option<Duration>,
    pub(crate) syncs: Option<u64>,
    pub(crate) synced_messages: Option<u64>,
    pub(crate) appended_bytes: Option<u64>,
    /// What the rings did.
    pub(crate) rings: RingsOfAll,
    /// When the sync counters were asked for and answered, at each edge: on a busy machine well after it.
    pub(crate) syncs_read_ns: Option<[[u64; 2]; 2]>,
}

/// What the rings of each process did in the window.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct RingsOfAll {
    relay: Option<RingCounts>,
    sinks: Option<RingCounts>,
    loadgen: Option<RingCounts>,
}

impl Usage {
    fn between(start: &Sample, end: &Sample) -> Usage {
        let cpu = |start: Option<Duration>, end: Option<Duration>| end?.checked_sub(start?);
        let answers = start.syncs.zip(end.syncs);
        let count = |of: fn(Stats) -> u64| {
            let (start, end) = answers?;
            of(end.counts).checked_sub(of(start.counts))
        };
        Usage {
            relay: cpu(start.relay, end.relay),
            sinks: cpu(start.sinks, end.sinks),
            loadgen: cpu(start.loadgen, end.loadgen),
            syncs: count(|counts| counts.syncs),
            synced_messages: count(|counts| counts.synced_messages),
            appended_bytes: count(|counts| counts.appended_bytes),
            rings: RingsOfAll {
                relay: answers.and_then(|(start, end)| end.counts.ring?.since(start.counts.ring?)),
                sinks: end.sinks_ring.zip(start.sinks_ring).and_then(|(end, start)| end.since(start)),
                loadgen: end.loadgen_ring.zip(start.loadgen_ring).and_then(|(end, start)| end.since(start)),
            },
            syncs_read_ns: answers
                .map(|(start, end)| [start, end].map(|answer| [answer.asked_ns, answer.answered_ns])),
        }
    }
}

/// Takes a sample at each edge. CPU clocks are read where the edge is called, on the generator's shard, within
/// microseconds; the children are asked from a helper thread, so that the shard never waits.
#[derive(Debug)]
pub(crate) struct Sampler {
    processes: Processes,
    edges: Sender<Sample>,
    samples: Receiver<Sample>,
}

impl Sampler {
    /// A sampler of `processes` whose relay and sinks listen on these control sockets.
    pub(crate) fn start(processes: Processes, relay: PathBuf, sinks: PathBuf) -> Result<Sampler, Failure> {
        let (edges, to_ask) = channel::<Sample>();
        let (asked, samples) = channel();
        helper("sampler", move || {
            for mut sample in to_ask {
                sample.syncs = stats(&relay).ok();
                sample.sinks_ring = ask::<Rings>(&sinks).ok().and_then(|answer| answer.ring);
                if asked.send(sample).is_err() {
                    return;
                }
            }
        })?;
        Ok(Sampler { processes, edges, samples })
    }

    /// What to call at one edge, on any thread.
    pub(crate) fn edge(&self) -> Box<dyn FnOnce() + Send> {
        let (processes, edges) = (self.processes, self.edges.clone());
        Box::new(move || {
            let sample = Sample {
                relay: cpu_time(processes.relay).ok(),
                sinks: cpu_time(processes.sinks).ok(),
                loadgen: cpu_time(processes.loadgen).ok(),
                loadgen_ring: rings::here(),
                ..Sample::default()
            };
            // The receiver is gone only when the bench is over.
            let _ = edges.send(sample);
        })
    }

    /// What was used between both edges; nothing is known when an edge was never reached.
    pub(crate) fn usage(self) -> Usage {
        let Sampler { edges, samples, .. } = self;
        drop(edges);
        let mut edges = (0..2).map_while(|_| samples.recv_timeout(CONTROL_WITHIN * 2).ok());
        match (edges.next(), edges.next()) {
            (Some(start), Some(end)) => Usage::between(&start, &end),
            _ => Usage::default(),
        }
    }
}

/// Asks the relay behind `control` for its counters.
fn stats(control: &Path) -> io::Result<Answer> {
    let asked_ns = now().as_nanos();
    let counts = ask(control)?;
    Ok(Answer { counts, asked_ns, answered_ns: now().as_nanos() })
}

fn ask<T: DeserializeOwned>(control: &Path) -> io::Result<T> {
    let mut stream = UnixStream::connect(control)?;
    stream.set_read_timeout(Some(CONTROL_WITHIN))?;
    stream.write_all(&Request::Stats.encode())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}
