//! The load generator's readers at the mailboxes of real sinks: in TLS, and by SASL.

use std::time::Duration;

use chasqui_loadgen::{
    ClientTls, Hooks, Placement, Rate, ReaderAccess, ReaderTls, ReaderTlsMode, Scenario, Trust, start,
};
use chasqui_protocol::sasl::accounts;
use chasqui_protocol::sasl::mechanism::{Mechanism, Mechanisms};
use chasqui_runtime::{EngineKind, available_cores};
use chasqui_sinks::{CertificateSource, Config, SinkReady};

/// Starts sinks, and runs a load into them that is read as `access` says. The load as it ended, or why it did not begin.
fn run(access: impl Fn(&std::path::Path) -> ReaderAccess, is_implicit: bool) -> Result<(), String> {
    let directory = tempfile::tempdir().expect("a temporary folder");
    let root = directory.path().join("root.pem");
    let base = Config::default();
    let sinks = chasqui_sinks::start(Config {
        dns: None,
        pop3s: base.pop3,
        imaps: base.imap,
        arrivals: Some(directory.path().join("arrivals")),
        certificate: Some(CertificateSource::SelfSigned { root: Some(root.clone()) }),
        ..base
    });
    let sinks = sinks.expect("the sinks start");
    let SinkReady { smtp, pop3, imap, pop3s, imaps, arrivals, .. } = sinks.ready().clone();
    let scenario = Scenario {
        rate: Rate::PerSecond(100.0),
        warmup: Duration::from_millis(100),
        duration: Duration::from_millis(500),
        drain: Duration::from_secs(5),
        connections: 2,
        domains: 2,
        mailboxes_per_domain: 2,
        targets: smtp.into_iter().map(Into::into).collect(),
        pop3: if is_implicit { pop3s } else { pop3 },
        imap: if is_implicit { imaps } else { imap },
        pop3_poll: Duration::from_millis(100),
        arrival_streams: arrivals,
        reader: access(&root),
        ..Scenario::default()
    };
    let core = available_cores()[0];
    let placement = Placement { engine: EngineKind::default(), generators: vec![core], readers: vec![core] };
    let running = start(scenario, placement, Hooks::default()).expect("the run starts");
    let outcome = running.join().map_err(|error| error.to_string());
    sinks.shutdown();
    sinks.join().expect("the sinks end");
    let outcome = outcome?;
    let ledger = outcome.ledger;
    assert_eq!((ledger.verified, ledger.unsent), (ledger.scheduled, 0), "{outcome:?}");
    assert!(ledger.scheduled > 20 && outcome.broken.is_empty(), "{outcome:?}");
    Ok(())
}

fn tls(root: &std::path::Path, mode: ReaderTlsMode) -> Option<ReaderTls> {
    let client = ClientTls::new(Some(root), true).expect("TLS");
    Some(ReaderTls { mode, client, trust: Trust::Verified, host: None })
}

/// Proves that every message is read in TLS from the start, and after STLS and STARTTLS, by the best mechanism of all and by
/// SCRAM-SHA-256 without a channel binding alone; and by PLAIN.
#[test]
fn mail_is_read_in_tls() {
    let all = Some(Mechanisms::ALL);
    for (mode, mechanisms) in [
        (ReaderTlsMode::Implicit, all),
        (ReaderTlsMode::Implicit, None),
        (ReaderTlsMode::Starttls, Some(Mechanisms::NONE.with(Mechanism::ScramSha256))),
        (ReaderTlsMode::Starttls, Some(Mechanisms::NONE.with(Mechanism::Plain))),
    ] {
        let access = |root: &std::path::Path| ReaderAccess {
            tls: tls(root, mode),
            mechanisms,
            ..ReaderAccess::default()
        };
        assert_eq!(run(access, mode == ReaderTlsMode::Implicit), Ok(()), "{mode:?} {mechanisms:?}");
    }
}

/// Proves that in plain text SCRAM is used; that a password of an account's own counts; and that a certificate that leads to no
/// root that is known keeps the load from beginning.
#[test]
fn who_is_let_in() {
    let scram = || ReaderAccess { mechanisms: Some(Mechanisms::ALL), ..ReaderAccess::default() };
    assert_eq!(run(|_| scram(), false), Ok(()));
    let wrong = accounts::parse("u0@d0.chasqui.test:wrong\n").expect("accounts");
    let accounts = ReaderAccess::by_address(wrong);
    let refused = run(|_| ReaderAccess { accounts: accounts.clone(), ..scram() }, false);
    assert!(refused.as_ref().is_err_and(|line| line.contains("u0@d0.chasqui.test")), "{refused:?}");
    let system = |_: &std::path::Path| {
        let client = ClientTls::new(None, true).expect("TLS");
        let tls =
            Some(ReaderTls { mode: ReaderTlsMode::Implicit, client, trust: Trust::Verified, host: None });
        ReaderAccess { tls, ..ReaderAccess::default() }
    };
    let refused = run(system, true);
    assert!(refused.as_ref().is_err_and(|line| line.contains("TLS")), "{refused:?}");
}
