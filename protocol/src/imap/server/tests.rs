//! Framing, limits and exchanges of the IMAP command parser.

use super::*;

fn feed(commands: &mut Commands, input: &[u8]) -> (Vec<String>, String) {
    commands.handle_input(input);
    let mut names = Vec::new();
    while let Some(event) = commands.poll_event() {
        names.push(match event {
            Event::Command(command) => format!("{} {}", command.tag.as_ref(), command.body.name()),
            Event::IdleEnded { tag, done } => format!("{} DONE {done}", tag.as_ref()),
            Event::Response(response) => format!("{response:?}"),
            Event::OutputFull => panic!("much output"),
            Event::TooManyErrors => {
                names.push("errors".to_owned());
                break;
            }
        });
    }
    (names, String::from_utf8(std::mem::take(commands.output())).unwrap())
}

/// Literals of no octets in one piece of input do not have their requests pile up.
#[test]
fn output_is_bounded() {
    let mut commands = Commands::new(Limits::default());
    commands.handle_input(format!("a1 LOGIN {}x\r\n", "{0}\r\n ".repeat(4000)).as_bytes());
    let mut octets = 0;
    while let Some(Event::OutputFull) = commands.poll_event() {
        assert!(commands.output().len() < OUTPUT_MAX + 100);
        octets += std::mem::take(commands.output()).len();
    }
    assert!(octets > 4 * OUTPUT_MAX, "{octets}");
}

/// Pipelined commands come out one by one, whatever the split.
#[test]
fn commands_at_every_split() {
    let input = b"a1 NOOP\r\na2 LOGIN u p\r\na3 IDLE\r\nDONE\r\na4 UID FETCH 1:* (UID BODY.PEEK[]<0.9>)\r\n";
    for split in 0..input.len() {
        let mut commands = Commands::new(Limits::default());
        let (mut names, first) = feed(&mut commands, &input[..split]);
        let (more, second) = feed(&mut commands, &input[split..]);
        names.extend(more);
        assert_eq!(names, ["a1 NOOP", "a2 LOGIN", "a3 IDLE", "a3 DONE true", "a4 FETCH"]);
        assert_eq!(first + &second, "");
    }
}

/// A command or literal over the limits gets BAD, its bytes are never taken for commands, and the session lives.
#[test]
fn limits_refuse_and_the_session_lives() {
    let mut commands = Commands::new(Limits::default());
    let (names, output) = feed(&mut commands, &[b'a'; 100_000]);
    assert_eq!((names.len(), output.len()), (0, 0));
    assert_eq!(feed(&mut commands, b"\r\n").1, "* BAD the command is too long\r\n");
    let long = [b"a1 LOGIN u ".as_slice(), &[b'p'; 100_000], b"\r\na2 NOOP\r\n"].concat();
    let (names, output) = feed(&mut commands, &long);
    assert_eq!(
        (names, output),
        (vec!["a2 NOOP".to_owned()], "a1 BAD the command is too long\r\n".to_owned())
    );
    let (_, output) = feed(&mut commands, b"a3 LOGIN {5000}\r\n");
    assert_eq!(output, "a3 BAD the literal is too large or out of place\r\n");
    let (names, output) = feed(&mut commands, b"a4 LOGIN {9+}\r\na9 NOOP\r\n p\r\na5 NOOP\r\n");
    assert_eq!(names, ["a5 NOOP"]);
    assert_eq!(output, "a4 BAD unknown command or wrong arguments\r\n");
}

/// A command without end is not read for ever, also when it is a literal.
#[test]
fn an_endless_command_ends_the_session() {
    for start in [b"a1 NOOP".as_slice(), b"a1 LOGIN {4294967295+}\r\n"] {
        let mut commands = Commands::new(Limits::default());
        assert_eq!(feed(&mut commands, start).0.len(), 0);
        let ended = (0..140).find(|_| feed(&mut commands, &[b'x'; 1000]).0 == ["errors"]);
        assert!(ended.is_some_and(|pieces| pieces > 120), "{ended:?}");
    }
}

/// A synchronising literal is asked for and becomes part of the command.
#[test]
fn literals_are_asked_for() {
    let mut commands = Commands::new(Limits::default());
    assert_eq!(feed(&mut commands, b"a1 LOGIN {3}\r\n").1, "+ send the literal\r\n");
    assert_eq!(feed(&mut commands, b"u\"s {2}\r\n").1, "+ send the literal\r\n");
    assert_eq!(feed(&mut commands, b"pw\r\n"), (vec!["a1 LOGIN".to_owned()], String::new()));
}

