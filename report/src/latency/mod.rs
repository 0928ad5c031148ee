//! Latencies per milestone, from the shard that records them to the files a run leaves.
//!
//! [`Recorder`] (one per shard) → [`Batch`] → [`Collector`] (one per run, off the shards) → [`Recording`].

mod collector;
mod hgrm;
mod hlog;
mod milestone;
mod recorder;
mod recording;
mod track;

pub use collector::Collector;
pub use milestone::Milestone;
pub use recorder::{Batch, Recorder};
pub use recording::{LatencySummary, LatencyUs, Recording, Second, Upper};

use hdrhistogram::{Counter, Histogram};

/// Nanoseconds in a second.
pub(crate) const SECOND_NS: u64 = 1_000_000_000;

/// The largest latency told apart, one hour; what is longer counts as one hour.
pub const LATENCY_NS_MAX: u64 = 3600 * SECOND_NS;

/// Decimal digits that a recorded latency keeps: a quantile is off by at most one part in a thousand.
pub const SIGNIFICANT_DIGITS: u8 = 3;

/// The measured window, in nanoseconds of the clock whose times the caller records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First nanosecond inside.
    pub start_ns: u64,
    /// First nanosecond after it.
    pub end_ns: u64,
}

impl Window {
    /// Whether something that happened at `at_ns` counts.
    pub fn contains(self, at_ns: u64) -> bool {
        (self.start_ns..self.end_ns).contains(&at_ns)
    }

    /// Length in seconds.
    pub fn seconds(self) -> f64 {
        self.end_ns.saturating_sub(self.start_ns) as f64 / SECOND_NS as f64
    }

    /// How many intervals of one second cover it; the last one may be shorter.
    pub(crate) fn intervals(self) -> u32 {
        self.end_ns.saturating_sub(self.start_ns).div_ceil(SECOND_NS) as u32
    }
}

/// An empty histogram of nanoseconds, 132 KiB with 32-bit counts. All histograms of a run have these bounds, so that
/// any two of them add up without loss.
pub(crate) fn empty_histogram<C: Counter>() -> Histogram<C> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, SIGNIFICANT_DIGITS)
        .expect("the bounds are constants that satisfy low >= 1, high >= 2 * low, digits <= 5")
}
