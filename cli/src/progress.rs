//! Progress of a run on stderr: one living line on a terminal, a plain line now and then elsewhere.

use crate::output::{is_dumb, tell};
use chasqui_loadgen::{Phase, Progress};
use chasqui_runtime::{Instant, now};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// How often the living line is drawn, which still looks steady, and how often a plain line is written within one phase.
const DRAW_EVERY: Duration = Duration::from_millis(100);
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Shows where a run stands.
#[derive(Debug)]
pub(crate) struct Display {
    bar: Option<ProgressBar>,
    /// Length of warm-up and window together.
    load: Duration,
    last: Option<(Instant, Phase, u64)>,
    rate: f64,
    plain_due: Instant,
}

impl Display {
    /// A display for a run whose warm-up and window take `load` together.
    pub(crate) fn new(load: Duration) -> Display {
        let is_plain = !std::io::stderr().is_terminal() || is_dumb();
        let bar = (!is_plain).then(|| {
            let bar =
                ProgressBar::with_draw_target(Some(load.as_millis() as u64), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{spinner} {prefix:<10} {wide_bar:.cyan} {msg}");
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Display { bar, load, last: None, rate: 0.0, plain_due: now() }
    }

    /// How often to call [`Display::show`].
    pub(crate) const EVERY: Duration = DRAW_EVERY;

    /// Shows what happens before the load.
    pub(crate) fn step(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.set_prefix(what.to_owned()),
            None => tell(what),
        }
    }

    /// Shows the run's figures.
    pub(crate) fn show(&mut self, progress: &Progress) {
        let at = now();
        let new_phase = self.last.as_ref().is_none_or(|(_, phase, _)| *phase != progress.phase);
        if let Some((before, _, sent)) = &self.last {
            let seconds = (at - *before).as_secs_f64();
            let rate = progress.sent.saturating_sub(*sent) as f64 / seconds.max(1e-3);
            // Smoothed over about a second, so that the figure can be read.
            self.rate += (rate - self.rate) * seconds.min(1.0);
        }
        self.last = Some((at, progress.phase, progress.sent));
        match &self.bar {
            Some(bar) => {
                bar.set_prefix(progress.phase.to_string());
                bar.set_position(progress.elapsed.min(self.load).as_millis() as u64);
                bar.set_message(self.figures(progress));
            }
            None if new_phase || at >= self.plain_due => {
                self.plain_due = at + PLAIN_EVERY;
                tell(&format!("{:<10} {}", progress.phase.to_string(), self.figures(progress)));
            }
            None => {}
        }
    }

    /// Writes a line that stays.
    pub(crate) fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => tell(line),
        }
    }

    fn figures(&self, progress: &Progress) -> String {
        let mut text = format!(
            "sent {} accepted {} arrived {} verified {}",
            grouped(progress.sent),
            grouped(progress.accepted),
            grouped(progress.arrived),
            grouped(progress.verified)
        );
        let unwelcome = [
            ("rejected", progress.rejected),
            ("bounced", progress.bounced),
            ("corrupted", progress.corrupted),
        ];
        for (name, count) in unwelcome.into_iter().filter(|(_, count)| *count > 0) {
            text.push_str(&format!(" {name} {}", grouped(count)));
        }
        if matches!(progress.phase, Phase::Warmup | Phase::Window) {
            text.push_str(&format!(" · {}/s", grouped(self.rate.round() as u64)));
        }
        text
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    //! Prove: figures are grouped by thousands.
    use super::grouped;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
