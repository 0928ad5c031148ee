//! Whether an open-loop run measured what it set out to measure.

use serde::{Deserialize, Serialize};

/// How well the load generator kept its schedule, and the limits it is held to. A closed loop has no schedule and no
/// validity.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Validity {
    /// Sends a second that the schedule asked for.
    pub wanted_per_s: f64,
    /// Sends a second that were begun.
    pub achieved_per_s: f64,
    /// Share (0 to 1) of the intended sends that began more than `late_after_us` late.
    pub late_share: f64,
    /// When a send counts as late, in microseconds.
    pub late_after_us: f64,
    /// Largest `late_share` of a valid run.
    pub late_share_max: f64,
    /// Smallest achieved / wanted of a valid run.
    pub rate_share_min: f64,
}

impl Default for Validity {
    /// The standard limits (more than 1 % over 10 ms late, or under 99 % of the rate, is invalid) and no figures.
    fn default() -> Validity {
        Validity {
            wanted_per_s: 0.0,
            achieved_per_s: 0.0,
            late_share: 0.0,
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
        if self.late_share > self.late_share_max {
            faults.push(format!(
                "{:.1} % of the intended sends began over {} ms late (limit {} %): the load generator could not keep its schedule",
                self.late_share * 100.0,
                self.late_after_us / 1000.0,
                self.late_share_max * 100.0,
            ));
        }
        if self.achieved_per_s < self.wanted_per_s * self.rate_share_min {
            faults.push(format!(
                "sent {:.0} messages a second of the wanted {:.0} (limit {} %)",
                self.achieved_per_s,
                self.wanted_per_s,
                self.rate_share_min * 100.0,
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Exactly 1 % late sends and exactly 99 % of the rate are valid; beyond either limit the run is not.
    #[test]
    fn limits_are_inclusive() {
        let at_limit =
            Validity { wanted_per_s: 1000.0, achieved_per_s: 990.0, late_share: 0.01, ..Validity::default() };
        assert!(at_limit.faults().is_empty());
        let late = Validity { late_share: 0.034, ..at_limit };
        let text = "3.4 % of the intended sends began over 10 ms late (limit 1 %): \
                    the load generator could not keep its schedule";
        assert_eq!(late.faults(), [text]);
        let slow = Validity { achieved_per_s: 989.0, ..at_limit };
        assert_eq!(slow.faults(), ["sent 989 messages a second of the wanted 1000 (limit 99 %)"]);
    }
}
