//! The load generator: sends stamped mail as a scenario says, follows every message to its mailbox, and judges
//! what became of each recipient.
//!
//! A run has generator shards (schedule, SMTP connections, ledger, arrival streams) and reader shards (POP3 and
//! IMAP). The shard that sent a message owns its ledger entry; what others learn about it comes to that shard's
//! inbox in batches. A coordinator on generator shard 0 leads all of them through the phases of [`Phase`].
//!
//! What is absent: nothing is ever sent again, nothing is decided about a recipient before everything that can
//! be known is known, and neither relay nor sinks are linked: all knowledge comes over sockets.

mod anomalies;
mod directory;
mod generator;
pub mod ledger;
mod message;
mod notes;
mod outcome;
mod plan;
mod queue_ids;
mod reader;
mod run;
mod scenario;
mod schedule;
mod shared;
mod size;

pub use anomalies::Anomaly;
pub use chasqui_report::{ArrivalProcess, Counts, ParseError, Rate, Verify};
pub use directory::Directory;
pub use generator::Hooks;
pub use ledger::Beside;
pub use outcome::{Outcome, Throughput};
pub use run::{Placement, RunError, Running, StartError, Stopper, start};
pub use scenario::{Scenario, ScenarioError, ValidityLimits};
pub use shared::{Phase, Progress};
pub use size::{ByteSize, SizeDistribution, SizeError};
