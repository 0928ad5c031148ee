//! The receiving side of an SMTP connection, without the connection.
//!
//! The caller feeds what it reads to [`Session::handle_input`] and acts on the events; it sends
//! [`Session::output`] whenever it is about to wait. Syntax, sequence, limits and framing are answered here;
//! what is policy (may this sender, this recipient, this message) is the caller's decision, which it gives by
//! [`Session::accept`], [`Session::accept_with`] or [`Session::reject`] before it feeds more.

mod auth;
mod early;
mod event;
mod junk;
mod line;
mod options;
mod whose;

use std::rc::Rc;

pub use super::command::{Body, MailRequest};
pub use super::data::{BareNewline, BodyForm, BodyInfo, LongLines, NulOctets};
pub use super::dsn::RcptParameters;
pub use super::xclient::{Said, XclientRequest};
pub use auth::AuthOptions;
pub use early::EarlyTalkers;
pub use event::{AuthRequest, Event, Hello, RcptRequest};
pub use options::Options;

use super::command::{self, Command, CommandError, ForwardPath};
use super::data::{Limits, Scan, Scanner, Violation};
use super::extensions::{Extensions, Offering};
use super::reply::{self, Reply};
use crate::OUTPUT_MAX;
use crate::foreign;
use early::Turn;
use junk::{TOO_MANY_ERRORS, TOO_MUCH_JUNK};
use line::Line;

/// What the caller has to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    Auth,
    Xclient,
    Mail,
    Rcpt,
    Data,
    BodyEnd,
}

#[derive(Debug)]
enum State {
    Command,
    /// A Reset event is out; the Hello event comes next.
    Hello,
    /// The handshake comes next, and no octet of SMTP before it.
    StartTls,
    /// The next line belongs to an exchange.
    Auth,
    Deciding(Decision),
    Body(Scanner),
    /// A TooManyErrors event comes next.
    Ending,
    Closed,
}

/// The progress of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transaction {
    None,
    /// MAIL was refused: what the client sends for it in the same breath is no error of its own.
    Refused,
    /// MAIL was accepted, and so many recipients.
    Open(usize),
}

/// One connection's receiving side.
#[derive(Debug)]
pub struct Session {
    options: Rc<Options>,
    /// Advertised by EHLO.
    extensions: Extensions,
    /// The connection is in TLS.
    is_secured: bool,
    /// What both ends of the connection alone know is there for channel binding.
    is_bound: bool,
    is_authenticated: bool,
    state: State,
    transaction: Transaction,
    hello: Option<Hello>,
    errors: usize,
    /// Lines before the first EHLO or HELO that were no commands.
    unknown: usize,
    /// Commands without mail.
    junk: usize,
    /// Commands that may come to nothing without being junk: they were sent together with what was refused.
    excused: usize,
    turn: Turn,
    /// The start of a command line that a piece of input ended in.
    line: Vec<u8>,
    /// The current line exceeds the limit; it is read to its end and not kept.
    overlong: bool,
    /// Octets of it over the limit.
    excess: usize,
    output: Vec<u8>,
}

impl Session {
    /// A session whose greeting is in the output.
    pub fn new(options: Rc<Options>) -> Session {
        let mut session = Session {
            state: State::Command,
            transaction: Transaction::None,
            hello: None,
            errors: 0,
            unknown: 0,
            junk: 0,
            excused: 0,
            turn: match options.early_talkers {
                EarlyTalkers::Refuse => Turn::Server,
                EarlyTalkers::Allow => Turn::Client,
            },
            line: Vec::new(),
            overlong: false,
            excess: 0,
            output: Vec::with_capacity(256),
            extensions: Extensions::default(),
            is_secured: false,
            is_bound: false,
            is_authenticated: false,
            options,
        };
        session.offer();
        session.greeting();
        session
    }

    fn greeting(&mut self) {
        self.output.extend_from_slice(b"220 ");
        self.output.extend_from_slice(self.options.hostname.as_bytes());
        self.output.extend_from_slice(b" ESMTP Chasqui\r\n");
    }

