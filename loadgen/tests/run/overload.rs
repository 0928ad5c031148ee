//! Who is too slow: the server, or the generator.

use std::time::Duration;

use chasqui_loadgen::{ArrivalProcess, Hooks, Rate, Scenario, Verify, start};
use chasqui_report::{GateVerdict, Milestone, Verdict};

use crate::support::{judged, placement, run, scenario};
use crate::world::{Treatment, World};

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
            targets: vec![slow.smtp.into(), other.as_ref().unwrap_or(&slow).smtp.into()],
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
