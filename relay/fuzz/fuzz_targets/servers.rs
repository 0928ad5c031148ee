//! What clients send to the SMTP, POP3 and IMAP servers: they take all of it, say something bounded, and do not panic.
//!
//! The first octet chooses server and options, the second how the input is cut into reads.
#![no_main]

use std::rc::Rc;

use chasqui_protocol::imap::server::{Commands, Event as ImapEvent, Limits};
use chasqui_protocol::pop3::server::{Event as Pop3Event, Listed, Listing, Offer, Refusal, Session as Pop3};
use chasqui_protocol::sasl::mechanism::Mechanisms;
use chasqui_protocol::smtp::data::{BareNewline, LongLines, NulOctets};
use chasqui_protocol::smtp::reply::Reply;
use chasqui_protocol::smtp::server::{EarlyTalkers, Event as SmtpEvent, Options, Session as Smtp};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [choice, cut, input @ ..] = input else { return };
    let reads = input.chunks(usize::from(*cut) + 1);
    let said = match choice % 4 {
        0 | 1 => smtp(reads, choice & 4 != 0),
        2 => pop3(reads),
        _ => imap(reads),
    };
    assert!(said <= 1000 + 100 * input.len(), "{said} octets in answer to {}", input.len());
});

fn smtp<'a>(reads: impl Iterator<Item = &'a [u8]>, lax: bool) -> usize {
    let options = Options {
        max_message_size: 5000,
        max_recipients: 3,
        max_errors: 20,
        bare_newline: if lax { BareNewline::Repair } else { BareNewline::Refuse },
        long_lines: if lax { LongLines::Allow } else { LongLines::Refuse },
        nul_octets: if lax { NulOctets::Repair } else { NulOctets::Refuse },
        early_talkers: if lax { EarlyTalkers::Allow } else { EarlyTalkers::Refuse },
        dsn: lax,
        xclient: lax,
        ..Options::default()
    };
    let mut session = Smtp::new(Rc::new(options));
    let mut said = 0;
    for (turn, read) in reads.enumerate() {
        let mut rest = read;
        for events in 0.. {
            assert!(events <= 4 * read.len() + 16, "no progress");
            let (used, event) = session.handle_input(rest);
            rest = &rest[used..];
            match event {
                SmtpEvent::NeedInput => break,
                SmtpEvent::OutputFull => said += std::mem::take(session.output()).len(),
                SmtpEvent::Quit | SmtpEvent::TooManyErrors => return said + session.output().len(),
                SmtpEvent::Xclient(_)
                | SmtpEvent::Mail(_)
                | SmtpEvent::Rcpt(_) | SmtpEvent::Data | SmtpEvent::BodyEnd(_) => {
                    match turn % 5 {
                        4 => session.reject(&Reply::new(450, "4.0.0", "no")),
                        _ => session.accept(),
                    }
                }
                _ => {}
            }
        }
        assert!(rest.is_empty());
        said += std::mem::take(session.output()).len();
    }
    said
}

fn pop3<'a>(reads: impl Iterator<Item = &'a [u8]>) -> usize {
    let mut session = Pop3::new("test", Offer { starttls: true, mechanisms: Mechanisms::ALL });
    for mut rest in reads {
        loop {
            let (used, event) = session.handle_input(rest);
            rest = &rest[used..];
            match event {
                Pop3Event::NeedInput => break,
                Pop3Event::OutputFull => session.output().clear(),
                Pop3Event::StartTls if rest.is_empty() => session.secured(Offer::default()),
                Pop3Event::StartTls => {}
                Pop3Event::Authenticate { .. } => session.challenge(b"who"),
                Pop3Event::Response(_) => session.refuse_login(Refusal::Response),
                Pop3Event::Login { .. } => {
                    let messages = vec![Listed { uid: 1, size: 3 }];
                    session.accept_login(Listing { uid_validity: 1, messages });
                }
                Pop3Event::Retrieve { index } | Pop3Event::Top { index, .. } => {
                    assert_eq!(index, 0);
                    session.begin_message(3);
                }
                Pop3Event::Quit { .. } | Pop3Event::TooManyErrors => return session.output().len(),
            }
        }
    }
    session.output().len()
}

fn imap<'a>(reads: impl Iterator<Item = &'a [u8]>) -> usize {
    let mut commands = Commands::new(Limits { command_octets: 200, literal_octets: 50, errors: 10 });
    for read in reads {
        commands.handle_input(read);
        while let Some(event) = commands.poll_event() {
            if event == ImapEvent::TooManyErrors {
                return commands.output().len();
            }
        }
    }
    commands.output().len()
}
