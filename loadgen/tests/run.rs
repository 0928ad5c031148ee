//! Whole runs of the load generator against a small SMTP server that treats messages as each test wants.

mod world;

use std::time::Duration;

use chasqui_loadgen::{
    ArrivalProcess, Hooks, Outcome, Phase, Placement, Rate, Scenario, SizeDistribution, Verify, start,
};
use chasqui_report::Milestone;
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
    assert_eq!(outcome.ledger.to_report().check(), Ok(()));
    outcome
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
    assert_eq!((ledger.duplicated, ledger.phantom, ledger.foreign), (0, 0, 0), "{outcome:?}");
    for milestone in [Milestone::ScheduleLag, Milestone::Accept, Milestone::Arrive, Milestone::VisiblePop3] {
        let count = outcome.recording.count(milestone);
        assert!(count > 300, "{milestone:?} {count}");
    }
    assert_eq!(outcome.recording.count(Milestone::Accept), outcome.throughput.accepted);
    assert_eq!(Some(outcome.recording.count(Milestone::Arrive)), outcome.throughput.arrived);
    assert_eq!(Some(outcome.recording.count(Milestone::Visible)), outcome.throughput.verified);
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
    assert_eq!((ledger.unknown, ledger.unknown_arrived), (each, each), "{outcome:?}");
    assert_eq!(ledger.duplicated, each, "{outcome:?}");
    assert_eq!((ledger.phantom, ledger.rejected_arrived), (0, 0), "{outcome:?}");
    assert_eq!(ledger.verified, ledger.scheduled - 9 * each, "{outcome:?}");
    assert!(outcome.notes.iter().any(|note| note.contains("not today")), "{:?}", outcome.notes);
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

/// Latency counts from the intended time: with one connection and a reply that takes 20 ms, messages wanted
/// every 10 ms wait longer and longer, the run is invalid, and what was never begun is `unsent`.
#[test]
fn overload_is_measured_and_invalid() {
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
    assert!(!validity.faults().is_empty());
    let accept = outcome.recording.summary(Milestone::Accept).expect("some were accepted");
    assert!(accept.max > 800_000.0, "{accept:?}");
}

/// A relay that does not answer leaves what is missing `pending`; a foreign MTA, which nobody can ask, `lost`.
#[test]
fn silent_relay_and_foreign_mta() {
    for (silent, expected) in [(true, "pending"), (false, "lost")] {
        let world = World::start(|sequence| if sequence < 3 { Treatment::Lose } else { Treatment::Deliver });
        let scenario = Scenario {
            relay_control: silent.then(|| world.nowhere()),
            drain: Duration::from_millis(300),
            verify: Some(Verify::Arrival),
            ..scenario(&world)
        };
        let outcome = run(scenario, 1);
        let counts = (outcome.ledger.lost, outcome.ledger.pending);
        assert_eq!(counts, if expected == "lost" { (3, 0) } else { (0, 3) }, "{outcome:?}");
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
    assert_eq!(outcome.recording.count(Milestone::Accept), outcome.throughput.accepted);
    assert!(outcome.ledger.adds_up() && outcome.ledger.verified == outcome.ledger.sent, "{outcome:?}");
    assert!(outcome.ledger.scheduled < 60_000, "{outcome:?}");
    let validity = outcome.validity.expect("an open loop");
    // Rates are those of the window as it was, not as it was planned: they give back what was sent in it.
    let begun = (validity.achieved_per_s * outcome.window.seconds()).round() as u64;
    assert!((1..=outcome.ledger.sent).contains(&begun), "{begun} of {outcome:?}");
}

/// What cannot begin says in one line what is missing.
#[test]
fn failures_to_begin() {
    let world = World::start(|_| Treatment::Deliver);
    let closed = {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        listener.local_addr().expect("an address")
    };
    let nothing_listens = Scenario { targets: vec![closed], ..scenario(&world) };
    let no_stream = Scenario { arrival_streams: vec![world.nowhere()], ..scenario(&world) };
    for (scenario, word) in [(nothing_listens, "cannot connect"), (no_stream, "arrival stream")] {
        let running = start(scenario, placement(1, 1), Hooks::default()).expect("the threads start");
        let error = running.join().expect_err("nothing to send to").to_string();
        assert!(error.contains(word) && !error.contains('\n'), "{error}");
    }
    let bad = Scenario { connections: 0, ..scenario(&world) };
    assert!(start(bad, placement(1, 1), Hooks::default()).is_err());
    assert!(start(scenario(&world), placement(0, 1), Hooks::default()).is_err());
    assert!(start(scenario(&world), placement(1, 0), Hooks::default()).is_err());
}

/// Connections that break again and again are reopened: what had no reply is `unknown`, is not sent again, and
/// arrives without being a duplicate or phantom; the run goes on.
#[test]
fn broken_connections_are_reopened() {
    let world = World::start(|sequence| match sequence % 40 {
        7 => Treatment::DropReply,
        23 => Treatment::Close,
        _ => Treatment::Deliver,
    });
    let scenario = Scenario { verify: Some(Verify::Arrival), ..scenario(&world) };
    let outcome = run(scenario, 2);
    let ledger = outcome.ledger;
    assert!(ledger.unknown >= 10 && ledger.rejected >= 10, "{outcome:?}");
    assert_eq!((ledger.unknown_arrived, ledger.rejected_arrived), (ledger.unknown, 0), "{outcome:?}");
    assert_eq!(ledger.verified, ledger.sent - ledger.unknown - ledger.rejected, "{outcome:?}");
    assert_eq!((ledger.duplicated, ledger.phantom, ledger.unsent), (0, 0, 0), "{outcome:?}");
    assert!(outcome.notes.iter().any(|note| note.contains("closed by the server")), "{:?}", outcome.notes);
}
