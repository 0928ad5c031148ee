//! The reader's side of POP3: logs in, then runs the commands it is given, pipelined where the server says so.

mod authorization;
mod event;

use std::collections::VecDeque;

use memchr::memchr;

use super::dots::{Piece, Unstuffer};
use crate::sasl::client::LineExchange;
use crate::sasl::mechanism::Mechanisms;
pub use authorization::{Options, Sasl};
pub use event::{ClientError, Command, Event, InvalidCredentials};
use event::{MAX_CREDENTIAL, MAX_LINE};

/// One connection's state.
#[derive(Debug)]
pub struct Client {
    user: String,
    password: String,
    output: Vec<u8>,
    line: Vec<u8>,
    receiving: Receiving,
    greeted: bool,
    pipelining: bool,
    options: Options,
    /// What CAPA says of AUTH.
    offered: Mechanisms,
    /// AUTH, while it is under way.
    exchange: Option<Box<LineExchange>>,
    user_refused: Option<String>,
    sent: VecDeque<Command>,
    waiting: VecDeque<Command>,
}

/// What the next input belongs to.
#[derive(Debug)]
enum Receiving {
    /// The first line of a reply.
    Status,
    /// The lines of CAPA, LIST or UIDL.
    Lines,
    /// A message.
    Message(Unstuffer),
}

impl Client {
    /// A client that, once it is greeted, asks for the capabilities and logs in.
    pub fn new(user: &str, password: &str) -> Result<Client, InvalidCredentials> {
        Client::with_options(user, password, Options::default())
    }

    /// The same with TLS or SASL before it.
    pub fn with_options(user: &str, password: &str, options: Options) -> Result<Client, InvalidCredentials> {
        let fits = |text: &str| {
            (1..=MAX_CREDENTIAL).contains(&text.len()) && !text.bytes().any(|byte| byte.is_ascii_control())
        };
        if !fits(user) || !fits(password) || user.contains(' ') {
            return Err(InvalidCredentials);
        }
        Ok(Client {
            user: user.to_owned(),
            password: password.to_owned(),
            output: Vec::new(),
            line: Vec::new(),
            receiving: Receiving::Status,
            greeted: false,
            pipelining: false,
            options,
            offered: Mechanisms::NONE,
            exchange: None,
            user_refused: None,
            sent: VecDeque::new(),
            waiting: VecDeque::new(),
        })
    }

    /// Bytes to send. Take them before waiting for input.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Commands without a complete reply.
    pub fn outstanding(&self) -> usize {
        self.sent.len() + self.waiting.len()
    }

    /// Queues STAT.
    pub fn stat(&mut self) {
        self.submit(Command::Stat);
    }

    /// Queues LIST.
    pub fn list(&mut self) {
        self.submit(Command::List);
    }

    /// Queues UIDL.
    pub fn uidl(&mut self) {
        self.submit(Command::Uidl);
    }

    /// Queues RETR.
    pub fn retr(&mut self, number: u32) {
        self.submit(Command::Retr(number));
    }

    /// Queues TOP.
    pub fn top(&mut self, number: u32, lines: u32) {
        self.submit(Command::Top(number, lines));
    }

    /// Queues DELE.
    pub fn dele(&mut self, number: u32) {
        self.submit(Command::Dele(number));
    }

    /// Queues RSET.
    pub fn rset(&mut self) {
        self.submit(Command::Rset);
    }

    /// Queues NOOP.
    pub fn noop(&mut self) {
        self.submit(Command::Noop);
    }

    /// Queues QUIT, which makes the deletions final.
    pub fn quit(&mut self) {
        self.submit(Command::Quit);
    }

