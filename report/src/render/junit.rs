//! `junit.xml`: one test case for delivery, one for validity, one for the load that was taken, one per gate.

use super::digest::found;
use crate::run::{GateVerdict, Run};

/// The run as a JUnit test suite.
pub fn junit(run: &Run) -> String {
    let delivery = run.delivery_faults().join("; ");
    let validity = run.invalid_reasons.join("; ");
    let mut cases =
        vec![("delivery", "every accepted message delivered once and unchanged".to_owned(), delivery)];
    cases.push(("validity", "the run measured what it set out to measure".to_owned(), validity));
    let taken = "the server took what was due".to_owned();
    cases.push(("load", taken, run.shortfall().unwrap_or_default()));
    for gate in &run.gates {
        let fault = if gate.verdict == GateVerdict::Pass { String::new() } else { found(gate) };
        cases.push(("gate", gate.expr.clone(), fault));
    }

    let failures = cases.iter().filter(|(_, _, fault)| !fault.is_empty()).count();
    let counts = format!(r#"tests="{}" failures="{failures}" errors="0" skipped="0""#, cases.len());
    let took_s = run.took_s.unwrap_or(run.window_s);
    let time = format!(r#"time="{took_s:.3}" timestamp="{}""#, run.started);
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    out += &format!("<testsuites {counts}>\n  <testsuite name=\"chasqui\" {counts} {time}>\n");
    for (class, name, fault) in &cases {
        // The run is the delivery of its mail; everything else is read from its record.
        let time = if *class == "delivery" { took_s } else { 0.0 };
        let name = escape(name);
        let head = format!(r#"    <testcase classname="chasqui.{class}" name="{name}" time="{time:.3}""#);
        if fault.is_empty() {
            out += &format!("{head}/>\n");
        } else {
            let fault = escape(fault);
            out += &format!(
                "{head}>\n      <failure message=\"{fault}\" type=\"{class}\">{fault}</failure>\n    </testcase>\n"
            );
        }
    }
    out += "  </testsuite>\n</testsuites>\n";
    out
}

/// Text as XML or HTML content and attribute value. What XML 1.0 cannot say at all (control characters) becomes
/// U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push_str(&format!("&#{};", c as u32)),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            _ => escaped.push(c),
        }
    }
    escaped
}
