//! A realistic run, the same every time: its latencies come from a fixed generator, not from a clock.

use std::time::Duration;

use chasqui_report::{
    Collector, Connections, CpuPerMessage, Due, Durability, Gate, Ledger, Milestone, Recorder, Recording,
    Run, Throughput, Timestamp, Validity, Window,
};
use serde_json::{Map, Value, json};

const SECONDS: u64 = 20;
const RATE: u64 = 2000;
const SIZE: u64 = 2048;

/// What was measured: 20 s at 2,000 messages a second, with one slow second.
pub(crate) fn recording() -> Recording {
    let window = Window { start_ns: 5_000_000_000, end_ns: 5_000_000_000 + SECONDS * 1_000_000_000 };
    let mut collector = Collector::new(window);
    let mut recorder = Recorder::new(window);
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    let mut tail = |typical_ns: f64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let unit = (random >> 11) as f64 / (1u64 << 53) as f64;
        // A log-logistic tail, as latencies tend to have; square roots are the same on every machine.
        (typical_ns * (unit / (1.0 - unit)).sqrt().sqrt()) as u64
    };
    for sequence in 0..SECONDS * RATE {
        let intended = window.start_ns + sequence * 1_000_000_000 / RATE;
        let slow = if sequence / RATE == 13 { 6.0 } else { 1.0 };
        let lag = tail(9_000.0);
        let accept = lag + tail(900_000.0 * slow);
        let arrive = accept + tail(420_000.0);
        recorder.record(Milestone::ScheduleLag, intended, lag);
        recorder.record(Milestone::Accept, intended, accept);
        recorder.record(Milestone::Arrive, intended, arrive);
        let (milestone, read) = match sequence % 2 {
            0 => (Milestone::VisibleImap, arrive + tail(700_000.0)),
            _ => (Milestone::VisiblePop3, arrive + 100_000_000 * (sequence % 97) / 97),
        };
        recorder.record(milestone, intended, read);
        for (milestone, latency) in
            [(Milestone::Accept, accept), (Milestone::Arrive, arrive), (milestone, read)]
        {
            recorder.count(milestone, intended + latency, 1);
        }
        if let Some(batch) = recorder.take_closed(intended) {
            collector.absorb(batch);
        }
    }
    collector.absorb(recorder.finish());
    collector.finish()
}

/// Its record, judged: everything delivered, both gates passed.
pub(crate) fn run(recording: &Recording) -> Run {
    let object = |value: Value| -> Map<String, Value> { value.as_object().cloned().unwrap_or_default() };
    let started = Timestamp::from_unix(Duration::from_micros(1_767_323_045_250_000));
    let mut run = Run::new(started, recording.window().seconds());
    let total = (SECONDS + 2) * RATE;
    let per_s = |milestone| Some(recording.events(milestone) as f64 / recording.window().seconds());
    run.chasqui.git = Some("3f1c9ab".to_owned());
    run.chasqui.engine = Some("uring".to_owned());
    run.machine.cpu = Some("AMD EPYC 9B14".to_owned());
    run.machine.cores = Some(2);
    run.machine.memory_bytes = Some(8 << 30);
    run.machine.kernel = Some("Linux 6.18.1".to_owned());
    run.machine.spool.fs = Some("ext4".to_owned());
    run.machine.spool.device = Some("/dev/vda1".to_owned());
    run.machine.spool.fdatasync_us_p50 = Some(461.5);
    run.placement = object(json!({ "relay": [0], "loadgen": [1], "sinks": [1] }));
    run.scenario = object(json!({
        "rate": RATE, "mode": "open", "arrivals": "constant", "verify": "live", "outstanding": null,
        "connections": 16, "size": "2KiB", "size_mean_bytes": SIZE, "duration_us": SECONDS * 1_000_000,
        "pop3_poll_us": 100_000, "warmup_us": 2_000_000, "drain_us": 30_000_000, "domains": 8, "mailboxes_per_domain": 8,
    }));
    run.seed = Some(42);
    run.durability = Some(Durability::Synced);
    run.clock.uncertainty_us = Some(0.0);
    run.ledger = Ledger {
        scheduled: total,
        sent: total,
        accepted: total,
        arrived: Some(total),
        verified: Some(total),
        bounced: Some(0),
        corrupted: Some(0),
        lost: Some(0),
        missing: Some(0),
        pending_unseen: Some(0),
        pending: Some(0),
        duplicated: Some(0),
        duplicated_with_cause: Some(0),
        late: Some(0),
        reordered: Some(37),
        phantom: Some(0),
        ..Ledger::default()
    };
    run.throughput = Throughput {
        accepted_per_s: per_s(Milestone::Accept),
        arrived_per_s: per_s(Milestone::Arrive),
        verified_per_s: per_s(Milestone::Visible),
        bytes_per_s: per_s(Milestone::Accept).map(|per_s| per_s * SIZE as f64),
        ..Throughput::default()
    };
    run.took_s = Some(23.4);
    run.due = Some(Due { messages: SECONDS * RATE, unsent: 0, answered: SECONDS * RATE });
    run.connections = Some(Connections { asked: 16, reached: 16, ..Connections::default() });
    run.backlog_end = Some(3);
    run.latency_us = recording.latency_us();
    run.cpu_us_per_message = CpuPerMessage {
        relay: Some(58.25),
        loadgen: Some(31.5),
        sinks: Some(29.75),
        verify: Some(44.0),
        ..CpuPerMessage::default()
    };
    run.memory_bytes.relay_peak_rss = Some(41 << 20);
    run.memory_bytes.loadgen_peak_rss = Some(58 << 20);
    run.memory_bytes.sinks_peak_rss = Some(97 << 20);
    run.syncs.count = Some(16_842);
    run.syncs.messages_per_sync = Some(2.5);
    run.validity = Some(Validity {
        wanted_per_s: RATE as f64,
        achieved_per_s: RATE as f64,
        late_share: 0.0005,
        ..Validity::default()
    });
    let gates = ["accept.p99 < 50ms", "throughput.accepted_per_s > 1900"];
    run.judge(&gates.map(|gate| Gate::parse(gate).expect("the gates are well formed")));
    run
}
