//! The finished measurement: totals, quantiles and the series over time.

use std::collections::BTreeMap;

use hdrhistogram::{Counter, Histogram};
use serde::{Deserialize, Serialize};

use super::track::{Track, decode};
use super::{Milestone, Window};

/// Everything measured in a run's window, per milestone and second.
pub struct Recording {
    window: Window,
    tracks: [Option<Track>; Milestone::ALL.len()],
    events: BTreeMap<u32, [u64; Milestone::ALL.len()]>,
}

/// The distribution of one milestone, in microseconds, over the messages that were due in the window. A message that had
/// not passed the milestone when nobody looked any more stands in it with the time it had waited: censored.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    /// Samples, censored ones included.
    pub count: u64,
    /// Smallest.
    pub min: f64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Largest.
    pub max: f64,
    /// Samples that are censored.
    #[serde(default)]
    pub censored: u64,
    /// The same figures with every censored sample at infinity; `None` when there is none. A figure that differs from
    /// its upper one is a lower bound.
    #[serde(default)]
    pub upper: Option<Upper>,
}

/// Figures of a distribution whose censored samples are at infinity; `None` is infinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Upper {
    /// Smallest.
    pub min: Option<f64>,
    /// Arithmetic mean.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
    /// 99.9th percentile.
    pub p999: Option<f64>,
    /// Largest.
    pub max: Option<f64>,
}

/// The distributions of all milestones; `None` for one that was not measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyUs {
    /// [`Milestone::Connect`].
    #[serde(default)]
    pub connect: Option<LatencySummary>,
    /// [`Milestone::Tls`].
    #[serde(default)]
    pub tls: Option<LatencySummary>,
    /// From the AUTH command until the server had let a connection in.
    #[serde(default)]
    pub auth: Option<LatencySummary>,
    /// How late sends began.
    pub schedule_lag: Option<LatencySummary>,
    /// To the final 250.
    pub accept: Option<LatencySummary>,
    /// To acceptance by the sink.
    pub arrive: Option<LatencySummary>,
    /// To a verified copy in a reader's hands.
    pub visible: Option<LatencySummary>,
    /// Of those, through IMAP.
    pub visible_imap: Option<LatencySummary>,
    /// Of those, through POP3.
    pub visible_pop3: Option<LatencySummary>,
}

/// One second of one milestone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Second {
    /// Seconds since the window's start.
    pub second: u32,
    /// Length of the interval in seconds: 1, less for the last one of a window that is no whole number of seconds.
    pub length_s: f64,
    /// Events in it.
    pub count: u64,
    /// Median in microseconds; `None` when it has no events.
    pub p50_us: Option<f64>,
    /// 99th percentile in microseconds; `None` when it has no events.
    pub p99_us: Option<f64>,
}

impl LatencyUs {
    /// The distribution of one milestone.
    pub fn of(&self, milestone: Milestone) -> Option<&LatencySummary> {
        match milestone {
            Milestone::Connect => self.connect.as_ref(),
            Milestone::Tls => self.tls.as_ref(),
            Milestone::Auth => self.auth.as_ref(),
            Milestone::ScheduleLag => self.schedule_lag.as_ref(),
            Milestone::Accept => self.accept.as_ref(),
            Milestone::Arrive => self.arrive.as_ref(),
            Milestone::Visible => self.visible.as_ref(),
            Milestone::VisibleImap => self.visible_imap.as_ref(),
            Milestone::VisiblePop3 => self.visible_pop3.as_ref(),
        }
    }
}

impl Recording {
    pub(super) fn new(
        window: Window,
        tracks: [Option<Track>; Milestone::ALL.len()],
        events: BTreeMap<u32, [u64; Milestone::ALL.len()]>,
    ) -> Recording {
        Recording { window, tracks, events }
    }

    /// The measured window.
    pub fn window(&self) -> Window {
        self.window
    }

    /// The distribution of the whole window in nanoseconds; `None` when the milestone was not measured.
    pub fn total(&self, milestone: Milestone) -> Option<&Histogram<u64>> {
        self.tracks[milestone.index()].as_ref().map(|track| &track.total)
    }

    /// Samples of a milestone, censored ones included.
    pub fn count(&self, milestone: Milestone) -> u64 {
        self.total(milestone).map_or(0, Histogram::len)
    }

