//! `report.html`: one page that needs nothing but itself: style and plots are inline, and there is no script.

use serde_json::Value;

use super::charts;
use super::digest::{MILESTONES, Tone, found, headline, milestone_name, quantiles, tone, why};
use super::human::{UNKNOWN, bytes, count, duration_us, number, rate};
use super::junit::escape;
use crate::latency::{Milestone, Recording};
use crate::run::{Column, GateVerdict, Run, Verdict};

const STYLE: &str = include_str!("page.css");

/// The page of a judged run.
pub fn html(run: &Run, recording: &Recording) -> String {
    let verdict = run.verdict.name().replace('_', " ").to_uppercase();
    let mut page = String::from("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n");
    page += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
    page += &format!(
        "<title>{verdict} · Chasqui run {}</title>\n<style>\n{STYLE}</style>\n<main>\n",
        run.started
    );
    for part in [
        head(run, &verdict),
        tiles(run),
        latency(run, recording),
        over_time(recording),
        format!("<div class=\"pair\">\n{}{}</div>\n", ledger(run), cost(run)),
        gates(run),
        configuration(run),
    ] {
        page += &part;
    }
    page += "<footer>Every figure is in run.json; latency.hlog has one interval a second and milestone, *.hgrm the \
             percentile tables.</footer>\n</main>\n</html>\n";
    page
}

fn head(run: &Run, verdict: &str) -> String {
    let class = if run.verdict == Verdict::Pass { "pass" } else { "fail" };
    let mut out =
        format!("<header><span class=\"badge {class}\">{verdict}</span><h1>Chasqui run</h1></header>\n");
    out += &format!("<p class=\"under\">{}</p>\n", escape(&headline(run)));
    let git = run.chasqui.git.as_ref().map(|git| format!(" ({})", escape(git))).unwrap_or_default();
    let version = escape(&run.chasqui.version);
    out += &format!("<p class=\"under muted\">chasqui {version}{git} · window from {}</p>\n", run.started);
    out += &list("why", &why(run));
    out += &list("warnings", &run.warnings);
    out
}

fn list(class: &str, lines: &[String]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let items: String = lines.iter().map(|line| format!("<li>{}</li>", escape(line))).collect();
    format!("<ul class=\"{class}\">{items}</ul>\n")
}

fn tiles(run: &Run) -> String {
    let p99 = |milestone| run.latency_us.of(milestone).map(|summary| quantiles(summary)[2].clone());
    // What is polled is no headline.
    let visible = match p99(Milestone::VisibleImap) {
        Some(figure) => ("visible (IMAP) p99", Some(figure)),
        None => ("visible p99", p99(Milestone::Visible)),
    };
    let tiles = [
        visible,
        ("accepted", run.throughput.accepted_per_s.map(rate)),
        ("arrived", run.throughput.arrived_per_s.map(rate)),
        ("accept p99", p99(Milestone::Accept)),
        ("arrive p99", p99(Milestone::Arrive)),
        ("relay CPU per message", run.cpu_us_per_message.relay.map(duration_us)),
    ];
    let tiles = tiles.into_iter().filter_map(|(name, figure)| Some((name, figure?)));
    let tiles: String = tiles
        .map(|(name, figure)| {
            format!("<div class=\"tile\"><b>{figure}</b><span class=\"muted\">{name}</span></div>")
        })
        .collect();
    format!("<div class=\"tiles\">{tiles}</div>\n")
}

fn latency(run: &Run, recording: &Recording) -> String {
    let mut rows = String::new();
    for milestone in MILESTONES {
        let Some(summary) = run.latency_us.of(milestone) else { continue };
        let mean = if summary.censored > 0 { "≥" } else { "" }.to_owned() + &duration_us(summary.mean);
        let cells: String = [duration_us(summary.min), mean]
            .into_iter()
            .chain(quantiles(summary))
            .chain([count(summary.count), count(summary.censored)])
            .map(|figure| format!("<td class=\"figure\">{figure}</td>"))
            .collect();
        rows += &format!("<tr><td>{}</td>{cells}</tr>\n", escape(&milestone_name(run, milestone)));
    }
    if rows.is_empty() {
        return String::new();
    }
    let heads = ["min", "mean", "p50", "p90", "p99", "p99.9", "max", "count", "censored"];
    let heads: String = heads.into_iter().map(|head| format!("<th class=\"figure\">{head}</th>")).collect();
    let plot = charts::percentiles(recording).map(|plot| plot.svg()).unwrap_or_default();
    let from = if run.latency_us.schedule_lag.is_some() {
        "the due time"
    } else {
        "the moment a connection was free (closed loop)"
    };
    format!(
        "<section><h2>Latency from {from}, and what connections took, by percentile</h2>\n{plot}<table><tr><th></th>{heads}</tr>\n{rows}</table></section>\n"
    )
}

fn over_time(recording: &Recording) -> String {
    let Some(throughput) = charts::throughput(recording) else { return String::new() };
    let mut out = format!("<section><h2>Messages a second</h2>\n{}</section>\n", throughput.svg());
    let courses: String = charts::latency_over_time(recording)
        .into_iter()
        .map(|(milestone, plot)| format!("<div><h3>{}</h3>{}</div>\n", milestone.name(), plot.svg()))
        .collect();
    out += &format!(
        "<section><h2>Latency, second by second</h2>\n<div class=\"charts\">{courses}</div></section>\n"
    );
    out
}

