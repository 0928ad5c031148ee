//! Line plots as inline SVG. Colours come from the page's style sheet through each series' class.

use std::fmt::Write;

use super::junit::escape;

/// A plot of one or more series over common axes.
pub(super) struct Plot {
    pub(super) width: f64,
    pub(super) height: f64,
    /// What it shows, for readers who cannot see it.
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
}

/// The range of an axis and the values that are labelled on it.
pub(super) struct Axis {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) scale: Scale,
    pub(super) ticks: Vec<(f64, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    Logarithmic,
}

/// One line. A point whose value is not known leaves a gap.
pub(super) struct Series {
    pub(super) class: String,
    pub(super) label: String,
    pub(super) points: Vec<Point>,
}

pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: Option<f64>,
    /// Shown when the pointer is on it.
    pub(super) note: String,
}

/// Room around the drawing for labels.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 24.0;

/// Points of a series that still get a note each; with more the notes would outweigh the page.
const NOTES_MAX: usize = 600;

impl Axis {
    /// From 0 to a round number above `max`, some `steps` labels.
    pub(super) fn linear(max: f64, steps: f64, label: impl Fn(f64) -> String) -> Axis {
        let rough = (max / steps).max(f64::MIN_POSITIVE);
        let magnitude = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0]
            .into_iter()
            .map(|factor| factor * magnitude)
            .find(|step| *step >= rough)
            .unwrap_or(magnitude * 10.0);
        let count = (max / step).ceil().max(1.0) as u32;
        let ticks =
            (0..=count).map(|tick| f64::from(tick) * step).map(|value| (value, label(value))).collect();
        Axis { from: 0.0, to: step * f64::from(count), scale: Scale::Linear, ticks }
    }

    /// From a round number below `min` to one above `max`, labels at 1, 2 and 5 of each decade or, over a wide range,
    /// at 1 alone.
    pub(super) fn logarithmic(min: f64, max: f64, label: impl Fn(f64) -> String) -> Axis {
        let (min, max) = (min.max(1e-3), max.max(min).max(1e-3) * 1.0001);
        let wide = (max / min).log10() > 2.5;
        let factors: &[f64] = if wide { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let first = min.log10().floor() as i32;
        let last = max.log10().ceil() as i32;
        let candidates: Vec<f64> = (first..=last)
            .flat_map(|decade| factors.iter().map(move |factor| factor * 10f64.powi(decade)))
            .collect();
        let from = candidates.iter().copied().rfind(|value| *value <= min).unwrap_or(min);
        let to = candidates.iter().copied().find(|value| *value >= max).unwrap_or(max);
        let ticks = candidates.into_iter().filter(|value| (from..=to).contains(value));
        let ticks = ticks.map(|value| (value, label(value))).collect();
        Axis { from, to, scale: Scale::Logarithmic, ticks }
    }

    /// Where a value lies between the ends, 0 to 1.
    fn share(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Logarithmic => (value.max(self.from) / self.from).log10() / (self.to / self.from).log10(),
        }
    }
}

impl Plot {
    /// The legend, where there is more than one series, and the drawing.
    pub(super) fn svg(&self) -> String {
        let mut out = String::new();
        if self.series.len() > 1 {
            out += "<ul class=\"legend\">";
            for series in &self.series {
                let (class, label) = (escape(&series.class), escape(&series.label));
                let line = format!("<line class=\"series {class}\" x1=\"1\" y1=\"5\" x2=\"25\" y2=\"5\"/>");
                out +=
                    &format!("<li><svg viewBox=\"0 0 26 10\" aria-hidden=\"true\">{line}</svg>{label}</li>");
            }
            out += "</ul>\n";
        }
        let (width, height, title) = (self.width, self.height, escape(&self.title));
        out += &format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">\n");
        out += &self.axes();
        for series in &self.series {
            out += &self.line(series);
        }
        out += "</svg>\n";
        out
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.share(value) * (self.width - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        self.height - BOTTOM - self.y.share(value) * (self.height - TOP - BOTTOM)
    }

    fn axes(&self) -> String {
        let (left, right, top, bottom) = (LEFT, self.width - RIGHT, TOP, self.height - BOTTOM);
        let mut out = String::new();
        for (value, label) in &self.y.ticks {
            let y = self.y(*value);
            out +=
                &format!("<line class=\"grid\" x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>");
            let (x, y) = (left - 7.0, y + 4.0);
            out += &format!("<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>\n", escape(label));
        }
        for (value, label) in &self.x.ticks {
            let x = self.x(*value);
            out +=
                &format!("<line class=\"grid\" x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>");
            // A label at the right edge would be cut off in the middle.
            let anchor = if right - x < RIGHT { "end" } else { "middle" };
            let (x, y) = (if anchor == "end" { right + RIGHT - 2.0 } else { x }, bottom + 16.0);
            out +=
                &format!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>\n", escape(label));
        }
        out +=
            &format!("<line class=\"axis\" x1=\"{left}\" y1=\"{bottom}\" x2=\"{right}\" y2=\"{bottom}\"/>\n");
        out
    }

    fn line(&self, series: &Series) -> String {
        let mut path = String::new();
        let mut notes = String::new();
        let mut drawing = false;
        for point in &series.points {
            let Some(value) = point.y else {
                drawing = false;
                continue;
            };
            let (x, y) = (self.x(point.x), self.y(value));
            // Writing to a string does not fail.
            let _ = write!(path, "{}{x:.1} {y:.1}", if drawing { 'L' } else { 'M' });
            drawing = true;
            if !point.note.is_empty() && series.points.len() <= NOTES_MAX {
                let note = escape(&point.note);
                notes += &format!(
                    "<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{note}</title></circle>"
                );
            }
        }
        format!("<path class=\"series {}\" d=\"{path}\"/>{notes}\n", escape(&series.class))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Axes end on round numbers that enclose the data.
    #[test]
    fn axes_end_on_round_numbers() {
        let label = |value: f64| format!("{value:.0}");
        let linear = Axis::linear(2134.0, 4.0, label);
        assert_eq!((linear.from, linear.to, linear.ticks.len()), (0.0, 3000.0, 4));
        let empty = Axis::linear(0.0, 4.0, label);
        assert!(empty.to > 0.0 && empty.to.is_finite());
        let wide = Axis::logarithmic(70.0, 37_000.0, label);
        assert_eq!((wide.from, wide.to), (10.0, 100_000.0));
        let narrow = Axis::logarithmic(70.0, 900.0, label);
        assert_eq!((narrow.from, narrow.to), (50.0, 1000.0));
        let point = Axis::logarithmic(50.0, 50.0, label);
        assert!(point.from < point.to, "{} {}", point.from, point.to);
    }

    /// A second without a figure is a gap in the line, not a zero.
    #[test]
    fn unknown_points_are_gaps() {
        let at = |x: f64, y| Point { x, y, note: String::new() };
        let points = vec![at(0.0, Some(1.0)), at(1.0, Some(1.0)), at(2.0, None), at(3.0, Some(1.0))];
        let plot = Plot {
            width: 300.0,
            height: 100.0,
            title: "<test>".to_owned(),
            x: Axis::linear(3.0, 3.0, |value| value.to_string()),
            y: Axis::linear(1.0, 1.0, |value| value.to_string()),
            series: vec![Series { class: "accept".to_owned(), label: "accept".to_owned(), points }],
        };
        let svg = plot.svg();
        let path = svg.split(" d=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        assert_eq!(path.matches('M').count(), 2, "{path}");
        assert_eq!(path.matches('L').count(), 1, "{path}");
        assert!(svg.contains("aria-label=\"&lt;test&gt;\""));
    }
}