    /// The connection is in TLS now: from its start, or by [`Event::StartTls`]. What was said before is forgotten (RFC 3207
    /// section 4.2), but for what counts against the client.
    /// `is_bound`: there is channel binding.
    pub fn secured(&mut self, is_bound: bool) {
        (self.is_secured, self.is_bound, self.is_authenticated) = (true, is_bound, false);
        self.offer();
        (self.hello, self.transaction) = (None, Transaction::None);
        if matches!(self.state, State::StartTls) {
            self.state = State::Command;
        }
    }

    /// Octets of the next line, with its CRLF.
    fn line_max(&self) -> usize {
        match self.state {
            State::Auth => auth::AUTH_LINE_MAX,
            _ => self.options.max_command_line,
        }
    }

    /// What EHLO tells, as things stand.
    fn offering(&self) -> Offering {
        self.options.offering(self.is_secured, self.mechanisms())
    }

    fn offer(&mut self) {
        self.extensions = Extensions::offered(self.offering());
    }

    /// What is to be sent. The caller drains or takes it when it is about to wait.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// What the client called itself, once it has.
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// Whether the client is within a transaction, so that ending the connection now interrupts it.
    pub fn is_in_transaction(&self) -> bool {
        matches!(self.transaction, Transaction::Open(_))
    }

    /// Whether the octets of a message are awaited, not a command.
    pub fn is_receiving_body(&self) -> bool {
        matches!(self.state, State::Body(_))
    }

