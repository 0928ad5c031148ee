//! The server's side of one POP3 connection: commands in, replies and decisions for the owner of the maildrop out.
//!
//! The session answers everything that a listing suffices for (STAT, LIST, UIDL, DELE, RSET, NOOP, CAPA) itself;
//! the owner is asked for the login, for the bytes of messages and, at QUIT, to delete.

use std::fmt::Write as _;

use memchr::memchr;

mod authorization;

use super::listing::Transaction;
pub use super::listing::{Listed, Listing};
use crate::OUTPUT_MAX;
use crate::foreign;
use crate::sasl::line::{self, NoResponse};
use crate::sasl::mechanism::{Mechanism, Mechanisms};

/// Longest command line that is read, without its line end. RFC 2449 asks for 255; addresses as user names need more.
const MAX_LINE: usize = 512;
/// Octets of a line over the limit that are read for its end; at more the connection is given up.
const LINE_EXCESS_MAX: usize = 128 << 10;
/// Lines before the login after which a connection is given up.
const MAX_LINES_BEFORE_LOGIN: u32 = 100;
/// Refused commands after which a connection is given up. Before the login fewer unknown ones do it
/// ([`foreign::UNKNOWN_MAX`]), and what belongs to another protocol does at once.
const MAX_ERRORS: u32 = 50;
/// Wrong passwords after which a connection is given up.
const MAX_LOGIN_FAILURES: u32 = 5;
/// Lines handled and messages looked at in one call: then the owner may have others to serve.
const WORK_MAX: usize = 4096;

/// Why a login is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Unknown user or wrong password.
    Credentials,
    /// Another session has the maildrop locked.
    InUse,
    /// The maildrop cannot be opened now.
    Unavailable,
    /// The response of an exchange is none, or the client has cancelled it.
    Response,
}

/// What is offered beside USER and PASS on a connection as it is now. Nothing by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offer {
    /// STLS.
    pub starttls: bool,
    /// For AUTH.
    pub mechanisms: Mechanisms,
}

/// What the input asks of the owner. After every event but `NeedInput` and `OutputFull` the owner answers with the method named
/// there before it gives more input.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// All input is used up; send [`Session::output`] and read on.
    NeedInput,
    /// [`OUTPUT_MAX`] octets of output wait, or much was looked at: send the output, let others have their turn, then call again
    /// with the rest of the input, also an empty rest.
    OutputFull,
    /// USER and PASS came: [`Session::accept_login`] or [`Session::refuse_login`].
    Login {
        /// As the client sent it.
        user: String,
        /// As the client sent it.
        password: String,
    },
    /// STLS: if there is no more input, send [`Session::output`], go over to TLS, then [`Session::secured`]. More input is
    /// no command of the session in TLS, and the next call ends the session.
    StartTls,
    /// AUTH with a mechanism that is offered: [`Session::challenge`], [`Session::accept_login`] or [`Session::refuse_login`].
    Authenticate {
        /// The mechanism.
        mechanism: Mechanism,
        /// The initial response, if there is one.
        initial: Option<Vec<u8>>,
    },
    /// The line after a challenge, to be answered like `Authenticate`. None: the exchange is over.
    Response(Result<Vec<u8>, NoResponse>),
    /// RETR of the message at this index (from 0) of the listing: [`Session::begin_message`], then send the
    /// message byte-stuffed and terminated; or [`Session::refuse_message`].
    Retrieve {
        /// Index in the listing.
        index: usize,
    },
    /// TOP: like `Retrieve`, with the header section, the empty line and so many lines of the body.
    Top {
        /// Index in the listing.
        index: usize,
        /// Lines of the body.
        lines: u32,
    },
    /// QUIT: delete the messages at these indices, then [`Session::goodbye`], send and close.
    Quit {
        /// Indices in the listing; empty when nobody was logged in.
        deleted: Vec<usize>,
    },
    /// Too many refused commands. -ERR is queued: send it and close.
    TooManyErrors,
}

/// One connection's state. The greeting is in the output from the start.
#[derive(Debug)]
pub struct Session {
    state: State,
    offer: Offer,
    awaited: Awaited,
    line: Vec<u8>,
    /// The line is too long: its rest is thrown away.
    overlong: bool,
    /// Octets of it.
    excess: usize,
    errors: u32,
    /// Wrong passwords.
    login_failures: u32,
    /// Lines handled and messages looked at since the owner was told.
    work: usize,
    /// Lines before the login.
    anonymous: u32,
    /// Lines before the login that were no commands.
    unknown: usize,
    /// The client speaks another protocol, or has made too many errors: nothing that follows is a command.
    over: bool,
    /// LIST or UIDL is being answered.
    answering: Option<Answering>,
    output: Vec<u8>,
}

/// Writes what LIST or UIDL says of the message at an index.
type Value = fn(&Listing, usize, &mut Vec<u8>);

/// The answer to LIST or UIDL of all messages, which goes out piece by piece.
#[derive(Debug, Clone, Copy)]
struct Answering {
    value: Value,
    /// Index of the next message.
    next: usize,
}

