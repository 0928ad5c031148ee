//! Whole runs of the load generator against a small SMTP server that treats messages as each test wants.

mod beginnings;
mod connections;
mod world;

use std::time::Duration;

use chasqui_loadgen::{
    ArrivalProcess, Hooks, Outcome, Phase, Placement, Rate, Scenario, SizeDistribution, Verify, start,
};
use chasqui_report::{Gate, GateVerdict, Ledger, Milestone, Run, Timestamp, Verdict};
use chasqui_runtime::{EngineKind, available_cores};
use world::{Treatment, World};

fn scenario(world: &World) -> Scenario {
    Scenario {
        rate: Rate::PerSecond(500.0),
        arrivals: ArrivalProcess::Poisson,
        warmup: Duration::from_millis(200),
        duration: Duration::from_secs(1),
        drain: Duration::from_secs(2),
        connections: 10,
        domains: 3,
        mailboxes_per_domain: 2,
        targets: vec![world.smtp],
        pop3: Some(world.pop3),
        pop3_poll: Duration::from_millis(100),
        arrival_streams: vec![world.arrivals.clone()],
        relay_control: Some(world.control.clone()),
        ..Scenario::default()
    }
}

fn placement(generators: usize, readers: usize) -> Placement {
    let core = available_cores()[0];
    Placement {
        engine: EngineKind::default(),
        generators: vec![core; generators],
        readers: vec![core; readers],
    }
}

fn run(scenario: Scenario, generators: usize) -> Outcome {
    let running = start(scenario, placement(generators, 1), Hooks::default()).expect("the run starts");
    let outcome = running.join().expect("the run ends");
    assert!(outcome.ledger.adds_up(), "{outcome:?}");
    assert_eq!(Ledger::from(outcome.ledger).check(), Ok(()));
    outcome
}

/// The outcome as a judged record, held against `gates`.
fn judged(outcome: &Outcome, gates: &[&str]) -> Run {
    let mut run = Run::new(Timestamp::from_unix(outcome.window_start_wall), outcome.window.seconds());
    run.ledger = outcome.ledger.into();
    run.due = Some(outcome.due);
    run.latency_us = outcome.recording.latency_us();
    run.validity = outcome.validity;
    run.invalid_reasons = outcome.broken.clone();
    let gates: Vec<Gate> = gates.iter().map(|gate| Gate::parse(gate).expect("a good gate")).collect();
    run.judge(&gates);
    run
}

/// An open loop with live readers: everything scheduled is sent, accepted, arrives and is verified, every
/// milestone has its latencies, and the figures of the window agree with each other.
#[test]
fn open_loop_live() {
    let world = World::start(|_| Treatment::Deliver);
    let outcome = run(scenario(&world), 1);
    let ledger = outcome.ledger;
    assert_eq!((ledger.verified, ledger.unsent), (ledger.scheduled, 0), "{outcome:?}");
    // 1.2 seconds at 500 a second, Poisson: ±4 standard deviations.
    assert!((502..=698).contains(&ledger.scheduled), "{outcome:?}");
    assert_eq!((ledger.duplicated, ledger.phantom, outcome.beside.foreign), (0, 0, 0), "{outcome:?}");
    for milestone in [Milestone::ScheduleLag, Milestone::Accept, Milestone::Arrive, Milestone::VisiblePop3] {
        let count = outcome.recording.count(milestone);
        assert!(count > 300, "{milestone:?} {count}");
    }
    assert_eq!(outcome.recording.events(Milestone::Accept), outcome.throughput.accepted);
    assert_eq!(Some(outcome.recording.events(Milestone::Arrive)), outcome.throughput.arrived);
    assert_eq!(Some(outcome.recording.events(Milestone::Visible)), outcome.throughput.verified);
    assert_eq!((outcome.due.answered, outcome.due.unsent), (outcome.due.messages, 0), "{outcome:?}");
    for milestone in [Milestone::ScheduleLag, Milestone::Accept, Milestone::Arrive, Milestone::Visible] {
        let samples = (outcome.recording.count(milestone), outcome.recording.censored(milestone));
        assert_eq!(
            samples,
            (outcome.due.messages, 0),
            "{milestone:?}: one sample for each message that was due"
        );
    }
    assert_eq!((outcome.connections.reached, outcome.connections.refused), (10, 0), "{outcome:?}");
    assert_eq!(outcome.broken, Vec::<String>::new());
    assert!(outcome.throughput.accepted_octets >= outcome.throughput.accepted * 2047);
    assert!(outcome.verify_cpu.is_some_and(|cpu| cpu > Duration::ZERO));
    assert_eq!(outcome.relay_answered, Some(true));
    assert!((outcome.window.seconds() - 1.0).abs() < 1e-9);
}