fn ledger(run: &Run) -> String {
    let ledger = &run.ledger;
    let row = |class: &'static str, column: Column| {
        let is_bad = class == "part" && tone(ledger, column) == Tone::Bad;
        (class, column.heading(), ledger.get(column), is_bad)
    };
    let group = |total: Column, parts: &mut dyn Iterator<Item = Column>| -> Vec<_> {
        [row("total", total)].into_iter().chain(parts.map(|part| row("part", part))).collect()
    };
    let mut rows: Vec<_> = Column::sums().flat_map(|sum| group(sum, &mut sum.terms())).collect();
    rows.extend(group(Column::Arrived, &mut Column::flags()));
    rows.push(("total", "backlog at the window's end".to_owned(), run.backlog_end, false));
    let rows: String = rows
        .into_iter()
        .map(|(row, name, value, bad)| {
            let class = match value {
                Some(1..) if bad => "figure is-bad",
                None | Some(0) => "figure zero",
                Some(_) => "figure",
            };
            let shown = value.map_or(UNKNOWN.to_owned(), count);
            format!("<tr class=\"{row}\"><td>{name}</td><td class=\"{class}\">{shown}</td></tr>\n")
        })
        .collect();
    format!("<section><h2>Ledger, in recipients</h2><table>{rows}</table></section>\n")
}

fn cost(run: &Run) -> String {
    let cpu = &run.cpu_us_per_message;
    let memory = &run.memory_bytes;
    let spool = &run.machine.spool;
    let size = |size: Option<u64>| size.map(|size| bytes(size as f64));
    let durability = run.durability.map(|class| format!("{}: {}", class.name(), class.survives()));
    let rows = [
        ("durability", durability),
        ("syncs", run.syncs.count.map(count)),
        ("messages per sync", run.syncs.messages_per_sync.map(number)),
        ("spool file system", spool.fs.clone()),
        ("spool device", spool.device.clone()),
        ("fdatasync, median", spool.fdatasync_us_p50.map(duration_us)),
        ("CPU per message: relay", cpu.relay.map(duration_us)),
        ("CPU per message: load generator", cpu.loadgen.map(duration_us)),
        ("CPU per message: sinks", cpu.sinks.map(duration_us)),
        ("CPU per message: readers", cpu.verify.map(duration_us)),
        ("peak memory: relay", size(memory.relay_peak_rss)),
        ("peak memory: load generator", size(memory.loadgen_peak_rss)),
        ("peak memory: sinks", size(memory.sinks_peak_rss)),
        ("volume", run.throughput.bytes_per_s.map(|per_s| format!("{}/s", bytes(per_s)))),
    ];
    let rows: String = rows
        .into_iter()
        .map(|(name, figure)| {
            let figure = escape(&figure.unwrap_or_else(|| UNKNOWN.to_owned()));
            format!("<tr><td class=\"key\">{name}</td><td>{figure}</td></tr>\n")
        })
        .collect();
    format!("<section><h2>Durability and cost</h2><table>{rows}</table></section>\n")
}

fn gates(run: &Run) -> String {
    if run.gates.is_empty() {
        return String::new();
    }
    let rows: String = run
        .gates
        .iter()
        .map(|gate| {
            let (class, word) = match gate.verdict {
                GateVerdict::Pass => ("verdict is-good", "pass"),
                GateVerdict::Fail => ("verdict is-bad", "fail"),
                GateVerdict::Unknown => ("verdict is-bad", "unknown"),
            };
            let (expr, found) = (escape(&gate.expr), escape(&found(gate)));
            format!(
                "<tr><td class=\"{class}\">{word}</td><td>{expr}</td><td class=\"muted\">{found}</td></tr>\n"
            )
        })
        .collect();
    format!("<section><h2>Gates</h2><table>{rows}</table></section>\n")
}

/// Everything that was configured or found, one row per key of the record.
fn configuration(run: &Run) -> String {
    let record = serde_json::to_value(run).unwrap_or_default();
    let mut rows = Vec::new();
    for key in ["chasqui", "machine", "placement", "scenario", "seed", "clock", "validity"] {
        flatten(key.to_owned(), &record[key], &mut rows);
    }
    for (key, value) in &run.extra {
        flatten(key.clone(), value, &mut rows);
    }
    let rows: String = rows
        .into_iter()
        .map(|(key, value)| {
            format!(
                "<tr><td class=\"key\">{}</td><td class=\"value\">{}</td></tr>\n",
                escape(&key),
                escape(&value)
            )
        })
        .collect();
    format!("<section><h2>Configuration</h2><table>{rows}</table></section>\n")
}

fn flatten(path: String, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(keys) => {
            for (key, value) in keys {
                flatten(format!("{path}.{key}"), value, rows);
            }
        }
        Value::Null => rows.push((path, UNKNOWN.to_owned())),
        Value::String(text) => rows.push((path, text.clone())),
        other => rows.push((path, other.to_string())),
    }
}
