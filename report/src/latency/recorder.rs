//! The shard's side: recording costs one histogram increment, and closing a second moves a pointer.

use hdrhistogram::Histogram;

use super::{Milestone, SECOND_NS, Window, empty_histogram};

/// Seconds kept open per milestone: events of the second before the current one still come in cheaply.
const OPEN_SECONDS: usize = 2;

/// How long after its end a second stays on the shard, so that stragglers do not open it anew.
const GRACE_NS: u64 = SECOND_NS / 4;

/// Records the latencies of one shard. It belongs to one thread; its [`Batch`]es go to the run's
/// [`Collector`](super::Collector).
///
/// Two clocks: a latency belongs to the message that was *due* in the window, whenever it was answered, and stands in the
/// second in which it was due. What [`Recorder::count`] is told *happened* in the window, whenever it was due: that is
/// throughput.
pub struct Recorder {
    window: Window,
    open: [[Option<Interval>; OPEN_SECONDS]; Milestone::ALL.len()],
    closed: Vec<Interval>,
    late: Vec<Late>,
    events: Vec<Events>,
}

/// What one shard has recorded since its last batch. `Send`: merge it off the shard.
#[derive(Default)]
pub struct Batch {
    pub(super) closed: Vec<Interval>,
    pub(super) late: Vec<Late>,
    pub(super) events: Vec<Events>,
}

/// How often each milestone was passed in one second.
pub(super) struct Events {
    /// Seconds since the window's start.
    pub(super) second: u32,
    pub(super) counts: [u64; Milestone::ALL.len()],
}

/// The latencies of one milestone whose messages were due in one second.
pub(super) struct Interval {
    pub(super) milestone: Milestone,
    /// Seconds since the window's start.
    pub(super) second: u32,
    pub(super) histogram: Histogram<u32>,
}

/// One latency whose second had left the shard's open seconds when it came, or a censored one.
pub(super) struct Late {
    pub(super) milestone: Milestone,
    pub(super) second: u32,
    pub(super) latency_ns: u64,
    pub(super) censored: bool,
}

impl Recorder {
    /// A recorder of what happens in `window`. It allocates when a milestone is first recorded.
    pub fn new(window: Window) -> Recorder {
        Recorder {
            window,
            open: Default::default(),
            closed: Vec::new(),
            late: Vec::new(),
            events: Vec::new(),
        }
    }

    /// Enters the latency of a message that was due at `due_ns`. Messages that were due outside the window have no
    /// sample: that rule has its one place here.
    pub fn record(&mut self, milestone: Milestone, due_ns: u64, latency_ns: u64) {
        let Some(second) = self.second(due_ns) else { return };
        let slot = &mut self.open[milestone.index()][second as usize % OPEN_SECONDS];
        match slot {
            Some(interval) if interval.second == second => interval.histogram.saturating_record(latency_ns),
            Some(interval) if interval.second > second => {
                self.late.push(Late { milestone, second, latency_ns, censored: false })
            }
            _ => {
                let mut histogram = empty_histogram();
                histogram.saturating_record(latency_ns);
                let fresh = Interval { milestone, second, histogram };
                self.closed.extend(slot.replace(fresh));
            }
        }
    }

    /// Enters how long a step in the making of a connection took that was over at `at_ns`. Every one has a sample: one from before
    /// the window, in its first second, one from after it, in the last.
    pub fn record_connection(&mut self, milestone: Milestone, at_ns: u64, took_ns: u64) {
        let last_ns = self.window.end_ns.saturating_sub(1);
        self.record(milestone, at_ns.min(last_ns).max(self.window.start_ns), took_ns);
    }

    /// Enters that a message that was due at `due_ns` had not passed the milestone when nobody looked any more, after
    /// `waited_ns`: its latency is that or more.
    pub fn record_censored(&mut self, milestone: Milestone, due_ns: u64, waited_ns: u64) {
        if let Some(second) = self.second(due_ns) {
            self.late.push(Late { milestone, second, latency_ns: waited_ns, censored: true });
        }
    }

    /// Counts `count` recipients that passed a milestone at `at_ns`, if that is in the window.
    pub fn count(&mut self, milestone: Milestone, at_ns: u64, count: u64) {
        let Some(second) = self.second(at_ns) else { return };
        // Times come nearly in order: what is looked for is the last, or close to it.
        let position = self.events.iter().rposition(|events| events.second == second);
        let position = position.unwrap_or_else(|| {
            self.events.push(Events { second, counts: Default::default() });
            self.events.len() - 1
        });
        self.events[position].counts[milestone.index()] += count;
    }

    /// Latencies that wait for [`Recorder::take_closed`] one by one.
    pub fn waiting(&self) -> usize {
        self.late.len()
    }

    /// The second of the window that a time falls into.
    fn second(&self, at_ns: u64) -> Option<u32> {
        self.window.contains(at_ns).then(|| ((at_ns - self.window.start_ns) / SECOND_NS) as u32)
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
        let (closed, late) = (std::mem::take(&mut self.closed), std::mem::take(&mut self.late));
        Some(Batch { closed, late, events: std::mem::take(&mut self.events) })
    }

    /// Hands over everything that is left.
    pub fn finish(mut self) -> Batch {
        self.closed.extend(self.open.into_iter().flatten().flatten());
        Batch { closed: self.closed, late: self.late, events: self.events }
    }
}
