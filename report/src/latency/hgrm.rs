//! `*.hgrm`: the percentile distribution as text, laid out like the output of HdrHistogram's
//! `outputPercentileDistribution`, so that its plotters read it. Values are microseconds.

use std::io::{self, Write};

use super::{Milestone, Recording};

/// Lines per halving of the distance to 100 %, the default of HdrHistogram's tools.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Nanoseconds per unit of the value column.
const VALUE_UNIT_NS: f64 = 1000.0;

impl Recording {
    /// Writes the distribution of a milestone, values in microseconds. Writes nothing but the head and foot of the
    /// table when the milestone was not measured.
    pub fn write_hgrm(&self, milestone: Milestone, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "{:>12} {:>14} {:>10} {:>14}\n",
            "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
        )?;
        let Some(total) = self.total(milestone) else { return Ok(()) };

        let mut count = 0;
        for step in total.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
            count += step.count_since_last_iteration();
            let value = step.value_iterated_to() as f64 / VALUE_UNIT_NS;
            let quantile = step.quantile_iterated_to();
            if quantile < 1.0 {
                writeln!(out, "{value:12.3} {quantile:2.12} {count:10} {:14.2}", 1.0 / (1.0 - quantile))?;
            } else {
                writeln!(out, "{value:12.3} {quantile:2.12} {count:10}")?;
            }
        }

        let (mean, deviation) = (total.mean() / VALUE_UNIT_NS, total.stdev() / VALUE_UNIT_NS);
        writeln!(out, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]")?;
        let max = total.max() as f64 / VALUE_UNIT_NS;
        writeln!(out, "#[Max     = {max:12.3}, Total count    = {:12}]", total.len())?;
        let sub_buckets = 2 * 10u64.pow(u32::from(super::SIGNIFICANT_DIGITS));
        let sub_buckets = sub_buckets.next_power_of_two();
        writeln!(out, "#[Buckets = {:12}, SubBuckets     = {sub_buckets:12}]", total.buckets())?;
        let censored = self.censored(milestone);
        if censored > 0 {
            writeln!(out, "#[Censored = {censored:11} of them are the time waited in vain]")?;
        }
        let from = if milestone.is_of_connection() { "of every connection" } else { "from the due time" };
        writeln!(out, "#[Unit    = microseconds, {} {from}]", milestone.name())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Collector, Recorder, Window};
    use super::*;

    /// The table is laid out as HdrHistogram's tools lay it out: value in microseconds, share, count, and the inverse
    /// distance to 100 % except in the last line.
    #[test]
    fn table_is_laid_out_as_the_java_tools_do() {
        let window = Window { start_ns: 0, end_ns: 1_000_000_000 };
        let mut recorder = Recorder::new(window);
        for latency_us in 1..=100 {
            recorder.record(Milestone::Accept, 0, latency_us * 1000);
        }
        let mut collector = Collector::new(window);
        collector.absorb(recorder.finish());
        let mut table = Vec::new();
        collector.finish().write_hgrm(Milestone::Accept, &mut table).expect("memory takes it");
        let text = String::from_utf8(table).expect("the table is text");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[1], "");
        assert_eq!(lines[2], "       1.000 0.000000000000          1           1.00");
        assert!(lines.contains(&"      50.015 0.500000000000         50           2.00"), "{text}");
        let last = lines.iter().rposition(|line| !line.starts_with('#')).expect("there are rows");
        assert!(lines[last].ends_with("1.000000000000        100"), "{}", lines[last]);
        assert_eq!(lines[last + 3], "#[Buckets =           32, SubBuckets     =         2048]");
        assert_eq!(lines[last + 4], "#[Unit    = microseconds, accept from the due time]");
    }
}
