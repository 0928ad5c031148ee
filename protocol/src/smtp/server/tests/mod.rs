//! Each input gets the replies and events of RFC 5321 and of our limits.

mod auth_lines;
mod early;
mod junk;
mod starttls;
mod xclient;

use super::*;

/// Options that let a test say much at once.
fn lenient() -> Options {
    Options { early_talkers: EarlyTalkers::Allow, ..Options::default() }
}

/// A session that accepts everything, except what names a reply of its own.
struct Talk {
    session: Session,
    rejections: Vec<(&'static str, Reply)>,
    events: Vec<String>,
    body: Vec<u8>,
}

impl Talk {
    fn new(options: Options) -> Talk {
        let mut session = Session::new(Rc::new(options));
        assert_eq!(std::mem::take(session.output()), b"220 localhost ESMTP Chasqui\r\n");
        Talk { session, rejections: Vec::new(), events: Vec::new(), body: Vec::new() }
    }

    /// A session that has been greeted.
    fn greeted(options: Options) -> Talk {
        let mut talk = Talk::new(options);
        assert!(talk.say("EHLO client.example\r\n").starts_with("250-localhost\r\n"));
        talk.events.clear();
        talk
    }

    fn say(&mut self, input: impl AsRef<[u8]>) -> String {
        let mut rest = input.as_ref();
        let mut replies = Vec::new();
        loop {
            let (used, event) = self.session.handle_input(rest);
            rest = &rest[used..];
            let mut told = format!("{event:?}");
            told.truncate(told.find(['(', ' ', '{']).unwrap_or(told.len()));
            match event {
                Event::NeedInput => break,
                Event::OutputFull => replies.append(self.session.output()),
                Event::Body(piece) => self.body.extend_from_slice(piece),
                Event::Mail(_) | Event::Rcpt(_) | Event::Data | Event::BodyEnd(_) => {
                    match self.rejections.iter().position(|(stage, _)| *stage == told) {
                        Some(index) => self.session.reject(&self.rejections.remove(index).1),
                        None => self.session.accept(),
                    }
                    self.events.push(told);
                }
                Event::Quit | Event::TooManyErrors => {
                    self.events.push(told);
                    break;
                }
                _ => self.events.push(told),
            }
        }
        replies.append(self.session.output());
        String::from_utf8(replies).unwrap()
    }
}

#[track_caller]
fn assert_codes(replies: &str, codes: &[&str]) {
    let got: Vec<&str> = replies.lines().filter(|line| line.as_bytes()[3] == b' ').collect();
    assert_eq!(got.len(), codes.len(), "{replies}");
    assert!(got.iter().zip(codes).all(|(reply, code)| reply.starts_with(code)), "{replies}");
}

const ENVELOPE: &str = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";

#[test]
fn ehlo_advertises_what_is_implemented_and_helo_nothing() {
    let mut talk = Talk::new(Options { max_message_size: 1000, ..lenient() });
    let expected =
        "250-localhost\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n";
    assert_eq!(talk.say("EHLO client.example\r\n"), expected);
    assert_eq!(talk.session.hello(), Some(&Hello { name: "client.example".to_owned(), esmtp: true }));
    assert_eq!(talk.say("HELO other\r\n"), "250 localhost\r\n");
    assert_eq!(talk.session.hello(), Some(&Hello { name: "other".to_owned(), esmtp: false }));
}

#[test]
fn dsn_is_advertised_and_its_parameters_taken_only_where_it_is_implemented() {
    let mut talk = Talk::new(Options { dsn: true, ..lenient() });
    assert!(talk.say("EHLO x\r\n").ends_with("250-ENHANCEDSTATUSCODES\r\n250 DSN\r\n"));
    let envelope = "MAIL FROM:<> RET=HDRS ENVID=x\r\nRCPT TO:<c@d> NOTIFY=SUCCESS ORCPT=rfc822;c@d\r\n";
    assert_codes(&talk.say(envelope), &["250 2.1.0", "250 2.1.5"]);
    let bad = "RSET\r\nMAIL FROM:<a@b> RET=X\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d> NOTIFY=NEVER,DELAY\r\n";
    assert_codes(&talk.say(bad), &["250", "501 5.5.4", "250", "501 5.5.4"]);
    let mut talk = Talk::greeted(lenient());
    assert_codes(&talk.say(envelope), &["555 5.5.4", "555 5.5.4"]);
    assert_codes(
        &talk.say("MAIL FROM:<a@b>\r\nRCPT TO:<c@d> NOTIFY=NEVER\r\nRCPT TO:<c@d>\r\n"),
        &["250", "555 5.5.4", "250"],
    );
    // What is not known has no bad values (RFC 5321 section 4.1.1.11).
    let malformed = "RSET\r\nMAIL FROM:<a@b> RET=X\r\nMAIL FROM:<a@b> ENVID\r\nMAIL FROM:<a@b>\r\n\
                     RCPT TO:<c@d> NOTIFY=PERHAPS\r\nRCPT TO:<c@d> ORCPT=+\r\n";
    assert_codes(&talk.say(malformed), &["250", "555 5.5.4", "555 5.5.4", "250", "555 5.5.4", "555 5.5.4"]);
}

#[test]
fn several_messages_and_quit_in_one_input() {
    let mut talk = Talk::greeted(lenient());
    let message = format!("{ENVELOPE}Subject: x\r\n\r\n..dot\r\n.\r\n");
    let replies = talk.say(format!("{message}{message}NOOP\r\nVRFY x\r\nHELP\r\nRSET\r\nQUIT\r\nNOOP\r\n"));
    let one = ["250 2.1.0", "250 2.1.5", "354 ", "250 2.0.0"];
    let end = ["250 2.0.0", "252 2.5.2", "214 2.0.0", "250 2.0.0", "221 2.0.0"];
    assert_codes(&replies, &[&one[..], &one[..], &end[..]].concat());
    assert_eq!(talk.body, b"Subject: x\r\n\r\n..dot\r\nSubject: x\r\n\r\n..dot\r\n");
    let one = ["Mail", "Rcpt", "Data", "BodyEnd"];
    assert_eq!(talk.events, [&one[..], &one[..], &["Reset", "Quit"][..]].concat());
}

#[test]
fn every_split_of_a_session_gives_the_same_replies() {
    let input = format!("EHLO x\r\n{ENVELOPE}..a\r\n.\r\nRSET\n{ENVELOPE}.\r\nfoo\r\nQUIT\r\n");
    let whole = Talk::new(lenient()).say(&input);
    for split in 0..input.len() {
        let mut talk = Talk::new(lenient());
        let replies = talk.say(&input[..split]) + &talk.say(&input[split..]);
        assert_eq!(replies, whole, "{split}");
    }
    let mut talk = Talk::new(lenient());
    let replies: String = input.bytes().map(|byte| talk.say([byte])).collect();
    assert_eq!(replies, whole);
}

#[test]
fn sequence_errors() {
    let mut talk = Talk::new(lenient());
    assert_codes(&talk.say("MAIL FROM:<a@b>\r\n"), &["503 5.5.1"]);
    talk.say("EHLO x\r\n");
    assert_codes(&talk.say("RCPT TO:<c@d>\r\nDATA\r\n"), &["503 5.5.1", "503 5.5.1"]);
    assert_codes(&talk.say("MAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\n"), &["250 2.1.0", "503 5.5.1"]);
    assert_codes(&talk.say("DATA\r\n"), &["554 5.5.1"]);
    assert_codes(&talk.say("RSET\r\nDATA\r\n"), &["250 2.0.0", "503 5.5.1"]);
}

#[test]
fn ehlo_within_a_transaction_resets_it_and_is_then_told() {
    let mut talk = Talk::greeted(lenient());
    talk.say("MAIL FROM:<a@b>\r\nEHLO y\r\nRCPT TO:<c@d>\r\n");
    assert_eq!(talk.events, ["Mail", "Reset", "Hello"]);
    assert!(!talk.session.is_in_transaction());
}

#[test]
fn command_lines_have_a_limit_and_the_session_outlives_it() {
    let mut talk = Talk::greeted(lenient());
    let fits = format!("NOOP {}\r\n", "x".repeat(2048 - 7));
    assert_eq!(fits.len(), 2048);
    assert_codes(&talk.say(&fits), &["250 2.0.0"]);
    assert_codes(&talk.say(format!("NOOP {}\r\n", "x".repeat(2048 - 6))), &["500 5.5.2"]);
    for _ in 0..100 {
        assert_eq!(talk.say([b'x'; 1000]), "");
        assert!(talk.session.line.capacity() <= 4096);
    }
    assert_codes(&talk.say("\r\nNOOP\r\n"), &["500 5.5.2", "250 2.0.0"]);
    // The same with the limit at a split.
    for split in [2046, 2047] {
        assert_eq!(talk.say(&fits[..split]), "");
        assert_codes(&talk.say(&fits[split..]), &["250 2.0.0"]);
    }
}

#[test]
fn bare_newlines_in_commands_are_refused() {
    let mut talk = Talk::greeted(lenient());
    assert_codes(&talk.say("NOOP\nNOOP\r\n"), &["500 5.5.2", "250 2.0.0"]);
    assert_codes(&talk.say("NO\rOP\r\nNOOP\r\r\n"), &["500 5.5.2", "500 5.5.2"]);
}

#[test]
fn size_is_checked_at_mail_and_of_unstuffed_octets_at_the_end() {
    let options = || Options { max_message_size: 10, ..lenient() };
    let mut talk = Talk::greeted(options());
    assert_codes(
        &talk.say("MAIL FROM:<a@b> SIZE=11\r\nRCPT TO:<c@d>\r\nDATA\r\nMAIL FROM:<a@b> SIZE=10\r\n"),
        &["552 5.3.4", "503 5.5.1", "503 5.5.1", "250 2.1.0"],
    );
    let mut talk = Talk::greeted(options());
    let replies = talk.say(format!("{ENVELOPE}..345678\r\n\r\n.\r\nNOOP\r\n"));
    assert_codes(&replies, &["250", "250", "354", "552 5.3.4", "250 2.0.0"]);
    assert_eq!(talk.events, ["Mail", "Rcpt", "Data", "BodyRefused"]);
    let replies = talk.say(format!("{ENVELOPE}..2345678\r\n.\r\n"));
    assert_codes(&replies, &["250", "250", "354", "250 2.0.0"]);
}

#[test]
fn bodies_out_of_form_are_read_to_their_true_end_and_refused() {
    let long = "x".repeat(999);
    for body in ["a\nb\r\n", "a\rb\r\n", "a\r\n.\nMAIL FROM:<x@y>\r\n", "\n.\n\r\n", &format!("{long}\r\n")] {
        let mut talk = Talk::greeted(lenient());
        let replies = talk.say(format!("{ENVELOPE}{body}.\r\nNOOP\r\n"));
        assert_codes(&replies, &["250", "250", "354", "554 5.6.0", "250 2.0.0"]);
        assert_eq!(talk.events, ["Mail", "Rcpt", "Data", "BodyRefused"]);
    }
    let options = Options { bare_newline: BareNewline::Repair, long_lines: LongLines::Allow, ..lenient() };
    let mut talk = Talk::greeted(options);
    talk.say(format!("{ENVELOPE}a\n.\nb\r.\r\n{long}\r\n.\r\n"));
    assert_eq!(talk.events, ["Mail", "Rcpt", "Data", "BodyEnd"]);
    assert_eq!(talk.body, format!("a\r\n..\r\nb\r\n..\r\n{long}\r\n").as_bytes());
}

#[test]
fn an_empty_message_is_a_message() {
    let mut talk = Talk::greeted(lenient());
    let replies = talk.say(format!("{ENVELOPE}.\r\n"));
    assert_codes(&replies, &["250", "250", "354", "250 2.0.0"]);
    assert_eq!(talk.body, b"");
}

#[test]
fn recipients_have_a_limit() {
    let mut talk = Talk::greeted(Options { max_recipients: 2, ..lenient() });
    let replies =
        talk.say("MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nRCPT TO:<Postmaster>\r\nRCPT TO:<e@f>\r\nDATA\r\n");
    assert_codes(&replies, &["250 2.1.0", "250 2.1.5", "250 2.1.5", "452 4.5.3", "354"]);
}

#[test]
fn too_many_errors_end_the_session() {
    let mut talk = Talk::greeted(Options { max_errors: 2, ..lenient() });
    let replies = talk.say("FOO\r\nFOO\r\nFOO\r\nNOOP\r\n");
    assert_codes(&replies, &["500 5.5.1", "500 5.5.1", "421 4.7.0"]);
    assert_eq!(talk.events, ["TooManyErrors"]);
    assert_eq!(talk.session.handle_input(b"NOOP\r\n"), (6, Event::Quit));
}

#[test]
fn an_accepted_message_forgives_errors() {
    let mut talk = Talk::greeted(Options { max_errors: 1, ..lenient() });
    for _ in 0..3 {
        assert_codes(&talk.say(format!("FOO\r\n{ENVELOPE}.\r\n")), &["500", "250", "250", "354", "250"]);
    }
    assert_codes(&talk.say("FOO\r\nFOO\r\n"), &["500", "421"]);
}

#[test]
fn a_message_in_one_input_is_one_piece_of_it() {
    let mut talk = Talk::greeted(lenient());
    talk.say(ENVELOPE);
    let input = b"Subject: x\r\n\r\n..dot\r\n\xff\r\n.\r\n";
    let message = input.len() - 3;
    assert_eq!(talk.session.handle_input(input), (message, Event::Body(&input[..message])));
    let info =
        BodyInfo { size: message as u64 - 1, eight_bit: true, form: BodyForm::Lines { stuffed: true } };
    assert_eq!(talk.session.handle_input(&input[message..]), (3, Event::BodyEnd(info)));
}

#[test]
fn what_follows_a_refused_mail_in_a_pipeline_is_no_error_of_its_own() {
    let mut talk = Talk::greeted(Options { max_errors: 0, ..lenient() });
    talk.rejections.push(("Mail", Reply::new(550, "5.7.1", "No")));
    let replies = talk.say("MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<c@d>\r\nDATA\r\nNOOP\r\n");
    assert_codes(&replies, &["550 5.7.1", "503 5.5.1", "503 5.5.1", "503 5.5.1", "250 2.0.0"]);
}

#[test]
fn the_caller_refuses_at_each_stage() {
    for (stage, codes) in [
        ("Rcpt", ["250", "450", "554", "503"]),
        ("Data", ["250", "250", "450", "503"]),
        ("BodyEnd", ["250", "250", "354", "450"]),
    ] {
        let mut talk = Talk::greeted(lenient());
        talk.rejections.push((stage, Reply::new(450, "4.2.0", "Later")));
        let mut replies = talk.say(ENVELOPE);
        replies += &talk.say(if stage == "BodyEnd" { "x\r\n.\r\n" } else { "MAIL FROM:<a@b>\r\n" });
        assert_codes(&replies, &codes);
    }
}

#[test]
fn a_421_of_the_caller_ends_the_session() {
    let mut talk = Talk::greeted(lenient());
    talk.rejections.push(("Rcpt", Reply::new(421, "4.7.0", "Go away")));
    assert_codes(&talk.say(ENVELOPE), &["250", "421 4.7.0"]);
    assert_eq!(talk.events, ["Mail", "Rcpt", "Quit"]);
    let mut talk = Talk::greeted(lenient());
    talk.session.close_with(&Reply::new(421, "4.3.2", "Shutting down"));
    talk.session.close_with(&Reply::new(421, "4.3.2", "Shutting down"));
    assert_codes(&talk.say("NOOP\r\n"), &["421 4.3.2"]);
    assert_eq!(talk.events, ["Quit"]);
}

#[test]
fn nothing_is_used_while_a_decision_is_pending() {
    let mut session = Session::new(Rc::new(lenient()));
    let mut rest: &[u8] = b"EHLO x\r\nMAIL FROM:<a@b>\r\nNOOP\r\n";
    for _ in 0..2 {
        let (used, _) = session.handle_input(rest);
        rest = &rest[used..];
    }
    assert_eq!(session.handle_input(rest), (0, Event::NeedInput));
    session.accept_with(&Reply::new(250, "2.1.0", "Fine"));
    assert_eq!(session.handle_input(rest), (rest.len(), Event::NeedInput));
    assert!(session.output().ends_with(b"250 2.1.0 Fine\r\n250 2.0.0 Ok\r\n"));
}

/// What belongs to HTTP or TLS ends the session at once, before EHLO and after it, and no later line is a command.
#[test]
fn other_protocols_end_the_session() {
    let rest = "EHLO evil\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\r\n";
    for line in [
        b"POST / HTTP/1.1\r\n".as_slice(),
        b"GET /\r\n",
        b"EHLO / HTTP/1.1\r\n",
        b"NOOP / HTTP/1.1\r\n",
        b"CONNECT mx.test:25 HTTP/1.0\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"\x80\x2e\x01\x00",
    ] {
        for mut talk in [Talk::new(lenient()), Talk::greeted(lenient())] {
            assert_codes(&talk.say([line, rest.as_bytes()].concat()), &["421 4.7.0"]);
            assert_eq!(talk.events, ["TooManyErrors"]);
            assert_eq!(talk.say("EHLO evil\r\nMAIL FROM:<a@b>\r\n"), "", "{line:?}");
        }
    }
    let mut talk = Talk::new(lenient());
    assert_codes(&talk.say(format!("POST /{} HTTP/1.1\r\n{rest}", "x".repeat(4000))), &["421 4.7.0"]);
}

/// Before EHLO three lines may be no commands, as a client's slip; the fourth ends the session. After it they count as
/// any other error.
#[test]
fn unknown_commands_before_ehlo_end_the_session_soon() {
    let mut talk = Talk::new(lenient());
    let replies = talk.say("A: b\r\nB: c\r\nC: d\r\nD: e\r\nEHLO x\r\n");
    assert_codes(&replies, &["500 5.5.1", "500 5.5.1", "500 5.5.1", "421 4.7.0"]);
    let mut talk = Talk::new(lenient());
    talk.say("A: b\r\nB: c\r\nC: d\r\nMAIL FROM:<>\r\nRSET\r\nEHLO x\r\n");
    assert_codes(&talk.say("A: b\r\nB: c\r\nMAIL FROM:<>\r\n"), &["500 5.5.1", "500 5.5.1", "250 2.1.0"]);
}

/// The postmaster is known in both forms and in any case, and nobody else is taken for it.
#[test]
fn the_postmaster_is_told() {
    let mut session = Session::new(Rc::new(Options { hostname: "mx.example".into(), ..lenient() }));
    let said = b"EHLO x\r\nMAIL FROM:<>\r\n";
    let used = session.handle_input(said).0;
    session.handle_input(&said[used..]);
    session.accept();
    for (path, address, postmaster) in [
        ("pOSTMASTER", "postmaster@mx.example", true),
        ("Postmaster@MX.Example", "Postmaster@MX.Example", true),
        ("postmaster@example", "postmaster@example", false),
        ("postmasters@mx.example", "postmasters@mx.example", false),
    ] {
        let line = format!("RCPT TO:<{path}>\r\n");
        let (_, Event::Rcpt(request)) = session.handle_input(line.as_bytes()) else { panic!("{path}") };
        assert_eq!((request.mailbox.as_str(), request.postmaster), (address, postmaster));
        session.accept();
    }
}

/// What a client pipelines is not parsed while its replies are not taken; it loses nothing by that.
#[test]
fn output_is_bounded() {
    for (line, replies) in [("EHLO x\r\n", 5), ("NOOP\r\n", 1), ("VRFY a\r\n", 1), ("HELP\r\n", 1)] {
        let mut session = Session::new(Rc::new(Options { max_junk: usize::MAX, ..lenient() }));
        let input = line.repeat(4000);
        let (mut rest, mut said) = (input.as_bytes(), Vec::new());
        loop {
            let (used, event) = session.handle_input(rest);
            rest = &rest[used..];
            assert!(session.output().len() <= 8192, "{}", session.output().len());
            match event {
                Event::NeedInput => break,
                Event::OutputFull => {
                    assert_eq!(session.handle_input(rest), (0, Event::OutputFull), "until it is taken");
                    said.append(session.output());
                }
                _ => {}
            }
        }
        said.append(session.output());
        let lines = said.iter().filter(|&&octet| octet == b'\n').count();
        assert_eq!(lines, 1 + replies * 4000, "{line}");
    }
}

/// A line without end, and a message far over the limit, are not read to their end.
#[test]
fn what_has_no_end_is_cut_off() {
    let mut talk = Talk::greeted(lenient());
    let said: String = (0..150).map(|_| talk.say([b'x'; 1000])).collect();
    assert_eq!((said.as_str(), talk.events[0].as_str()), ("421 4.7.0 Line too long\r\n", "TooManyErrors"));
    let line = [&[b'x'; 998][..], b"\r\n"].concat();
    for (first, reply) in [("a\r\n", "552 5.3.4"), ("a\nb\r\n", "554 5.6.0")] {
        let mut talk = Talk::greeted(Options { max_message_size: 10_000, ..lenient() });
        talk.say(format!("{ENVELOPE}{first}"));
        let mut sent = 0;
        let replies = loop {
            let replies = talk.say(&line);
            sent += line.len();
            if !replies.is_empty() {
                break replies;
            }
            assert!(sent < 2 << 20, "it is read for ever");
        };
        assert!(sent > 1 << 20);
        assert_codes(&replies, &[reply]);
        assert_eq!(talk.say(".\r\nMAIL FROM:<a@b>\r\n"), "", "nothing that follows is a command");
    }
}

/// NUL is refused in a message and in a command; the options make it a blank or let it pass.
#[test]
fn nul_is_no_text() {
    let body = "a\0\0b\r\n\0\r\n.\0\r\n";
    for (nul_octets, replied, kept) in [
        (NulOctets::Refuse, "554 5.6.0", ""),
        (NulOctets::Repair, "250", "a  b\r\n \r\n. \r\n"),
        (NulOctets::Allow, "250", body),
    ] {
        let mut talk = Talk::greeted(Options { nul_octets, ..lenient() });
        let replies = talk.say(format!("{ENVELOPE}{body}.\r\nNOOP\r\n"));
        assert_codes(&replies, &["250", "250", "354", replied, "250 2.0.0"]);
        if nul_octets != NulOctets::Refuse {
            assert_eq!(talk.body, kept.as_bytes());
        }
        assert_codes(&talk.say("NOOP \0\r\n"), &["500 5.5.2"]);
    }
}
