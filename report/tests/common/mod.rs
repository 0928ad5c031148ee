//! A realistic run, the same every time: its latencies come from a fixed generator, not from a clock.

use std::time::Duration;

use chasqui_report::{
    ArrivalProcess, Collector, Connections, Counts, CpuPerMessage, Due, Durability, Gate, Ledger, Milestone,
    Mode, Rate, Recorder, Recording, Run, Scenario, Throughput, Timestamp, TlsMode, Validity, Verify, Window,
};
use serde_json::Map;

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
    for _ in 0..16 {
        recorder.record_connection(Milestone::Connect, window.start_ns - 2_000_000_000, tail(40_000.0));
        recorder.record_connection(Milestone::Tls, window.start_ns - 2_000_000_000, tail(1_500_000.0));
        recorder.record_connection(Milestone::Auth, window.start_ns - 2_000_000_000, tail(2_500_000.0));
    }
    collector.absorb(recorder.finish());
    collector.finish()
}

fn scenario() -> Scenario {
    Scenario {
        mode: Mode::Open,
        rate: Rate::PerSecond(RATE as f64),
        arrivals: Some(ArrivalProcess::Constant),
        outstanding: None,
        warmup_us: 2_000_000,
        duration_us: SECONDS * 1_000_000,
        drain_us: 30_000_000,
        connections: 16,
        messages_per_connection: None,
        sources: Vec::new(),
        tls: TlsMode::Starttls,
        pop3_tls: Some(TlsMode::Starttls),
        imap_tls: Some(TlsMode::Implicit),
        accounts: Some(10),
        tls_verified: Some(true),
        tls_resumption: Some(true),
        size: "2KiB".to_owned(),
        size_mean_bytes: SIZE as f64,
        recipients_per_message: 1,
        recipients: "1".to_owned(),
        domains: 8,
        mailboxes_per_domain: 8,
        zone: "chasqui.test".to_owned(),
        bounce_zone: "bounce.chasqui.test".to_owned(),
        verify: Verify::Live,
        pop3_poll_us: Some(100_000),
        eight_bit: true,
        reply_timeout_us: 60_000_000,
        late_after_us: 5_000_000,
        targets: vec![([127, 0, 0, 1], 2525).into()],
        extra: Map::new(),
    }
}

fn ledger() -> Ledger {
    let total = (SECONDS + 2) * RATE;
    let counts = Counts {
        scheduled: total,
        sent: total,
        accepted: total,
        arrived: total,
        verified: total,
        reordered: 37,
        ..Counts::default()
    };
    Ledger { duplicated_with_cause: Some(0), ..Ledger::from(counts) }
}

/// Its record, judged: everything delivered, both gates passed.
pub(crate) fn run(recording: &Recording) -> Run {
    let started = Timestamp::from_unix(Duration::from_micros(1_767_323_045_250_000));
    let mut run = Run::new(started, recording.window().seconds());
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
    let placement = [("relay", 0), ("loadgen", 1), ("sinks", 1)];
    run.placement = placement.map(|(part, core)| (part.to_owned(), vec![core])).into();
    run.scenario = Some(scenario());
    run.seed = Some(42);
    run.durability = Some(Durability::Synced);
    run.clock.uncertainty_us = Some(0.0);
    run.ledger = ledger();
    run.throughput = Throughput {
        accepted_per_s: per_s(Milestone::Accept),
        arrived_per_s: per_s(Milestone::Arrive),
        verified_per_s: per_s(Milestone::Visible),
        bytes_per_s: per_s(Milestone::Accept).map(|per_s| per_s * SIZE as f64),
        ..Throughput::default()
    };
    run.took_s = Some(23.4);
    run.due = Some(Due { messages: SECONDS * RATE, unsent: 0, answered: SECONDS * RATE });
    run.connections = Some(Connections {
        asked: 16,
        reached: 16,
        opened: Some(16),
        tls: Some(16),
        resumed: Some(3),
        handshakes_failed: Some(0),
        logins_failed: Some(0),
        ..Connections::default()
    });
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
