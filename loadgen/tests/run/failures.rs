//! Servers, streams and readers that fail in a run.

use std::time::Duration;

use chasqui_loadgen::{Beside, Rate, Scenario, Verify};
use chasqui_report::Verdict;

use crate::support::{judged, run, scenario};
use crate::world::{Treatment, World};

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
    assert_eq!(
        outcome.beside,
        Beside { unknown_arrived: ledger.unknown, ..Beside::default() },
        "{outcome:?}"
    );
    assert_eq!(ledger.verified, ledger.sent - ledger.unknown - ledger.rejected, "{outcome:?}");
    assert_eq!((ledger.duplicated, ledger.phantom, ledger.unsent), (0, 0, 0), "{outcome:?}");
    assert!(outcome.notes.iter().any(|note| note.contains("closed by the server")), "{:?}", outcome.notes);
}
