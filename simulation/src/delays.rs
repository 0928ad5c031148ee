//! What the mail of all others suffers when receivers misbehave with some senders'.

use std::time::Duration;

use serde_json::{Value, json};

/// How much the misbehaviour may raise the 99th percentile of the others' delay.
const RATIO_MAX: f64 = 2.0;

/// The delays of the others' mail over all seeds, without and with the misbehaviour.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    pub(crate) without: Vec<Duration>,
    pub(crate) with: Vec<Duration>,
}

impl Delays {
    /// How often the 99th percentile without misbehaviour goes into the one with it, and the line that tells of both.
    pub(crate) fn judge(&mut self) -> (f64, Value) {
        self.without.sort_unstable();
        self.with.sort_unstable();
        let p99 = |delays: &[Duration]| percentile(delays, 0.99).as_secs_f64();
        let ratio = p99(&self.with) / p99(&self.without).max(1e-9);
        let line = json!({
            "without": figures(&self.without),
            "with": figures(&self.with),
            "p99_ratio": (ratio * 1000.0).round() / 1000.0,
        });
        (ratio, line)
    }

    pub(crate) fn is_bearable(ratio: f64) -> bool {
        ratio <= RATIO_MAX
    }
}

fn figures(sorted: &[Duration]) -> Value {
    let ms = |share| (percentile(sorted, share).as_secs_f64() * 1e6).round() / 1e3;
    json!({ "recipients": sorted.len(), "p50_ms": ms(0.5), "p99_ms": ms(0.99), "max_ms": ms(1.0) })
}

/// The smallest of the sorted values that this share of them does not exceed; zero when there are none.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Percentiles are values of the list, and the ratio is that of the 99th.
    #[test]
    fn percentiles_are_of_the_list() {
        let seconds =
            |range: std::ops::RangeInclusive<u64>| range.map(Duration::from_secs).collect::<Vec<_>>();
        assert_eq!(percentile(&seconds(1..=100), 0.99), Duration::from_secs(99));
        assert_eq!(percentile(&seconds(1..=1), 0.5), Duration::from_secs(1));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
        let mut delays = Delays { without: seconds(1..=100), with: seconds(101..=200) };
        let (ratio, line) = delays.judge();
        assert!((ratio - 199.0 / 99.0).abs() < 1e-9 && !Delays::is_bearable(ratio), "{line}");
    }
}
