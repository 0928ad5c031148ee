//! The run's side, off the shards: merges batches, keeps totals for live figures, compresses seconds that are over.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;

use super::recorder::{Batch, Interval};
use super::track::Track;
use super::{Milestone, Recording, Window};

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
        self.tracks[milestone.index()].get_or_insert_with(Track::new)
    }
}

/// The milestones that an event counts for: both ways of reading also make a message visible.
fn merged_into(milestone: Milestone) -> impl Iterator<Item = Milestone> {
    let both = matches!(milestone, Milestone::VisibleImap | Milestone::VisiblePop3);
    [Some(milestone), both.then_some(Milestone::Visible)].into_iter().flatten()
}
