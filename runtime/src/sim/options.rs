//! What a simulation is like: its network, its disks, its limits and the faults planted in it.

use std::ops::Range;

use super::planted::PlantedFault;

/// How a simulation behaves. Ranges are drawn from uniformly; probabilities lie between 0 and 1.
#[derive(Clone, Debug)]
pub struct Options {
    /// The network between the nodes.
    pub network: NetworkOptions,
    /// The disk of every node.
    pub disk: DiskOptions,
    /// Time between a poll and the next, in nanoseconds.
    pub poll_ns: Range<u64>,
    /// Polls and events after which the simulation counts as stuck.
    pub events_max: u64,
    /// The fault that is planted.
    pub planted: Option<PlantedFault>,
}

/// The network of a simulation.
#[derive(Clone, Debug)]
pub struct NetworkOptions {
    /// Time from one node to another, drawn once for each connection, in microseconds.
    pub latency_us: Range<u64>,
    /// What is added to it for each packet, in microseconds.
    pub jitter_us: Range<u64>,
    /// Bytes of a connection that have been sent and still wait to leave, drawn once for each direction.
    pub buffer_bytes: Range<usize>,
    /// Bytes of a connection that may be under way or unread, drawn once for each direction.
    pub window_bytes: Range<usize>,
    /// How often the window is tiny instead, 8 to 64 bytes, until 16 KiB have been sent.
    pub tiny_window: f64,
    /// How often a connection is reset at some byte of its first 64 KiB.
    pub reset: f64,
    /// How often a side of a connection reads slowly.
    pub slow_reader: f64,
    /// Pause of such a side before it takes more bytes, in microseconds.
    pub slow_reader_us: Range<u64>,
    /// How often a connection whose packets waited for the end of a partition is reset then.
    pub reset_at_heal: f64,
    /// Time after which an unanswered sender gives its connection up, in seconds.
    pub give_up_s: u64,
}

/// The disk of a node.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Time of a read, write or call on a directory, in microseconds.
    pub operation_us: Range<u64>,
    /// Time of an fdatasync, in microseconds.
    pub sync_us: Range<u64>,
    /// How often an fdatasync takes very long.
    pub stall: f64,
    /// Time of such a one, in microseconds.
    pub stall_us: Range<u64>,
    /// How often a read or write moves fewer bytes than asked for.
    pub partial: f64,
    /// Size in bytes; writes beyond it fail with ENOSPC.
    pub capacity_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            network: NetworkOptions::default(),
            disk: DiskOptions::default(),
            poll_ns: 200..4_000,
            events_max: 2_000_000,
            planted: None,
        }
    }
}

impl Default for NetworkOptions {
    fn default() -> Self {
        Self {
            latency_us: 20..2_000,
            jitter_us: 0..200,
            buffer_bytes: 4 * 1024..64 * 1024,
            window_bytes: 2 * 1024..64 * 1024,
            tiny_window: 0.02,
            reset: 0.0,
            slow_reader: 0.02,
            slow_reader_us: 500..20_000,
            reset_at_heal: 0.3,
            give_up_s: 900,
        }
    }
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            operation_us: 5..200,
            sync_us: 100..5_000,
            stall: 0.001,
            stall_us: 100_000..3_000_000,
            partial: 0.02,
            capacity_bytes: 1 << 40,
        }
    }
}

/// How often operations of a disk fail with EIO.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFaults {
    /// Reads.
    pub read: f64,
    /// Writes and the making of files.
    pub write: f64,
    /// fdatasync.
    pub sync: f64,
}
