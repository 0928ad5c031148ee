//! What becomes of messages in a run, and what is measured of them.

use std::time::Duration;

use chasqui_loadgen::{Hooks, Phase, Rate, RecipientDistribution, Scenario, SizeDistribution, Verify, start};
use chasqui_report::Milestone;

use crate::support::{placement, run, scenario};
use crate::world::{Treatment, World};

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
    scenario.recipients_per_message = RecipientDistribution::Fixed(2);
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
