//! The load generator at real sinks as they are in TLS and with accounts: its readers at the mailboxes, its connections at the receivers.

use std::path::Path;
use std::time::Duration;

use chasqui_loadgen::{
    Authentication, Hooks, MailboxServer, Outcome, Placement, Rate, ReaderAccess, RecipientDistribution,
    Scenario, Target, Tls, TlsMode, TlsTrust, start,
};
use chasqui_protocol::sasl::accounts::{self, Account};
use chasqui_protocol::sasl::mechanism::{Mechanism, Mechanisms};
use chasqui_report::Milestone;
use chasqui_runtime::{EngineKind, available_cores};
use chasqui_sinks::{CertificateSource, Config, SinkReady, SmtpUsers};

/// How a scenario differs from the usual one.
type Change = fn(&mut Scenario);

/// What a run is to be, and what the sinks have beside their mailboxes.
struct Journey {
    /// With the targets, and with the mailboxes.
    tls: [TlsMode; 2],
    senders: Option<SmtpUsers>,
    change: Change,
}

impl Default for Journey {
    fn default() -> Journey {
        Journey { tls: [TlsMode::Off; 2], senders: None, change: |_| {} }
    }
}

/// Starts sinks, and runs a load into them. The load as it ended, or why it did not begin.
fn run(journey: Journey) -> Result<Outcome, String> {
    let directory = tempfile::tempdir().expect("a temporary folder");
    let root = directory.path().join("root.pem");
    let base = Config::default();
    let sinks = chasqui_sinks::start(Config {
        dns: None,
        smtps_port: Some(0),
        smtp_users: journey.senders,
        pop3s: base.pop3,
        imaps: base.imap,
        arrivals: Some(directory.path().join("arrivals")),
        certificate: Some(CertificateSource::SelfSigned { root: Some(root.clone()) }),
        ..base
    });
    let sinks = sinks.expect("the sinks start");
    let SinkReady { smtp, smtps, pop3, imap, pop3s, imaps, arrivals, .. } = sinks.ready().clone();
    let [target_tls, reader_tls] = journey.tls;
    let is_implicit = reader_tls == TlsMode::Implicit;
    let server = |address: std::net::SocketAddr| MailboxServer { tls: reader_tls, ..address.into() };
    let mut scenario = Scenario {
        rate: Rate::PerSecond(100.0),
        warmup: Duration::from_millis(100),
        duration: Duration::from_millis(500),
        drain: Duration::from_secs(5),
        connections: 2,
        domains: 2,
        mailboxes_per_domain: 2,
        targets: if target_tls == TlsMode::Implicit { smtps } else { smtp }
            .into_iter()
            .map(Target::from)
            .collect(),
        target_tls,
        tls: trusting(&root),
        pop3: if is_implicit { pop3s } else { pop3 }.map(server),
        imap: if is_implicit { imaps } else { imap }.map(server),
        pop3_poll: Duration::from_millis(100),
        arrival_streams: arrivals,
        ..Scenario::default()
    };
    (journey.change)(&mut scenario);
    let core = available_cores()[0];
    let placement = Placement { engine: EngineKind::default(), generators: vec![core], readers: vec![core] };
    let running = start(scenario, placement, Hooks::default()).expect("the run starts");
    let outcome = running.join().map_err(|error| error.to_string());
    sinks.shutdown();
    sinks.join().expect("the sinks end");
    let outcome = outcome?;
    let ledger = &outcome.ledger;
    assert_eq!((ledger.verified, ledger.unsent), (ledger.scheduled, 0), "{outcome:?}");
    assert!(ledger.scheduled > 20 && outcome.broken.is_empty(), "{outcome:?}");
    Ok(outcome)
}

fn trusting(root: &Path) -> Tls {
    Tls { trust: TlsTrust::Verified(Some(root.to_owned())), resumption: true }
}

fn accounts(text: &str) -> Vec<Account> {
    accounts::parse(text).expect("accounts")
}

fn listed() -> Option<SmtpUsers> {
    Some(SmtpUsers::Listed(accounts("ann:pa:ss\nB\u{e9}a@d0.chasqui.test:\u{2168} word\n")))
}

fn log_in(scenario: &mut Scenario, text: &str, mechanisms: Mechanisms) {
    scenario.authentication = Some(Authentication { accounts: accounts(text).into(), mechanisms });
}

/// Proves that every message is read in TLS from the start, and after STLS and STARTTLS, by the best mechanism of all and by
/// SCRAM-SHA-256 without a channel binding alone; and by PLAIN.
#[test]
fn mail_is_read_in_tls() {
    let read = |tls, change| run(Journey { tls: [TlsMode::Off, tls], change, ..Journey::default() });
    let cases: [(TlsMode, Change); 4] = [
        (TlsMode::Implicit, |scenario| scenario.reader.mechanisms = Some(Mechanisms::ALL)),
        (TlsMode::Implicit, |_| {}),
        (TlsMode::Starttls, |scenario| {
            scenario.reader.mechanisms = Some(Mechanisms::NONE.with(Mechanism::ScramSha256));
        }),
        (TlsMode::Starttls, |scenario| {
            scenario.reader.mechanisms = Some(Mechanisms::NONE.with(Mechanism::Plain));
        }),
    ];
    for (tls, change) in cases {
        read(tls, change).expect("it is read");
    }
}