    /// Samples of a milestone that are censored.
    pub fn censored(&self, milestone: Milestone) -> u64 {
        let track = self.tracks[milestone.index()].as_ref();
        track.and_then(|track| track.censored.as_ref()).map_or(0, Histogram::len)
    }

    /// How often a milestone was passed inside the window, whenever the message was due.
    pub fn events(&self, milestone: Milestone) -> u64 {
        self.events.values().map(|counts| counts[milestone.index()]).sum()
    }

    /// The same, second by second: length in seconds and count, for every second of the window.
    pub fn events_by_second(&self, milestone: Milestone) -> Vec<(f64, u64)> {
        let count = |second| self.events.get(&second).map_or(0, |counts| counts[milestone.index()]);
        (0..self.window.intervals()).map(|second| (self.interval_length_s(second), count(second))).collect()
    }

    /// The figures of a milestone for `run.json`; `None` when it was not measured.
    pub fn summary(&self, milestone: Milestone) -> Option<LatencySummary> {
        let total = self.total(milestone)?;
        let percentile = |percent| us(value_at_percentile(total, percent));
        Some(LatencySummary {
            count: total.len(),
            min: us(total.min()),
            mean: total.mean().round() / 1000.0,
            p50: percentile(50.0),
            p90: percentile(90.0),
            p99: percentile(99.0),
            p999: percentile(99.9),
            max: us(total.max()),
            censored: self.censored(milestone),
            upper: self.upper(milestone, total),
        })
    }

    /// The figures with every censored sample at infinity; `None` when there is none.
    fn upper(&self, milestone: Milestone, total: &Histogram<u64>) -> Option<Upper> {
        let censored = self.tracks[milestone.index()].as_ref()?.censored.as_ref()?;
        let mut answered = total.clone();
        answered.subtract(censored).expect("every censored sample is in the total, in the same bounds");
        let rank = |rank: u64| (rank <= answered.len()).then(|| us(value_at_rank(&answered, rank)));
        let percentile = |percent| rank(rank_of_percentile(total, percent));
        Some(Upper {
            min: rank(1),
            mean: None,
            p50: percentile(50.0),
            p90: percentile(90.0),
            p99: percentile(99.0),
            p999: percentile(99.9),
            max: None,
        })
    }

    /// The figures of all milestones.
    pub fn latency_us(&self) -> LatencyUs {
        LatencyUs {
            connect: self.summary(Milestone::Connect),
            tls: self.summary(Milestone::Tls),
            auth: self.summary(Milestone::Auth),
            schedule_lag: self.summary(Milestone::ScheduleLag),
            accept: self.summary(Milestone::Accept),
            arrive: self.summary(Milestone::Arrive),
            visible: self.summary(Milestone::Visible),
            visible_imap: self.summary(Milestone::VisibleImap),
            visible_pop3: self.summary(Milestone::VisiblePop3),
        }
    }

    /// The milestone over time, one entry per second of the window, empty seconds included; no entries when the
    /// milestone was not measured.
    pub fn seconds(&self, milestone: Milestone) -> Vec<Second> {
        let Some(closed) = self.closed(milestone) else { return Vec::new() };
        let one = |second| {
            let histogram =
                closed.get(&second).map(|bytes| decode(bytes)).filter(|histogram| !histogram.is_empty());
            Second {
                second,
                length_s: self.interval_length_s(second),
                count: histogram.as_ref().map_or(0, Histogram::len),
                p50_us: histogram.as_ref().map(|histogram| us(value_at_percentile(histogram, 50.0))),
                p99_us: histogram.as_ref().map(|histogram| us(value_at_percentile(histogram, 99.0))),
            }
        };
        (0..self.window.intervals()).map(one).collect()
    }

    /// The seconds of a milestone that had events, in V2 deflate form.
    pub(super) fn closed(&self, milestone: Milestone) -> Option<&BTreeMap<u32, Vec<u8>>> {
        self.tracks[milestone.index()].as_ref().map(|track| &track.closed)
    }

    /// Length in seconds of the interval that begins `second` seconds into the window.
    pub(super) fn interval_length_s(&self, second: u32) -> f64 {
        (self.window.seconds() - f64::from(second)).clamp(0.0, 1.0)
    }
}

