//! What a person is told about a run, in the order in which it matters: verdict and why, throughput, latency, ledger,
//! cost, durability, warnings.

use std::cmp::Reverse;

use super::human::{self, UNKNOWN, bytes, count, duration_us, rate};
use crate::latency::{LatencySummary, Milestone};
use crate::run::{
    Column, Gate, GateResult, GateVerdict, Ledger, Rate, Run, Scenario, TlsMode, Verdict, Weight,
};

/// A run in words.
pub(super) struct Digest {
    pub(super) verdict: Verdict,
    /// What was run: rate, size, durability, …
    pub(super) headline: String,
    /// Why it did not pass; empty when it did.
    pub(super) why: Vec<String>,
    pub(super) sections: Vec<Section>,
}

/// A heading with lines or a table below it.
pub(super) struct Section {
    pub(super) title: &'static str,
    pub(super) body: Body,
}

pub(super) enum Body {
    Lines(Vec<Line>),
    /// The first column is text, the others are figures.
    Table {
        head: Vec<&'static str>,
        rows: Vec<Vec<String>>,
    },
}

pub(super) type Line = Vec<Span>;

/// A stretch of text with one meaning.
pub(super) struct Span {
    pub(super) text: String,
    pub(super) tone: Tone,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    /// Of less weight.
    Dim,
    /// The figure a reader looks for.
    Strong,
    Good,
    Bad,
    Caution,
}

pub(super) fn digest(run: &Run) -> Digest {
    let sections = [
        Some(section("throughput", vec![throughput(run)])),
        latency(run),
        censored(run),
        Some(section("ledger", ledger(&run.ledger, run.backlog_end))),
        Some(section("cpu/message", vec![cpu(run)])),
        Some(section("durability", durability(run))),
        Some(section("memory", vec![memory(run)])),
        (!run.gates.is_empty()).then(|| section("gates", run.gates.iter().map(gate).collect())),
        (!run.warnings.is_empty()).then(|| section("warnings", run.warnings.iter().map(warning).collect())),
    ];
    Digest {
        verdict: run.verdict,
        headline: headline(run),
        why: why(run),
        sections: sections.into_iter().flatten().collect(),
    }
}

/// Why the run did not pass, every reason of every kind: the verdict names only the gravest.
pub(super) fn why(run: &Run) -> Vec<String> {
    let failed = run.gates.iter().filter(|gate| gate.verdict != GateVerdict::Pass);
    let gates = failed.map(|gate| format!("gate {}: {}", gate.expr, found(gate)));
    let delivery = run.delivery_faults().into_iter();
    delivery.chain(run.invalid_reasons.iter().cloned()).chain(run.shortfall()).chain(gates).collect()
}

/// What a gate found, in its unit.
pub(super) fn found(gate: &GateResult) -> String {
    match gate.value {
        None => "the run does not know this figure".to_owned(),
        Some(value) => {
            let shown =
                if Gate::shows_duration(&gate.expr) { duration_us(value) } else { human::number(value) };
            let is = if gate.lower_bound { "is at least" } else { "is" };
            match gate.verdict {
                GateVerdict::Unknown => format!("is {shown}, but the limit is below the clock's uncertainty"),
                GateVerdict::Pass | GateVerdict::Fail => format!("{is} {shown}"),
            }
        }
    }
}

