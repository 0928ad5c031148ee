//! Connections that break while a run goes on.

use chasqui_loadgen::{Beside, Scenario, Verify};

use super::world::{Treatment, World};
use super::{run, scenario};

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
