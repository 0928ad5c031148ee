//! How connections are made: TLS, whom it trusts, how many messages each has, and where they come from.

use std::time::Duration;

use chasqui_loadgen::{Hooks, Outcome, Rate, Scenario, Target, Tls, TlsMode, TlsTrust, Verify, start};
use chasqui_report::Milestone;

use crate::support::{placement, run};
use crate::tls_server::{Offer, Seen, TlsServer};

/// 200 messages over at most 4 connections, of which only the replies count.
fn scenario(server: &TlsServer) -> Scenario {
    Scenario {
        rate: Rate::PerSecond(200.0),
        warmup: Duration::ZERO,
        duration: Duration::from_secs(1),
        drain: Duration::from_secs(2),
        connections: 4,
        verify: Some(Verify::Nothing),
        targets: vec![Target { address: server.address, name: "localhost".to_owned() }],
        ..Scenario::default()
    }
}

fn verified(server: &TlsServer) -> Tls {
    Tls { trust: TlsTrust::Verified(Some(server.root.clone())), resumption: true }
}

/// The same in TLS, whose certificates lead to the root of `trusted`.
fn secured(server: &TlsServer, trusted: &TlsServer) -> Scenario {
    Scenario { target_tls: TlsMode::Starttls, tls: verified(trusted), ..scenario(server) }
}

/// Runs it, and checks that every message was accepted, in TLS if `secured`.
fn accepted(server: &TlsServer, scenario: Scenario, secured: bool) -> Outcome {
    let outcome = run(scenario, 1);
    assert_eq!(outcome.ledger.accepted, outcome.ledger.scheduled, "{outcome:?}");
    let seen = server.seen();
    let messages: usize = seen.iter().map(|connection| connection.messages).sum();
    assert_eq!(messages as u64, outcome.ledger.accepted, "{seen:?}");
    assert!(seen.iter().all(|it| it.secured == if secured { it.messages } else { 0 }), "{seen:?}");
    outcome
}

/// Both ways into TLS carry the load, verified; each connection is counted and has a sample of its handshake.
#[test]
fn tls_carries_the_load() {
    for offer in [Offer::Starttls, Offer::Implicit] {
        let server = TlsServer::start(offer);
        let target_tls = if offer == Offer::Implicit { TlsMode::Implicit } else { TlsMode::Starttls };
        let outcome = accepted(&server, Scenario { target_tls, ..secured(&server, &server) }, true);
        let connections = outcome.connections;
        assert_eq!((connections.opened, connections.tls), (Some(4), Some(4)), "{connections:?}");
        assert_eq!((connections.handshakes_failed, connections.refused), (Some(0), 0), "{connections:?}");
        let samples =
            [Milestone::Connect, Milestone::Tls].map(|milestone| outcome.recording.count(milestone));
        assert_eq!(samples, [4, 4]);
    }
}

/// A plain run has connects and no handshakes.
#[test]
fn a_plain_run_has_no_handshakes() {
    let server = TlsServer::start(Offer::Starttls);
    let outcome = accepted(&server, scenario(&server), false);
    assert_eq!((outcome.connections.opened, outcome.connections.tls), (Some(4), Some(0)));
    assert_eq!(outcome.recording.count(Milestone::Connect), 4);
    assert_eq!(outcome.recording.summary(Milestone::Tls), None);
}

/// Without the TLS that was asked for nothing is sent, and the one line says why: a name that is not in the certificate, an
/// authority that is not trusted, no STARTTLS, no TLS at all. Who takes any certificate is not stopped by the first two.
#[test]
fn nothing_falls_back_to_plaintext() {
    let server = TlsServer::start(Offer::Starttls);
    let (plain, other) = (TlsServer::start(Offer::Nothing), TlsServer::start(Offer::Nothing));
    let wrong_name = Scenario {
        targets: vec![Target { name: "mail.example".to_owned(), ..scenario(&server).targets[0].clone() }],
        ..secured(&server, &server)
    };
    let wrong_root = secured(&server, &other);
    let no_starttls = secured(&plain, &plain);
    let no_tls = Scenario { target_tls: TlsMode::Implicit, ..secured(&plain, &plain) };
    for (scenario, reason) in [
        (wrong_name.clone(), "not valid for name"),
        (wrong_root.clone(), "invalid peer certificate"),
        (no_starttls, "does not offer STARTTLS"),
        (no_tls, "TLS handshake"),
    ] {
        let running = start(scenario, placement(1, 1), Hooks::default()).expect("the threads start");
        let error = running.join().expect_err("no connection").to_string();
        assert!(error.contains(reason) && !error.contains('\n'), "{error}");
    }
    assert!([&server, &plain].iter().flat_map(|it| it.seen()).all(|it| it.messages == 0));

    for refused in [wrong_name, wrong_root] {
        let server = TlsServer::start(Offer::Starttls);
        let targets = vec![Target { address: server.address, ..refused.targets[0].clone() }];
        let any = Tls { trust: TlsTrust::Any, ..verified(&server) };
        accepted(&server, Scenario { tls: any, targets, ..refused }, true);
    }
}