/// What was run, in one line.
pub(super) fn headline(run: &Run) -> String {
    let scenario = run.scenario.as_ref();
    let parts = [
        scenario.map(|scenario| match scenario.rate {
            Rate::PerSecond(per_s) => rate(per_s),
            Rate::Max => format!("rate {}", scenario.rate),
        }),
        scenario.map(|scenario| format!("{} loop", scenario.mode)),
        scenario.map(|scenario| scenario.size.clone()),
        scenario.map(|scenario| connections(run, scenario.connections)),
        scenario.and_then(messages_per_connection),
        scenario.and_then(tls),
        scenario.and_then(authentication),
        scenario.and_then(read_tls),
        Some(format!("{} s", human::number(run.window_s))),
        run.durability.map(|durability| durability.name().to_owned()),
        run.chasqui.engine.clone(),
        scenario.map(|scenario| format!("verify {}", scenario.verify)),
        run.validity.and_then(|validity| validity.saturation()),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// `200 connections`, or how many of them there were and what stood in the way.
fn connections(run: &Run, asked: u64) -> String {
    let shortfall = run.connections.and_then(|connections| connections.shortfall());
    shortfall.unwrap_or_else(|| format!("{asked} connections"))
}

fn messages_per_connection(scenario: &Scenario) -> Option<String> {
    let messages = scenario.messages_per_connection?;
    Some(format!(
        "{} a connection",
        if messages == 1 { "1 message".to_owned() } else { format!("{} messages", count(messages)) }
    ))
}

/// How the connections are in TLS, and whose word that is.
fn tls(scenario: &Scenario) -> Option<String> {
    let mode = match scenario.tls {
        TlsMode::Off => return None,
        TlsMode::Starttls => "STARTTLS",
        TlsMode::Implicit => "TLS from the first octet",
    };
    let verified = if scenario.tls_verified == Some(false) { ", any certificate" } else { "" };
    let resumption = if scenario.tls_resumption == Some(false) { ", no resumption" } else { "" };
    Some(format!("{mode}{verified}{resumption}"))
}

/// Who logs in to send.
fn authentication(scenario: &Scenario) -> Option<String> {
    let accounts = scenario.accounts?;
    Some(format!(
        "AUTH by {}",
        if accounts == 1 { "1 account".to_owned() } else { format!("{} accounts", count(accounts)) }
    ))
}

/// How mailboxes are read in TLS, where they are.
fn read_tls(scenario: &Scenario) -> Option<String> {
    let readers = [("POP3", "STLS", scenario.pop3_tls), ("IMAP", "STARTTLS", scenario.imap_tls)];
    let told: Vec<String> = readers
        .into_iter()
        .filter_map(|(name, command, mode)| match mode? {
            TlsMode::Off => None,
            TlsMode::Starttls => Some(format!("{name} {command}")),
            TlsMode::Implicit => Some(format!("{name}S")),
        })
        .collect();
    (!told.is_empty()).then(|| told.join(", "))
}

fn throughput(run: &Run) -> Line {
    let figures = &run.throughput;
    joined([
        figure("accepted", figures.accepted_per_s.map(rate), Tone::Strong),
        figure("arrived", figures.arrived_per_s.map(rate), Tone::Strong),
        figure("verified", figures.verified_per_s.map(rate), Tone::Strong),
        figure("volume", figures.bytes_per_s.map(|per_s| format!("{}/s", bytes(per_s))), Tone::Plain),
        vec![span("by the time of the event", Tone::Dim)],
    ])
}

/// Milestones in the order of the tables. POP3 is polled, so that it says little about the server and comes last.
/// So do the steps in the making of connections, which are no message's.
pub(super) const MILESTONES: [Milestone; 9] = [
    Milestone::VisibleImap,
    Milestone::Accept,
    Milestone::Arrive,
    Milestone::ScheduleLag,
    Milestone::Visible,
    Milestone::VisiblePop3,
    Milestone::Connect,
    Milestone::Tls,
    Milestone::Auth,
];

/// The name of a milestone, with what its figures depend on.
pub(super) fn milestone_name(run: &Run, milestone: Milestone) -> String {
    let poll_us = run.scenario.as_ref().and_then(|scenario| scenario.pop3_poll_us);
    match (milestone, poll_us) {
        (Milestone::VisiblePop3, Some(poll_us)) => {
            format!("{} (asked every {})", milestone.name(), duration_us(poll_us as f64))
        }
        _ => milestone.name().to_owned(),
    }
}

/// p50, p90, p99, p99.9 and max as they are shown: `≥` before what is a lower bound.
pub(super) fn quantiles(summary: &LatencySummary) -> [String; 5] {
    let LatencySummary { p50, p90, p99, p999, max, upper, .. } = *summary;
    let bounds = upper.map(|upper| [upper.p50, upper.p90, upper.p99, upper.p999, upper.max]);
    let shown = |(position, value): (usize, f64)| match bounds {
        Some(bounds) if bounds[position] != Some(value) => format!("≥{}", duration_us(value)),
        _ => duration_us(value),
    };
    let mut values = [p50, p90, p99, p999, max].into_iter().enumerate();
    std::array::from_fn(|_| values.next().map(shown).unwrap_or_default())
}

/// What censored samples are, where there are some.
fn censored(run: &Run) -> Option<Section> {
    let lines: Vec<Line> = MILESTONES
        .into_iter()
        .filter_map(|milestone| {
            let summary = run.latency_us.of(milestone).filter(|summary| summary.censored > 0)?;
            let (censored, all) = (count(summary.censored), count(summary.count));
            let text = format!(
                "{}: {censored} of {all} messages had not come so far when the drain ended; ≥ is a lower bound",
                milestone.name()
            );
            Some(vec![span(text, Tone::Caution)])
        })
        .collect();
    (!lines.is_empty()).then(|| section("censored", lines))
}

fn latency(run: &Run) -> Option<Section> {
    let rows: Vec<_> = MILESTONES
        .into_iter()
        .filter_map(|milestone| {
            let summary = run.latency_us.of(milestone)?;
            let mut row = vec![milestone_name(run, milestone)];
            row.extend(quantiles(summary));
            row.push(count(summary.count));
            Some(row)
        })
        .collect();
    let head = vec!["", "p50", "p90", "p99", "p99.9", "max", "count"];
    (!rows.is_empty()).then_some(Section { title: "latency", body: Body::Table { head, rows } })
}

fn ledger(ledger: &Ledger, backlog_end: Option<u64>) -> Vec<Line> {
    let told = |column: Column| tally(column.name(), ledger.get(column), tone(ledger, column));
    let equation = |sum: Column| {
        let mut line = tally(sum.name(), ledger.get(sum), Tone::Strong);
        for (position, term) in sum.terms().enumerate() {
            line.push(span(if position == 0 { " = " } else { " + " }, Tone::Dim));
            line.extend(told(term));
        }
        line
    };
    let mut lines: Vec<Line> = Column::sums().map(equation).collect();
    let mut flags: Vec<Column> = Column::flags().collect();
    flags.sort_by_key(|flag| Reverse(flag.weight()));
    let backlog = tally("backlog at the window's end", backlog_end, Tone::Plain);
    lines.push(joined(flags.into_iter().map(told).chain([backlog])));
    lines
}

/// How a column is shown when it is not 0. A duplicate whose cause is known is no loss.
pub(super) fn tone(ledger: &Ledger, column: Column) -> Tone {
    match column.weight() {
        Weight::Plain => Tone::Plain,
        Weight::Good => Tone::Good,
        Weight::Loss if column != Column::Duplicated || ledger.unexcused(column) > 0 => Tone::Bad,
        Weight::Caution | Weight::Loss => Tone::Caution,
    }
}

/// `name 12`, in the tone given when there is something to count and dim when there is nothing.
fn tally(name: &str, value: Option<u64>, tone: Tone) -> Line {
    let weight = if value.is_none_or(|value| value == 0) { Tone::Dim } else { tone };
    vec![span(format!("{name} "), Tone::Dim), span(value.map_or(UNKNOWN.to_owned(), count), weight)]
}

fn cpu(run: &Run) -> Line {
    let cpu = &run.cpu_us_per_message;
    joined([
        figure("relay", cpu.relay.map(duration_us), Tone::Strong),
        figure("loadgen", cpu.loadgen.map(duration_us), Tone::Plain),
        figure("sinks", cpu.sinks.map(duration_us), Tone::Plain),
        figure("verify", cpu.verify.map(duration_us), Tone::Plain),
    ])
}

fn durability(run: &Run) -> Vec<Line> {
    let class = match run.durability {
        Some(class) => {
            vec![span(class.name(), Tone::Strong), span(format!(": {}", class.survives()), Tone::Plain)]
        }
        None => vec![span("not known", Tone::Dim)],
    };
    let mut cost = vec![
        figure("syncs", run.syncs.count.map(count), Tone::Plain),
        figure("messages per sync", run.syncs.messages_per_sync.map(human::number), Tone::Plain),
    ];
    let spool = &run.machine.spool;
    if let Some(fs) = &spool.fs {
        let device = spool.device.as_ref().map(|device| format!(" on {device}")).unwrap_or_default();
        cost.push(figure("spool", Some(format!("{fs}{device}")), Tone::Plain));
        cost.push(figure("fdatasync p50", spool.fdatasync_us_p50.map(duration_us), Tone::Plain));
    }
    vec![class, joined(cost)]
}

fn memory(run: &Run) -> Line {
    let memory = &run.memory_bytes;
    let peak = |name, size: Option<u64>| figure(name, size.map(|size| bytes(size as f64)), Tone::Plain);
    joined([
        peak("relay peak", memory.relay_peak_rss),
        peak("loadgen", memory.loadgen_peak_rss),
        peak("sinks", memory.sinks_peak_rss),
    ])
}

fn gate(gate: &GateResult) -> Line {
    let (mark, tone) = match gate.verdict {
        GateVerdict::Pass => ("pass", Tone::Good),
        GateVerdict::Fail => ("FAIL", Tone::Bad),
        GateVerdict::Unknown => ("UNKNOWN", Tone::Bad),
    };
    vec![
        span(mark, tone),
        span(format!(" {}", gate.expr), Tone::Plain),
        span(format!("  {}", found(gate)), Tone::Dim),
    ]
}

fn warning(text: &String) -> Line {
    vec![span(text, Tone::Caution)]
}

/// `name value`.
fn figure(name: &str, value: Option<String>, tone: Tone) -> Line {
    let tone = if value.is_some() { tone } else { Tone::Dim };
    vec![span(format!("{name} "), Tone::Dim), span(value.unwrap_or_else(|| UNKNOWN.to_owned()), tone)]
}

/// Figures side by side.
fn joined(figures: impl IntoIterator<Item = Line>) -> Line {
    let mut line = Line::new();
    for figure in figures {
        if !line.is_empty() {
            line.push(span(" · ", Tone::Dim));
        }
        line.extend(figure);
    }
    line
}

fn section(title: &'static str, lines: Vec<Line>) -> Section {
    Section { title, body: Body::Lines(lines) }
}

fn span(text: impl Into<String>, tone: Tone) -> Span {
    Span { text: text.into(), tone }
}
