//! The sending side of an SMTP connection, without the connection.
//!
//! The caller feeds what it reads to [`Client::handle_input`], takes events from [`Client::poll_event`], and sends
//! [`Client::output`] whenever it is about to wait. One transaction at a time: [`Client::start`], then
//! [`Event::SendBody`], then [`Event::Finished`]. With PIPELINING all commands of a transaction go out together
//! (RFC 2920); without it each waits for the reply before it. A RSET that a failed transaction left necessary goes
//! out in front of the next. When the connection breaks, [`Client::cut_off`] tells what the replies until then have decided.

mod auth;
mod exchange;

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::data::BodyForm;
pub use super::extensions::{Capabilities, Extension};
use super::reply::Reply;
use super::reply_reader::{ReplyError, ReplyReader};
use super::transaction::CLOSING;
pub use super::transaction::{Outcome, Transaction};
pub use auth::ARGUMENT_MAX;
use exchange::{Command, Exchange};

/// Commands that may wait for their replies at once. Bounds what a peer can leave unread in both directions.
const WINDOW: usize = 128;

/// What the caller learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Greeting and EHLO (or HELO) are done: a transaction can start.
    Ready,
    /// Greeting, EHLO or HELO was refused. Only [`Client::quit`] is left.
    Refused(Reply),
    /// STARTTLS was accepted: make the handshake, then call [`Client::secured`].
    StartTls,
    /// STARTTLS was refused; the client is ready as before.
    StartTlsRefused(Reply),
    /// What the server asks within AUTH, in base64 as it stands: [`Client::respond`] or [`Client::cancel_auth`] is next.
    Challenge(String),
    /// AUTH was accepted; whether that counts is the exchange's matter.
    Authenticated,
    /// AUTH was refused; the client is ready as before.
    AuthRefused(Reply),
    /// Send the message in wire form, then `.` CR LF, and call [`Client::body_sent`] no later than the end is handed
    /// to the socket.
    SendBody,
    /// The transaction is over.
    Finished(Outcome),
    /// The server closes the connection (421). A transaction it interrupted has [`Event::Finished`] before.
    Closing(Reply),
    /// The session is over: QUIT was answered, RSET was refused, or the server refused a message before it was sent whole, so
    /// that the connection is of no more use. Close it.
    Closed,
}

/// The peer does not speak SMTP as it must: close the connection. What is known of a transaction under way tells
/// [`Client::cut_off`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Bytes that are no reply.
    #[error("malformed reply")]
    Malformed,
    /// A reply, or a line of one, beyond all limits.
    #[error("reply too long")]
    TooLong,
    /// A reply nobody asked for.
    #[error("unsolicited reply {0}")]
    Unsolicited(u16),
    /// A reply that cannot follow the command.
    #[error("unexpected reply {0}")]
    Unexpected(u16),
    /// Input after the session was over.
    #[error("session is over")]
    Over,
}

/// Why a transaction cannot start. The caller's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The client is not idle.
    #[error("not ready for a transaction")]
    NotIdle,
    /// There are no recipients.
    #[error("no recipients")]
    NoRecipients,
    /// An address holds octets that would end the command or the path.
    #[error("address unfit for a command")]
    Address,
    /// The body is no lines for DATA, and BDAT is not implemented.
    #[error("a raw body cannot be sent")]
    RawBody,
}

/// Where the conversation stands: which reply comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    Ehlo,
    Helo,
    /// The reply to STARTTLS is awaited.
    StartTls,
    /// The handshake is the caller's.
    Handshake,
    /// A reply to AUTH, or to a response of its exchange, is awaited.
    Auth,
    /// The response is the caller's.
    AuthChallenged,
    Idle,
    /// Commands of a transaction are out.
    Commands,
    /// The caller sends the message.
    SendBody,
    /// The message is out.
    Body,
    Quit,
    /// Only QUIT is left.
    Refused,
    Closed,
}

/// One connection's sending side.
#[derive(Debug)]
pub struct Client {
    helo: String,
    stage: Stage,
    capabilities: Capabilities,
    reader: ReplyReader,
    exchange: Exchange,
    /// The server may still hold a failed transaction.
    needs_reset: bool,
    /// Whole replies that were read.
    replies: u64,
    /// The answer to EHLO, when it led to HELO.
    ehlo_refusal: Option<Reply>,
    events: VecDeque<Event>,
    output: Vec<u8>,
}

