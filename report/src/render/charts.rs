//! The plots of a run: percentiles, and throughput and latency over time.

use super::human::{duration_us, number, rate};
use super::plot::{Axis, Plot, Point, Scale, Series};
use crate::latency::{Milestone, Recording, Second};

/// Lines per halving of the distance to 100 %.
const TICKS_PER_HALF_DISTANCE: u32 = 10;

/// The milestones whose course over time is worth a plot.
const OVER_TIME: [Milestone; 3] = [Milestone::Accept, Milestone::Arrive, Milestone::Visible];

/// Latency by percentile, all measured milestones, as the plotters of `.hgrm` files draw it: every factor of ten nearer
/// to 100 % takes the same width.
pub(super) fn percentiles(recording: &Recording) -> Option<Plot> {
    let series: Vec<Series> = Milestone::ALL
        .into_iter()
        .filter_map(|milestone| Some((milestone, recording.total(milestone)?)))
        .map(|(milestone, total)| {
            let points = total
                .iter_quantiles(TICKS_PER_HALF_DISTANCE)
                .filter(|step| step.quantile_iterated_to() < 1.0);
            let points = points.map(|step| {
                let quantile = step.quantile_iterated_to();
                let us = step.value_iterated_to() as f64 / 1000.0;
                let note = format!("{} {}: {}", milestone.name(), percent(quantile), duration_us(us));
                Point { x: 1.0 / (1.0 - quantile), y: Some(us), note }
            });
            let (class, label) = (milestone.name().to_owned(), milestone.name().to_owned());
            Series { class, label, points: points.collect() }
        })
        .filter(|series| !series.points.is_empty())
        .collect();

    let (min, max) = range(&series)?;
    let far = series.iter().flat_map(|series| &series.points).map(|point| point.x).fold(100.0, f64::max);
    let decades = far.log10().floor() as i32;
    let ticks = (0..=decades).map(|decade| 10f64.powi(decade)).map(|x| (x, percent(1.0 - 1.0 / x))).collect();
    Some(Plot {
        width: 1000.0,
        height: 340.0,
        title: "Latency by percentile".to_owned(),
        x: Axis { from: 1.0, to: far, scale: Scale::Logarithmic, ticks },
        y: Axis::logarithmic(min, max, tick_us),
        series,
    })
}

/// Accepted, arrived and verified per second, over the window.
pub(super) fn throughput(recording: &Recording) -> Option<Plot> {
    let names = ["accepted", "arrived", "verified"];
    let series: Vec<Series> = OVER_TIME
        .into_iter()
        .zip(names)
        .filter(|(milestone, _)| recording.events(*milestone) > 0)
        .map(|(milestone, name)| {
            let seconds = recording.events_by_second(milestone).into_iter().enumerate();
            let points = seconds.map(|(second, (length_s, count))| {
                let per_s = count as f64 / length_s.max(1e-3);
                let note = format!("{name} in second {second}: {}", rate(per_s));
                Point { x: second as f64 + length_s / 2.0, y: Some(per_s), note }
            });
            Series { class: milestone.name().to_owned(), label: name.to_owned(), points: points.collect() }
        })
        .collect();
    let (_, max) = range(&series)?;
    Some(Plot {
        width: 1000.0,
        height: 220.0,
        title: "Messages a second over the window".to_owned(),
        x: seconds(recording, 10.0),
        y: Axis::linear(max, 4.0, number),
        series,
    })
}

/// Median and 99th percentile per second, one plot per milestone.
pub(super) fn latency_over_time(recording: &Recording) -> Vec<(Milestone, Plot)> {
    let measured = OVER_TIME.into_iter().filter(|milestone| recording.total(*milestone).is_some());
    measured.filter_map(|milestone| Some((milestone, course(recording, milestone)?))).collect()
}

fn course(recording: &Recording, milestone: Milestone) -> Option<Plot> {
    let intervals = recording.seconds(milestone);
    let line = |name: &str, class: String, figure: fn(&Second) -> Option<f64>| {
        let points = intervals.iter().map(|second| {
            let us = figure(second);
            let shown = us.map(duration_us).unwrap_or_default();
            Point { x: middle(second), y: us, note: format!("{name} in second {}: {shown}", second.second) }
        });
        Series { class, label: name.to_owned(), points: points.collect() }
    };
    let name = milestone.name();
    let series = vec![
        line("p50", name.to_owned(), |second| second.p50_us),
        line("p99", format!("{name} thin"), |second| second.p99_us),
    ];
    let (min, max) = range(&series)?;
    Some(Plot {
        width: 400.0,
        height: 210.0,
        title: format!("Latency of {name} over the window"),
        x: seconds(recording, 5.0),
        y: Axis::logarithmic(min, max, tick_us),
        series,
    })
}

/// The window in seconds.
fn seconds(recording: &Recording, steps: f64) -> Axis {
    let length = recording.window().seconds();
    let mut axis = Axis::linear(length, steps, |value| format!("{} s", number(value)));
    axis.to = length.max(1e-3);
    axis.ticks.retain(|(value, _)| *value <= length);
    axis
}

fn middle(second: &Second) -> f64 {
    f64::from(second.second) + second.length_s / 2.0
}

/// Smallest and largest value of all series; `None` when there is none.
fn range(series: &[Series]) -> Option<(f64, f64)> {
    let values = series.iter().flat_map(|series| &series.points).filter_map(|point| point.y);
    values.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((min, max)) => Some((f64::min(min, value), f64::max(max, value))),
    })
}

/// `0 %`, `99 %`, `99.9 %`.
fn percent(quantile: f64) -> String {
    let text = format!("{:.6}", quantile * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A round number of microseconds: `50 µs`, `2 ms`, `1 s`.
fn tick_us(us: f64) -> String {
    let (scaled, unit) = match us {
        us if us >= 0.9999e6 => (us / 1e6, "s"),
        us if us >= 0.9999e3 => (us / 1e3, "ms"),
        us if us >= 0.9999 => (us, "µs"),
        _ => (us * 1e3, "ns"),
    };
    format!("{} {unit}", (scaled * 10.0).round() / 10.0)
}
