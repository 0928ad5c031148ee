//! XCLIENT is for those who may, and what was said before it belongs to nobody (Postfix's XCLIENT_README).

use super::*;
use crate::sasl::mechanism::Mechanisms;
use crate::smtp::xclient::Said;

const GREETING: &str = "220 localhost ESMTP Chasqui\r\n";

fn options() -> Options {
    Options { xclient: true, ..Options::default() }
}

/// Says a line that is an XCLIENT, and accepts it; what it says, and the reply.
fn xclient(talk: &mut Talk, line: &str) -> (XclientRequest, String) {
    let (used, event) = talk.session.handle_input(line.as_bytes());
    let Event::Xclient(request) = event else { panic!("{line}: {event:?}") };
    assert_eq!(used, line.len());
    talk.session.accept();
    (request, String::from_utf8(std::mem::take(talk.session.output())).unwrap())
}

/// It is offered with what it takes, tells the address, and the session is as after the connect.
#[test]
fn a_session_begins_anew() {
    let mut talk = Talk::new(options());
    assert!(talk.say("EHLO proxy.example\r\n").ends_with("\r\n250 XCLIENT NAME ADDR\r\n"));
    let (request, reply) = xclient(&mut talk, "xclient NAME=a.example ADDR=192.0.2.7\r\n");
    assert_eq!(request.address, Said::Value("192.0.2.7".parse().unwrap()));
    assert_eq!(request.name, Said::Value("a.example".into()));
    assert_eq!(reply, GREETING);
    assert_eq!(talk.session.hello(), None);
    assert_eq!(talk.say("MAIL FROM:<a@b>\r\n"), "503 5.5.1 Bad sequence of commands\r\n");
    assert!(talk.say("EHLO client.example\r\n").contains("XCLIENT"));
    // Another client's turn, also before it has said anything.
    let (request, reply) = xclient(&mut talk, "XCLIENT ADDR=[UNAVAILABLE]\r\n");
    assert_eq!((request.address, request.name, reply.as_str()), (Said::Unknown, Said::Nothing, GREETING));
    assert_eq!(xclient(&mut talk, "XCLIENT ADDR=IPV6:2001:db8::7\r\n").1, GREETING);
    assert_eq!(talk.say("HELO client.example\r\n"), "250 localhost\r\n");
    assert_codes(&talk.say("MAIL FROM:<a@b>\r\n"), &["250"]);
}

/// Who has told who it is was the client before.
#[test]
fn authentication_is_forgotten() {
    let auth = AuthOptions {
        mechanisms: Mechanisms::ALL,
        shows_passwords: true,
        is_required: true,
        ..AuthOptions::default()
    };
    let mut talk = Talk::greeted(Options { auth, ..options() });
    let (_, event) = talk.session.handle_input(b"AUTH PLAIN AGEAYg==\r\n");
    assert!(matches!(event, Event::Auth(_)));
    talk.session.accept();
    talk.session.output().clear();
    assert!(talk.session.is_authenticated());
    xclient(&mut talk, "XCLIENT ADDR=192.0.2.7\r\n");
    assert!(!talk.session.is_authenticated());
    assert!(talk.say("EHLO client.example\r\n").contains("AUTH"));
    assert_codes(&talk.say("MAIL FROM:<a@b>\r\n"), &["530"]);
}

/// TLS is between the two ends of the connection, whoever the client is.
#[test]
fn tls_stays() {
    let mut talk = Talk::new(Options { starttls: true, ..options() });
    talk.session.secured(true);
    xclient(&mut talk, "XCLIENT ADDR=192.0.2.7\r\n");
    assert!(!talk.say("EHLO client.example\r\n").contains("STARTTLS"));
}

/// In a transaction it is out of order, and the transaction goes on; between two it is not.
#[test]
fn xclient_in_a_transaction() {
    let mut talk = Talk::greeted(options());
    let commands =
        ["MAIL FROM:<a@b>", "XCLIENT ADDR=192.0.2.7", "RCPT TO:<c@d>", "XCLIENT ADDR=192.0.2.7", "RSET"];
    let replies = commands.map(|command| talk.say(format!("{command}\r\n"))).concat();
    assert_codes(&replies, &["250", "503", "250", "503", "250"]);
    assert_eq!(xclient(&mut talk, "XCLIENT ADDR=192.0.2.7\r\n").1, GREETING);
}

/// Who may not is told so, whatever it says; who may, what it said wrong. Both are errors, of which there may be so many.
#[test]
fn xclient_that_is_refused() {
    for (xclient, reply) in [(false, "550 5.7.0"), (true, "501 5.5.4")] {
        let mut talk = Talk::greeted(Options { xclient, max_errors: 3, ..Options::default() });
        for arguments in ["", " ADDR=192.0.2.300", " LOGIN=ann"] {
            assert_codes(&talk.say(format!("XCLIENT{arguments}\r\n")), &[reply]);
        }
        assert_codes(&talk.say("XCLIENT \r\n"), &["421 4.7.0"]);
    }
    let mut talk = Talk::new(Options::default());
    assert!(!talk.say("EHLO client.example\r\n").contains("XCLIENT"));
    assert_codes(&talk.say("XCLIENT ADDR=192.0.2.7\r\n"), &["550 5.7.0"]);
    assert!(talk.session.hello().is_some());
}

/// What is sent with it is said by nobody knows whom.
#[test]
fn what_is_pipelined_behind_xclient_is_refused() {
    let mut talk = Talk::greeted(options());
    let (used, event) = talk.session.handle_input(b"XCLIENT ADDR=192.0.2.7\r\nEHLO a\r\n");
    assert!(matches!(event, Event::Xclient(_)));
    talk.session.accept();
    let refused = format!("{GREETING}554 5.5.0 SMTP protocol synchronization error\r\n");
    assert_eq!(talk.say(&b"XCLIENT ADDR=192.0.2.7\r\nEHLO a\r\n"[used..]), refused);
}

/// Clients after clients without mail come to an end.
#[test]
fn endless_xclients() {
    let mut talk = Talk::greeted(Options { max_junk: 2, ..options() });
    for _ in 0..2 {
        assert_eq!(xclient(&mut talk, "XCLIENT ADDR=192.0.2.7\r\n").1, GREETING);
    }
    assert_codes(&talk.say("XCLIENT ADDR=192.0.2.7\r\n"), &["421 4.7.0"]);
}
