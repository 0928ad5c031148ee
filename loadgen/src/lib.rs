//! The load generator: sends stamped mail as a scenario says, follows every message to its mailbox, and judges
//! what became of each recipient.
//!
//! A run has generator shards (schedule, SMTP connections, ledger, arrival streams) and reader shards (POP3 and
//! IMAP). The shard that sent a message owns its ledger entry; what others learn about it comes to that shard's
//! inbox in batches. A coordinator on generator shard 0 leads all of them through the phases of [`Phase`].
//!
//! What is absent: nothing is ever sent again, nothing is decided about a recipient before everything that can
//! be known is known, and neither relay nor sinks are linked: all knowledge comes over sockets.

mod generator;
pub mod ledger;
mod message;
mod notes;
mod outcome;
mod plan;
mod reader;
mod run;
mod scenario;
mod schedule;
mod shared;

pub use chasqui_report::{ArrivalProcess, Counts, ParseError, Rate, TlsMode, Verify};
pub use generator::Hooks;
pub use ledger::{Anomaly, Beside};
pub use outcome::{Outcome, Throughput};
pub use run::{Placement, Running, StartError, Stopper, start};
pub use scenario::{
    Authentication, ByteSize, Directory, MailboxServer, ReaderAccess, RecipientDistribution, RecipientsError,
    Scenario, ScenarioError, SizeDistribution, SizeError, Target, Tls, TlsTrust, ValidityLimits,
};
pub use shared::{Phase, Progress, RunError};
