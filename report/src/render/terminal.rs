//! The summary at the end of a run, for a terminal of 100 columns.

use std::fmt::Write;

use super::digest::{Body, Section, Span, Tone, digest};
use crate::run::{Run, Verdict};

/// Columns before a section's content.
const LABEL_WIDTH: usize = 14;

/// The summary, verdict first. Escape sequences only with `colour`; ends with a newline.
pub fn terminal(run: &Run, colour: bool) -> String {
    let digest = digest(run);
    let paint = |text: &str, tone| paint(text, tone, colour);
    let mut out = String::new();

    let word = match digest.verdict {
        Verdict::Pass => "PASS",
        Verdict::GateFailed => "GATE FAILED",
        Verdict::DeliveryFailed => "DELIVERY FAILED",
        Verdict::Invalid => "INVALID",
    };
    let tone = if digest.verdict == Verdict::Pass { Tone::Good } else { Tone::Bad };
    out += &format!("{}  {}\n", paint(word, tone), paint(&digest.headline, Tone::Plain));
    for reason in &digest.why {
        out += &format!("  {} {}\n", paint("✗", Tone::Bad), paint(reason, Tone::Plain));
    }
    out.push('\n');

    for section in &digest.sections {
        set(section, &mut out, &paint);
    }
    out
}

fn set(section: &Section, out: &mut String, paint: &impl Fn(&str, Tone) -> String) {
    let label = paint(&format!("{:LABEL_WIDTH$}", section.title), Tone::Dim);
    let margin = " ".repeat(LABEL_WIDTH);
    match &section.body {
        Body::Lines(lines) => {
            for (position, line) in lines.iter().enumerate() {
                let start = if position == 0 { &label } else { &margin };
                let text: String = line.iter().map(|Span { text, tone }| paint(text, *tone)).collect();
                out.push_str(format!("{start}{text}").trim_end());
                out.push('\n');
            }
        }
        Body::Table { head, rows } => {
            let mut line = label;
            for name in &head[1..] {
                line += &paint(&format!("{name:>10}"), Tone::Dim);
            }
            out.push_str(&line);
            out.push('\n');
            for row in rows {
                let mut line = format!("  {:width$}", row[0], width = LABEL_WIDTH - 2);
                if line.chars().count() > LABEL_WIDTH {
                    // A long name has a line of its own.
                    out.push_str(&line);
                    out.push('\n');
                    line = " ".repeat(LABEL_WIDTH);
                }
                for cell in &row[1..] {
                    // Writing to a string does not fail.
                    let _ = write!(line, "{cell:>10}");
                }
                out.push_str(&line);
                out.push('\n');
            }
        }
    }
}

/// Control characters in text from outside (a path, a warning) must not reach the terminal.
fn paint(text: &str, tone: Tone, colour: bool) -> String {
    let text = text.replace(char::is_control, "\u{fffd}");
    let code = match tone {
        Tone::Plain => return text,
        Tone::Dim => "2",
        Tone::Strong => "1",
        Tone::Good => "1;32",
        Tone::Bad => "1;31",
        Tone::Caution => "33",
    };
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text }
}