/// The value at a percentile, by the rank rule of PyPI's hdrhistogram (`percent * count / 100`, rounded half up), so
/// that it finds in the log what `run.json` says. The crate's own rule rounds the rank up; where samples are sparse
/// the one rank between them is another bucket.
fn value_at_percentile<C: Counter>(histogram: &Histogram<C>, percent: f64) -> u64 {
    value_at_rank(histogram, rank_of_percentile(histogram, percent))
}

fn rank_of_percentile<C: Counter>(histogram: &Histogram<C>, percent: f64) -> u64 {
    (percent * histogram.len() as f64 / 100.0 + 0.5).floor().max(1.0) as u64
}

/// The value of the sample at `rank`, counted from 1.
fn value_at_rank<C: Counter>(histogram: &Histogram<C>, rank: u64) -> u64 {
    // Half a rank below, so that rounding up ends on the rank whatever the division lost.
    histogram.value_at_quantile((rank as f64 - 0.5) / histogram.len() as f64)
}

/// Nanoseconds as microseconds.
fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::super::{Collector, Recorder, SECOND_NS, empty_histogram};
    use super::*;

    const WINDOW: Window = Window { start_ns: 1_000_000_000, end_ns: 4_500_000_000 };

    fn counts(recording: &Recording, milestone: Milestone) -> Vec<u64> {
        recording.seconds(milestone).iter().map(|second| second.count).collect()
    }

    /// With censored samples at infinity a quantile is unknown from their rank on and the same below; the quantiles
    /// themselves take the time that was waited.
    #[test]
    fn censored_samples_bound_quantiles_from_below() {
        let mut recorder = Recorder::new(WINDOW);
        for latency in 1..=98u64 {
            recorder.record(Milestone::Accept, 1_500_000_000, latency);
        }
        // One that waited long, and one that was given up at once: both may be anything from there on.
        recorder.record_censored(Milestone::Accept, 1_500_000_000, 500);
        recorder.record_censored(Milestone::Accept, 1_500_000_000, 0);
        recorder.record_censored(Milestone::Accept, 999, 0);
        let mut collector = Collector::new(WINDOW);
        collector.absorb(recorder.finish());
        let accept = collector.finish().summary(Milestone::Accept).expect("it was measured");
        let upper = accept.upper.expect("there are censored samples");
        assert_eq!((accept.count, accept.censored), (100, 2));
        assert_eq!((accept.p50, upper.p50), (0.049, Some(0.050)));
        assert_eq!((accept.p99, upper.p99), (0.098, None));
        assert!(accept.max == 0.5 && upper.max.is_none() && upper.mean.is_none(), "{accept:?}");
        assert_eq!(upper.min, Some(0.001));
    }

    /// What happened is counted by its own time, whenever the message was due, and adds up over shards.
    #[test]
    fn throughput_counts_by_the_time_of_the_event() {
        let mut collector = Collector::new(WINDOW);
        for _ in 0..2 {
            let mut recorder = Recorder::new(WINDOW);
            for at_ns in [999_999_999, 1_000_000_000, 2_500_000_000, 4_499_999_999, 4_500_000_000] {
                recorder.count(Milestone::VisibleImap, at_ns, 3);
            }
            collector.absorb(recorder.finish());
        }
        let recording = collector.finish();
        assert_eq!((recording.events(Milestone::Visible), recording.events(Milestone::Accept)), (18, 0));
        let seconds = recording.events_by_second(Milestone::VisibleImap);
        assert_eq!(seconds, [(1.0, 6), (1.0, 6), (1.0, 0), (0.5, 6)]);
    }

    /// Every connection counts: one made before the window in its first second, one made after it in the last.
    #[test]
    fn connections_count_whenever_they_were_made() {
        let mut recorder = Recorder::new(WINDOW);
        for at_ns in [5, 2_500_000_000, 4_500_000_000, 9_000_000_000] {
            recorder.record_connection(Milestone::Connect, at_ns, 1000);
        }
        let mut collector = Collector::new(WINDOW);
        collector.absorb(recorder.finish());
        let recording = collector.finish();
        assert_eq!(counts(&recording, Milestone::Connect), [1, 1, 0, 2]);
        assert_eq!(
            recording.latency_us().connect.map(|summary| (summary.count, summary.p99)),
            Some((4, 1.0))
        );
    }

    /// A message counts in the second in which it was due, and not at all outside the window.
    #[test]
    fn samples_count_in_their_second_and_inside_the_window() {
        let mut recorder = Recorder::new(WINDOW);
        for at_ns in [999_999_999, 1_000_000_000, 1_999_999_999, 2_000_000_000, 4_499_999_999, 4_500_000_000]
        {
            recorder.record(Milestone::Accept, at_ns, 1000);
        }
        let mut collector = Collector::new(WINDOW);
        collector.absorb(recorder.finish());
        let recording = collector.finish();
        assert_eq!(counts(&recording, Milestone::Accept), [2, 1, 0, 1]);
        let lengths: Vec<_> =
            recording.seconds(Milestone::Accept).iter().map(|second| second.length_s).collect();
        assert_eq!(lengths, [1.0, 1.0, 1.0, 0.5]);
        assert_eq!(recording.summary(Milestone::Arrive), None);
    }

    /// Shards that hand over at different times, out of order and long after a second was compressed lose nothing.
    #[test]
    fn stragglers_reach_their_second_after_it_was_compressed() {
        let window = Window { start_ns: 0, end_ns: 20_000_000_000 };
        let mut collector = Collector::new(window);
        let mut slow = Recorder::new(window);
        let mut fast = Recorder::new(window);
        for second in 0..20u64 {
            let at_ns = second * SECOND_NS;
            fast.record(Milestone::Arrive, at_ns, 5_000);
            slow.record(Milestone::Arrive, at_ns, 7_000);
            collector.absorb(fast.take_closed(at_ns + 2 * SECOND_NS).expect("a second is over"));
            // This one belongs to a second that both the shard and the collector have given up.
            slow.record(Milestone::Arrive, at_ns / 4, 9_000);
        }
        collector.absorb(slow.finish());
        collector.absorb(fast.finish());
        assert_eq!(collector.total(Milestone::Arrive).map(Histogram::len), Some(60));
        let recording = collector.finish();
        let expected: Vec<u64> = (0..20).map(|second| if second < 5 { 2 + 4 } else { 2 }).collect();
        assert_eq!(counts(&recording, Milestone::Arrive), expected);
        assert_eq!(recording.count(Milestone::Arrive), 60);
    }

    /// A second stays on the shard until its stragglers have had their time, and is handed over once.
    #[test]
    fn a_second_is_handed_over_after_its_grace() {
        let mut recorder = Recorder::new(WINDOW);
        recorder.record(Milestone::Accept, 1_500_000_000, 1000);
        assert!(recorder.take_closed(2_100_000_000).is_none());
        assert!(recorder.take_closed(2_250_000_000).is_some());
        assert!(recorder.take_closed(9_000_000_000).is_none());
    }

    /// Both ways of reading add up to `visible`, and latencies beyond the largest count as the largest.
    #[test]
    fn visible_is_the_merge_of_both_readers() {
        let mut recorder = Recorder::new(WINDOW);
        recorder.record(Milestone::VisibleImap, 2_000_000_000, 1_000);
        recorder.record(Milestone::VisiblePop3, 2_000_000_000, u64::MAX);
        let mut collector = Collector::new(WINDOW);
        collector.absorb(recorder.finish());
        let latency = collector.finish().latency_us();
        let visible = latency.visible.expect("both readers count");
        assert_eq!((visible.count, visible.min), (2, 1.0));
        assert!((3.6e9..3.61e9).contains(&visible.max), "{}", visible.max);
        assert_eq!(latency.visible_imap.map(|imap| imap.count), Some(1));
        assert_eq!(latency.accept, None);
    }

    /// A percentile is the value at the rank that PyPI's hdrhistogram takes, at every count.
    #[test]
    fn percentiles_take_the_rank_rounded_half_up() {
        let mut histogram = empty_histogram::<u64>();
        for count in 1..=400u64 {
            histogram.record(count).expect("the value is in range");
            for percent in [50u64, 90, 99] {
                let rank = ((percent * count + 50) / 100).max(1);
                assert_eq!(value_at_percentile(&histogram, percent as f64), rank, "p{percent} of {count}");
            }
        }
    }
}