/// Every treatment of a message ends in the state of the ledger that it should, and nothing is sent again.
#[test]
fn fates() {
    const KINDS: [Treatment; 13] = [
        Treatment::Deliver,
        Treatment::DeliverTwice,
        Treatment::DeliverChanged,
        Treatment::DeliverUntold,
        Treatment::TellUndelivered,
        Treatment::Bounce,
        Treatment::Queue,
        Treatment::QueueUnread,
        Treatment::Lose,
        Treatment::Refuse,
        Treatment::DropReply,
        Treatment::Close,
        Treatment::Deliver,
    ];
    fn treat(sequence: u64) -> Treatment {
        KINDS.get(sequence as usize).copied().unwrap_or(Treatment::Deliver)
    }
    let world = World::start(treat);
    let mut scenario = scenario(&world);
    scenario.recipients_per_message = 2;
    let outcome = run(scenario, 1);
    let ledger = outcome.ledger;
    let each = 2;
    assert_eq!(ledger.corrupted, each, "{outcome:?}");
    assert_eq!(ledger.bounced, each, "{outcome:?}");
    assert_eq!(ledger.pending, 2 * each, "{outcome:?}");
    assert_eq!(ledger.lost, 2 * each, "{outcome:?}");
    assert_eq!(ledger.rejected, 2 * each, "{outcome:?}");
    assert_eq!((ledger.unknown, outcome.beside.unknown_arrived), (each, each), "{outcome:?}");
    assert_eq!(ledger.duplicated, each, "{outcome:?}");
    assert_eq!((ledger.phantom, outcome.beside.rejected_arrived), (0, 0), "{outcome:?}");
    assert_eq!(ledger.verified, ledger.scheduled - 9 * each, "{outcome:?}");
    assert!(outcome.notes.iter().any(|note| note.contains("not today")), "{:?}", outcome.notes);
    // Every recipient of 10 messages is named, and of the refused ones the reply.
    assert_eq!(outcome.anomalies.len() as u64, 10 * each, "{:?}", outcome.anomalies);
    let of =
        |sequence| outcome.anomalies.iter().find(move |one| one.sequence == sequence).expect("it is named");
    assert_eq!(of(9).what(), "rejected");
    assert!(
        of(9).reply.as_ref().is_some_and(|reply| reply.starts_with("550") && reply.contains("not today"))
    );
    assert_eq!((of(8).what(), of(8).reply.as_deref()), ("lost", None));
    assert_eq!((of(8).queue_id.as_deref(), &of(9).queue_id), (Some("ABC8"), &None), "as the server said it");
    assert_eq!((of(10).what(), of(10).reply.as_deref()), ("unknown", Some("closed by the server")));
    assert!(outcome.notes.iter().any(|note| note.starts_with("lost: message")), "{:?}", outcome.notes);
}

