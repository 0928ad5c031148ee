//! The server's side of an IMAP connection, up to parsed commands: line and literal framing, limits, continuation
//! requests, IDLE's DONE. What the commands mean is the mailbox owner's business.

use imap_codec::fragmentizer::{FragmentInfo, Fragmentizer};
use imap_codec::imap_types::IntoStatic;
use imap_codec::imap_types::command::{Command, CommandBody};
use imap_codec::imap_types::core::{LiteralMode, Tag};
use imap_codec::{CommandCodec, IdleDoneCodec};

use super::nested::{self, Refused};
use crate::{OUTPUT_MAX, foreign};

/// Octets over [`Limits::command_octets`] that are read for a command's end; at more the connection is given up.
const EXCESS_MAX: usize = 64 << 10;

/// Limits on what a client may send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest command with its literals, in octets. The rest of a longer one is thrown away and BAD answered.
    pub command_octets: u32,
    /// Largest literal that is asked for.
    pub literal_octets: u32,
    /// Commands in a row that make no sense, after which the connection is given up. Before the first one that does, fewer
    /// suffice ([`foreign::UNKNOWN_MAX`]), and what belongs to another protocol ends the connection at once.
    pub errors: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { command_octets: 64 * 1024, literal_octets: 4096, errors: 50 }
    }
}

/// What a client asked.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A command. After IDLE no further event comes but `IdleEnded`.
    Command(Command<'static>),
    /// The line that ends IDLE: answer the IDLE command of this tag, with OK if it was DONE, else with BAD.
    IdleEnded {
        /// Tag of the IDLE command.
        tag: Tag<'static>,
        /// The line was DONE.
        done: bool,
    },
    /// [`OUTPUT_MAX`] octets of output wait: take them, then poll again.
    OutputFull,
    /// Too many bad commands. Say BYE and close.
    TooManyErrors,
}

/// Turns bytes into commands. Input waits inside: give it piece by piece, and poll until there is no event.
#[derive(Debug)]
pub struct Commands {
    limits: Limits,
    fragments: Fragmentizer,
    idle: Option<Tag<'static>>,
    errors: u32,
    /// Octets taken since a command ended.
    unfinished: usize,
    /// A command came that makes sense.
    understood: bool,
    /// The client speaks another protocol, or has made too many errors: nothing that follows is a command.
    over: bool,
    output: Vec<u8>,
}

impl Commands {
    /// A parser for one connection.
    pub fn new(limits: Limits) -> Commands {
        Commands {
            limits,
            fragments: Fragmentizer::new(limits.command_octets),
            idle: None,
            errors: 0,
            unfinished: 0,
            understood: false,
            over: false,
            output: Vec::new(),
        }
    }

    /// Takes input.
    pub fn handle_input(&mut self, input: &[u8]) {
        self.unfinished += input.len();
        self.fragments.enqueue_bytes(input);
    }

    /// Continuation requests and BAD responses to send, before the answer to the next event.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The next event in the input that was given; none: more input is needed.
    pub fn poll_event(&mut self) -> Option<Event> {
        if self.over {
            return Some(Event::TooManyErrors);
        }
        loop {
            if self.output.len() >= OUTPUT_MAX {
                return Some(Event::OutputFull);
            }
            let Some(fragment) = self.fragments.progress() else { break };
            if let FragmentInfo::Line { announcement: Some(literal), .. } = fragment {
                if literal.mode == LiteralMode::Sync {
                    self.answer_literal(literal.length);
                } else {
                    // LITERAL+ is not offered. The client sends the bytes anyway: they are read, so that framing
                    // holds, and the command is refused.
                    self.fragments.poison_message();
                }
            }
            if self.fragments.is_message_complete() {
                self.unfinished = 0;
                if let Some(event) = self.handle_message() {
                    return Some(event);
                }
            }
            let unknown_max = if self.understood { u32::MAX } else { foreign::UNKNOWN_MAX as u32 };
            self.over |= self.errors >= self.limits.errors || self.errors > unknown_max;
            if self.over {
                return Some(Event::TooManyErrors);
            }
        }
        let is_endless = self.unfinished > self.limits.command_octets as usize + EXCESS_MAX;
        self.over = is_endless || !self.begins_well();
        self.over.then_some(Event::TooManyErrors)
    }

