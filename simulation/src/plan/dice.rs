//! What everything of a plan is drawn with.

use std::time::Duration;

use chasqui_runtime::SeededRng;
use chasqui_runtime::sim::Kill;

/// A seed's dice.
pub(crate) struct Dice(pub(crate) SeededRng);

impl Dice {
    pub(crate) fn chance(&mut self, share: f64) -> bool {
        self.0.unit() < share
    }

    pub(crate) fn number(&mut self, least: u64, most: u64) -> u64 {
        least + self.0.below(most - least + 1)
    }

    /// Between both ends, small ones as often as large ones.
    pub(crate) fn spread(&mut self, least: f64, most: f64) -> f64 {
        least * (most / least).powf(self.0.unit())
    }

    pub(crate) fn seconds(&mut self, least: f64, most: f64) -> Duration {
        Duration::from_secs_f64(self.spread(least, most))
    }

    /// 0 in half of the seeds, else up to `most`.
    pub(crate) fn share(&mut self, most: f64) -> f64 {
        if self.chance(0.5) { 0.0 } else { most * self.0.unit() }
    }

    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.0.below(choices.len() as u64) as usize]
    }

    pub(crate) fn kill(&mut self) -> Kill {
        self.one_of(&[Kill::Process, Kill::PowerCut, Kill::PowerCut])
    }
}