/// What the next line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Command,
    /// The response to a challenge.
    Response,
    /// None: TLS comes first.
    Tls,
}

#[derive(Debug)]
enum State {
    Authorization { user: Option<String> },
    Transaction(Transaction),
}

impl Session {
    /// A session that greets in the name of `hostname`.
    pub fn new(hostname: &str, offer: Offer) -> Session {
        Session {
            state: State::Authorization { user: None },
            offer,
            awaited: Awaited::Command,
            line: Vec::new(),
            overlong: false,
            excess: 0,
            errors: 0,
            login_failures: 0,
            work: 0,
            anonymous: 0,
            unknown: 0,
            over: false,
            answering: None,
            output: format!("+OK {hostname} POP3 ready\r\n").into_bytes(),
        }
    }

    /// Replies to send. Take them before waiting for input.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Takes input: returns how much of it is used up and what it asks.
    pub fn handle_input(&mut self, input: &[u8]) -> (usize, Event) {
        if self.login_failures >= MAX_LOGIN_FAILURES {
            return (input.len(), self.give_up());
        }
        let mut used = 0;
        self.work = 0;
        if !self.go_on_answering() {
            return (0, Event::OutputFull);
        }
        while used < input.len() {
            if self.output.len() >= OUTPUT_MAX || self.work >= WORK_MAX {
                return (used, Event::OutputFull);
            }
            let rest = &input[used..];
            let begins = self.line.is_empty() && !self.overlong;
            let is_early = self.awaited == Awaited::Tls;
            if self.over || is_early || (begins && !foreign::can_begin_line(rest[0])) {
                return (input.len(), self.give_up());
            }
            let newline = memchr(b'\n', rest);
            let end = newline.unwrap_or(rest.len());
            used += end + usize::from(newline.is_some());
            if self.line.len() + end > self.line_max() + 1 {
                self.overlong = true;
                self.line.clear();
            }
            if !self.overlong {
                self.line.extend_from_slice(&rest[..end]);
            }
            if newline.is_none() {
                self.excess += if self.overlong { end } else { 0 };
                if self.excess > LINE_EXCESS_MAX {
                    return (input.len(), self.give_up());
                }
                break;
            }
            self.excess = 0;
            if let Some(event) = self.handle_line() {
                return (used, event);
            }
            if !self.go_on_answering() {
                return (used, Event::OutputFull);
            }
        }
        (used, Event::NeedInput)
    }

    /// Answers RETR or TOP with +OK; the message must follow in the output stream.
    pub fn begin_message(&mut self, octets: u32) {
        let _ = write!(Text(&mut self.output), "+OK {octets} octets\r\n");
    }

    /// Answers RETR or TOP with -ERR.
    pub fn refuse_message(&mut self) {
        self.negative("the message cannot be read");
    }

    /// Answers QUIT.
    pub fn goodbye(&mut self, all_deleted: bool) {
        match all_deleted {
            true => self.positive("bye"),
            false => self.output.extend_from_slice(b"-ERR some deleted messages were not removed\r\n"),
        }
    }

    /// Handles the complete line in `self.line`.
    fn handle_line(&mut self) -> Option<Event> {
        let mut line = std::mem::take(&mut self.line);
        let event = if std::mem::take(&mut self.overlong) {
            match self.response(Err(NoResponse::TooLong)) {
                None => {
                    self.unknown("line too long");
                    None
                }
                response => response,
            }
        } else {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            match std::str::from_utf8(&line) {
                _ if self.awaited == Awaited::Response => self.response(line::response(&line)),
                Ok(text) => self.handle_command(text),
                Err(_) => {
                    self.unknown("not a command");
                    None
                }
            }
        };
        line.clear();
        self.line = line;
        self.work += 1;
        self.anonymous += u32::from(matches!(self.state, State::Authorization { .. }));
        let too_many = self.errors >= MAX_ERRORS
            || self.unknown > foreign::UNKNOWN_MAX
            || self.anonymous >= MAX_LINES_BEFORE_LOGIN;
        if self.over || (event.is_none() && too_many) {
            return Some(self.give_up());
        }
        event
    }

    /// Nothing that follows is a command.
    fn give_up(&mut self) -> Event {
        self.over = true;
        self.output.extend_from_slice(b"-ERR too many errors\r\n");
        Event::TooManyErrors
    }

