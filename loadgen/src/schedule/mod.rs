//! Intended send times of an open loop: constant or Poisson arrivals, a share per shard; and, in [`pacer`], which
//! connection sends when.

pub(crate) mod pacer;

use chasqui_report::ArrivalProcess;
use chasqui_runtime::SeededRng;

/// One shard's share of the intended send times, in nanoseconds after the start of the warm-up.
///
/// The times are made as they are asked for: a message that waits for a free connection is not stored
/// anywhere, the schedule is merely not advanced past it.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    arrivals: ArrivalProcess,
    rate_per_s: f64,
    shard: u64,
    shards: u64,
    index: u64,
    rng: SeededRng,
    next_ns: f64,
}

const NANOS: f64 = 1e9;

impl Schedule {
    /// The share of `shard` out of `shards` in a schedule of `rate_per_s` for all of them. Constant arrivals
    /// interleave the shards; Poisson arrivals are independent per shard, which adds up to the whole.
    pub(crate) fn new(
        arrivals: ArrivalProcess,
        rate_per_s: f64,
        shard: usize,
        shards: usize,
        seed: u64,
    ) -> Self {
        let (shard, shards) = (shard as u64, shards as u64);
        let mut schedule =
            Self { arrivals, rate_per_s, shard, shards, index: 0, rng: SeededRng::new(seed), next_ns: 0.0 };
        schedule.next_ns = match arrivals {
            ArrivalProcess::Constant => schedule.constant_ns(0),
            ArrivalProcess::Poisson => schedule.gap_ns(),
        };
        schedule
    }

    /// The next intended time.
    pub(crate) fn peek_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// Takes the next intended time.
    pub(crate) fn advance(&mut self) -> u64 {
        let taken = self.peek_ns();
        self.index += 1;
        self.next_ns = match self.arrivals {
            ArrivalProcess::Constant => self.constant_ns(self.index),
            ArrivalProcess::Poisson => self.next_ns + self.gap_ns(),
        };
        taken
    }

    /// Takes every time before `end_ns` and counts them.
    pub(crate) fn skip_until(&mut self, end_ns: u64) -> u64 {
        let before = self.index;
        while self.peek_ns() < end_ns {
            self.advance();
        }
        self.index - before
    }

    /// How many times before `end_ns` are left, without taking them.
    pub(crate) fn due(&self, end_ns: u64) -> u64 {
        match self.arrivals {
            ArrivalProcess::Constant if self.peek_ns() >= end_ns => 0,
            ArrivalProcess::Constant => {
                let step_ns = NANOS * self.shards as f64 / self.rate_per_s;
                ((end_ns as f64 - self.next_ns) / step_ns).ceil() as u64
            }
            ArrivalProcess::Poisson => self.clone().skip_until(end_ns),
        }
    }

    /// From the index and not from the last time, so that no rounding adds up.
    fn constant_ns(&self, index: u64) -> f64 {
        (index * self.shards + self.shard) as f64 * NANOS / self.rate_per_s
    }

    fn gap_ns(&mut self) -> f64 {
        -(1.0 - self.rng.unit()).ln() * NANOS * self.shards as f64 / self.rate_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(arrivals: ArrivalProcess, rate: f64, shards: usize, seed: u64, seconds: u64) -> Vec<u64> {
        let mut times = Vec::new();
        for shard in 0..shards {
            let mut schedule = Schedule::new(arrivals, rate, shard, shards, seed + shard as u64);
            while schedule.peek_ns() < seconds * 1_000_000_000 {
                times.push(schedule.advance());
            }
        }
        times.sort_unstable();
        times
    }

    /// Constant arrivals are evenly spaced over all shards together and do not drift.
    #[test]
    fn constant() {
        let times = times(ArrivalProcess::Constant, 3000.0, 3, 0, 100);
        assert_eq!(times.len(), 300_000);
        for (index, time) in times.iter().enumerate() {
            let expected = index as u64 * 1_000_000 / 3;
            assert!(time.abs_diff(expected) <= 1, "{index}: {time}");
        }
    }

    /// Poisson arrivals: right count, mean gap and its standard deviation equal, a share of 1/e of long gaps;
    /// the same from the same seed, different from another.
    #[test]
    fn poisson() {
        for shards in [1, 4] {
            let sample = times(ArrivalProcess::Poisson, 1000.0, shards, 42, 100);
            let count = sample.len() as f64;
            assert!((count - 100_000.0).abs() < 4.0 * 100_000f64.sqrt(), "{count}");
            let gaps: Vec<f64> = sample.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "{}", variance.sqrt() / mean);
            let long = gaps.iter().filter(|gap| **gap > mean).count() as f64 / gaps.len() as f64;
            assert!((long - (-1f64).exp()).abs() < 0.01, "{long}");
            assert_eq!(sample, times(ArrivalProcess::Poisson, 1000.0, shards, 42, 100));
            assert_ne!(sample, times(ArrivalProcess::Poisson, 1000.0, shards, 43, 100));
        }
    }

    /// `due` counts what `skip_until` would take, at every phase of the schedule.
    #[test]
    fn due_agrees_with_skipping() {
        for arrivals in [ArrivalProcess::Constant, ArrivalProcess::Poisson] {
            let mut schedule = Schedule::new(arrivals, 777.0, 1, 2, 5);
            for end_ms in [0, 1, 10, 500, 501, 2000] {
                let due = schedule.due(end_ms * 1_000_000);
                let mut copy = schedule.clone();
                assert_eq!(due, copy.skip_until(end_ms * 1_000_000), "{arrivals} {end_ms}");
                schedule.skip_until(end_ms * 500_000);
            }
        }
    }
}
