//! The run's side, off the shards: merges batches, keeps totals for live figures, compresses seconds that are over.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2DeflateSerializer};

use super::recorder::{Batch, Interval};
use super::{Milestone, Recording, Window, empty_histogram};

/// Seconds kept uncompressed per milestone: shards and sinks run a second or two apart.
const OPEN_SECONDS_MAX: usize = 4;

/// Merges the batches of all shards. A second that is over is kept compressed, 1 to 5 KiB per milestone, so an hour
/// of run costs 20 to 100 MiB; a straggler reopens it.
pub struct Collector {
    window: Window,
    tracks: [Option<Track>; Milestone::ALL.len()],
    events: BTreeMap<u32, [u64; Milestone::ALL.len()]>,
    serializer: V2DeflateSerializer,
}

/// Everything recorded for one milestone.
pub(super) struct Track {
    pub(super) total: Histogram<u64>,
    /// Of those, the censored ones; `None` while there is none.
    pub(super) censored: Option<Histogram<u64>>,
    open: BTreeMap<u32, Histogram<u32>>,
    /// By second since the window's start, the histogram in V2 deflate form.
    pub(super) closed: BTreeMap<u32, Vec<u8>>,
}

impl Collector {
    /// A collector for the recorders of the same `window`.
    pub fn new(window: Window) -> Collector {
        let serializer = V2DeflateSerializer::new();
        Collector { window, tracks: Default::default(), events: BTreeMap::new(), serializer }
    }

    /// Merges a batch; batches may come from any shard in any order.
    pub fn absorb(&mut self, batch: Batch) {
        for Interval { milestone, second, histogram } in batch.closed {
            for milestone in merged_into(milestone) {
                self.track(milestone).add(second, &histogram);
            }
        }
        for late in batch.late {
            for milestone in merged_into(late.milestone) {
                self.track(milestone).record(late.second, late.latency_ns, late.censored);
            }
        }
        for events in batch.events {
            let counts = self.events.entry(events.second).or_default();
            for (milestone, count) in Milestone::ALL.into_iter().zip(events.counts) {
                for milestone in merged_into(milestone) {
                    counts[milestone.index()] += count;
                }
            }
        }
        for track in self.tracks.iter_mut().flatten() {
            track.close_down_to(OPEN_SECONDS_MAX, &mut self.serializer);
        }
    }

    /// The window ended at `end_ns`, sooner than planned: the run was stopped.
    pub fn end_early(&mut self, end_ns: u64) {
        self.window.end_ns = self.window.end_ns.min(end_ns).max(self.window.start_ns);
    }

    /// Everything absorbed for a milestone so far, in nanoseconds; `None` when nothing was.
    pub fn total(&self, milestone: Milestone) -> Option<&Histogram<u64>> {
        self.tracks[milestone.index()].as_ref().map(|track| &track.total)
    }

    /// Ends the run: every second compressed.
    pub fn finish(mut self) -> Recording {
        for track in self.tracks.iter_mut().flatten() {
            track.close_down_to(0, &mut self.serializer);
        }
        Recording::new(self.window, self.tracks, self.events)
    }

    fn track(&mut self, milestone: Milestone) -> &mut Track {
        self.tracks[milestone.index()].get_or_insert_with(|| Track {
            total: empty_histogram(),
            censored: None,
            open: BTreeMap::new(),
            closed: BTreeMap::new(),
        })
    }
}

/// The milestones that an event counts for: both ways of reading also make a message visible.
fn merged_into(milestone: Milestone) -> impl Iterator<Item = Milestone> {
    let both = matches!(milestone, Milestone::VisibleImap | Milestone::VisiblePop3);
    [Some(milestone), both.then_some(Milestone::Visible)].into_iter().flatten()
}

impl Track {
    fn add(&mut self, second: u32, histogram: &Histogram<u32>) {
        for step in histogram.iter_recorded() {
            self.total.saturating_record_n(step.value_iterated_to(), step.count_at_value().into());
        }
        self.interval(second).add(histogram).expect("every histogram of a run has the same bounds");
    }

    fn record(&mut self, second: u32, latency_ns: u64, censored: bool) {
        self.total.saturating_record(latency_ns);
        if censored {
            self.censored.get_or_insert_with(empty_histogram).saturating_record(latency_ns);
        }
        self.interval(second).saturating_record(latency_ns);
    }

    fn interval(&mut self, second: u32) -> &mut Histogram<u32> {
        let closed = &mut self.closed;
        self.open
            .entry(second)
            .or_insert_with(|| closed.remove(&second).map_or_else(empty_histogram, |bytes| decode(&bytes)))
    }

    fn close_down_to(&mut self, open_max: usize, serializer: &mut V2DeflateSerializer) {
        while self.open.len() > open_max
            && let Some((second, histogram)) = self.open.pop_first()
        {
            self.closed.insert(second, encode(&histogram, serializer));
        }
    }
}

/// V2 deflate form of a histogram.
pub(super) fn encode(histogram: &Histogram<u32>, serializer: &mut V2DeflateSerializer) -> Vec<u8> {
    let mut bytes = Vec::new();
    serializer
        .serialize(histogram, &mut bytes)
        .expect("writing to memory does not fail and counts fit 63 bits");
    bytes
}

/// The inverse of [`encode`]. It keeps the bounds, so what comes out adds to any histogram of the run.
pub(super) fn decode(bytes: &[u8]) -> Histogram<u32> {
    Deserializer::new().deserialize(&mut &bytes[..]).expect("the bytes come from encode in the same process")
}