/// Handshakes that fail beside connections that stand are counted and told, and the load goes over the others.
#[test]
fn failed_handshakes_are_counted() {
    let (server, other) = (TlsServer::start(Offer::Starttls), TlsServer::start(Offer::Starttls));
    let targets = [&server, &other].map(|it| scenario(it).targets[0].clone()).to_vec();
    let scenario = Scenario { targets, ..secured(&server, &server) };
    let outcome = accepted(&server, scenario, true);
    let connections = outcome.connections;
    assert_eq!((connections.opened, connections.reached), (Some(2), 2), "{connections:?}");
    assert!(connections.handshakes_failed.is_some_and(|failed| failed >= 2), "{connections:?}");
    assert_eq!(connections.refused, 0, "{connections:?}");
    assert!(
        outcome.notes.iter().any(|note| note.contains("invalid peer certificate")),
        "{:?}",
        outcome.notes
    );
}

/// Roots that cannot be read are told before anything starts.
#[test]
fn roots_are_read_first() {
    let server = TlsServer::start(Offer::Starttls);
    let trust = TlsTrust::Verified(Some("no/such/file".into()));
    let scenario = Scenario { tls: Tls { trust, ..verified(&server) }, ..secured(&server, &server) };
    let error = start(scenario, placement(1, 1), Hooks::default()).expect_err("no roots").to_string();
    assert!(error.contains("no/such/file"), "{error}");
}

/// Each connection has its number of messages, ends with QUIT, and the next comes at once: none of them waits for a back-off.
#[test]
fn connections_end_after_their_messages() {
    for messages in [1, 7] {
        let server = TlsServer::start(Offer::Nothing);
        let scenario = Scenario { messages_per_connection: Some(messages), ..scenario(&server) };
        let outcome = accepted(&server, scenario, false);
        let used: Vec<_> = server.seen().into_iter().filter(|it| it.messages > 0).collect();
        let is_over = |it: &&Seen| it.messages as u64 == messages && it.quit;
        assert!(used.iter().all(|it| it.messages as u64 <= messages), "{used:?}");
        let full = used.iter().filter(is_over).count() as u64;
        assert!(full >= outcome.ledger.accepted / messages - 8, "{used:?}");
        assert!(outcome.connections.opened.is_some_and(|opened| opened >= full), "{outcome:?}");
        assert_eq!(outcome.connections.refused, 0, "{outcome:?}");
        let p50 = outcome.recording.summary(Milestone::Accept).expect("it was measured").p50;
        assert!(p50 < 50_000.0, "{p50} µs is as long as the first back-off");
    }
}

/// Sessions are resumed, also those that were verified, or not if that is not wanted.
#[test]
fn sessions_are_resumed() {
    for resumption in [true, false] {
        let server = TlsServer::start(Offer::Starttls);
        let scenario = Scenario {
            tls: Tls { resumption, ..verified(&server) },
            messages_per_connection: Some(1),
            ..secured(&server, &server)
        };
        let connections = accepted(&server, scenario, true).connections;
        let (all, resumed) = (connections.tls.unwrap_or(0), connections.resumed.unwrap_or(0));
        assert!(all >= 150, "{connections:?}");
        assert!(if resumption { resumed > all / 2 } else { resumed == 0 }, "{connections:?}");
    }
}

/// Connections come from the source addresses in turn; one that this machine does not have is told.
#[test]
fn sources_are_used_in_turn() {
    let server = TlsServer::start(Offer::Nothing);
    let sources = ["127.0.0.2", "127.0.0.3"].map(|address| address.parse().expect("an address")).to_vec();
    accepted(&server, Scenario { sources: sources.clone(), ..scenario(&server) }, false);
    for source in sources {
        let from = server.seen().iter().filter(|it| it.from == source).count();
        assert_eq!(from, 2, "{source}: {:?}", server.seen());
    }
    let foreign = Scenario { sources: vec!["192.0.2.1".parse().expect("an address")], ..scenario(&server) };
    let running = start(foreign, placement(1, 1), Hooks::default()).expect("the threads start");
    let error = running.join().expect_err("no such address").to_string();
    assert!(error.contains("from 192.0.2.1: cannot connect"), "{error}");
}
