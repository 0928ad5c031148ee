//! What a run leaves behind: latency histograms per milestone, the run record with its ledger and verdict, and the
//! renderers that make a folder of it (`run.json`, `latency.hlog`, `*.hgrm`, `summary.md`, `junit.xml`, `report.html`).
//!
//! The crate reads no clock and opens no socket: its callers pass times in, and the only files it touches are those
//! of a [`RunFolder`].
//!
//! Units: [`Recorder`] takes nanoseconds; histograms hold nanoseconds; everything a person or another program reads
//! (`run.json`, `.hgrm`, summaries) is in microseconds, except the log's maximum column, which HdrHistogram's tools
//! expect in milliseconds.

pub mod folder;
pub mod latency;
pub mod render;
pub mod run;
mod timestamp;

pub use folder::{FolderError, RunFolder};
pub use hdrhistogram::Histogram;
pub use latency::{
    Batch, Collector, LatencySummary, LatencyUs, Milestone, Recorder, Recording, Upper, Window,
};
pub use run::{
    Allowed, ArrivalProcess, Chasqui, Clock, ClockKind, Column, Connections, CountedBy, Counts,
    CpuPerMessage, Due, Durability, Gate, GateError, GateResult, GateVerdict, Ledger, LedgerError, Machine,
    MemoryBytes, Mode, ParseError, Place, Rate, Run, Scenario, Spool, Syncs, Throughput, TlsMode, Validity,
    Verdict, Verify, Weight,
};
pub use timestamp::Timestamp;
