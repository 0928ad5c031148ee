//! Replies are attributed to their commands, and no peer makes the client do or believe what it must not.

use super::*;
use crate::sasl::mechanism::Mechanism;
use crate::smtp::dsn::{
    EnvelopeId, MailParameters, Notify, OriginalRecipient, Parameters, RcptParameters, Return,
};

const EHLO: &str =
    "250-server\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n";

fn output(client: &mut Client) -> String {
    String::from_utf8(std::mem::take(client.output())).unwrap()
}

fn events(client: &mut Client) -> Vec<Event> {
    std::iter::from_fn(|| client.poll_event()).collect()
}

/// A client that is ready, of a server that gave this answer to EHLO.
fn ready(ehlo: &str) -> Client {
    let mut client = Client::new("client.example");
    client.handle_input(b"220 server ESMTP\r\n").unwrap();
    assert_eq!(output(&mut client), "EHLO client.example\r\n");
    client.handle_input(ehlo.as_bytes()).unwrap();
    assert_eq!(events(&mut client), [Event::Ready]);
    client
}

fn transaction(recipients: &[&str]) -> Transaction {
    Transaction {
        reverse_path: "a@b".to_owned(),
        recipients: recipients.iter().map(|&it| it.to_owned()).collect(),
        size: Some(100),
        eight_bit: true,
        form: BodyForm::default(),
        dsn: None,
    }
}

/// A raw body is refused before a command is sent, and the client stays of use.
#[test]
fn a_raw_body_is_not_sent() {
    let mut client = ready(EHLO);
    let raw = Transaction { form: BodyForm::Raw, ..transaction(&["c@d"]) };
    assert_eq!(client.start(raw), Err(StartError::RawBody));
    assert!(output(&mut client).is_empty() && client.is_idle());
    client.start(transaction(&["c@d"])).unwrap();
}