    /// Whether what is there of a command begins as one may.
    fn begins_well(&self) -> bool {
        self.fragments.message_bytes().first().is_none_or(|&octet| foreign::can_begin_line(octet))
    }

    /// A synchronising literal is announced: ask for it, or refuse the command, which then ends at this line.
    fn answer_literal(&mut self, length: u32) {
        let room = self.limits.command_octets as usize - self.fragments.message_bytes().len();
        let welcome = length <= self.limits.literal_octets
            && (length as usize) < room
            && self.idle.is_none()
            && !self.fragments.is_message_poisoned()
            && !self.fragments.is_max_message_size_exceeded();
        if welcome {
            self.output.extend_from_slice(b"+ send the literal\r\n");
        } else {
            self.refuse("the literal is too large or out of place");
            self.fragments.skip_message();
        }
    }

    fn handle_message(&mut self) -> Option<Event> {
        if let Some(tag) = self.idle.take() {
            let done = self.fragments.decode_message(&IdleDoneCodec::default()).is_ok();
            self.errors = if done { 0 } else { self.errors + 1 };
            return Some(Event::IdleEnded { tag, done });
        }
        self.over = !self.begins_well() || foreign::is_request_line(self.fragments.message_bytes());
        if self.over {
            return None;
        }
        match self.decode() {
            Ok(command) => {
                if command.body == CommandBody::Idle {
                    self.idle = Some(command.tag.clone());
                }
                (self.errors, self.understood) = (0, true);
                Some(Event::Command(command))
            }
            Err(refused) => {
                let too_long = self.fragments.is_max_message_size_exceeded();
                self.refuse(match refused {
                    _ if too_long => "the command is too long",
                    Refused::TooDeep => "the search keys are nested more than 100 deep",
                    Refused::TooMany => "there are too many search keys",
                    Refused::Syntax => "unknown command or wrong arguments",
                });
                None
            }
        }
    }

    fn decode(&self) -> Result<Command<'static>, Refused> {
        match self.fragments.decode_message(&CommandCodec::default()) {
            Ok(command) => Ok(command.into_static()),
            Err(_)
                if self.fragments.is_message_poisoned() || self.fragments.is_max_message_size_exceeded() =>
            {
                Err(Refused::Syntax)
            }
            Err(_) => nested::decode(self.fragments.message_bytes()),
        }
    }

    /// The IDLE command cannot be carried out (wrong state): its tag is answered by the caller, DONE will not come.
    pub fn cancel_idle(&mut self) {
        self.idle = None;
    }

    /// BAD, with the command's tag if it has one.
    fn refuse(&mut self, text: &str) {
        self.errors += 1;
        let tag = self.fragments.decode_tag();
        write_bad(&mut self.output, tag.as_ref().map_or("*", |tag| tag.inner()), text);
    }
}

fn write_bad(output: &mut Vec<u8>, tag: &str, text: &str) {
    output.extend_from_slice(format!("{tag} BAD {text}\r\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(commands: &mut Commands, input: &[u8]) -> (Vec<String>, String) {
        commands.handle_input(input);
        let mut names = Vec::new();
        while let Some(event) = commands.poll_event() {
            names.push(match event {
                Event::Command(command) => format!("{} {}", command.tag.as_ref(), command.body.name()),
                Event::IdleEnded { tag, done } => format!("{} DONE {done}", tag.as_ref()),
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
        let input =
            b"a1 NOOP\r\na2 LOGIN u p\r\na3 IDLE\r\nDONE\r\na4 UID FETCH 1:* (UID BODY.PEEK[]<0.9>)\r\n";
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
}
