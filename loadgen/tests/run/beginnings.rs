//! Runs that cannot begin, and those that begin all the same.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use chasqui_loadgen::{Hooks, Scenario, Verify, start};

use crate::support::{placement, scenario};
use crate::world::{Treatment, World};

/// What cannot begin says in one line what is missing.
#[test]
fn failures_to_begin() {
    let world = World::start(|_| Treatment::Deliver);
    let closed = {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        listener.local_addr().expect("an address")
    };
    let nothing_listens = Scenario { targets: vec![closed.into()], ..scenario(&world) };
    let no_stream = Scenario { arrival_streams: vec![world.nowhere()], ..scenario(&world) };
    let no_control = Scenario { relay_control: Some(world.nowhere()), ..scenario(&world) };
    let wrong_password = Scenario { password: "wrong".into(), ..scenario(&world) };
    let after = Scenario { verify: Some(Verify::After), ..wrong_password.clone() };
    for (scenario, word) in [
        (nothing_listens, "cannot connect"),
        (no_stream, "arrival stream"),
        (no_control, "control socket"),
        (wrong_password, "6 of 6 readers cannot read their mailbox: POP3"),
        (after, "6 of 6 readers"),
    ] {
        let running = start(scenario, placement(1, 1), Hooks::default()).expect("the threads start");
        let error = running.join().expect_err("nothing to send to").to_string();
        assert!(error.contains(word) && !error.contains('\n'), "{error}");
    }
    let bad = Scenario { connections: 0, ..scenario(&world) };
    assert!(start(bad, placement(1, 1), Hooks::default()).is_err());
    assert!(start(scenario(&world), placement(0, 1), Hooks::default()).is_err());
    assert!(start(scenario(&world), placement(1, 0), Hooks::default()).is_err());
}

/// A reader's first session that breaks off is tried again, up to three times, before the run does not begin.
#[test]
fn first_sessions_that_break_are_tried_again() {
    let world = World::start(|_| Treatment::Deliver);
    for (broken, error) in [(3, None), (usize::MAX, Some("6 of 6 readers cannot read their mailbox"))] {
        let pop3 = Some(breaking(world.pop3, broken).into());
        let running = start(Scenario { pop3, ..scenario(&world) }, placement(1, 1), Hooks::default());
        let ended = running.expect("the threads start").join();
        match (ended, error) {
            (Ok(outcome), None) => assert_eq!(outcome.ledger.verified, outcome.ledger.sent, "{outcome:?}"),
            (Err(failure), Some(error)) => assert!(failure.to_string().contains(error), "{failure}"),
            (ended, _) => panic!("{broken}: {ended:?}"),
        }
    }
}

/// Breaks off the first connections, and passes the others on to `server`.
#[expect(clippy::disallowed_methods, reason = "it stands for a program outside the runtime")]
fn breaking(server: SocketAddr, broken: usize) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for (index, client) in listener.incoming().flatten().enumerate() {
            if index < broken {
                continue;
            }
            let Ok(server) = TcpStream::connect(server) else { continue };
            for (mut from, mut to) in [
                (client.try_clone().expect("a clone"), server.try_clone().expect("a clone")),
                (server, client),
            ] {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    address
}