impl Client {
    /// A client that waits for the greeting. `helo` is what it calls itself: a host name or an address literal.
    pub fn new(helo: &str) -> Client {
        Client {
            helo: helo.chars().filter(char::is_ascii_graphic).collect(),
            stage: Stage::Greeting,
            capabilities: Capabilities::default(),
            reader: ReplyReader::default(),
            exchange: Exchange::default(),
            needs_reset: false,
            replies: 0,
            ehlo_refusal: None,
            events: VecDeque::new(),
            output: Vec::new(),
        }
    }

    /// What is to be sent. The caller drains or takes it when it is about to wait.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What the server can do; nothing before [`Event::Ready`] and after HELO.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// How many whole replies were read: while this stays, the same reply is awaited.
    pub fn replies(&self) -> u64 {
        self.replies
    }

    /// Whether a transaction can start.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Whether the connection is of no more use.
    pub fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// The last transaction, when it is over: whoever fills it anew for [`Client::start`] saves memory for strings.
    pub fn take_spent(&mut self) -> Transaction {
        if self.stage == Stage::Idle {
            std::mem::take(&mut self.exchange.transaction)
        } else {
            Transaction::default()
        }
    }

    /// Starts a transaction, when idle.
    pub fn start(&mut self, transaction: Transaction) -> Result<(), StartError> {
        if self.stage != Stage::Idle {
            return Err(StartError::NotIdle);
        }
        if transaction.recipients.is_empty() {
            return Err(StartError::NoRecipients);
        }
        if transaction.form == BodyForm::Raw {
            return Err(StartError::RawBody);
        }
        let is_recipient = |address: &String| is_fit(address) && !address.is_empty();
        if !is_fit(&transaction.reverse_path) || !transaction.recipients.iter().all(is_recipient) {
            return Err(StartError::Address);
        }
        let first = usize::from(!std::mem::take(&mut self.needs_reset));
        let recipients = SmallVec::with_capacity(transaction.recipients.len());
        let (next, awaited) = (first, first);
        self.exchange =
            Exchange { transaction, next, awaited, mail: None, recipients, accepted: 0, is_open: true };
        self.stage = Stage::Commands;
        self.send_commands();
        Ok(())
    }

    /// Asks for TLS, when idle: [`Event::StartTls`] or [`Event::StartTlsRefused`] follows.
    pub fn start_tls(&mut self) {
        if self.stage == Stage::Idle {
            self.output.extend_from_slice(b"STARTTLS\r\n");
            self.stage = Stage::StartTls;
        }
    }

    /// The connection is in TLS now: after [`Event::StartTls`] the server is greeted anew and what it said before is forgotten (RFC
    /// 3207 section 4.2); [`Event::Ready`] follows.
    pub fn secured(&mut self) {
        if self.stage == Stage::Handshake {
            self.capabilities = Capabilities::default();
            self.ehlo_refusal = None;
            self.hello("EHLO");
            self.stage = Stage::Ehlo;
        }
    }

    /// The message and its end are on their way; their reply is awaited.
    pub fn body_sent(&mut self) {
        if self.stage == Stage::SendBody {
            self.stage = Stage::Body;
        }
    }

    /// Says QUIT when no reply is awaited; otherwise the caller just closes.
    pub fn quit(&mut self) {
        if matches!(self.stage, Stage::Idle | Stage::Refused) {
            self.output.extend_from_slice(b"QUIT\r\n");
            self.stage = Stage::Quit;
        }
    }