/// The closed loop at full speed over two generator shards and two reader shards, mailboxes read after the
/// window: all arrives, and only what a closed loop can have is measured.
#[test]
fn closed_loop_after() {
    let world = World::start(|_| Treatment::Deliver);
    let scenario = Scenario {
        rate: Rate::Max,
        outstanding: Some(40),
        duration: Duration::from_millis(500),
        size: SizeDistribution::Uniform { min: 700, max: 40_000 },
        ..scenario(&world)
    };
    let running = start(scenario, placement(2, 2), Hooks::default()).expect("the run starts");
    let outcome = running.join().expect("the run ends");
    let ledger = outcome.ledger;
    assert!(ledger.adds_up() && ledger.verified == ledger.scheduled && ledger.scheduled > 100, "{outcome:?}");
    assert_eq!(outcome.recording.count(Milestone::ScheduleLag), 0);
    assert_eq!(outcome.recording.count(Milestone::Visible), 0);
    assert_eq!((outcome.validity, outcome.throughput.verified), (None, None));
    assert!(outcome.backlog_end.is_some_and(|backlog| backlog <= 40 + 10), "{outcome:?}");
}

/// A closed loop sends no more while `outstanding` accepted recipients have not arrived: of a world that
/// loses everything it takes that many, and one in flight for each connection.
#[test]
fn outstanding_bounds_the_closed_loop() {
    let world = World::start(|_| Treatment::Lose);
    let scenario = Scenario {
        rate: Rate::Max,
        outstanding: Some(20),
        connections: 4,
        warmup: Duration::ZERO,
        duration: Duration::from_millis(300),
        drain: Duration::from_millis(100),
        verify: Some(Verify::Arrival),
        ..scenario(&world)
    };
    let outcome = run(scenario, 1);
    assert!((20..24).contains(&outcome.ledger.sent), "{outcome:?}");
    assert_eq!(outcome.ledger.lost, outcome.ledger.sent, "{outcome:?}");
}

/// Latency counts from the due time: with one connection and a reply that takes 20 ms, messages wanted
/// every 2 ms wait longer and longer. That is the server's: what was never begun is `unsent`, has a censored sample at every
/// milestone, and fails the run as a gate does.
#[test]
fn overload_is_the_servers() {
    let world = World::start(|_| Treatment::Delay(Duration::from_millis(20)));
    let scenario = Scenario {
        rate: Rate::PerSecond(500.0),
        arrivals: ArrivalProcess::Constant,
        connections: 1,
        warmup: Duration::ZERO,
        verify: Some(Verify::Arrival),
        ..scenario(&world)
    };
    let outcome = run(scenario, 1);
    let ledger = outcome.ledger;
    assert_eq!(ledger.scheduled, 500, "{outcome:?}");
    assert!(ledger.unsent > 300 && ledger.verified == ledger.sent, "{outcome:?}");
    let validity = outcome.validity.expect("an open loop");
    assert!((validity.wanted_per_s - 500.0).abs() < 1.0, "{validity:?}");
    assert!(validity.late_share > 0.9 && validity.achieved_per_s < 60.0, "{validity:?}");
    assert!(validity.late_while_free_share < 0.2, "{validity:?}");
    let accept = outcome.recording.summary(Milestone::Accept).expect("some were accepted");
    assert!(accept.max > 800_000.0, "{accept:?}");
    assert_eq!((accept.count, accept.censored), (500, ledger.unsent), "{outcome:?}");
    assert_eq!(outcome.recording.count(Milestone::Arrive), 500);
    let run = judged(&outcome, &[]);
    assert!(run.shortfall().is_some());
    // A machine that is busy otherwise may have made the generator late too.
    if validity.faults().is_empty() {
        assert_eq!(run.verdict, Verdict::GateFailed, "{:?}", run.invalid_reasons);
        assert!(validity.saturation().is_some(), "{validity:?}");
    }
}

