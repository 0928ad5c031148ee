//! The run record, `run.json`, schema `chasqui.run/1` (`report/schema/run.schema.json`).
//!
//! Keys may be added, never renamed. What is not known is `null`, never 0; times are RFC 3339; durations are
//! microseconds as numbers.

mod allowed;
mod columns;
mod gate;
mod ledger;
mod load;
mod parts;
mod scenario;
mod validity;
mod verdict;

pub use allowed::Allowed;
pub use columns::{Column, Counts, Ledger, Place, Weight};
pub use gate::{Gate, GateError, GateResult, GateVerdict};
pub use ledger::LedgerError;
pub use load::{Connections, Due};
pub use parts::{
    Chasqui, Clock, ClockKind, CountedBy, CpuPerMessage, Machine, MemoryBytes, Spool, Syncs, Throughput,
};
pub use scenario::{ArrivalProcess, Mode, ParseError, Rate, Scenario, TlsMode, Verify};
pub use validity::Validity;
pub use verdict::Verdict;

use std::collections::BTreeMap;
use std::time::Duration;

pub use chasqui_protocol::durability::Durability;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::latency::LatencyUs;
use crate::timestamp::Timestamp;

/// The name and version of the record's schema.
pub const SCHEMA: &str = "chasqui.run/1";

/// One run, as `run.json` holds it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// The program that ran.
    pub chasqui: Chasqui,
    /// The machine it ran on.
    pub machine: Machine,
    /// Which cores each part ran on, by its name.
    pub placement: BTreeMap<String, Vec<usize>>,
    /// What was asked for; `None`, `{}` in `run.json`, when it is not known.
    #[serde(with = "scenario::object")]
    pub scenario: Option<Scenario>,
    /// Seed of the schedule and of every random choice.
    pub seed: Option<u64>,
    /// When the measured window began.
    pub started: Timestamp,
    /// Length of the measured window in seconds.
    pub window_s: f64,
    /// What the whole run took in seconds, from its first connection to its judgement; `None` when it is not known.
    #[serde(default)]
    pub took_s: Option<f64>,
    /// What an accepted message survives; `None` when it is not known, as with a foreign MTA.
    pub durability: Option<Durability>,
    /// The clock that latencies were taken from.
    pub clock: Clock,
    /// Where every recipient ended, over the whole run.
    pub ledger: Ledger,
    /// What may go wrong without failing the run.
    #[serde(default)]
    pub allowed: Allowed,
    /// What was due in the window; `None` when it is not known.
    #[serde(default)]
    pub due: Option<Due>,
    /// The connections that the load went over; `None` when they are not known.
    #[serde(default)]
    pub connections: Option<Connections>,
    /// Rates inside the window.
    pub throughput: Throughput,
    /// Accepted and not arrived at the end of the window.
    pub backlog_end: Option<u64>,
    /// Latencies of the messages that were due inside the window.
    pub latency_us: LatencyUs,
    /// Processor time of each part, per message.
    pub cpu_us_per_message: CpuPerMessage,
    /// Memory of each part.
    pub memory_bytes: MemoryBytes,
    /// The relay's syncs inside the window.
    pub syncs: Syncs,
    /// How well the schedule was kept; `None` in a closed loop.
    #[serde(default)]
    pub validity: Option<Validity>,
    /// Why the run is invalid; empty when it is not.
    #[serde(default)]
    pub invalid_reasons: Vec<String>,
    /// What a reader of the figures should know.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What each gate came to.
    pub gates: Vec<GateResult>,
    /// What the run came to.
    pub verdict: Verdict,
    /// Further keys.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Run {
    /// A record of which nothing is known yet but when its window began and how many seconds it lasted. It is
    /// invalid until it is judged.
    pub fn new(started: Timestamp, window_s: f64) -> Run {
        Run {
            schema: SCHEMA.to_owned(),
            chasqui: Chasqui::default(),
            machine: Machine::default(),
            placement: BTreeMap::new(),
            scenario: None,
            seed: None,
            started,
            window_s,
            took_s: None,
            durability: None,
            clock: Clock::default(),
            ledger: Ledger::default(),
            allowed: Allowed::default(),
            due: None,
            connections: None,
            throughput: Throughput::default(),
            backlog_end: None,
            latency_us: LatencyUs::default(),
            cpu_us_per_message: CpuPerMessage::default(),
            memory_bytes: MemoryBytes::default(),
            syncs: Syncs::default(),
            validity: None,
            invalid_reasons: Vec::new(),
            warnings: Vec::new(),
            gates: Vec::new(),
            verdict: Verdict::Invalid,
            extra: Map::new(),
        }
    }

    /// Holds the gates against the figures, adds what makes the run invalid (nothing measured, a schedule not kept, a
    /// ledger that does not add up) to the reasons already there, and decides the verdict. Call it once, last.
    pub fn judge(&mut self, gates: &[Gate]) {
        self.gates = gates.iter().map(|gate| gate.evaluate(self)).collect();
        self.invalid_reasons.extend(self.due.iter().flat_map(Due::faults));
        self.invalid_reasons.extend(self.validity.iter().flat_map(Validity::faults));
        self.invalid_reasons.extend(self.ledger.check().err().map(|error| error.to_string()));
        let delivery = self.delivery_faults();
        self.verdict =
            Verdict::decide(&delivery, &self.invalid_reasons, self.shortfall().as_ref(), &self.gates);
    }

    /// Why delivery failed, one line per reason; empty when it did not.
    pub fn delivery_faults(&self) -> Vec<String> {
        self.ledger.delivery_faults(&self.allowed)
    }

    /// Why too little of the load was taken; `None` when enough was.
    pub fn shortfall(&self) -> Option<String> {
        self.due.and_then(|due| due.shortfall(&self.allowed))
    }

    /// The record as `run.json` holds it, indented, with a final newline.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("the record's map keys are strings");
        text.push('\n');
        text
    }

    /// Reads a record.
    pub fn from_json(text: &str) -> Result<Run, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// A record with every key of the schema, to check a gate's path against.
    fn template() -> Run {
        let run = Run::new(Timestamp::from_unix(Duration::ZERO), 0.0);
        Run {
            validity: Some(Validity::default()),
            due: Some(Due::default()),
            connections: Some(Connections::default()),
            ..run
        }
    }
}