    /// Takes input: returns how much of it is used up and what it meant. Call again with the rest until
    /// [`Event::NeedInput`].
    pub fn handle_input<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Event<'a>), ClientError> {
        let mut used = 0;
        while used < input.len() {
            if let Receiving::Message(unstuffer) = &mut self.receiving {
                let (length, piece) = unstuffer.next_piece(&input[used..]);
                used += length;
                match piece {
                    Piece::NeedInput => break,
                    Piece::Bytes(bytes) => return Ok((used, Event::Body(bytes))),
                    Piece::End => {
                        self.receiving = Receiving::Status;
                        let number = match self.sent.front() {
                            Some(&(Command::Retr(number) | Command::Top(number, _))) => number,
                            _ => 0,
                        };
                        self.complete();
                        return Ok((used, Event::MessageEnd { number }));
                    }
                }
            }
            let (length, complete) = self.collect_line(&input[used..])?;
            used += length;
            if !complete {
                break;
            }
            let line = std::mem::take(&mut self.line);
            let event = self.handle_line(&line);
            self.line = line;
            self.line.clear();
            if let Some(event) = event? {
                if event == Event::StartTls && used < input.len() {
                    return Err(ClientError::Early);
                }
                return Ok((used, event));
            }
        }
        Ok((used, Event::NeedInput))
    }

    fn submit(&mut self, command: Command) {
        self.waiting.push_back(command);
        self.send_waiting();
    }

    fn send_waiting(&mut self) {
        while self.pipelining || self.sent.is_empty() {
            let Some(command) = self.waiting.pop_front() else { return };
            match command {
                Command::Capa => self.output.extend_from_slice(b"CAPA\r\n"),
                Command::Stls => self.output.extend_from_slice(b"STLS\r\n"),
                // `begin_exchange` has written it.
                Command::Auth => {}
                Command::User => self.output.extend_from_slice(format!("USER {}\r\n", self.user).as_bytes()),
                Command::Pass => {
                    self.output.extend_from_slice(format!("PASS {}\r\n", self.password).as_bytes())
                }
                Command::Stat => self.output.extend_from_slice(b"STAT\r\n"),
                Command::List => self.output.extend_from_slice(b"LIST\r\n"),
                Command::Uidl => self.output.extend_from_slice(b"UIDL\r\n"),
                Command::Retr(number) => {
                    self.output.extend_from_slice(format!("RETR {number}\r\n").as_bytes())
                }
                Command::Top(number, lines) => {
                    self.output.extend_from_slice(format!("TOP {number} {lines}\r\n").as_bytes())
                }
                Command::Dele(number) => {
                    self.output.extend_from_slice(format!("DELE {number}\r\n").as_bytes())
                }
                Command::Rset => self.output.extend_from_slice(b"RSET\r\n"),
                Command::Noop => self.output.extend_from_slice(b"NOOP\r\n"),
                Command::Quit => self.output.extend_from_slice(b"QUIT\r\n"),
            }
            self.sent.push_back(command);
        }
    }

    /// The reply to the oldest command is complete.
    fn complete(&mut self) {
        self.sent.pop_front();
        self.send_waiting();
    }

    /// Adds input to the current line: the bytes used, and whether the line is complete (without its line end).
    fn collect_line(&mut self, input: &[u8]) -> Result<(usize, bool), ClientError> {
        let newline = memchr(b'\n', input);
        let end = newline.unwrap_or(input.len());
        if self.line.len() + end > MAX_LINE {
            return Err(ClientError::LineTooLong);
        }
        self.line.extend_from_slice(&input[..end]);
        if newline.is_none() {
            return Ok((end, false));
        }
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        Ok((end + 1, true))
    }

    fn handle_line(&mut self, line: &[u8]) -> Result<Option<Event<'static>>, ClientError> {
        match self.receiving {
            Receiving::Lines => self.handle_item(line),
            _ if !self.greeted => self.handle_greeting(line),
            _ => self.handle_status(line),
        }
    }

    fn handle_greeting(&mut self, line: &[u8]) -> Result<Option<Event<'static>>, ClientError> {
        match parse_status(line) {
            Some((true, _)) => {
                self.greeted = true;
                match self.options.starttls {
                    true => self.submit(Command::Stls),
                    false => self.begin_login(),
                }
                Ok(None)
            }
            Some((false, text)) => {
                Ok(Some(Event::LoginRefused { in_use: is_in_use(&text), text: text.into_owned() }))
            }
            None => Err(ClientError::Malformed { command: None, line: lossy(line) }),
        }
    }

    fn handle_status(&mut self, line: &[u8]) -> Result<Option<Event<'static>>, ClientError> {
        let Some(&command) = self.sent.front() else {
            return Err(ClientError::Unexpected(lossy(line)));
        };
        if command == Command::Auth
            && let Some(challenge) = challenge_of(line)
        {
            return self.handle_challenge(challenge);
        }
        let malformed = || ClientError::Malformed { command: Some(command), line: lossy(line) };
        let (positive, text) = parse_status(line).ok_or_else(malformed)?;
        if !positive {
            return self.handle_refusal(command, text.into_owned());
        }
        let event = match command {
            Command::Capa | Command::List | Command::Uidl => {
                self.receiving = Receiving::Lines;
                return Ok(None);
            }
            Command::Retr(number) | Command::Top(number, _) => {
                self.receiving = Receiving::Message(Unstuffer::default());
                return Ok(Some(Event::MessageStart { number }));
            }
            Command::User => None,
            Command::Stls => Some(Event::StartTls),
            Command::Auth => Some(self.end_exchange()?),
            Command::Pass => Some(match self.user_refused.take() {
                None => Event::Ready { pipelining: self.pipelining },
                Some(text) => Event::LoginRefused { in_use: false, text },
            }),
            Command::Stat => {
                let mut words = text.split_ascii_whitespace();
                let messages = words.next().and_then(|word| word.parse().ok()).ok_or_else(malformed)?;
                let octets = words.next().and_then(|word| word.parse().ok()).ok_or_else(malformed)?;
                Some(Event::Stat { messages, octets })
            }
            Command::Dele(number) => Some(Event::Deleted { number }),
            Command::Rset => Some(Event::Reset),
            Command::Noop => Some(Event::Noop),
            Command::Quit => Some(Event::Goodbye { committed: true }),
        };
        self.complete();
        Ok(event)
    }

    fn handle_refusal(
        &mut self,
        command: Command,
        text: String,
    ) -> Result<Option<Event<'static>>, ClientError> {
        let event = match command {
            Command::Capa => None,
            Command::User if self.pipelining => {
                self.user_refused = Some(text);
                None
            }
            Command::User => {
                self.waiting.clear();
                Some(Event::LoginRefused { in_use: is_in_use(&text), text })
            }
            Command::Pass | Command::Stls | Command::Auth => {
                Some(Event::LoginRefused { in_use: is_in_use(&text), text })
            }
            Command::Quit => Some(Event::Goodbye { committed: false }),
            command => Some(Event::Refused { command, text }),
        };
        self.complete();
        if command == Command::Capa {
            self.begin_exchange()?;
        }
        Ok(event)
    }

    fn handle_item(&mut self, line: &[u8]) -> Result<Option<Event<'static>>, ClientError> {
        let command = self.sent.front().copied();
        let malformed = || ClientError::Malformed { command, line: lossy(line) };
        if line == b"." {
            self.receiving = Receiving::Status;
            self.complete();
            if command == Some(Command::Capa) {
                self.begin_exchange()?;
            }
            return Ok(match command {
                Some(Command::List) => Some(Event::ListEnd),
                Some(Command::Uidl) => Some(Event::UidlEnd),
                _ => None,
            });
        }
        let text = std::str::from_utf8(line).map_err(|_| malformed())?;
        if command == Some(Command::Capa) {
            self.pipelining |= text.eq_ignore_ascii_case("PIPELINING");
            self.note_mechanisms(text);
            return Ok(None);
        }
        let mut words = text.split_ascii_whitespace();
        let number = words.next().and_then(|word| word.parse().ok()).ok_or_else(malformed)?;
        let value = words.next().ok_or_else(malformed)?;
        Ok(Some(match command {
            Some(Command::Uidl) => Event::UidlItem { number, uid: value.to_owned() },
            _ => Event::ListItem { number, size: value.parse().map_err(|_| malformed())? },
        }))
    }
}

/// The text of a challenge.
fn challenge_of(line: &[u8]) -> Option<&[u8]> {
    if line == b"+" { Some(b"") } else { line.strip_prefix(b"+ ") }
}

/// Splits a status line: whether it is positive, and its text.
fn parse_status(line: &[u8]) -> Option<(bool, std::borrow::Cow<'_, str>)> {
    let (positive, rest) = if let Some(rest) = line.strip_prefix(b"+OK") {
        (true, rest)
    } else {
        (false, line.strip_prefix(b"-ERR")?)
    };
    Some((positive, String::from_utf8_lossy(rest.strip_prefix(b" ").unwrap_or(rest))))
}

/// RFC 2449 section 8.1.1.
fn is_in_use(text: &str) -> bool {
    text.get(..8).is_some_and(|code| code.eq_ignore_ascii_case("[IN-USE]"))
}

fn lossy(line: &[u8]) -> String {
    String::from_utf8_lossy(line).into_owned()
}