/// A server that hangs from the middle of the window to 2 s past its end cannot hide it, whatever the arrivals: the largest
/// latency has it, and in an open loop p99; gates fail.
#[test]
fn a_hang_over_the_windows_end_is_seen() {
    const HANG: Treatment = Treatment::Hang(Duration::from_millis(1000), Duration::from_millis(4000));
    let open = |arrivals| (Rate::PerSecond(100.0), arrivals);
    for (rate, arrivals) in
        [open(ArrivalProcess::Constant), open(ArrivalProcess::Poisson), (Rate::Max, ArrivalProcess::Constant)]
    {
        let world = World::start(|_| HANG);
        let scenario = Scenario {
            rate,
            arrivals,
            outstanding: None,
            warmup: Duration::ZERO,
            duration: Duration::from_secs(2),
            drain: Duration::from_secs(5),
            verify: Some(Verify::Arrival),
            ..scenario(&world)
        };
        let outcome = run(scenario, 1);
        let accept = outcome.recording.summary(Milestone::Accept).expect("it was measured");
        assert!(accept.max > 1_900_000.0, "{rate} {arrivals}: {accept:?}");
        let judged = judged(&outcome, &["accept.max < 1s", "accept.p99 < 1s"]);
        assert_eq!(judged.gates[0].verdict, GateVerdict::Fail, "{rate} {arrivals}: {accept:?}");
        if rate != Rate::Max {
            assert!(accept.p99 > 1_900_000.0 && accept.censored > 50, "{arrivals}: {accept:?}");
            assert_eq!(judged.gates[1].verdict, GateVerdict::Fail, "{arrivals}: {accept:?}");
        }
        assert!(judged.verdict != Verdict::Pass && outcome.ledger.unknown == 0, "{outcome:?}");
    }
}

/// A server that is slow but willing (0.1 s a command, 20 connections, 120 a second) is no fault of the generator: the run
/// is valid, says that the server is saturated, and fails as a gate does, with exit code 3.
#[test]
fn a_slow_but_willing_server() {
    let world = World::start(|_| Treatment::Slow(Duration::from_millis(100)));
    let scenario = Scenario {
        rate: Rate::PerSecond(120.0),
        arrivals: ArrivalProcess::Constant,
        connections: 20,
        warmup: Duration::ZERO,
        duration: Duration::from_secs(3),
        verify: Some(Verify::Arrival),
        ..scenario(&world)
    };
    let outcome = run(scenario, 1);
    let run = judged(&outcome, &[]);
    let validity = outcome.validity.expect("an open loop");
    assert!(validity.late_share > 0.1 && validity.late_while_free_share < 0.05, "{validity:?}");
    assert_eq!(outcome.ledger.verified, outcome.ledger.sent, "{outcome:?}");
    if validity.loop_late_share <= 0.01 {
        assert_eq!(
            (run.verdict, run.verdict.exit_code()),
            (Verdict::GateFailed, 3),
            "{:?}",
            run.invalid_reasons
        );
        assert!(validity.saturation().is_some(), "{validity:?}");
    }
}

/// A message that waits for a connection of its shard while another shard's is free is late by the generator's fault: with one
/// shard it would have gone out. Where the connections of all shards are busy, the server is.
#[test]
fn a_connection_that_another_shard_has_free_counts() {
    for slow_too in [false, true] {
        let slow = World::start(|_| Treatment::Delay(Duration::from_millis(200)));
        let other = if slow_too { None } else { Some(World::start(|_| Treatment::Deliver)) };
        let streams = std::iter::once(&slow).chain(&other).map(|world| world.arrivals.clone()).collect();
        let scenario = Scenario {
            rate: Rate::PerSecond(20.0),
            arrivals: ArrivalProcess::Constant,
            connections: 2,
            duration: Duration::from_secs(2),
            warmup: Duration::ZERO,
            targets: vec![slow.smtp, other.as_ref().unwrap_or(&slow).smtp],
            arrival_streams: streams,
            relay_control: None,
            pop3: None,
            verify: Some(Verify::Arrival),
            ..scenario(&slow)
        };
        let outcome = run(scenario, 2);
        let validity = outcome.validity.expect("an open loop");
        assert!(validity.late_share > 0.3, "{validity:?}");
        let of_the_generator = validity.late_while_free_share;
        if slow_too {
            assert!(of_the_generator < 0.1, "{validity:?}");
        } else {
            assert!(of_the_generator > 0.1, "{validity:?}");
            assert!(
                validity.faults().iter().any(|fault| fault.contains("a connection was free")),
                "{validity:?}"
            );
        }
    }
}

