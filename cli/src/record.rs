//! The run record (`run.json`) of an outcome.

use crate::arguments::LoadOptions;
use crate::machine::{Disk, Facts};
use chasqui_loadgen::{Outcome, Scenario, Verify};
use chasqui_report::{
    Allowed, Chasqui, Clock, ClockKind, CountedBy, Machine, Run, Spool, Throughput, Timestamp,
};
use chasqui_runtime::EngineKind;
use serde_json::json;
use std::time::Duration;

/// The scenario that the options ask for; where it goes is added by the command.
pub(crate) fn scenario(options: &LoadOptions) -> Scenario {
    Scenario {
        rate: options.rate,
        arrivals: options.arrivals,
        seed: options.seed,
        warmup: options.warmup,
        duration: options.duration,
        drain: options.drain,
        connections: options.connections,
        messages_per_connection: options.messages_per_connection.map(|messages| messages as u64),
        outstanding: options.outstanding,
        size: options.size.clone(),
        recipients_per_message: options.recipients.clone(),
        domains: options.domains,
        mailboxes_per_domain: options.mailboxes,
        verify: options.verify,
        pop3_poll: options.poll_interval,
        ..Scenario::default()
    }
}

/// What every run records, whoever stood behind the targets; verdict and gates are still to come.
pub(crate) fn record(
    outcome: &Outcome,
    options: &LoadOptions,
    engine: EngineKind,
    disk: Option<&Disk>,
) -> Run {
    let window_s = outcome.window.seconds();
    let per_s = |count: u64| (window_s > 0.0).then(|| count as f64 / window_s);
    let mut run = Run::new(Timestamp::from_unix(outcome.window_start_wall), window_s);
    let git = Some(env!("CHASQUI_GIT")).filter(|revision| !revision.is_empty()).map(str::to_owned);
    run.chasqui =
        Chasqui { version: env!("CARGO_PKG_VERSION").to_owned(), git, engine: Some(engine.to_string()) };
    run.machine = machine(disk);
    run.scenario = Some(outcome.scenario.record());
    run.seed = Some(outcome.scenario.seed);
    run.clock = Clock { kind: ClockKind::Monotonic, uncertainty_us: Some(0.0) };
    run.ledger = outcome.ledger.into();
    if outcome.scenario.verify() == Verify::Nothing {
        run.ledger = run.ledger.only_accepted();
    }
    run.throughput = Throughput {
        accepted_per_s: per_s(outcome.throughput.accepted),
        arrived_per_s: outcome.throughput.arrived.and_then(per_s),
        verified_per_s: outcome.throughput.verified.and_then(per_s),
        bytes_per_s: per_s(outcome.throughput.accepted_octets),
        counted_by: CountedBy::TimeOfEvent,
    };
    run.took_s = Some(outcome.took.as_secs_f64());
    run.due = Some(outcome.due);
    run.connections = Some(outcome.connections);
    run.backlog_end = outcome.backlog_end.filter(|_| outcome.scenario.verify() != Verify::Nothing);
    run.latency_us = outcome.recording.latency_us();
    run.validity = outcome.validity;
    run.allowed = Allowed {
        rejected: options.allow_rejected,
        unknown: options.allow_unknown,
        bounced: options.allow_bounced,
        missing: options.allow_missing,
        unsent: options.allow_unsent,
    };
    if outcome.stopped_early {
        run.invalid_reasons.push("stopped before its planned end".to_owned());
    }
    run.invalid_reasons.extend(outcome.broken.iter().map(|what| format!("an instrument was lost: {what}")));
    run.warnings.extend(outcome.notes.iter().cloned());
    run.extra.insert("run".to_owned(), json!(format!("{:016x}", outcome.run)));
    let (start, end) = (outcome.window.start_ns, outcome.window.end_ns);
    run.extra.insert("window_monotonic_ns".to_owned(), json!([start, end]));
    run
}

/// `anomalies.jsonl`: a line for every recipient that was not delivered unchanged, once.
pub(crate) fn anomalies(outcome: &Outcome) -> Vec<u8> {
    let mut lines = Vec::new();
    let (start_ns, start) = (outcome.window.start_ns, outcome.window_start_wall);
    for anomaly in &outcome.anomalies {
        let since = Duration::from_nanos(anomaly.due_ns.abs_diff(start_ns));
        let due = if anomaly.due_ns < start_ns { start.saturating_sub(since) } else { start + since };
        let line = json!({
            "what": anomaly.what(),
            "sequence": anomaly.sequence,
            "recipient": anomaly.recipient,
            "due": Timestamp::from_unix(due).to_string(),
            "reply": anomaly.reply,
            "queue_id": anomaly.queue_id,
        });
        lines.extend_from_slice(line.to_string().as_bytes());
        lines.push(b'\n');
    }
    lines
}

/// `cpu` spread over `messages`, in microseconds; unknown when either is.
pub(crate) fn us_per_message(cpu: Option<Duration>, messages: Option<u64>) -> Option<f64> {
    let messages = messages.filter(|count| *count > 0)?;
    Some(cpu?.as_nanos() as f64 / 1000.0 / messages as f64)
}

fn machine(disk: Option<&Disk>) -> Machine {
    let facts = Facts::read();
    Machine {
        cpu: facts.cpu,
        cores: facts.cores,
        memory_bytes: facts.memory_bytes,
        kernel: facts.kernel,
        spool: disk.map_or_else(Spool::default, |disk| Spool {
            fs: disk.mount.as_ref().map(|mount| mount.kind.clone()),
            device: disk.mount.as_ref().map(|mount| mount.device.clone()),
            fdatasync_us_p50: disk.fdatasync_us_p50,
            ..Spool::default()
        }),
        ..Machine::default()
    }
}
