//! STARTTLS is offered where it can be, and nothing that was said before it counts after it (RFC 3207 section 4.2).

use super::*;

fn options() -> Options {
    Options { starttls: true, ..Options::default() }
}

/// The session goes over: what it was told is forgotten, the offer is gone, and a second STARTTLS is out of order.
#[test]
fn a_session_begins_anew_in_tls() {
    let mut talk = Talk::new(options());
    assert!(talk.say("EHLO client.example\r\n").contains("STARTTLS"));
    talk.events.clear();
    assert_eq!(talk.say("STARTTLS\r\n"), "220 2.0.0 Ready to start TLS\r\n");
    assert_eq!(talk.events, ["StartTls"]);
    talk.session.secured(true);
    assert_eq!(talk.say("MAIL FROM:<a@b>\r\n"), "503 5.5.1 Bad sequence of commands\r\n");
    assert!(!talk.say("EHLO client.example\r\n").contains("STARTTLS"));
    assert_eq!(talk.say("STARTTLS\r\n"), "503 5.5.1 Bad sequence of commands\r\n");
    assert_eq!(talk.say("MAIL FROM:<a@b>\r\n"), "250 2.1.0 Ok\r\n");
}

/// Without certificates there is no STARTTLS; within a transaction it is out of order, and it has no argument.
#[test]
fn starttls_where_it_cannot_be() {
    let mut talk = Talk::greeted(Options::default());
    assert_eq!(talk.say("STARTTLS\r\n"), "502 5.5.1 Command not implemented\r\n");
    let mut talk = Talk::greeted(options());
    talk.say("MAIL FROM:<a@b>\r\n");
    assert_eq!(talk.say("STARTTLS\r\n"), "503 5.5.1 Bad sequence of commands\r\n");
    assert_eq!(talk.say("STARTTLS now\r\n"), "501 5.5.4 Syntax error in parameters or arguments\r\n");
    assert_eq!(talk.say("RCPT TO:<c@d>\r\n"), "250 2.1.5 Ok\r\n");
}

/// What was sent together with STARTTLS is no command of the session in TLS, nor of the one before (CVE-2011-0411): the session
/// ends, also for clients that need not wait otherwise.
#[test]
fn what_is_pipelined_behind_starttls_is_refused() {
    for early_talkers in [EarlyTalkers::Refuse, EarlyTalkers::Allow] {
        for behind in ["MAIL FROM:<a@b>\r\n", "QUIT\r\n", "x", "EHLO b\r\nMAIL FROM:<a@b>\r\n"] {
            let mut talk = Talk::greeted(Options { early_talkers, ..options() });
            let said = talk.say(format!("STARTTLS\r\n{behind}"));
            let refused = "220 2.0.0 Ready to start TLS\r\n554 5.5.0 SMTP protocol synchronization error\r\n";
            assert_eq!(said, refused, "{behind:?}");
            assert_eq!(talk.events, ["StartTls", "TooManyErrors"], "{behind:?}");
        }
    }
}