/// Rubbish is answered with BAD and, when it goes on, ends the connection.
#[test]
fn rubbish_ends_the_connection() {
    let mut commands = Commands::new(Limits { errors: 3, ..Limits::default() });
    let (names, output) = feed(&mut commands, b"\r\na1 FOO\r\n?\xff\r\na2 NOOP\r\n");
    assert_eq!(names, ["errors"]);
    assert!(output.contains("a1 BAD") && output.matches("* BAD").count() == 2, "{output}");
}
/// What belongs to HTTP or TLS ends the connection at once, and before the first proper command a few unknown ones
/// do; after it they are borne for longer.
#[test]
fn other_protocols_end_the_connection() {
    for input in [
        b"POST / HTTP/1.1\r\na1 NOOP\r\n".as_slice(),
        b"a0 NOOP\r\na1 LOGIN u HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00",
        b"\x80\x2e\x01\r\na1 NOOP\r\n",
        b"Host: a\r\nA: b\r\nB: c\r\nC: d\r\na1 NOOP\r\n",
    ] {
        let mut commands = Commands::new(Limits::default());
        let (names, _) = feed(&mut commands, input);
        assert_eq!(names.last().map(String::as_str), Some("errors"), "{input:?}");
        assert_eq!(feed(&mut commands, b"a9 NOOP\r\n").0, ["errors"], "nothing after it is a command");
    }
    let mut commands = Commands::new(Limits::default());
    let (names, _) = feed(
        &mut commands,
        b"A: b\r\nB: c\r\nC: d\r\na1 NOOP\r\nA: b\r\nB: c\r\nC: d\r\nD: e\r\na2 NOOP\r\n",
    );
    assert_eq!(names, ["a1 NOOP", "a2 NOOP"]);
}

/// The line behind a challenge is a response, whatever it looks like, and the one after it a command again; `*`, rubbish, a
/// literal and too much are none.
#[test]
fn a_challenge_is_answered_by_one_line() {
    let long = format!("{}\r\n", "A".repeat(20_000));
    let endless = format!("{}\r\n", "A".repeat(70_000));
    for (line, response) in [
        ("AHUAcA==\r\n", "Ok([0, 117, 0, 112])"),
        ("\r\n", "Ok([])"),
        ("*\r\n", "Err(Cancelled)"),
        ("a9 NOOP\r\n", "Err(Malformed)"),
        ("x {3}\r\n", "Err(Malformed)"),
        ("x {3+}\r\nabc\r\n", "Err(Malformed)"),
        (&long, "Err(TooLong)"),
        (&endless, "Err(TooLong)"),
    ] {
        let mut commands = Commands::new(Limits::default());
        assert_eq!(feed(&mut commands, b"a1 AUTHENTICATE SCRAM-SHA-256\r\n").0, ["a1 AUTHENTICATE"]);
        commands.challenge(b"who");
        assert_eq!(feed(&mut commands, b"").1, "+ d2hv\r\n");
        let (middle, end) = line.split_at(line.len() / 2);
        let mut names = feed(&mut commands, middle.as_bytes()).0;
        names.extend(feed(&mut commands, end.as_bytes()).0);
        assert_eq!(names, [response]);
        assert_eq!(feed(&mut commands, b"a2 NOOP\r\n").0, ["a2 NOOP"], "{response}");
    }
}

/// What was sent together with STARTTLS is seen by whoever is to go over to TLS, be it half a line, and nothing is seen where
/// nothing was sent.
#[test]
fn what_is_pipelined_behind_starttls_is_seen() {
    for (behind, is_seen) in [("", false), ("x", true), ("a2 LOGIN u p\r\n", true), ("\r\n", true)] {
        for before in ["", "a0 NOOP\r\n", "a0 LOGIN {1}\r\nu p\r\n", "a0 LOGIN {9999}\r\n"] {
            let mut commands = Commands::new(Limits::default());
            feed(&mut commands, before.as_bytes());
            commands.handle_input(format!("a1 STARTTLS\r\n{behind}").as_bytes());
            let event = commands.poll_event();
            assert!(
                matches!(&event, Some(Event::Command(command)) if command.body == CommandBody::StartTLS),
                "{event:?}"
            );
            assert_eq!(commands.has_input(), is_seen, "{before:?} {behind:?}");
        }
    }
}
