//! The smaller objects of the run record. In all of them what is not known is `None`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The program that ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chasqui {
    /// Version of the package.
    pub version: String,
    /// Commit it was built from.
    pub git: Option<String>,
    /// The runtime engine it ran on.
    pub engine: Option<String>,
}

impl Default for Chasqui {
    fn default() -> Chasqui {
        Chasqui { version: env!("CARGO_PKG_VERSION").to_owned(), git: None, engine: None }
    }
}

/// The machine that the run was made on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: Option<String>,
    /// Processors the run could use.
    pub cores: Option<u32>,
    /// Memory of the machine.
    pub memory_bytes: Option<u64>,
    /// Operating system and its release.
    pub kernel: Option<String>,
    /// Where the relay's spool was; unknown with a foreign MTA.
    pub spool: Spool,
    /// Further keys.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The file system and device under the relay's spool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spool {
    /// Kind of file system.
    pub fs: Option<String>,
    /// The device it is on.
    pub device: Option<String>,
    /// Median duration of an fdatasync there, measured before the run, in microseconds.
    pub fdatasync_us_p50: Option<f64>,
    /// Further keys.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The clock that times were taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Clock {
    /// Which clock.
    pub kind: ClockKind,
    /// How far the clocks of two parts may be apart, in microseconds. 0 within one boot and time namespace.
    pub uncertainty_us: Option<f64>,
}

/// Which clock times were taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClockKind {
    /// CLOCK_MONOTONIC, within one boot and time namespace.
    #[default]
    Monotonic,
    /// CLOCK_REALTIME, between machines.
    Realtime,
}

/// Events a second inside the window: what happened in it, whenever it was due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Recipients accepted.
    pub accepted_per_s: Option<f64>,
    /// Recipients arrived.
    pub arrived_per_s: Option<f64>,
    /// Recipients verified; unknown when the readers started after the window.
    pub verified_per_s: Option<f64>,
    /// Bytes of accepted messages.
    pub bytes_per_s: Option<f64>,
    /// By which clock these count, unlike latencies, which belong to the messages that were due in the window.
    #[serde(default)]
    pub counted_by: CountedBy,
}

/// By which clock something is in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CountedBy {
    /// It happened in the window.
    #[default]
    TimeOfEvent,
    /// It was due in the window.
    DueTime,
}

/// Processor time over the window, kernel workers and control threads included, in microseconds per message:
/// accepted ones for the load generator, arrived ones for relay and sinks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuPerMessage {
    /// The relay.
    pub relay: Option<f64>,
    /// The load generator without its readers.
    pub loadgen: Option<f64>,
    /// The sinks.
    pub sinks: Option<f64>,
    /// The mailbox readers.
    pub verify: Option<f64>,
    /// Further keys.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Memory of each part.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemoryBytes {
    /// Largest resident set of the relay.
    pub relay_peak_rss: Option<u64>,
    /// Largest resident set of the load generator.
    pub loadgen_peak_rss: Option<u64>,
    /// Largest resident set of the sinks.
    pub sinks_peak_rss: Option<u64>,
    /// Further keys.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The relay's fdatasyncs inside the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Syncs {
    /// How many completed.
    pub count: Option<u64>,
    /// Messages made durable per sync.
    pub messages_per_sync: Option<f64>,
    /// Further keys.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}
