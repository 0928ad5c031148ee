//! AUTH is offered where it may be, its lines are carried, and MAIL waits for it where it must (RFC 4954, RFC 6409).

use super::*;
use crate::sasl::mechanism::{Mechanism, Mechanisms};

fn options(auth: AuthOptions) -> Options {
    Options { starttls: true, auth, early_talkers: EarlyTalkers::Allow, ..Options::default() }
}

fn all() -> AuthOptions {
    AuthOptions { mechanisms: Mechanisms::ALL, ..AuthOptions::default() }
}

fn submission() -> AuthOptions {
    AuthOptions { is_required: true, requires_tls: true, ..all() }
}

/// The line of EHLO's answer that offers mechanisms.
fn offered(talk: &mut Talk) -> String {
    let answer = talk.say("EHLO client.example\r\n");
    talk.events.clear();
    answer.lines().map(|line| &line[4..]).find(|line| line.starts_with("AUTH")).unwrap_or_default().to_owned()
}

/// Mechanisms that show the password are offered in TLS alone, those with channel binding where there is one, and none to a client
/// that has told who it is or must go over to TLS first.
#[test]
fn what_is_offered() {
    let mut talk = Talk::new(options(all()));
    assert_eq!(offered(&mut talk), "AUTH SCRAM-SHA-256");
    talk.session.secured(false);
    assert_eq!(offered(&mut talk), "AUTH SCRAM-SHA-256 PLAIN LOGIN");
    talk.session.secured(true);
    assert_eq!(offered(&mut talk), "AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN");
    talk.say("AUTH PLAIN AGEAYg==\r\n");
    talk.session.accept();
    assert_eq!(offered(&mut talk), "");
    assert_eq!(offered(&mut Talk::new(options(submission()))), "");
    let tests = AuthOptions { shows_passwords: true, ..all() };
    assert_eq!(offered(&mut Talk::new(options(tests))), "AUTH SCRAM-SHA-256 PLAIN LOGIN");
}

/// An exchange goes through with its octets, with an initial response, an empty one and none.
#[test]
fn an_exchange() {
    let mut talk = Talk::greeted(options(all()));
    for (line, initial) in [
        ("AUTH scram-sha-256\r\n", None),
        ("AUTH SCRAM-SHA-256 =\r\n", Some(b"".to_vec())),
        ("auth SCRAM-SHA-256  biws\r\n", Some(b"n,,".to_vec())),
    ] {
        let (_, event) = talk.session.handle_input(line.as_bytes());
        let mechanism = Mechanism::ScramSha256;
        assert_eq!(event, Event::Auth(AuthRequest { mechanism, initial }), "{line}");
        talk.session.challenge(b"r=1");
        assert_eq!(talk.session.output().as_slice(), b"334 cj0x\r\n");
        talk.session.output().clear();
        // In pieces, too.
        assert_eq!(talk.session.handle_input(b"Yz1i").1, Event::NeedInput);
        assert_eq!(
            talk.session.handle_input(b"aXdz\r\nNOOP\r\n"),
            (6, Event::AuthResponse(b"c=biws".to_vec()))
        );
        talk.session.reject(&Reply::new(535, "5.7.8", "no"));
        assert_eq!(std::mem::take(talk.session.output()), b"535 5.7.8 no\r\n");
        assert!(!talk.session.is_authenticated());
    }
    talk.session.handle_input(b"AUTH SCRAM-SHA-256\r\n");
    talk.session.accept();
    assert_eq!(std::mem::take(talk.session.output()), b"235 2.7.0 Authentication successful\r\n");
    assert!(talk.session.is_authenticated());
    assert_eq!(talk.say("AUTH SCRAM-SHA-256\r\n"), "503 5.5.1 Bad sequence of commands\r\n");
    assert_eq!(talk.say("MAIL FROM:<a@b> AUTH=<>\r\n"), "555 5.5.4 Unsupported parameter\r\n");
}