    fn handle_command(&mut self, line: &str) -> Option<Event> {
        let (verb, argument) = match line.split_once(' ') {
            Some((verb, argument)) => (verb, argument),
            None => (line, ""),
        };
        match verb.to_ascii_uppercase().as_str() {
            "QUIT" => return Some(Event::Quit { deleted: self.deleted() }),
            "CAPA" => self.capa(),
            "STLS" => return self.stls(argument),
            "AUTH" => return self.auth(argument),
            "USER" => self.user(argument),
            "PASS" => return self.pass(argument),
            "STAT" => self.stat(),
            "LIST" => self.list(argument.trim()),
            "UIDL" => self.uidl(argument.trim()),
            "RETR" => {
                let index = self.existing(argument.trim())?;
                return Some(Event::Retrieve { index });
            }
            "TOP" => {
                let mut words = argument.split_ascii_whitespace();
                let (Some(number), Some(lines), None) = (words.next(), words.next(), words.next()) else {
                    self.negative("TOP needs a message number and a number of lines");
                    return None;
                };
                let Ok(lines) = lines.parse() else {
                    self.negative("not a number of lines");
                    return None;
                };
                let index = self.existing(number)?;
                return Some(Event::Top { index, lines });
            }
            "DELE" => {
                let index = self.existing(argument.trim())?;
                if let State::Transaction(transaction) = &mut self.state {
                    transaction.delete(index);
                }
                self.positive("deleted");
            }
            "RSET" => match &mut self.state {
                State::Transaction(transaction) => {
                    self.work += transaction.restore();
                    self.positive("nothing is deleted");
                }
                State::Authorization { .. } => self.negative("log in first"),
            },
            "NOOP" => match self.state {
                State::Transaction(_) => self.positive("done"),
                State::Authorization { .. } => self.negative("log in first"),
            },
            "APOP" => self.negative("not supported"),
            verb if foreign::is_method(verb.as_bytes()) => self.over = true,
            _ => self.unknown("unknown command"),
        }
        self.over |= foreign::is_request_line(line.as_bytes());
        None
    }

    fn stat(&mut self) {
        let State::Transaction(Transaction { kept, octets, .. }) = &self.state else {
            self.negative("log in first");
            return;
        };
        let text = format!("{kept} {octets}");
        self.positive(&text);
    }

    fn list(&mut self, argument: &str) {
        self.list_or_uidl(argument, |listing, index, output| {
            let _ = write!(Text(output), "{}", listing.messages[index].size);
        });
    }

    fn uidl(&mut self, argument: &str) {
        self.list_or_uidl(argument, |listing, index, output| {
            let _ = write!(Text(output), "{:08x}.{:08x}", listing.uid_validity, listing.messages[index].uid);
        });
    }

    fn list_or_uidl(&mut self, argument: &str, value: Value) {
        let index = match argument.is_empty() {
            true => None,
            false => match self.existing(argument) {
                Some(index) => Some(index),
                None => return,
            },
        };
        let State::Transaction(Transaction { listing, kept, octets, .. }) = &self.state else {
            self.negative("log in first");
            return;
        };
        self.errors = 0;
        match index {
            Some(index) => {
                let _ = write!(Text(&mut self.output), "+OK {} ", index + 1);
                value(listing, index, &mut self.output);
                self.output.extend_from_slice(b"\r\n");
            }
            None => {
                let _ = write!(Text(&mut self.output), "+OK {kept} messages ({octets} octets)\r\n");
                self.answering = Some(Answering { value, next: 0 });
            }
        }
    }

    /// Writes more of a long answer, if one is under way. False: there is more to come when the output has been taken.
    fn go_on_answering(&mut self) -> bool {
        let Some(Answering { value, next }) = self.answering else { return true };
        if let State::Transaction(Transaction { listing, deleted, .. }) = &self.state {
            for (index, &is_deleted) in deleted.iter().enumerate().skip(next) {
                if self.output.len() >= OUTPUT_MAX || self.work >= WORK_MAX {
                    self.answering = Some(Answering { value, next: index });
                    return false;
                }
                self.work += 1;
                if !is_deleted {
                    let _ = write!(Text(&mut self.output), "{} ", index + 1);
                    value(listing, index, &mut self.output);
                    self.output.extend_from_slice(b"\r\n");
                }
            }
        }
        self.output.extend_from_slice(b".\r\n");
        self.answering = None;
        true
    }

    /// The index of a message that exists and is not deleted; otherwise -ERR is queued.
    fn existing(&mut self, argument: &str) -> Option<usize> {
        let State::Transaction(Transaction { deleted, .. }) = &self.state else {
            self.negative("log in first");
            return None;
        };
        let index = argument.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
        match index.and_then(|index| deleted.get(index).map(|&deleted| (index, deleted))) {
            Some((index, false)) => Some(index),
            Some((_, true)) => {
                self.negative("that message is deleted");
                None
            }
            None => {
                self.negative("no such message");
                None
            }
        }
    }

    fn deleted(&self) -> Vec<usize> {
        match &self.state {
            State::Transaction(Transaction { deleted, .. }) => {
                (0..deleted.len()).filter(|&index| deleted[index]).collect()
            }
            State::Authorization { .. } => Vec::new(),
        }
    }

    fn positive(&mut self, text: &str) {
        if matches!(self.state, State::Transaction(_)) {
            self.errors = 0;
        }
        let _ = write!(Text(&mut self.output), "+OK {text}\r\n");
    }

    /// The line is nothing that a client of POP3 says.
    fn unknown(&mut self, text: &str) {
        self.unknown += usize::from(matches!(self.state, State::Authorization { .. }));
        self.negative(text);
    }

    fn negative(&mut self, text: &str) {
        self.errors += 1;
        let _ = write!(Text(&mut self.output), "-ERR {text}\r\n");
    }
}

/// Formats into a byte vector; never fails.
struct Text<'a>(&'a mut Vec<u8>);

impl std::fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
