//! `latency.hlog`: HdrHistogram's interval log, version 1.3.
//!
//! Lines are `Tag=NAME,START,LENGTH,MAX,HISTOGRAM`: start in seconds since the Unix epoch, length in seconds, maximum
//! in milliseconds (Java's `HistogramLogWriter` divides by 1,000,000 and so do we, as values are nanoseconds), and the
//! histogram in base64 of its V2 deflate form, values in nanoseconds. The hdrhistogram crate's own writer leaves out
//! the version line and the legend that the Java tools write, so the lines are written here.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::serialization::V2DeflateSerializer;

use super::track::{decode, encode};
use super::{Milestone, Recording, empty_histogram};
use crate::timestamp::Timestamp;

/// The divisor of the maximum column: nanoseconds to milliseconds.
const MAX_VALUE_UNIT_NS: f64 = 1_000_000.0;

impl Recording {
    /// Writes the log: one line per second of the window and measured milestone, empty seconds included, ordered by
    /// time. `started` is the wall-clock time at which the window began.
    pub fn write_hlog(&self, out: &mut impl Write, started: Timestamp) -> io::Result<()> {
        let start_s = started.since_epoch().as_secs_f64();
        writeln!(
            out,
            "#[Chasqui: latencies from the due time, in the second of that time; connect and tls of every connection of the \
             run, earlier ones in the first second, later ones in the last; values in nanoseconds, Interval_Max in milliseconds]"
        )?;
        writeln!(out, "#[Histogram log format version 1.3]")?;
        for milestone in Milestone::ALL {
            let (censored, name) = (self.censored(milestone), milestone.name());
            if censored > 0 {
                writeln!(out, "#[Censored: {censored} samples of {name} are the time waited in vain]")?;
            }
        }
        writeln!(out, "#[StartTime: {start_s:.3} (seconds since epoch), {started}]")?;
        writeln!(
            out,
            r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#
        )?;

        let nothing = encode(&empty_histogram(), &mut V2DeflateSerializer::new());
        for second in 0..self.window().intervals() {
            for milestone in Milestone::ALL {
                let Some(closed) = self.closed(milestone) else { continue };
                let bytes = closed.get(&second).unwrap_or(&nothing);
                let max = decode(bytes).max() as f64 / MAX_VALUE_UNIT_NS;
                let (start, length) = (start_s + f64::from(second), self.interval_length_s(second));
                let name = milestone.name();
                writeln!(out, "Tag={name},{start:.3},{length:.3},{max:.3},{}", STANDARD.encode(bytes))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::super::{Collector, Recorder, Window};
    use super::*;

    /// The log has the lines the Java tools write, in their order, and reads back: one interval per second and
    /// milestone, empty ones too, whose sum is what was recorded.
    #[test]
    fn log_has_version_and_legend_and_reads_back() {
        let window = Window { start_ns: 0, end_ns: 2_500_000_000 };
        let mut recorder = Recorder::new(window);
        for latency_ns in [10_000, 20_000, 3_000_000] {
            recorder.record(Milestone::Accept, 2_100_000_000, latency_ns);
        }
        recorder.record(Milestone::Arrive, 0, 40_000);
        let mut collector = Collector::new(window);
        collector.absorb(recorder.finish());
        let mut log = Vec::new();
        let started = Timestamp::from_unix(Duration::from_millis(1_500_000_000_250));
        collector.finish().write_hlog(&mut log, started).expect("memory takes it");

        let text = String::from_utf8(log).expect("the log is text");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1], "#[Histogram log format version 1.3]");
        assert_eq!(lines[2], "#[StartTime: 1500000000.250 (seconds since epoch), 2017-07-14T02:40:00.25Z]");
        assert!(lines[3].starts_with(r#""StartTimestamp","Interval_Length""#));
        assert!(lines[8].starts_with("Tag=accept,1500000002.250,0.500,3.0"), "{}", lines[8]);

        let data = lines[4..].join("\n") + "\n";
        let mut counts = Vec::new();
        for entry in IntervalLogIterator::new(data.as_bytes()) {
            let Ok(LogEntry::Interval(interval)) = entry else { panic!("not an interval: {entry:?}") };
            let bytes = STANDARD.decode(interval.encoded_histogram()).expect("it is base64");
            counts.push((interval.tag().map(|tag| tag.as_str().to_owned()), decode(&bytes).len()));
        }
        let tagged = |name: &str, count| (Some(name.to_owned()), count);
        let expected =
            [("accept", 0), ("arrive", 1), ("accept", 0), ("arrive", 0), ("accept", 3), ("arrive", 0)];
        assert_eq!(counts, expected.map(|(name, count)| tagged(name, count)));
    }
}