/// What is not an exchange, or ends one, has its reply, and counts as an error.
#[test]
fn mistakes() {
    for (said, reply) in [
        ("AUTH\r\n", "501 5.5.4"),
        ("AUTH SCRAM-SHA-256 a b\r\n", "501 5.5.4"),
        ("AUTH KERBEROS_V4\r\n", "504 5.5.4"),
        ("AUTH PLAIN AGEAYg==\r\n", "538 5.7.11"),
        ("AUTH SCRAM-SHA-256-PLUS\r\n", "504 5.5.4"),
        ("AUTH SCRAM-SHA-256 %%\r\n", "501 5.5.2"),
        ("MAIL FROM:<a@b>\r\nAUTH SCRAM-SHA-256\r\n", "250 2.1.0 Ok\r\n503 5.5.1"),
    ] {
        let mut talk = Talk::greeted(options(all()));
        let said = talk.say(said);
        assert!(said.starts_with(reply), "{said}");
    }
    let long = "A".repeat(auth::AUTH_LINE_MAX);
    for (response, reply) in [
        ("*", "501 5.7.0 Authentication cancelled"),
        ("%", "501 5.5.2"),
        ("", ""),
        (long.as_str(), "500 5.5.6"),
        (&long[..auth::AUTH_LINE_MAX - 3], "501 5.5.2"),
    ] {
        let mut talk = Talk::greeted(options(all()));
        talk.session.handle_input(b"AUTH SCRAM-SHA-256\r\n");
        talk.session.challenge(b"");
        talk.session.output().clear();
        let said = talk.say(format!("{response}\r\n"));
        assert!(said.starts_with(reply), "{said}");
        let ended = if response.is_empty() { "AuthResponse" } else { "AuthCancelled" };
        assert_eq!(talk.events, [ended], "{response}");
    }
}

/// Tries that fail end the session as other errors do, however they fail.
#[test]
fn errors_of_auth_end_the_session() {
    const MAX: usize = 3;
    for (command, response) in [
        ("AUTH X", None),
        ("AUTH SCRAM-SHA-256 %", None),
        ("AUTH SCRAM-SHA-256", None),
        ("AUTH SCRAM-SHA-256", Some("*")),
    ] {
        let mut talk = Talk::greeted(Options { max_errors: MAX, ..options(all()) });
        for number in 0..=MAX {
            let mut said = talk.say(format!("{command}\r\n"));
            if talk.events.pop_if(|event| event == "Auth").is_some() {
                match response {
                    Some(response) => {
                        talk.session.challenge(b"");
                        talk.session.output().clear();
                        said = talk.say(format!("{response}\r\n"));
                    }
                    None => {
                        talk.session.reject(&Reply::new(454, "4.7.0", "later"));
                        said = talk.say("");
                    }
                }
            }
            let is_last = said.ends_with("421 4.7.0 Too many errors\r\n");
            assert_eq!(is_last, number == MAX, "{command} {response:?} {number}: {said}");
        }
        assert_eq!(talk.events.last().map(String::as_str), Some("TooManyErrors"), "{command} {response:?}");
    }
}

/// Where it is required MAIL waits for it, and for TLS before.
#[test]
fn mail_waits() {
    let mut talk = Talk::greeted(options(submission()));
    let first = "530 5.7.0 Must issue a STARTTLS command first\r\n";
    assert_eq!(talk.say("MAIL FROM:<a@b>\r\n"), first);
    assert_eq!(talk.say("AUTH SCRAM-SHA-256\r\n"), first);
    // What was sent in the same breath is not held against the client.
    assert_eq!(talk.say("RCPT TO:<a@b>\r\n"), "503 5.5.1 MAIL was refused\r\n");
    talk.session.secured(true);
    talk.say("EHLO client.example\r\n");
    assert_eq!(talk.say("MAIL FROM:<a@b>\r\n"), "530 5.7.0 Authentication required\r\n");
    talk.session.handle_input(b"AUTH PLAIN AGEAYg==\r\n");
    talk.session.accept();
    talk.session.output().clear();
    assert_eq!(talk.say("MAIL FROM:<a@b>\r\n"), "250 2.1.0 Ok\r\n");
    // Without users there is no AUTH.
    let mut talk = Talk::greeted(Options::default());
    assert_eq!(talk.say("AUTH PLAIN AGEAYg==\r\n"), "502 5.5.1 Command not implemented\r\n");
}