/// A generator whose own loop stands still for a tenth of the window is invalid for that, also where every connection
/// looked busy.
#[test]
fn a_starved_generator_is_invalid() {
    let world = World::start(|_| Treatment::Delay(Duration::from_millis(20)));
    let stand_still = || {
        let (_keep, never) = std::sync::mpsc::channel::<()>();
        let _ = never.recv_timeout(Duration::from_millis(100));
    };
    let hooks = Hooks { window_start: Some(Box::new(stand_still)), window_end: None };
    let scenario = Scenario { connections: 1, verify: Some(Verify::Arrival), ..scenario(&world) };
    let running = start(scenario, placement(1, 1), hooks).expect("the run starts");
    let validity = running.join().expect("the run ends").validity.expect("an open loop");
    assert!(validity.loop_late_share > 0.05, "{validity:?}");
    assert!(validity.faults().iter().any(|fault| fault.contains("own loop")), "{validity:?}");
}

/// A stream or a live reader that is lost in the run makes it invalid, and not one message lost.
#[test]
fn a_lost_instrument_is_invalid() {
    for (instrument, word) in
        [(Treatment::BreakStreams, "arrival stream"), (Treatment::LockMailboxes, "a live reader")]
    {
        let world = World::start(match instrument {
            Treatment::BreakStreams => |sequence| match sequence {
                50 => Treatment::BreakStreams,
                _ => Treatment::Deliver,
            },
            _ => |sequence| match sequence {
                50 => Treatment::LockMailboxes,
                _ => Treatment::Deliver,
            },
        });
        let verify = (instrument == Treatment::BreakStreams).then_some(Verify::Arrival);
        let scenario =
            Scenario { verify, relay_control: None, drain: Duration::from_millis(500), ..scenario(&world) };
        let outcome = run(scenario, 1);
        assert!(outcome.broken.iter().any(|line| line.contains(word)), "{:?}", outcome.broken);
        let ledger = outcome.ledger;
        assert_eq!((ledger.lost, ledger.missing), (0, 0), "{outcome:?}");
        assert!(ledger.pending > 0 && ledger.pending == ledger.pending_unseen, "{outcome:?}");
        assert_eq!(judged(&outcome, &[]).verdict, Verdict::Invalid);
    }
}

/// One failed poll of a live POP3 reader is mended by the next: the run stays valid, and the failure is noted.
#[test]
fn a_failed_poll_is_mended_by_the_next() {
    let world = World::start(|sequence| match sequence {
        50 => Treatment::RefuseALogin,
        _ => Treatment::Deliver,
    });
    let outcome = run(scenario(&world), 1);
    assert_eq!(outcome.broken, Vec::<String>::new(), "{outcome:?}");
    assert_eq!(outcome.ledger.verified, outcome.ledger.scheduled, "{outcome:?}");
    let noted = |note: &String| note.contains("refused") && note.starts_with("POP3");
    assert!(outcome.notes.iter().any(noted), "{:?}", outcome.notes);
}

/// With nobody to look what becomes of accepted mail, replies alone are measured, in both loops.
#[test]
fn verify_none_measures_replies() {
    let world = World::start(|_| Treatment::Lose);
    for rate in [Rate::PerSecond(200.0), Rate::Max] {
        let scenario = Scenario {
            rate,
            verify: Some(Verify::Nothing),
            pop3: None,
            arrival_streams: Vec::new(),
            relay_control: None,
            warmup: Duration::ZERO,
            duration: Duration::from_millis(500),
            ..scenario(&world)
        };
        let outcome = run(scenario, 1);
        assert!(outcome.due.messages > 50 && outcome.due.answered == outcome.due.messages, "{outcome:?}");
        assert_eq!(outcome.recording.count(Milestone::Accept), outcome.due.messages);
        assert_eq!((outcome.throughput.arrived, outcome.throughput.verified), (None, None));
        assert!(outcome.broken.is_empty() && outcome.recording.count(Milestone::Arrive) == 0, "{outcome:?}");
    }
}

