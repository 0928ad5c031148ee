//! Who does not wait for a reply is refused, and who may go on is not.

use super::*;

/// What must wait for a reply and does not ends the session with 554 5.5.0, in one piece of input or in several.
#[test]
fn early_talkers_are_refused() {
    for (start, early, replied) in [
        ("", "EHLO x\r\n", ""),
        ("", "MAIL FROM:<a@b>\r\n", ""),
        ("EHLO x\r\n", "MAIL FROM:<a@b>\r\n", "250-"),
        ("HELO x\r\n", "M", "250 "),
        ("e", "NOOP\r\nRSET\r\n", "250 "),
        ("e", "VRFY x\r\nRSET\r\n", "252 "),
        ("e", "EXPN x\r\nRSET\r\n", "502 "),
        ("e", "STARTTLS\r\nMAIL FROM:<a@b>\r\n", "502 "),
        ("e", "BDAT 9 LAST\r\nRSET\r\n", "502 "),
        ("e", "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nSubject: x\r\n\r\n.\r\n", "354 "),
        ("e", "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nQUITS", "354 "),
        ("e", "MAIL FROM:<a@b>\r\nDATA\r\nMAIL FROM:<a@b>\r\n", "554 5.5.1"),
        ("h", "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n", "250 2.1.0"),
        ("h", "RSET\r\nMAIL FROM:<a@b>\r\n", "250 "),
        ("h", "FOO\r\nMAIL FROM:<a@b>\r\n", "500 "),
    ] {
        let said = [start, early].concat();
        let (mut session, input) = match start {
            "e" => (Talk::greeted(Options::default()).session, early),
            "h" => {
                let mut talk = Talk::new(Options::default());
                talk.say("HELO x\r\n");
                (talk.session, early)
            }
            "" => (Session::new(Rc::new(Options::default())), said.as_str()),
            _ => (Talk::new(Options::default()).session, said.as_str()),
        };
        let mut rest = input.as_bytes();
        let ended = loop {
            let (used, event) = session.handle_input(rest);
            rest = &rest[used..];
            match event {
                Event::NeedInput => panic!("{input:?} is taken: {:?}", str::from_utf8(session.output())),
                Event::Mail(_) | Event::Rcpt(_) | Event::Data => session.accept(),
                Event::TooManyErrors => break str::from_utf8(session.output()).unwrap().to_owned(),
                _ => {}
            }
        };
        assert!(
            ended.ends_with("\r\n554 5.5.0 SMTP protocol synchronization error\r\n"),
            "{input:?}: {ended}"
        );
        assert!(ended.contains(replied), "{input:?}: {ended}");
        assert_eq!(session.handle_input(b"NOOP\r\n"), (6, Event::Quit));
    }
    // Pieces that came before the output was sent.
    let mut talk = Talk::greeted(Options::default());
    talk.session.spoken_early();
    assert_codes(&talk.say("NOOP\r\n"), &["250"]);
    let (used, event) = talk.session.handle_input(b"NOOP\r\n");
    assert_eq!((used, event, talk.session.must_wait()), (6, Event::NeedInput, true));
    talk.session.spoken_early();
    talk.session.output().clear();
    assert_codes(&talk.say("MAIL FROM:<a@b>\r\n"), &["554 5.5.0"]);
}

/// What RFC 2920 allows is taken: groups, DATA at a group's end, the next group behind a message's end, a line in pieces;
/// and QUIT with the last words.
#[test]
fn pipelining_is_allowed() {
    let mut talk = Talk::greeted(Options::default());
    for _ in 0..2 {
        assert_codes(&talk.say(format!("RSET\r\n{ENVELOPE}")), &["250", "250", "250", "354"]);
        let replies = talk.say("a\r\n.\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRSET\r\nMAIL FROM:<a@b>\r\n");
        assert_codes(&replies, &["250", "250", "250", "250", "250"]);
    }
    assert_codes(&talk.say("NOOP\r\nQUIT\r\n"), &["250", "221"]);
    let mut talk = Talk::new(Options::default());
    for piece in ["HELO", " x\r", "\n", "MAIL FROM:<a@b>\r\n", "RCPT TO:<c@d>\r\n", "DATA\r\n", "a\r\n.\r"] {
        assert!(!talk.say(piece).starts_with('5'), "{piece:?}");
    }
    assert_codes(&talk.say("\nquit\r\n"), &["250", "221"]);
}

/// QUIT with the last words may come in pieces, before the reply is sent and after it; what only begins like it may not.
#[test]
fn an_early_quit_may_be_split() {
    for split in 1..6 {
        for (told, ending) in [(false, "T\r\n"), (true, "T\r\n"), (true, "E\r\n"), (true, "TS\r\nNOOP\r\n")] {
            let mut talk = Talk::greeted(Options::default());
            let line = format!("QUI{ending}");
            assert_eq!(talk.session.handle_input(b"NOOP\r\n"), (6, Event::NeedInput));
            if told {
                talk.session.spoken_early();
            }
            let replies =
                talk.say(&line[..split.min(line.len())]) + &talk.say(&line[split.min(line.len())..]);
            let expected = if ending == "T\r\n" { ["250", "221"].as_slice() } else { &["250", "554 5.5.0"] };
            match ending.starts_with("TS") {
                true => assert_codes(&replies, &["250", "500", "554 5.5.0"]),
                false => assert_codes(&replies, expected),
            }
        }
    }
}