fn finished(client: &mut Client) -> Outcome {
    match client.poll_event() {
        Some(Event::Finished(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

fn codes(outcome: &Outcome) -> (u16, Vec<Option<u16>>, Option<u16>) {
    let code = |reply: &Option<Reply>| reply.as_ref().map(|it| it.code);
    (
        outcome.mail.as_ref().map_or(0, |it| it.code),
        outcome.recipients.iter().map(code).collect(),
        code(&outcome.data),
    )
}

#[test]
fn a_pipelined_transaction_goes_out_at_once_and_replies_find_their_commands() {
    let mut client = ready(EHLO);
    let capabilities = client.capabilities();
    let advertised =
        [Extension::Pipelining, Extension::Size, Extension::EightBitMime, Extension::EnhancedStatusCodes];
    assert!(advertised.into_iter().all(|extension| capabilities.has(extension)));
    assert_eq!((capabilities.has(Extension::Dsn), capabilities.size_limit()), (false, Some(1000)));
    client.start(transaction(&["c@d", "e@f"])).unwrap();
    assert_eq!(client.start(transaction(&["c@d"])), Err(StartError::NotIdle));
    assert_eq!(
        output(&mut client),
        "MAIL FROM:<a@b> SIZE=100 BODY=8BITMIME\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n"
    );
    client
        .handle_input(b"250 2.1.0 ok\r\n550-5.1.1 no\r\n550 5.1.1 such user\r\n250 2.1.5 ok\r\n354 go\r\n")
        .unwrap();
    assert_eq!(events(&mut client), [Event::SendBody]);
    client.body_sent();
    client.handle_input(b"250 2.0.0 queued\r\n").unwrap();
    let outcome = finished(&mut client);
    assert_eq!(codes(&outcome), (250, vec![Some(550), Some(250)], Some(250)));
    assert_eq!(outcome.decisive(0).unwrap(), &Reply::new(550, "5.1.1", "no\nsuch user"));
    assert_eq!(outcome.decisive(1).unwrap(), &Reply::new(250, "2.0.0", "queued"));
    assert_eq!((outcome.is_accepted(0), outcome.is_accepted(1)), (false, true));
    client.quit();
    assert_eq!(output(&mut client), "QUIT\r\n");
    client.handle_input(b"221 bye\r\n").unwrap();
    assert_eq!(events(&mut client), [Event::Closed]);
}

#[test]
fn parameters_of_notifications_go_to_servers_that_have_dsn() {
    let dsn = Parameters {
        mail: MailParameters { ret: Some(Return::Full), envelope_id: EnvelopeId::parse(b"a+2Bb") },
        recipients: vec![
            RcptParameters { notify: Some(Notify::NEVER), original: None },
            RcptParameters {
                notify: Notify::parse(b"DELAY,FAILURE"),
                original: OriginalRecipient::parse(b"rfc822;e+3D@f"),
            },
        ],
    };
    let transaction =
        || Transaction { dsn: Some(Box::new(dsn.clone())), ..transaction(&["c@d", "e@f", "g@h"]) };
    let mut client = ready("250-server\r\n250-PIPELINING\r\n250 dsn\r\n");
    client.start(transaction()).unwrap();
    assert_eq!(
        output(&mut client),
        "MAIL FROM:<a@b> RET=FULL ENVID=a+2Bb\r\nRCPT TO:<c@d> NOTIFY=NEVER\r\n\
         RCPT TO:<e@f> NOTIFY=FAILURE,DELAY ORCPT=rfc822;e+3D@f\r\nRCPT TO:<g@h>\r\nDATA\r\n"
    );
    let mut client = ready("250-server\r\n250 PIPELINING\r\n");
    client.start(transaction()).unwrap();
    assert_eq!(
        output(&mut client),
        "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nRCPT TO:<g@h>\r\nDATA\r\n"
    );
}

#[test]
fn without_pipelining_each_command_waits_and_nothing_vain_is_sent() {
    let mut client = ready("250 server\r\n");
    client.start(transaction(&["c@d", "e@f"])).unwrap();
    for (sent, reply) in [
        ("MAIL FROM:<a@b>\r\n", "250 ok\r\n"),
        ("RCPT TO:<c@d>\r\n", "550 no\r\n"),
        ("RCPT TO:<e@f>\r\n", "450 later\r\n"),
    ] {
        assert_eq!(output(&mut client), sent);
        client.handle_input(reply.as_bytes()).unwrap();
    }
    assert_eq!(codes(&finished(&mut client)), (250, vec![Some(550), Some(450)], None));
    // The server still holds the sender: the next transaction resets it first.
    client.start(transaction(&["c@d"])).unwrap();
    assert_eq!(output(&mut client), "RSET\r\n");
    client.handle_input(b"250 ok\r\n").unwrap();
    assert_eq!(output(&mut client), "MAIL FROM:<a@b>\r\n");
    client.handle_input(b"452 full\r\n").unwrap();
    assert_eq!(output(&mut client), "");
    let outcome = finished(&mut client);
    assert_eq!(codes(&outcome), (452, vec![None], None));
    assert_eq!(outcome.decisive(0).unwrap().code, 452);
    client.start(transaction(&["c@d"])).unwrap();
    assert_eq!(output(&mut client), "MAIL FROM:<a@b>\r\n");
}

#[test]
fn a_354_for_nobody_is_ended_at_once() {
    for replies in ["250 ok\r\n550 no\r\n354 go\r\n", "550 no\r\n250 ok\r\n354 go\r\n"] {
        let mut client = ready(EHLO);
        client.start(transaction(&["c@d"])).unwrap();
        output(&mut client);
        client.handle_input(replies.as_bytes()).unwrap();
        assert_eq!((output(&mut client).as_str(), client.poll_event()), (".\r\n", None));
        client.handle_input(b"554 no valid recipients\r\n").unwrap();
        let outcome = finished(&mut client);
        assert_eq!((outcome.decisive(0).unwrap().code, outcome.is_accepted(0)), (550, false));
        assert!(client.is_idle());
    }
}

#[test]
fn refused_data_leaves_a_reset_for_the_next_transaction() {
    let mut client = ready(EHLO);
    client.start(transaction(&["c@d"])).unwrap();
    output(&mut client);
    client.handle_input(b"250 ok\r\n250 ok\r\n451 later\r\n").unwrap();
    assert_eq!(codes(&finished(&mut client)), (250, vec![Some(250)], Some(451)));
    client.start(transaction(&["c@d"])).unwrap();
    assert!(output(&mut client).starts_with("RSET\r\nMAIL FROM:<a@b>"));
    client.handle_input(b"250 reset\r\n250 ok\r\n250 ok\r\n354 go\r\n").unwrap();
    assert_eq!(events(&mut client), [Event::SendBody]);
}

#[test]
fn a_421_at_any_time_ends_the_session_and_is_the_reply_of_its_stage() {
    for (replies, expected) in [
        ("421 bye\r\n", (421, vec![None, None], None)),
        ("250 ok\r\n421 bye\r\n", (250, vec![Some(421), None], Some(421))),
        ("250 ok\r\n550 no\r\n421 bye\r\n", (250, vec![Some(550), Some(421)], Some(421))),
        ("250 ok\r\n250 ok\r\n250 ok\r\n421 bye\r\n", (250, vec![Some(250), Some(250)], Some(421))),
        ("250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n421 bye\r\n", (250, vec![Some(250), Some(250)], Some(421))),
    ] {
        let mut client = ready(EHLO);
        client.start(transaction(&["c@d", "e@f"])).unwrap();
        client.handle_input(replies.as_bytes()).unwrap();
        let mut events = events(&mut client);
        events.retain(|event| *event != Event::SendBody);
        let [Event::Finished(outcome), Event::Closing(reply)] = &events[..] else { panic!("{events:?}") };
        assert_eq!((codes(outcome), reply.code), (expected, 421));
        assert!(client.is_closed());
        assert_eq!(client.handle_input(b"250 ok\r\n"), Err(ClientError::Over));
    }
    let mut client = ready(EHLO);
    client.handle_input(b"421 idle\r\n").unwrap();
    assert_eq!(events(&mut client), [Event::Closing(Reply::plain(421, "idle"))]);
}

#[test]
fn a_refusal_before_the_message_is_sent_whole_stands_and_ends_the_session() {
    let mut client = ready(EHLO);
    client.start(transaction(&["c@d"])).unwrap();
    client.handle_input(b"250 ok\r\n250 ok\r\n354 go\r\n552 5.3.4 too large\r\n").unwrap();
    assert_eq!(client.poll_event(), Some(Event::SendBody));
    assert_eq!(finished(&mut client).decisive(0).unwrap().code, 552);
    assert_eq!(events(&mut client), [Event::Closed]);
}

#[test]
fn a_server_is_not_believed_that_takes_what_it_has_not_seen() {
    let mut client = ready(EHLO);
    client.start(transaction(&["c@d"])).unwrap();
    let replies = b"250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n";
    assert_eq!(client.handle_input(replies), Err(ClientError::Unsolicited(250)));
    assert!(client.is_closed());
}

#[test]
fn replies_nobody_asked_for_are_errors() {
    assert_eq!(ready(EHLO).handle_input(b"250 ok\r\n"), Err(ClientError::Unsolicited(250)));
    let cases = [("354 go\r\n", 354), ("250 ok\r\n354 go\r\n", 354), ("250 ok\r\n250 ok\r\n250 ok\r\n", 250)];
    for (replies, code) in cases {
        let mut client = ready(EHLO);
        client.start(transaction(&["c@d"])).unwrap();
        assert_eq!(client.handle_input(replies.as_bytes()), Err(ClientError::Unexpected(code)), "{replies}");
    }
    assert_eq!(ready(EHLO).handle_input(b"what\r\n"), Err(ClientError::Malformed));
    assert_eq!(ready(EHLO).handle_input(&[b'2'; 1 << 20]), Err(ClientError::TooLong));
}

#[test]
fn a_server_without_ehlo_gets_helo() {
    let mut client = Client::new("client.example");
    client.handle_input(b"220 server\r\n502 what?\r\n").unwrap();
    assert_eq!(output(&mut client), "EHLO client.example\r\nHELO client.example\r\n");
    client.handle_input(b"250-server\r\n250 PIPELINING\r\n").unwrap();
    assert_eq!(events(&mut client), [Event::Ready]);
    assert_eq!(client.capabilities(), Capabilities::default());
}

#[test]
fn greetings_and_ehlo_can_be_refused() {
    for input in ["554 no\r\n", "421 busy\r\n", "220 ok\r\n450 no\r\n", "220 ok\r\n500 no\r\n550 no\r\n"] {
        let mut client = Client::new("client.example");
        client.handle_input(input.as_bytes()).unwrap();
        assert!(matches!(events(&mut client)[..], [Event::Refused(_)]), "{input}");
        assert_eq!(client.start(transaction(&["c@d"])), Err(StartError::NotIdle));
        output(&mut client);
        client.quit();
        assert_eq!(output(&mut client), "QUIT\r\n");
    }
}

#[test]
fn addresses_cannot_smuggle_commands() {
    let mut client = ready(EHLO);
    for recipients in [&["c@d>\r\nDATA"][..], &["c\n@d"], &[""]] {
        assert_eq!(client.start(transaction(recipients)), Err(StartError::Address));
    }
    assert_eq!(client.start(transaction(&[])), Err(StartError::NoRecipients));
    let reverse_path = "a\r@b".to_owned();
    assert_eq!(client.start(Transaction { reverse_path, ..transaction(&["c@d"]) }), Err(StartError::Address));
    assert_eq!(output(&mut client), "");
}

#[test]
fn many_recipients_go_out_in_windows() {
    let mut client = ready(EHLO);
    let recipients = vec!["c@d"; 1000];
    client.start(transaction(&recipients)).unwrap();
    let mut sent = 0;
    let mut replies = 0;
    while client.poll_event().is_none() {
        sent += output(&mut client).lines().count();
        assert!(sent - replies <= WINDOW);
        let next = if replies == 1001 { "354 go\r\n" } else { "250 ok\r\n" };
        client.handle_input(next.as_bytes()).unwrap();
        replies += 1;
    }
    assert_eq!((sent, replies), (1002, 1002));
}

/// What is known of a transaction to two recipients when the connection ends behind these octets.
fn cut_off_after(replies: &[u8]) -> Outcome {
    let mut client = ready(EHLO);
    client.start(transaction(&["c@d", "e@f"])).unwrap();
    let _over = client.handle_input(replies);
    if client.poll_event() == Some(Event::SendBody) {
        client.body_sent();
    }
    let outcome = client.cut_off().expect("a transaction is under way");
    assert!(client.is_closed() && client.cut_off().is_none(), "it is told once");
    outcome
}

/// Proves that replies read before a close decide what they can, and nothing else.
#[test]
fn what_was_answered_before_a_loss_counts() {
    for (replies, expected) in [
        (&b""[..], (0, vec![None, None], None)),
        (b"550 5.7.1 blocked\r\n", (550, vec![None, None], None)),
        (b"550 5.7.1 blo", (550, vec![None, None], None)),
        (b"250 ok\r\n550 no\r\n", (250, vec![Some(550), None], None)),
        (b"250 ok\r\n250 ok\r\n451-later\r\n", (250, vec![Some(250), Some(451)], None)),
        (b"250 ok\r\nwhat\r\n", (250, vec![None, None], None)),
        (b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n", (250, vec![Some(250), Some(250)], None)),
        (b"250 ok\r\n250 ok\r\n250 ok\r\n554", (250, vec![Some(250), Some(250)], Some(554))),
    ] {
        let outcome = cut_off_after(replies);
        assert_eq!(codes(&outcome), expected, "{}", String::from_utf8_lossy(replies));
        assert_eq!(outcome.is_untouched(), outcome.mail.is_none());
    }
    let mut idle = ready(EHLO);
    assert_eq!(idle.cut_off(), None, "no transaction is under way");
}

/// Proves that the last line of a reply to a message counts once it has begun, so that no second copy is sent.
#[test]
fn an_acceptance_that_is_cut_off_counts() {
    for (input, accepted) in [(&b"250 2.0.0 que"[..], true), (b"250-queued\r\n", false), (b"250", false)] {
        let mut client = ready(EHLO);
        client.start(transaction(&["c@d"])).unwrap();
        client.handle_input(b"250 ok\r\n250 ok\r\n354 go\r\n").unwrap();
        assert_eq!(client.poll_event(), Some(Event::SendBody));
        client.body_sent();
        client.handle_input(input).unwrap();
        assert_eq!(client.cut_off().unwrap().is_accepted(0), accepted);
    }
}

/// Proves that a reply without end is a refusal when it begins as one.
#[test]
fn an_endless_refusal_stands() {
    let mut client = ready(EHLO);
    client.start(transaction(&["c@d"])).unwrap();
    let endless = "550-5.7.1 no\r\n".repeat(100_000);
    assert_eq!(client.handle_input(endless.as_bytes()), Err(ClientError::TooLong));
    assert_eq!(codes(&client.cut_off().unwrap()).0, 550);
}

/// Proves that a refused RSET leaves the next message untouched: it is for another connection.
#[test]
fn a_refused_reset_ends_the_session_alone() {
    for refusal in ["500 what\r\n250 ok\r\n250 ok\r\n354 go\r\n", "421 4.7.0 bye\r\n"] {
        let mut client = ready(EHLO);
        client.start(transaction(&["c@d"])).unwrap();
        client.handle_input(b"250 ok\r\n550 no\r\n503 no\r\n").unwrap();
        finished(&mut client);
        client.start(transaction(&["c@d"])).unwrap();
        client.handle_input(refusal.as_bytes()).unwrap();
        assert!(client.is_closed());
        assert!(client.cut_off().unwrap().is_untouched(), "{refusal}");
    }
}

/// Proves that a host that takes no mail (RFC 7504) is not asked again by HELO.
#[test]
fn no_helo_after_521() {
    for input in ["521 no mail\r\n", "220-banner\r\n521 no mail\r\n", "220 ok\r\n521 no mail\r\n"] {
        let mut client = Client::new("client.example");
        client.handle_input(input.as_bytes()).unwrap();
        assert!(matches!(&events(&mut client)[..], [Event::Refused(reply)] if reply.code == 521), "{input}");
        assert!(!output(&mut client).contains("HELO"));
    }
}

/// After 220 the server is greeted anew, and what it could before is forgotten; a refusal leaves the client ready.
#[test]
fn a_client_goes_over_to_tls() {
    let mut client = ready("250-server\r\n250-SIZE 1000\r\n250 STARTTLS\r\n");
    client.start_tls();
    assert_eq!(output(&mut client), "STARTTLS\r\n");
    client.handle_input(b"454 4.7.0 not now\r\n").unwrap();
    assert!(matches!(events(&mut client).as_slice(), [Event::StartTlsRefused(reply)] if reply.code == 454));
    assert!(client.is_idle() && client.capabilities().has(Extension::StartTls));
    client.start_tls();
    assert_eq!(output(&mut client), "STARTTLS\r\n");
    client.handle_input(b"220 go\r\n").unwrap();
    assert_eq!(events(&mut client), [Event::StartTls]);
    client.secured();
    assert_eq!(output(&mut client), "EHLO client.example\r\n");
    assert!(!client.capabilities().has(Extension::Size));
    client.handle_input(b"250-server\r\n250 PIPELINING\r\n").unwrap();
    assert_eq!(events(&mut client), [Event::Ready]);
    assert!(client.capabilities().has(Extension::Pipelining));
}

/// What comes behind the 220 was said by nobody knows whom: the connection is of no use, however it is split.
#[test]
fn what_follows_220_in_plaintext_is_not_believed() {
    for split in [6, 8, 9, 20] {
        let mut client = ready("250-server\r\n250 STARTTLS\r\n");
        client.start_tls();
        let said = b"220 go\r\n250-server\r\n250 AUTH PLAIN\r\n";
        let outcome = client.handle_input(&said[..split]).and_then(|()| client.handle_input(&said[split..]));
        assert!(outcome.is_err(), "{split}");
        client.secured();
        assert!(client.is_closed() && output(&mut client) == "STARTTLS\r\n", "{split}");
    }
}

/// An exchange goes through with its octets, and a refusal or what is given up leaves the client ready.
#[test]
fn a_client_authenticates() {
    let mut client = ready("250-server\r\n250-AUTH PLAIN X-OTHER SCRAM-SHA-256\r\n250 SIZE\r\n");
    let offered: Vec<Mechanism> = client.capabilities().mechanisms().iter().collect();
    assert_eq!(offered, [Mechanism::ScramSha256, Mechanism::Plain]);
    client.start_auth("PLAIN AGEAYg==");
    assert_eq!(output(&mut client), "AUTH PLAIN AGEAYg==\r\n");
    client.handle_input(b"535 5.7.8 no\r\n").unwrap();
    assert!(matches!(events(&mut client).as_slice(), [Event::AuthRefused(reply)] if reply.code == 535));
    client.start_auth("SCRAM-SHA-256");
    assert_eq!(output(&mut client), "AUTH SCRAM-SHA-256\r\n");
    client.handle_input(b"334 cj0x\r\n").unwrap();
    assert_eq!(events(&mut client), [Event::Challenge("cj0x".to_owned())]);
    client.cancel_auth();
    assert_eq!(output(&mut client), "*\r\n");
    client.handle_input(b"501 5.7.0 cancelled\r\n").unwrap();
    assert!(matches!(events(&mut client).as_slice(), [Event::AuthRefused(_)]) && client.is_idle());
    client.start_auth("SCRAM-SHA-256");
    client.handle_input(b"334 \r\n").unwrap();
    assert_eq!(events(&mut client), [Event::Challenge(String::new())]);
    output(&mut client);
    client.respond("biws\r\n");
    assert_eq!(output(&mut client), "biws\r\n");
    client.handle_input(b"235 2.7.0 go\r\n").unwrap();
    assert_eq!(events(&mut client), [Event::Authenticated]);
    client.start(transaction(&["c@d"])).unwrap();
}

/// What is no challenge, comes in the client's turn, or ends the session, ends the exchange.
#[test]
fn servers_that_break_an_exchange() {
    for (said, error) in [
        ("354 go\r\n", ClientError::Unexpected(354)),
        ("334 cj0x\r\n235 ok\r\n", ClientError::Unsolicited(235)),
    ] {
        let mut client = ready("250-server\r\n250 AUTH SCRAM-SHA-256\r\n");
        client.start_auth("SCRAM-SHA-256");
        assert_eq!(client.handle_input(said.as_bytes()), Err(error), "{said}");
    }
    let mut client = ready("250-server\r\n250 AUTH SCRAM-SHA-256\r\n");
    client.start_auth("SCRAM-SHA-256");
    client.handle_input(b"421 bye\r\n").unwrap();
    assert!(matches!(events(&mut client).as_slice(), [Event::Closing(_)]) && client.is_closed());
}