/// Connections that a server does not take are counted with its refusals, come back slowly, and the others carry the load.
#[test]
fn refused_connections_are_counted() {
    let world = World::crowded(|_| Treatment::Deliver, 4);
    let scenario =
        Scenario { rate: Rate::PerSecond(50.0), verify: Some(Verify::Arrival), ..scenario(&world) };
    let outcome = run(scenario, 1);
    let connections = outcome.connections;
    assert_eq!((connections.asked, connections.reached), (10, 4), "{connections:?}");
    // 6 connections that try again after 50, 100, 200 ms and so on.
    assert!((6..60).contains(&connections.replies_421), "{connections:?}");
    assert_eq!((connections.refused, connections.emfile), (connections.replies_421, 0), "{connections:?}");
    assert_eq!(outcome.ledger.verified, outcome.ledger.scheduled, "{outcome:?}");
}

/// A relay that does not answer leaves what is nowhere `pending`; with a foreign MTA, whose queue nobody sees, it is
/// `missing`.
#[test]
fn silent_relay_and_foreign_mta() {
    for (silent, expected) in [(true, "pending"), (false, "missing")] {
        let world = World::start(|sequence| if sequence < 3 { Treatment::Lose } else { Treatment::Deliver });
        let scenario = Scenario {
            relay_control: silent.then(|| world.silent()),
            drain: Duration::from_millis(300),
            verify: Some(Verify::Arrival),
            ..scenario(&world)
        };
        let outcome = run(scenario, 1);
        let counts = (outcome.ledger.missing, outcome.ledger.pending);
        assert_eq!(outcome.ledger.lost, 0, "{outcome:?}");
        assert_eq!(judged(&outcome, &[]).verdict, Verdict::DeliveryFailed);
        assert_eq!(counts, if expected == "missing" { (3, 0) } else { (0, 3) }, "{outcome:?}");
        assert_eq!(outcome.relay_answered, silent.then_some(false));
    }
}

/// Stopping ends the run early with everything judged; the hooks are called at the edges of the window.
#[test]
fn stop_early() {
    let world = World::start(|_| Treatment::Deliver);
    let (edges, seen) = std::sync::mpsc::channel();
    let start_edge = edges.clone();
    let hooks = Hooks {
        window_start: Some(Box::new(move || start_edge.send("start").expect("the test waits"))),
        window_end: Some(Box::new(move || edges.send("end").expect("the test waits"))),
    };
    let scenario = Scenario { duration: Duration::from_secs(600), ..scenario(&world) };
    let running = start(scenario, placement(1, 1), hooks).expect("the run starts");
    assert_eq!(seen.recv(), Ok("start"));
    // The phase is entered and the counters are published a moment after the hook.
    let progress = loop {
        let progress = running.progress();
        if progress.accepted >= 50 && progress.phase >= Phase::Window {
            break progress;
        }
        std::thread::yield_now();
    };
    assert_eq!(progress.phase, Phase::Window);
    assert!(progress.connections == 10 && progress.sent >= progress.accepted, "{progress:?}");
    running.stopper().stop();
    assert_eq!(seen.recv(), Ok("end"));
    let outcome = running.join().expect("the run ends");
    assert!(outcome.stopped_early && outcome.window.seconds() < 60.0, "{outcome:?}");
    assert_eq!(outcome.recording.window(), outcome.window);
    assert_eq!(outcome.recording.events(Milestone::Accept), outcome.throughput.accepted);
    assert!(outcome.ledger.adds_up() && outcome.ledger.verified == outcome.ledger.sent, "{outcome:?}");
    assert!(outcome.ledger.scheduled < 60_000, "{outcome:?}");
    let validity = outcome.validity.expect("an open loop");
    // Rates are those of the window as it was, not as it was planned: they give back what was sent in it.
    let begun = (validity.achieved_per_s * outcome.window.seconds()).round() as u64;
    assert!((1..=outcome.ledger.sent).contains(&begun), "{begun} of {outcome:?}");
}