    /// The next event, and how much of the input it used. Call again with the rest, also an empty rest, until
    /// [`Event::NeedInput`]. While a decision is pending, or [`OUTPUT_MAX`] octets of output wait to be taken, nothing is
    /// used.
    pub fn handle_input<'a>(&mut self, input: &'a [u8]) -> (usize, Event<'a>) {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            if self.is_early(rest) {
                return (input.len(), self.refuse_early());
            }
            let event = match &mut self.state {
                State::Ending => {
                    self.state = State::Closed;
                    return (input.len(), Event::TooManyErrors);
                }
                State::Closed => return (input.len(), Event::Quit),
                State::StartTls if rest.is_empty() => return (used, Event::NeedInput),
                // What came with STARTTLS was said by nobody knows whom: it must not be taken for said in TLS (CVE-2011-0411).
                State::StartTls => return (input.len(), self.refuse_early()),
                State::Deciding(_) => return (used, Event::NeedInput),
                State::Hello => self.say_hello(),
                State::Body(scanner) => {
                    let (step, scan) = scanner.scan(rest);
                    used += step;
                    self.body(scan)
                }
                State::Command | State::Auth if self.output.len() >= OUTPUT_MAX && !rest.is_empty() => {
                    return (used, Event::OutputFull);
                }
                State::Command | State::Auth => {
                    let (step, line) = self.take_line(rest);
                    used += step;
                    match line {
                        Line::Partial => return (used, Event::NeedInput),
                        Line::TooLong if matches!(self.state, State::Auth) => self.auth_overlong(),
                        Line::TooLong => self.error(CommandError::TooLong),
                        Line::Endless => self.end("Line too long"),
                        Line::Foreign => self.end("This is SMTP"),
                        Line::Whole(end) => self.line(&rest[..end]),
                        Line::Joined => {
                            let mut line = std::mem::take(&mut self.line);
                            let event = self.line(&line).map(Event::into_owned);
                            line.clear();
                            self.line = line;
                            event
                        }
                    }
                }
            };
            if let Some(event) = event {
                return (used, event);
            }
        }
    }

    /// Decides the pending event in the client's favour, with the usual reply.
    pub fn accept(&mut self) {
        let reply: &[u8] = match self.state {
            State::Deciding(Decision::Auth) => b"235 2.7.0 Authentication successful\r\n",
            State::Deciding(Decision::Xclient) => {
                self.greeting();
                b""
            }
            State::Deciding(Decision::Mail) => b"250 2.1.0 Ok\r\n",
            State::Deciding(Decision::Rcpt) => b"250 2.1.5 Ok\r\n",
            State::Deciding(Decision::Data) => b"354 End data with <CR><LF>.<CR><LF>\r\n",
            State::Deciding(Decision::BodyEnd) => b"250 2.0.0 Ok\r\n",
            _ => b"",
        };
        self.output.extend_from_slice(reply);
        self.accepted();
    }

    /// Decides the pending event in the client's favour, with this reply: 250, or 354 for [`Event::Data`].
    pub fn accept_with(&mut self, reply: &Reply) {
        if matches!(self.state, State::Deciding(_)) {
            reply.encode(&mut self.output);
        }
        self.accepted();
    }

    /// Decides the pending [`Event::BodyEnd`] in the client's favour, with a 250 2.0.0 and this text of one line.
    pub fn accept_message(&mut self, text: &str) {
        if matches!(self.state, State::Deciding(_)) {
            self.output.extend_from_slice(b"250 2.0.0 ");
            reply::encode_line(text, &mut self.output);
        }
        self.accepted();
    }

    /// Refuses what is pending. A reply 421 also ends the session: [`Event::Quit`] follows; so do too much junk and too many
    /// errors: [`Event::TooManyErrors`] follows.
    pub fn reject(&mut self, reply: &Reply) {
        let State::Deciding(decision) = self.state else {
            debug_assert!(false, "nothing to decide");
            return;
        };
        if let Some(why) = self.refused(decision, reply) {
            let _told_later = self.end(why);
            self.state = State::Ending;
            return;
        }
        reply.encode(&mut self.output);
        self.state = if reply.code == 421 { State::Closed } else { State::Command };
        match decision {
            Decision::Mail => self.transaction = Transaction::Refused,
            Decision::BodyEnd => self.transaction = Transaction::None,
            Decision::Auth | Decision::Xclient | Decision::Rcpt | Decision::Data => {}
        }
    }

    /// Ends the session, whatever its state, with this reply (421 at shutdown or for an idle client).
    pub fn close_with(&mut self, reply: &Reply) {
        if !matches!(self.state, State::Ending | State::Closed) {
            reply.encode(&mut self.output);
            self.state = State::Closed;
        }
    }

    fn accepted(&mut self) {
        let State::Deciding(decision) = self.state else {
            debug_assert!(false, "nothing to decide");
            return;
        };
        self.state = State::Command;
        match decision {
            Decision::Auth => {
                self.is_authenticated = true;
                self.offer();
            }
            Decision::Xclient => self.begin_anew(),
            Decision::Mail => (self.transaction, self.excused) = (Transaction::Open(0), 0),
            Decision::Rcpt => {
                if let Transaction::Open(recipients) = &mut self.transaction {
                    *recipients += 1;
                }
            }
            Decision::Data => {
                self.state = State::Body(Scanner::new(Limits {
                    max_size: self.options.max_message_size,
                    bare_newline: self.options.bare_newline,
                    long_lines: self.options.long_lines,
                    nul_octets: self.options.nul_octets,
                }));
            }
            Decision::BodyEnd => {
                self.transaction = Transaction::None;
                (self.errors, self.junk) = (0, 0);
            }
        }
    }

    /// A line, given without its LF.
    fn line<'a>(&mut self, line: &'a [u8]) -> Option<Event<'a>> {
        if matches!(self.state, State::Auth) { self.auth_response(line) } else { self.command(line) }
    }

    /// Carries out a command line, given without its LF.
    fn command<'a>(&mut self, line: &'a [u8]) -> Option<Event<'a>> {
        let parsed = match line.strip_suffix(b"\r") {
            Some(line) => command::parse(line, self.extensions),
            None => Err(CommandError::BareNewline),
        };
        self.ends_group(&parsed);
        if self.is_junk(&parsed) && self.is_too_much_junk() {
            return self.end(TOO_MUCH_JUNK);
        }
        match parsed {
            Err(_) | Ok(Command::Noop | Command::Vrfy | Command::Help) if foreign::is_request_line(line) => {
                self.end("This is SMTP")
            }
            Ok(Command::Mail(mail)) => self.mail(mail),
            Ok(Command::Rcpt(path, dsn)) => self.rcpt(path, dsn),
            Ok(Command::Data) => self.data(),
            Ok(Command::Ehlo(name)) => self.greet(Hello { name: name.to_owned(), esmtp: true }),
            Ok(Command::Helo(name)) => self.greet(Hello { name: name.to_owned(), esmtp: false }),
            Ok(Command::StartTls) => self.start_tls(),
            Ok(Command::Auth(mechanism, initial)) => self.auth(mechanism, initial),
            Ok(Command::Xclient(arguments)) => self.xclient(arguments),
            Ok(Command::Rset) => {
                self.transaction = Transaction::None;
                self.say(b"250 2.0.0 Ok\r\n", Some(Event::Reset))
            }
            Ok(Command::Noop) => self.say(b"250 2.0.0 Ok\r\n", None),
            Ok(Command::Vrfy) => {
                self.say(b"252 2.5.2 Cannot verify, but will accept mail and attempt delivery\r\n", None)
            }
            Ok(Command::Help) => self.help(),
            Ok(Command::Quit) => {
                self.state = State::Closed;
                self.say(b"221 2.0.0 Bye\r\n", Some(Event::Quit))
            }
            Err(error) => self.error(error),
        }
    }

    fn greet(&mut self, hello: Hello) -> Option<Event<'static>> {
        let mut reply = self.options.hostname.clone();
        if hello.esmtp {
            self.extensions.advertise(self.offering(), &mut reply);
        }
        Reply::plain(250, reply).encode(&mut self.output);
        self.hello = Some(hello);
        let interrupted = self.is_in_transaction();
        self.transaction = Transaction::None;
        if interrupted {
            self.state = State::Hello;
            return Some(Event::Reset);
        }
        self.say_hello()
    }

    fn start_tls(&mut self) -> Option<Event<'static>> {
        if !self.options.starttls {
            return self.error(CommandError::NotImplemented);
        }
        if self.is_secured || self.is_in_transaction() {
            return self.error(CommandError::Sequence);
        }
        self.state = State::StartTls;
        self.say(b"220 2.0.0 Ready to start TLS\r\n", Some(Event::StartTls))
    }

    fn help(&mut self) -> Option<Event<'static>> {
        self.output.extend_from_slice(b"214 2.0.0 EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT");
        for verb in self.extensions.verbs() {
            self.output.push(b' ');
            self.output.extend_from_slice(verb.as_bytes());
        }
        self.say(b"\r\n", None)
    }

    fn say_hello(&mut self) -> Option<Event<'static>> {
        self.state = State::Command;
        self.hello.clone().map(|Hello { name, esmtp }| Event::Hello { name, esmtp })
    }

    fn mail<'a>(&mut self, mail: MailRequest<'a>) -> Option<Event<'a>> {
        if self.hello.is_none() || self.is_in_transaction() {
            return self.error(CommandError::Sequence);
        }
        if let Some(before) = self.before_mail() {
            self.transaction = Transaction::Refused;
            self.errors += 1;
            return self.say(before, None);
        }
        if mail.size.is_some_and(|size| size > self.options.max_message_size) {
            if self.is_too_much_junk() {
                return self.end(TOO_MUCH_JUNK);
            }
            self.transaction = Transaction::Refused;
            self.excuse_group();
            return self.say(b"552 5.3.4 Message size exceeds the limit\r\n", None);
        }
        self.decide(Decision::Mail, Event::Mail(mail))
    }

    fn rcpt<'a>(&mut self, path: ForwardPath<'a>, dsn: RcptParameters) -> Option<Event<'a>> {
        let recipients = match self.transaction {
            Transaction::Open(recipients) => recipients,
            Transaction::Refused => return self.refuse_vain(b"503 5.5.1 MAIL was refused\r\n"),
            Transaction::None => return self.error(CommandError::Sequence),
        };
        if recipients >= self.options.max_recipients {
            return self.say(b"452 4.5.3 Too many recipients\r\n", None);
        }
        let mailbox = match path {
            ForwardPath::Mailbox(mailbox) => Ok(mailbox),
            ForwardPath::Postmaster => format!("postmaster@{}", self.options.hostname).parse(),
        };
        match mailbox {
            Ok(mailbox) => {
                let postmaster = mailbox.local_part().eq_ignore_ascii_case("postmaster")
                    && mailbox.domain().eq_ignore_ascii_case(&self.options.hostname);
                self.decide(Decision::Rcpt, Event::Rcpt(RcptRequest { mailbox, postmaster, dsn }))
            }
            Err(_) => self.error(CommandError::ForwardPath),
        }
    }

    fn data(&mut self) -> Option<Event<'static>> {
        match self.transaction {
            Transaction::Open(0) => self.refuse_vain(b"554 5.5.1 No valid recipients\r\n"),
            Transaction::Open(_) => self.decide(Decision::Data, Event::Data),
            Transaction::Refused => self.refuse_vain(b"503 5.5.1 MAIL was refused\r\n"),
            Transaction::None => self.error(CommandError::Sequence),
        }
    }

    fn body<'a>(&mut self, scan: Scan<'a>) -> Option<Event<'a>> {
        let refusal: &[u8] = match scan {
            Scan::NeedInput => return Some(Event::NeedInput),
            Scan::Piece(piece) => return Some(Event::Body(piece)),
            Scan::End(info) => {
                self.ends_message();
                return self.decide(Decision::BodyEnd, Event::BodyEnd(info));
            }
            Scan::Refused(violation) => refusal(violation),
            Scan::CutOff(violation) => {
                self.state = State::Closed;
                return self.say(refusal(violation), Some(Event::TooManyErrors));
            }
        };
        self.transaction = Transaction::None;
        self.state = State::Command;
        self.ends_message();
        if self.is_too_much_junk() {
            return self.end(TOO_MUCH_JUNK);
        }
        self.say(refusal, Some(Event::BodyRefused))
    }

    fn decide<'a>(&mut self, decision: Decision, event: Event<'a>) -> Option<Event<'a>> {
        self.state = State::Deciding(decision);
        Some(event)
    }

    fn say<'a>(&mut self, reply: &[u8], event: Option<Event<'a>>) -> Option<Event<'a>> {
        self.output.extend_from_slice(reply);
        event
    }

    /// Ends the session: nothing that follows is a command.
    fn end(&mut self, text: &str) -> Option<Event<'static>> {
        self.state = State::Closed;
        self.output.extend_from_slice(b"421 4.7.0 ");
        reply::encode_line(text, &mut self.output);
        Some(Event::TooManyErrors)
    }

    fn error(&mut self, error: CommandError) -> Option<Event<'static>> {
        self.errors += 1;
        if self.hello.is_none() && error.is_no_command() {
            self.unknown += 1;
        }
        if error == CommandError::Foreign || (self.hello.is_none() && error == CommandError::TooLong) {
            return self.end("This is SMTP");
        }
        if self.errors > self.options.max_errors || self.unknown > foreign::UNKNOWN_MAX {
            return self.end(TOO_MANY_ERRORS);
        }
        let reply = error.to_string();
        self.output.extend_from_slice(reply.as_bytes());
        self.output.extend_from_slice(b"\r\n");
        None
    }
}

fn refusal(violation: Violation) -> &'static [u8] {
    match violation {
        Violation::TooLarge => b"552 5.3.4 Message size exceeds the limit\r\n",
        Violation::BareNewline => b"554 5.6.0 Message contains a bare CR or LF\r\n",
        Violation::Nul => b"554 5.6.0 Message contains NUL\r\n",
        Violation::LongLine => b"554 5.6.0 Message contains a line over 998 octets\r\n",
    }
}

#[cfg(test)]
mod tests;