/// Proves that in plain text SCRAM is used; that a password of an account's own counts; and that a certificate that leads to no
/// root that is known keeps the load from beginning.
#[test]
fn who_is_let_in() {
    let scram = |scenario: &mut Scenario| scenario.reader.mechanisms = Some(Mechanisms::ALL);
    run(Journey { change: scram, ..Journey::default() }).expect("it is read");
    let wrong = |scenario: &mut Scenario| {
        scenario.reader = ReaderAccess {
            mechanisms: Some(Mechanisms::ALL),
            accounts: ReaderAccess::by_address(&accounts("u0@d0.chasqui.test:wrong\n")),
        };
    };
    let refused = run(Journey { change: wrong, ..Journey::default() });
    assert!(refused.as_ref().is_err_and(|line| line.contains("u0@d0.chasqui.test")), "{refused:?}");
    let system = |scenario: &mut Scenario| scenario.tls = Tls::default();
    let tls = [TlsMode::Off, TlsMode::Implicit];
    let refused = run(Journey { tls, change: system, ..Journey::default() });
    assert!(refused.as_ref().is_err_and(|line| line.contains("TLS")), "{refused:?}");
}

/// Proves that connections log in before they send, by each mechanism, in each kind of connection, and have a sample of it each; and
/// that accounts are used in turn, whatever SASLprep makes of them.
#[test]
fn senders_log_in() {
    let all = |scenario: &mut Scenario| {
        log_in(scenario, "ann:pa:ss\nB\u{e9}a@d0.chasqui.test:IX word\n", Mechanisms::ALL);
    };
    let plain =
        |scenario: &mut Scenario| log_in(scenario, "ann:pa:ss\n", Mechanisms::NONE.with(Mechanism::Plain));
    let login =
        |scenario: &mut Scenario| log_in(scenario, "ann:pa:ss\n", Mechanisms::NONE.with(Mechanism::Login));
    let many = |scenario: &mut Scenario| {
        log_in(scenario, "ann:pa:ss\n", Mechanisms::ALL);
        scenario.messages_per_connection = Some(3);
        scenario.recipients_per_message = RecipientDistribution::Uniform { min: 1, max: 3 };
    };
    let cases: [(TlsMode, Option<SmtpUsers>, Change); 6] = [
        (TlsMode::Starttls, listed(), all),
        (TlsMode::Implicit, listed(), all),
        (TlsMode::Off, listed(), all),
        (TlsMode::Starttls, Some(SmtpUsers::Any), plain),
        (TlsMode::Off, Some(SmtpUsers::Any), login),
        (TlsMode::Implicit, listed(), many),
    ];
    for (tls, senders, change) in cases {
        let outcome = run(Journey { tls: [tls, TlsMode::Off], senders, change }).expect("it is sent");
        let (opened, logins) = (outcome.connections.opened, outcome.connections.logins_failed);
        assert_eq!(
            (Some(outcome.recording.count(Milestone::Auth)), Some(0)),
            (opened, logins),
            "{outcome:?}"
        );
    }
}

/// Proves that nothing is sent by who is not let in: without a login, with a wrong password, as nobody who is known, and where no
/// mechanism is offered that may be used. The one line says why, and no part of a password.
#[test]
fn who_may_not_send() {
    let none = |_: &mut Scenario| {};
    let wrong = |scenario: &mut Scenario| log_in(scenario, "ann:hunter2secret\n", Mechanisms::ALL);
    let unknown = |scenario: &mut Scenario| {
        log_in(scenario, "bob:hunter2secret\n", Mechanisms::NONE.with(Mechanism::Login));
    };
    let scram = |scenario: &mut Scenario| {
        log_in(scenario, "ann:hunter2secret\n", Mechanisms::NONE.with(Mechanism::ScramSha256));
    };
    let cases: [(Option<SmtpUsers>, Change, &str); 4] = [
        (listed(), wrong, "535 5.7.8"),
        (listed(), unknown, "535 5.7.8"),
        (Some(SmtpUsers::Any), scram, "no mechanism that can be used"),
        (None, wrong, "no mechanism that can be used"),
    ];
    for (senders, change, why) in cases {
        let refused = run(Journey { tls: [TlsMode::Starttls, TlsMode::Off], senders, change });
        let line = refused.expect_err("nobody is let in");
        assert!(line.contains(why) && !line.contains("hunter2") && !line.contains('\n'), "{line}");
    }
    // Without a login each message is refused by itself.
    let refused =
        std::panic::catch_unwind(|| run(Journey { senders: listed(), change: none, ..Journey::default() }));
    assert!(refused.is_err(), "it was sent");
}