    /// Takes bytes from the server. After an error the connection is of no more use.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<(), ClientError> {
        let outcome = self.read_replies(input);
        if outcome == Err(ClientError::TooLong) {
            self.read_rest();
        }
        if outcome.is_err() {
            self.stage = Stage::Closed;
        }
        outcome
    }

    /// The connection is lost, or is given up. What the replies until then have decided of the transaction under way, if one
    /// is; a refusal counts whose last line has not come.
    pub fn cut_off(&mut self) -> Option<Outcome> {
        self.read_rest();
        if self.exchange.is_open {
            self.finish(None);
        }
        self.stage = Stage::Closed;
        let finished = |event| if let Event::Finished(outcome) = event { Some(outcome) } else { None };
        self.events.drain(..).find_map(finished)
    }

    /// Why the server refused EHLO, when it was greeted by HELO then.
    pub fn ehlo_refusal(&self) -> Option<&Reply> {
        self.ehlo_refusal.as_ref()
    }

    /// Takes what has come of a reply of which nothing more will: a refusal that the connection's end has cut off.
    pub fn read_rest(&mut self) {
        if self.stage != Stage::Closed
            && let Some(reply) = self.reader.cut_short()
        {
            // One that fits nowhere decides nothing.
            let _unfit = self.handle_reply(reply);
        }
    }

    fn read_replies(&mut self, mut input: &[u8]) -> Result<(), ClientError> {
        while !input.is_empty() {
            if self.stage == Stage::Closed {
                return Err(ClientError::Over);
            }
            if self.stage == Stage::Handshake {
                return Err(ClientError::Malformed);
            }
            let (used, reply) = self.reader.read(input).map_err(|error| match error {
                ReplyError::Malformed => ClientError::Malformed,
                ReplyError::TooLong => ClientError::TooLong,
            })?;
            input = &input[used..];
            if let Some(reply) = reply {
                self.handle_reply(reply)?;
                if self.stage == Stage::Closed {
                    // The end was told; whatever else the server says is of no interest.
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn handle_reply(&mut self, reply: Reply) -> Result<(), ClientError> {
        let code = reply.code;
        self.replies += 1;
        match self.stage {
            Stage::Greeting | Stage::Ehlo | Stage::Helo => self.handle_hello_reply(reply)?,
            Stage::StartTls if code == CLOSING => self.closing(reply),
            Stage::StartTls => self.handle_start_tls_reply(reply)?,
            Stage::Auth if code == CLOSING => self.closing(reply),
            Stage::Auth => self.handle_auth_reply(reply)?,
            Stage::AuthChallenged => return Err(ClientError::Unsolicited(code)),
            // Said before the handshake by nobody knows whom (CVE-2021-38371 and its kin).
            Stage::Handshake => return Err(ClientError::Unsolicited(code)),
            Stage::Quit => {
                self.events.push_back(Event::Closed);
                self.stage = Stage::Closed;
            }
            Stage::Idle | Stage::Refused if code == CLOSING => self.closing(reply),
            Stage::Idle | Stage::Refused | Stage::Closed => return Err(ClientError::Unsolicited(code)),
            Stage::Commands if code == CLOSING => self.interrupted(reply),
            Stage::Commands => self.handle_command_reply(reply)?,
            // A server that takes a message it has not seen whole is not to be believed.
            Stage::SendBody if code / 100 <= 3 => return Err(ClientError::Unsolicited(code)),
            Stage::SendBody if code == CLOSING => {
                self.finish(Some(reply.clone()));
                self.closing(reply);
            }
            Stage::SendBody => {
                self.finish(Some(reply));
                self.events.push_back(Event::Closed);
                self.stage = Stage::Closed;
            }
            Stage::Body if code / 100 == 3 => return Err(ClientError::Unexpected(code)),
            Stage::Body => {
                let closing = (code == CLOSING).then(|| reply.clone());
                self.finish(Some(reply));
                self.stage = Stage::Idle;
                if let Some(reply) = closing {
                    self.closing(reply);
                }
            }
        }
        Ok(())
    }

    fn handle_hello_reply(&mut self, reply: Reply) -> Result<(), ClientError> {
        match self.stage {
            Stage::Greeting if reply.is_positive() => {
                self.hello("EHLO");
                self.stage = Stage::Ehlo;
            }
            Stage::Ehlo if reply.is_positive() => {
                self.capabilities = Capabilities::read(&reply);
                self.ready();
            }
            // RFC 7504: whoever says 521 takes no mail, however it is asked.
            Stage::Ehlo if reply.is_permanent() && reply.code != 521 => {
                self.hello("HELO");
                self.stage = Stage::Helo;
                self.ehlo_refusal = Some(reply);
            }
            Stage::Helo if reply.is_positive() => self.ready(),
            _ if reply.code / 100 == 3 => return Err(ClientError::Unexpected(reply.code)),
            _ => {
                self.events.push_back(Event::Refused(reply));
                self.stage = Stage::Refused;
            }
        }
        Ok(())
    }

    fn handle_start_tls_reply(&mut self, reply: Reply) -> Result<(), ClientError> {
        if reply.is_positive() {
            self.events.push_back(Event::StartTls);
            self.stage = Stage::Handshake;
        } else if reply.code / 100 == 3 {
            return Err(ClientError::Unexpected(reply.code));
        } else {
            self.events.push_back(Event::StartTlsRefused(reply));
            self.stage = Stage::Idle;
        }
        Ok(())
    }

    fn hello(&mut self, verb: &str) {
        for part in [verb, " ", &self.helo, "\r\n"] {
            self.output.extend_from_slice(part.as_bytes());
        }
    }

    fn ready(&mut self) {
        self.events.push_back(Event::Ready);
        self.stage = Stage::Idle;
    }

    fn closing(&mut self, reply: Reply) {
        self.events.push_back(Event::Closing(reply));
        self.stage = Stage::Closed;
    }

    /// 421 in place of a reply to a command: it counts as the reply, and for everybody accepted so far.
    fn interrupted(&mut self, reply: Reply) {
        let data = match self.exchange.command(self.exchange.awaited) {
            Some(Command::Reset | Command::Mail) | None => {
                self.exchange.mail = Some(reply.clone());
                None
            }
            Some(Command::Rcpt(_)) => {
                self.exchange.recipients.push(Some(reply.clone()));
                Some(reply.clone())
            }
            Some(Command::Data) => Some(reply.clone()),
        };
        self.finish(data);
        self.closing(reply);
    }

    fn handle_command_reply(&mut self, reply: Reply) -> Result<(), ClientError> {
        let exchange = &mut self.exchange;
        if exchange.awaited == exchange.next {
            return Err(ClientError::Unsolicited(reply.code));
        }
        let command = exchange.command(exchange.awaited);
        exchange.awaited += 1;
        match command {
            Some(Command::Data) => return self.handle_data_reply(reply),
            _ if reply.code / 100 == 3 => return Err(ClientError::Unexpected(reply.code)),
            Some(Command::Reset) if reply.is_positive() => {}
            // Nothing of the transaction counts: the server may still hold the one before.
            Some(Command::Reset) => {
                self.events.push_back(Event::Closed);
                self.stage = Stage::Closed;
                return Ok(());
            }
            None => return Err(ClientError::Unexpected(reply.code)),
            Some(Command::Mail) => exchange.mail = Some(reply),
            Some(Command::Rcpt(_)) => {
                exchange.accepted += usize::from(reply.is_positive());
                exchange.recipients.push(Some(reply));
            }
        }
        if exchange.is_doomed() && exchange.awaited == exchange.next {
            self.finish_without_body(None);
        } else {
            self.send_commands();
        }
        Ok(())
    }

    fn handle_data_reply(&mut self, reply: Reply) -> Result<(), ClientError> {
        if reply.is_positive() {
            return Err(ClientError::Unexpected(reply.code));
        }
        if reply.code / 100 != 3 {
            self.finish_without_body(Some(reply));
        } else if self.exchange.is_doomed() {
            // A pipelined DATA was accepted for nobody: end it at once (RFC 2920 section 3.1).
            self.output.extend_from_slice(b".\r\n");
            self.stage = Stage::Body;
        } else {
            self.events.push_back(Event::SendBody);
            self.stage = Stage::SendBody;
        }
        Ok(())
    }

    /// Ends a transaction that the server may still think open.
    fn finish_without_body(&mut self, data: Option<Reply>) {
        self.needs_reset = self.exchange.mail.as_ref().is_some_and(Reply::is_positive);
        self.finish(data);
        self.stage = Stage::Idle;
    }

    fn finish(&mut self, data: Option<Reply>) {
        let mut recipients = std::mem::take(&mut self.exchange.recipients);
        recipients.resize(self.exchange.transaction.recipients.len(), None);
        self.exchange.is_open = false;
        let mail = self.exchange.mail.take();
        self.events.push_back(Event::Finished(Outcome { mail, recipients, data }));
    }

    /// Sends what the window allows: everything at once, or one command at a time without PIPELINING.
    fn send_commands(&mut self) {
        let window = if self.capabilities.has(Extension::Pipelining) { WINDOW } else { 1 };
        while self.exchange.next - self.exchange.awaited < window && !self.exchange.is_doomed() {
            let Some(command) = self.exchange.command(self.exchange.next) else { return };
            self.exchange.next += 1;
            self.exchange.encode(command, self.capabilities, &mut self.output);
        }
    }
}

/// Whether an address cannot end the line of its command.
fn is_fit(address: &str) -> bool {
    address.bytes().all(|byte| !byte.is_ascii_control())
}

#[cfg(test)]
mod tests;
