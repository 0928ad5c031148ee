//! Whether an open-loop run measured what it set out to measure.

use serde::{Deserialize, Serialize};

/// How well the load generator kept its schedule, and the limits it is held to. A closed loop has no schedule and no
/// validity.
///
/// A send is late for one of two reasons. Where every connection was busy, the server was: the run is valid, and latency
/// counts from the due time. Where one was free, the generator was; and where its own loop ran late, nobody knows, as it
/// may not have read the replies that would have freed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validity {
    /// Sends a second that the schedule asked for.
    pub wanted_per_s: f64,
    /// Sends a second that were begun.
    pub achieved_per_s: f64,
    /// Share (0 to 1) of the due sends that began more than `late_after_us` late, or never, for whatever reason.
    pub late_share: f64,
    /// Share of the due sends that began more than `late_after_us` after both their due time and the moment since which
    /// a connection was free.
    #[serde(default)]
    pub late_while_free_share: f64,
    /// Share of the window in which a timer of the generator's own loop ran more than `late_after_us` late; of the
    /// shard where it was most.
    #[serde(default)]
    pub loop_late_share: f64,
    /// When a send, or a timer, counts as late, in microseconds.
    pub late_after_us: f64,
    /// Largest `late_while_free_share` and `loop_late_share` of a valid run.
    pub late_share_max: f64,
    /// Smallest achieved / wanted at which the server is not said to be saturated.
    pub rate_share_min: f64,
}

impl Default for Validity {
    /// The standard limits (more than 1 % over 10 ms late, under 99 % of the rate) and no figures.
    fn default() -> Validity {
        Validity {
            wanted_per_s: 0.0,
            achieved_per_s: 0.0,
            late_share: 0.0,
            late_while_free_share: 0.0,
            loop_late_share: 0.0,
            late_after_us: 10_000.0,
            late_share_max: 0.01,
            rate_share_min: 0.99,
        }
    }
}

impl Validity {
    /// Why the run is invalid, one line per reason; empty when it is valid.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let (late_ms, limit) = (self.late_after_us / 1000.0, self.late_share_max * 100.0);
        if self.late_while_free_share > self.late_share_max {
            faults.push(format!(
                "{:.1} % of the due sends began over {late_ms} ms late while a connection was free (limit {limit} %): \
                 the load generator could not keep its schedule",
                self.late_while_free_share * 100.0,
            ));
        }
        if self.loop_late_share > self.late_share_max {
            faults.push(format!(
                "the load generator's own loop ran over {late_ms} ms late in {:.1} % of the window (limit {limit} %): \
                 give it a core of its own",
                self.loop_late_share * 100.0,
            ));
        }
        faults
    }

    /// The server's part, for the first line: `None` unless more sends than the limit found every connection busy.
    pub fn saturation(&self) -> Option<String> {
        let busy = self.late_share - self.late_while_free_share;
        let behind = self.achieved_per_s < self.wanted_per_s * self.rate_share_min;
        (self.faults().is_empty() && (busy > self.late_share_max || behind)).then(|| {
            format!("saturated: {:.1} % of the due sends found every connection busy", busy.max(0.0) * 100.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exactly 1 % late sends and exactly 1 % of the window late are valid; beyond either limit the run is not.
    #[test]
    fn limits_are_inclusive() {
        let at_limit = Validity {
            late_while_free_share: 0.01,
            loop_late_share: 0.01,
            late_share: 0.01,
            ..Validity::default()
        };
        assert!(at_limit.faults().is_empty());
        let late = Validity { late_while_free_share: 0.034, ..at_limit };
        let text = "3.4 % of the due sends began over 10 ms late while a connection was free (limit 1 %): \
                    the load generator could not keep its schedule";
        assert_eq!(late.faults(), [text]);
        let starved = Validity { loop_late_share: 0.5, ..at_limit };
        let text = "the load generator's own loop ran over 10 ms late in 50.0 % of the window (limit 1 %): \
                    give it a core of its own";
        assert_eq!(starved.faults(), [text]);
    }

    /// Late sends that found every connection busy are the server's: the run is valid and says so. Where the generator
    /// was late too, nothing is said of the server.
    #[test]
    fn busy_connections_are_the_servers() {
        let busy =
            Validity { late_share: 0.4, wanted_per_s: 100.0, achieved_per_s: 60.0, ..Validity::default() };
        assert!(busy.faults().is_empty());
        let text = "saturated: 40.0 % of the due sends found every connection busy";
        assert_eq!(busy.saturation().as_deref(), Some(text));
        assert_eq!(Validity { loop_late_share: 0.02, ..busy }.saturation(), None);
        let fine = Validity { wanted_per_s: 100.0, achieved_per_s: 100.0, ..Validity::default() };
        assert_eq!(fine.saturation(), None);
    }
}
