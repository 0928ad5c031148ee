//! The deterministic simulator: relay, sinks and load generator in one thread, from one seed.
//!
//! Time is virtual, and so are network and disks. A simulation consists of *nodes*: each has a disk and runs one
//! process at a time, whose tasks use the facade of this crate as they would elsewhere. [`crate::Shards::start`]
//! gives the process further shards. The scenario is driven by the code handed to [`Simulation::run`], which is a
//! node of its own and may start, kill and cut off the others. Two processes with one seed take the same steps,
//! and so get the same trace.
//!
//! Unix sockets have one name space for all nodes and do not appear in directories; they know neither partitions
//! nor resets of their own. Everything else of a node's file system is its own.

mod control;
mod disk;
mod driver;
mod event;
mod handle;
mod net;
mod nodes;
mod options;
mod planted;
mod simulation;
mod world;

pub use control::{Killed, Node, Process, calm, events, heal, mark, marks, node, partition};
pub use disk::DiskOperation;
pub(crate) use driver::{Driver, Outgoing, addresses, has_unread, here, shut_down, unlink_unix};
pub(crate) use handle::Handle;
pub use nodes::Kill;
pub use options::{DiskFaults, DiskOptions, NetworkOptions, Options};
pub use planted::PlantedFault;
pub use simulation::{Failure, Outcome, Simulation};
pub(crate) use world::{map_seed, virtual_now, virtual_wall_clock};

use std::time::Duration;

/// Cores that a simulated machine pretends to have.
pub(crate) const CORES: usize = 16;
/// The time of day when the virtual clock stands at zero.
pub(crate) const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// Whether this thread runs a simulation.
pub fn is_running() -> bool {
    virtual_now().is_some()
}
