//! The shard's side: recording costs one histogram increment, and closing a second moves a pointer.

use hdrhistogram::Histogram;

use super::{Milestone, SECOND_NS, Window, empty_histogram};

/// Seconds kept open per milestone: events of the second before the current one still come in cheaply.
const OPEN_SECONDS: usize = 2;

/// How long after its end a second stays on the shard, so that stragglers do not open it anew.
const GRACE_NS: u64 = SECOND_NS / 4;

/// Records the latencies of one shard. It belongs to one thread; its [`Batch`]es go to the run's
/// [`Collector`](super::Collector).
pub struct Recorder {
    window: Window,
    open: [[Option<Interval>; OPEN_SECONDS]; Milestone::ALL.len()],
    closed: Vec<Interval>,
    late: Vec<Late>,
}

/// What one shard has recorded since its last batch. `Send`: merge it off the shard.
#[derive(Default)]
pub struct Batch {
    pub(super) closed: Vec<Interval>,
    pub(super) late: Vec<Late>,
}

/// The latencies of one milestone whose events fell into one second.
pub(super) struct Interval {
    pub(super) milestone: Milestone,
    /// Seconds since the window's start.
    pub(super) second: u32,
    pub(super) histogram: Histogram<u32>,
}

/// One latency whose second had left the shard's open seconds when it came.
pub(super) struct Late {
    pub(super) milestone: Milestone,
    pub(super) second: u32,
    pub(super) latency_ns: u64,
}

impl Recorder {
    /// A recorder of what happens in `window`. It allocates when a milestone is first recorded.
    pub fn new(window: Window) -> Recorder {
        Recorder { window, open: Default::default(), closed: Vec::new(), late: Vec::new() }
    }

    /// Counts an event that happened at `at_ns` and took `latency_ns` from its intended time. Events outside the
    /// window are not counted: that rule has its one place here.
    pub fn record(&mut self, milestone: Milestone, at_ns: u64, latency_ns: u64) {
        if !self.window.contains(at_ns) {
            return;
        }
        let second = ((at_ns - self.window.start_ns) / SECOND_NS) as u32;
        let slot = &mut self.open[milestone.index()][second as usize % OPEN_SECONDS];
        match slot {
            Some(interval) if interval.second == second => interval.histogram.saturating_record(latency_ns),
            Some(interval) if interval.second > second => {
                self.late.push(Late { milestone, second, latency_ns })
            }
            _ => {
                let mut histogram = empty_histogram();
                histogram.saturating_record(latency_ns);
                let fresh = Interval { milestone, second, histogram };
                self.closed.extend(slot.replace(fresh));
            }
        }
    }

    /// Hands over what is complete at `now_ns`; `None` when there is nothing. Call it about once a second: what is
    /// complete and not taken stays in memory (132 KiB per milestone and second).
    pub fn take_closed(&mut self, now_ns: u64) -> Option<Batch> {
        for slot in self.open.iter_mut().flatten() {
            let over = |interval: &mut Interval| {
                let end_ns = self.window.start_ns + (u64::from(interval.second) + 1) * SECOND_NS;
                now_ns >= end_ns + GRACE_NS
            };
            self.closed.extend(slot.take_if(over));
        }
        if self.closed.is_empty() && self.late.is_empty() {
            return None;
        }
        Some(Batch { closed: std::mem::take(&mut self.closed), late: std::mem::take(&mut self.late) })
    }

    /// Hands over everything that is left.
    pub fn finish(mut self) -> Batch {
        self.closed.extend(self.open.into_iter().flatten().flatten());
        Batch { closed: self.closed, late: self.late }
    }
}
