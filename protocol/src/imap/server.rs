//! The server's side of an IMAP connection, up to parsed commands: line and literal framing, limits, continuation
//! requests, IDLE's DONE. What the commands mean is the mailbox owner's business.

use imap_codec::fragmentizer::{FragmentInfo, Fragmentizer};
use imap_codec::imap_types::IntoStatic;
use imap_codec::imap_types::command::{Command, CommandBody};
use imap_codec::imap_types::core::{LiteralMode, Tag};
use imap_codec::{CommandCodec, IdleDoneCodec};

use super::nested::{self, Refused};
use crate::sasl::base64;
use crate::sasl::line::{self, NoResponse};
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
    /// The line after [`Commands::challenge`].
    Response(Result<Vec<u8>, NoResponse>),
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
    /// The next line answers a challenge.
    is_challenged: bool,
    /// Octets taken that belong to no line or literal yet.
    ahead: usize,
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
            is_challenged: false,
            ahead: 0,
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
        self.ahead += input.len();
        self.fragments.enqueue_bytes(input);
    }

    /// Whether input is there behind the last event. Behind STARTTLS there may be none.
    pub fn has_input(&self) -> bool {
        self.ahead > 0
    }

    /// Asks on in an exchange of AUTHENTICATE: the next event is [`Event::Response`].
    pub fn challenge(&mut self, octets: &[u8]) {
        self.output.extend_from_slice(format!("+ {}\r\n", base64::encode(octets)).as_bytes());
        self.is_challenged = true;
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
            self.ahead = self.ahead.saturating_sub(fragment.range().len());
            if let FragmentInfo::Line { announcement: Some(literal), .. } = fragment {
                if self.is_challenged && literal.mode == LiteralMode::Sync {
                    self.fragments.skip_message();
                    self.is_challenged = false;
                    return Some(Event::Response(Err(NoResponse::Malformed)));
                }
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
        if std::mem::take(&mut self.is_challenged) {
            return Some(Event::Response(self.response()));
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

    fn response(&self) -> Result<Vec<u8>, NoResponse> {
        if self.fragments.is_max_message_size_exceeded() {
            return Err(NoResponse::TooLong);
        }
        let line = self.fragments.message_bytes();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        line::response(line.strip_suffix(b"\r").unwrap_or(line))
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
mod tests;
