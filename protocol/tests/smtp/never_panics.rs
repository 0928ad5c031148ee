//! No bytes from the network and no decisions of the caller make a session or a client panic, hang or hoard.

use std::rc::Rc;

use chasqui_protocol::sasl::mechanism::Mechanisms;
use chasqui_protocol::smtp::client::{Client, Event as ClientEvent, Transaction};
use chasqui_protocol::smtp::command::{self, Command};
use chasqui_protocol::smtp::data::{BareNewline, LongLines, NulOctets};
use chasqui_protocol::smtp::dsn::{ENVELOPE_ID_MAX, EnvelopeId, RcptParameters};
use chasqui_protocol::smtp::extensions::{Extensions, Offering};
use chasqui_protocol::smtp::reply::Reply;
use chasqui_protocol::smtp::server::{EarlyTalkers, Event, Options, Session};
use chasqui_protocol::stamp::{Verifier, verify};
use chasqui_protocol::trace::HopCounter;
use proptest::prelude::*;

/// Bytes that go deep: pieces of the protocol mixed with noise.
fn input(words: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        6 => prop::sample::select(words).prop_map(|word| word.as_bytes().to_vec()),
        2 => prop::sample::select(vec![b"\r\n".to_vec(), b"\n".to_vec(), b"\r".to_vec(), b".".to_vec()]),
        2 => prop::collection::vec(any::<u8>(), 0..8),
        1 => (0_usize..5000).prop_map(|length| vec![b'x'; length]),
    ];
    prop::collection::vec(token, 0..40).prop_map(|tokens| tokens.concat())
}

const COMMANDS: &[&str] = &[
    "EHLO x\r\n",
    "HELO x\r\n",
    "MAIL FROM:<a@b>\r\n",
    "MAIL FROM:<> SIZE=10 BODY=8BITMIME\r\n",
    "mail from:<\"",
    "RCPT TO:<c@d>\r\n",
    "MAIL FROM:<a@b> RET=FULL ENVID=",
    "RCPT TO:<c@d> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;",
    "+3D+",
    "RCPT TO:<@",
    "DATA\r\n",
    "\r\n.\r\n",
    ".\r\n",
    "RSET\r\n",
    "NOOP\r\n",
    "QUIT\r\n",
];

const REPLIES: &[&str] = &[
    "220 x\r\n",
    "250-PIPELINING\r\n",
    "250-DSN\r\n",
    "250-SIZE 99999999999999999999999\r\n",
    "250 ok\r\n",
    "250 2.0.0 ok\r\n",
    "354 go\r\n",
    "421 bye\r\n",
    "450 4.0.0 no\r\n",
    "550-5.1.1 no\r\n",
    "550 5.1.1 no\r\n",
    "221 bye\r\n",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn sessions(
        inputs in prop::collection::vec(input(COMMANDS), 0..4),
        decisions in prop::collection::vec(0_u8..8, 1..8),
        lax in any::<bool>(),
        max_errors in 0_usize..30,
    ) {
        let options = Options {
            max_message_size: 5000,
            max_recipients: 3,
            max_errors,
            bare_newline: if lax { BareNewline::Repair } else { BareNewline::Refuse },
            long_lines: if lax { LongLines::Allow } else { LongLines::Refuse },
            nul_octets: if lax { NulOctets::Repair } else { NulOctets::Refuse },
            early_talkers: if lax { EarlyTalkers::Allow } else { EarlyTalkers::Refuse },
            dsn: lax,
            ..Options::default()
        };
        let mut session = Session::new(Rc::new(options));
        let mut decisions = decisions.into_iter().cycle();
        for input in &inputs {
            let mut rest = &input[..];
            let mut ended = false;
            // Every event but a few repaired bytes and the ends takes input.
            for turn in 0.. {
                prop_assert!(turn <= 4 * input.len() + 16, "no progress");
                let (used, event) = session.handle_input(rest);
                rest = &rest[used..];
                match event {
                    Event::NeedInput => break,
                    Event::OutputFull => session.output().clear(),
                    Event::Quit | Event::TooManyErrors => {
                        ended = true;
                        break;
                    }
                    Event::Mail(_) | Event::Rcpt(_) | Event::Data | Event::BodyEnd(_) => match decisions.next() {
                        Some(0) => session.reject(&Reply::new(550, "5.0.0", "no")),
                        Some(1) => session.reject(&Reply::new(421, "4.0.0", "no")),
                        Some(2) => session.accept_with(&Reply::new(250, "2.0.0", "yes")),
                        _ => session.accept(),
                    },
                    _ => {}
                }
            }
            prop_assert!(ended || rest.is_empty());
            let output = std::mem::take(session.output());
            prop_assert!(output.is_empty() || output.ends_with(b"\r\n"));
            prop_assert!(output.len() <= 64 + 40 * input.len());
        }
    }

    #[test]
    fn clients(inputs in prop::collection::vec(input(REPLIES), 0..6), quits in any::<bool>(), greeted in any::<bool>()) {
        let mut client = Client::new("x");
        if greeted {
            client.handle_input(b"220 x\r\n250-x\r\n250 PIPELINING\r\n").unwrap();
        }
        for input in &inputs {
            let failed = client.handle_input(input).is_err();
            while let Some(event) = client.poll_event() {
                match event {
                    ClientEvent::SendBody => client.body_sent(),
                    ClientEvent::Finished(outcome) => {
                        prop_assert_eq!(outcome.recipients.len(), 2);
                        outcome.decisive(0);
                        outcome.decisive(7);
                    }
                    _ => {}
                }
            }
            if client.is_idle() {
                let recipients = vec!["a@b".to_owned(), "c@d".to_owned()];
                client.start(Transaction { recipients, ..Transaction::default() }).unwrap();
            }
            if quits {
                client.quit();
            }
            prop_assert!(!failed || client.is_closed());
        }
        if let Some(outcome) = client.cut_off() {
            prop_assert_eq!(outcome.recipients.len(), 2);
            outcome.decisive(0);
        }
        prop_assert!(client.is_closed() && client.cut_off().is_none());
    }

    #[test]
    fn lines_and_messages(bytes in prop::collection::vec(any::<u8>(), 0..200), line in ".{0,80}") {
        let all = Extensions::offered(Offering { size: u64::MAX, dsn: true, starttls: true, mechanisms: Mechanisms::ALL, xclient: true });
        let _ = command::parse(&bytes, all);
        let _ = command::parse(format!("MAIL FROM:<{line}").as_bytes(), all);
        let _ = command::parse(format!("RCPT TO:{line}>").as_bytes(), all);
        let mut with_value = b"RCPT TO:<a@b> ORCPT=rfc822;".to_vec();
        with_value.extend_from_slice(&bytes);
        if let Ok(Command::Rcpt(_, RcptParameters { original: Some(original), .. })) = command::parse(&with_value, all) {
            prop_assert!(original.decoded().bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~')));
        }
        if let Some(id) = EnvelopeId::parse(&bytes) {
            prop_assert!(id.as_xtext().as_bytes() == bytes && id.decoded().len() <= ENVELOPE_ID_MAX);
        }
        let stamped = [b"X-Chasqui-Stamp: v=1; run=", &bytes[..]].concat();
        verify(&stamped);
        let mut verifier = Verifier::new();
        verifier.push(line.as_bytes());
        verifier.push(&stamped);
        verifier.finish();
        HopCounter::new().push(&bytes, &line);
    }
}
