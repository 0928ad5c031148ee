//! The reader's side of IMAP. Message bodies stream through in pieces: only what stands around them is parsed.

mod authentication;
mod event;
mod literal;

use std::borrow::Cow;
use std::collections::VecDeque;

use imap_codec::decode::Decoder;
use imap_codec::encode::{Encoder, Fragment};
use imap_codec::imap_types::command::{Command as Wire, CommandBody};
use imap_codec::imap_types::core::Vec1;
use imap_codec::imap_types::extensions::idle::IdleDone;
use imap_codec::imap_types::fetch::{MessageDataItem, MessageDataItemName};
use imap_codec::imap_types::flag::{Flag, StoreResponse, StoreType};
use imap_codec::imap_types::response::{
    Code, Data, GreetingKind, Response, Status as WireStatus, StatusBody, StatusKind,
};
use imap_codec::imap_types::search::SearchKey;
use imap_codec::{CommandCodec, GreetingCodec, IdleDoneCodec, ResponseCodec};
use memchr::memchr;

use super::flags::Flags;
use crate::sasl::client::{Failure, LineExchange};
use event::MAX_RESPONSE;
pub use event::{ClientError, Command, Event, InvalidArgument, Status, UidRange};
use literal::{announced_literal, body_of, uid_of};

/// One connection's state.
#[derive(Debug, Default)]
pub struct Client {
    output: Vec<u8>,
    /// Commands given while IDLE is in force: they go out behind DONE.
    held: Vec<u8>,
    idle: Idle,
    last_tag: u32,
    pending: VecDeque<(u32, Command)>,
    greeted: bool,
    capabilities: Vec<String>,
    /// STARTTLS was answered OK: what comes is TLS.
    is_turning: bool,
    /// AUTHENTICATE, while it is under way.
    exchange: Option<Box<LineExchange>>,
    /// The response being received, with empty strings for the bodies that were passed on.
    response: Vec<u8>,
    /// Where the current line of the response begins.
    line_start: usize,
    receiving: Receiving,
    /// The message whose body has been passed on, while its response is not complete.
    body: Option<(u32, Option<u32>)>,
    events: VecDeque<Event<'static>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Idle {
    #[default]
    No,
    /// IDLE is sent, its continuation has not come; `done`: DONE is to follow it at once.
    Asked { done: bool },
    /// In force.
    Yes,
}

#[derive(Debug, Default)]
enum Receiving {
    #[default]
    Line,
    /// A body that is passed on.
    Body { remaining: u32 },
    /// A literal that becomes part of the response.
    Literal { remaining: u32 },
}

impl Client {
    /// A client that waits for the greeting.
    pub fn new() -> Client {
        Client::default()
    }

    /// Bytes to send. Take them before waiting for input.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Commands that are not complete.
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// Whether the server has said that it has this capability (after CAPABILITY or a greeting that names it).
    pub fn has_capability(&self, name: &str) -> bool {
        self.capabilities.iter().any(|capability| capability.eq_ignore_ascii_case(name))
    }

    /// Queues CAPABILITY.
    pub fn capability(&mut self) {
        self.submit(Command::Capability, CommandBody::Capability);
    }

    /// Queues LOGIN.
    pub fn login(&mut self, user: &str, password: &str) -> Result<(), InvalidArgument> {
        plain(user)?;
        plain(password)?;
        let body = CommandBody::login(user, password).map_err(|_| InvalidArgument)?;
        self.submit(Command::Login, body);
        Ok(())
    }

    /// Queues SELECT.
    pub fn select(&mut self, mailbox: &str) -> Result<(), InvalidArgument> {
        plain(mailbox)?;
        let body = CommandBody::select(mailbox).map_err(|_| InvalidArgument)?;
        self.submit(Command::Select, body);
        Ok(())
    }

    /// Queues EXAMINE: SELECT, read only.
    pub fn examine(&mut self, mailbox: &str) -> Result<(), InvalidArgument> {
        plain(mailbox)?;
        let body = CommandBody::examine(mailbox).map_err(|_| InvalidArgument)?;
        self.submit(Command::Examine, body);
        Ok(())
    }

    /// Queues a UID FETCH of whole messages, which does not set `\Seen`.
    pub fn uid_fetch_bodies(&mut self, uids: UidRange) {
        let body = MessageDataItemName::BodyExt { section: None, partial: None, peek: true };
        self.fetch(uids, vec![MessageDataItemName::Uid, body]);
    }

    /// Queues a UID FETCH of flags and sizes.
    pub fn uid_fetch_flags(&mut self, uids: UidRange) {
        use MessageDataItemName::{Flags, Rfc822Size, Uid};
        self.fetch(uids, vec![Uid, Flags, Rfc822Size]);
    }

    /// Queues a UID STORE that marks messages as deleted and asks for no answer per message.
    pub fn uid_store_deleted(&mut self, uids: UidRange) {
        let body = CommandBody::Store {
            sequence_set: uids.into_set(),
            kind: StoreType::Add,
            response: StoreResponse::Silent,
            flags: vec![Flag::Deleted],
            uid: true,
        };
        self.submit(Command::Store, body);
    }

    /// Queues a UID SEARCH ALL.
    pub fn uid_search_all(&mut self) {
        let body = CommandBody::Search { charset: None, criteria: Vec1::from(SearchKey::All), uid: true };
        self.submit(Command::Search, body);
    }

    /// Queues EXPUNGE.
    pub fn expunge(&mut self) {
        self.submit(Command::Expunge, CommandBody::Expunge);
    }

    /// Queues UID EXPUNGE (RFC 4315): only for servers that have UIDPLUS.
    pub fn uid_expunge(&mut self, uids: UidRange) {
        self.submit(Command::UidExpunge, CommandBody::ExpungeUid { sequence_set: uids.into_set() });
    }

    /// Queues NOOP.
    pub fn noop(&mut self) {
        self.submit(Command::Noop, CommandBody::Noop);
    }

    /// Queues CLOSE.
    pub fn close(&mut self) {
        self.submit(Command::Close, CommandBody::Close);
    }

    /// Queues LOGOUT.
    pub fn logout(&mut self) {
        self.submit(Command::Logout, CommandBody::Logout);
    }

    /// Queues IDLE. Commands given before [`Client::done`] are held back until then.
    pub fn idle(&mut self) {
        if self.idle == Idle::No {
            self.submit(Command::Idle, CommandBody::Idle);
            self.idle = Idle::Asked { done: false };
        }
    }

    /// Ends IDLE; its completion follows.
    pub fn done(&mut self) {
        match &mut self.idle {
            Idle::No => {}
            Idle::Asked { done } => *done = true,
            Idle::Yes => {
                self.idle = Idle::No;
                self.output.extend_from_slice(&IdleDoneCodec::default().encode(&IdleDone).dump());
                self.output.append(&mut self.held);
            }
        }
    }

    /// Takes input: returns how much of it is used up and what it meant. Call again with the rest until
    /// [`Event::NeedInput`].
    pub fn handle_input<'a>(&mut self, input: &'a [u8]) -> Result<(usize, Event<'a>), ClientError> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            if self.is_turning && !rest.is_empty() {
                return Err(ClientError::Early);
            }
            if let Some(event) = self.events.pop_front() {
                return Ok((used, event));
            }
            if rest.is_empty() {
                return Ok((used, Event::NeedInput));
            }
            match &mut self.receiving {
                Receiving::Body { remaining } => {
                    let length = rest.len().min(*remaining as usize);
                    *remaining -= length as u32;
                    if *remaining == 0 {
                        self.receiving = Receiving::Line;
                    }
                    return Ok((used + length, Event::Body(Cow::Borrowed(&rest[..length]))));
                }
                Receiving::Literal { remaining } => {
                    let length = rest.len().min(*remaining as usize);
                    *remaining -= length as u32;
                    if *remaining == 0 {
                        self.receiving = Receiving::Line;
                    }
                    self.response.extend_from_slice(&rest[..length]);
                    used += length;
                }
                Receiving::Line => used += self.handle_line_input(rest)?,
            }
        }
    }

    fn fetch(&mut self, uids: UidRange, items: Vec<MessageDataItemName<'static>>) {
        let body = CommandBody::Fetch {
            sequence_set: uids.into_set(),
            macro_or_item_names: items.into(),
            uid: true,
        };
        self.submit(Command::Fetch, body);
    }

    fn submit(&mut self, command: Command, body: CommandBody<'_>) {
        let tag = self.next_tag(command);
        // "c" and a number is a tag by its grammar.
        let Ok(wire) = Wire::new(tag, body) else { return };
        let output = if self.idle == Idle::No { &mut self.output } else { &mut self.held };
        for fragment in CommandCodec::default().encode(&wire) {
            match fragment {
                Fragment::Line { data } | Fragment::Literal { data, .. } => output.extend_from_slice(&data),
            }
        }
    }

    /// The tag of a command, which is pending from now on.
    fn next_tag(&mut self, command: Command) -> String {
        self.last_tag += 1;
        self.pending.push_back((self.last_tag, command));
        format!("c{}", self.last_tag)
    }

    /// Adds input to the response up to a line end, and handles the line if it is complete.
    fn handle_line_input(&mut self, input: &[u8]) -> Result<usize, ClientError> {
        let newline = memchr(b'\n', input);
        let length = newline.map_or(input.len(), |newline| newline + 1);
        if self.response.len() + length > MAX_RESPONSE {
            return Err(ClientError::ResponseTooLong);
        }
        self.response.extend_from_slice(&input[..length]);
        if newline.is_none() {
            return Ok(length);
        }
        match announced_literal(&self.response, self.line_start) {
            Some((start, octets)) => self.begin_literal(start, octets)?,
            None => {
                let response = std::mem::take(&mut self.response);
                let handled = self.handle_response(&response);
                self.response = response;
                self.response.clear();
                self.line_start = 0;
                self.body = None;
                handled?;
            }
        }
        Ok(length)
    }

    /// The response announces a literal at `start`. A message's body is passed on, anything else is kept.
    fn begin_literal(&mut self, start: usize, octets: u32) -> Result<(), ClientError> {
        let kept = self.response.len();
        self.response.extend_from_slice(b"\"\")\r\n");
        let stand_in = [&self.response[..start], &self.response[kept..]].concat();
        self.response.truncate(kept);
        let Some((seq, uid)) = body_of(&stand_in) else {
            if self.response.len() + octets as usize > MAX_RESPONSE {
                return Err(ClientError::ResponseTooLong);
            }
            self.line_start = self.response.len() + octets as usize;
            if octets > 0 {
                self.receiving = Receiving::Literal { remaining: octets };
            }
            return Ok(());
        };
        if let Some((seq, uid)) = self.body.take() {
            self.events.push_back(Event::BodyEnd { seq, uid });
        }
        self.response.truncate(start);
        self.response.extend_from_slice(b"\"\"");
        self.line_start = self.response.len();
        self.body = Some((seq, uid));
        self.events.push_back(Event::BodyStart { seq, uid, size: octets });
        if octets > 0 {
            self.receiving = Receiving::Body { remaining: octets };
        }
        Ok(())
    }

    /// Handles a complete response (or greeting).
    fn handle_response(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        if let Some((seq, uid)) = self.body
            && &bytes[self.line_start..] == b")\r\n"
        {
            self.events.push_back(Event::BodyEnd { seq, uid });
            return Ok(());
        }
        let malformed = || {
            let shown = &bytes[..bytes.len().min(200)];
            ClientError::Malformed(String::from_utf8_lossy(shown).into_owned())
        };
        if !self.greeted {
            let (_, greeting) = GreetingCodec::default().decode(bytes).map_err(|_| malformed())?;
            self.greeted = true;
            self.note_code(greeting.code.as_ref());
            self.events.push_back(match greeting.kind {
                GreetingKind::Bye => Event::Bye(greeting.text.inner().to_owned()),
                GreetingKind::Ok | GreetingKind::PreAuth => Event::Greeting,
            });
            return Ok(());
        }
        if self.exchange.is_some() && bytes.starts_with(b"+") {
            return Ok(self.handle_challenge(&bytes[1..])?);
        }
        match ResponseCodec::default().decode(bytes) {
            Ok((_, Response::Status(status))) => self.handle_status(status)?.ok_or_else(malformed),
            Ok((_, Response::Data(data))) => {
                self.handle_data(data);
                Ok(())
            }
            Ok((_, Response::CommandContinuationRequest(_))) => {
                self.handle_continuation().ok_or_else(malformed)
            }
            // Untagged data of extensions that the grammar does not have is nothing that a reader needs.
            Err(_) if bytes.starts_with(b"* ") && self.body.is_none() => Ok(()),
            Err(_) => Err(malformed()),
        }
    }

    fn handle_continuation(&mut self) -> Option<()> {
        let Idle::Asked { done } = self.idle else { return None };
        self.idle = Idle::Yes;
        self.events.push_back(Event::Idling);
        if done {
            self.done();
        }
        Some(())
    }

    /// None: the tag belongs to no command.
    fn handle_status(&mut self, status: WireStatus<'_>) -> Result<Option<()>, Failure> {
        match status {
            WireStatus::Untagged(StatusBody { code, .. }) => self.note_code(code.as_ref()),
            WireStatus::Bye(bye) => self.events.push_back(Event::Bye(bye.text.inner().to_owned())),
            WireStatus::Tagged(tagged) => {
                let number = tagged.tag.inner().strip_prefix('c').and_then(|number| number.parse().ok());
                let position = self.pending.iter().position(|(pending, _)| Some(*pending) == number);
                let answered = position.and_then(|position| self.pending.remove(position));
                let Some((_, command)) = answered else { return Ok(None) };
                self.note_code(tagged.body.code.as_ref());
                if command == Command::Idle {
                    // Without a continuation IDLE was refused, and nothing holds the commands back any more.
                    self.idle = Idle::No;
                    self.output.append(&mut self.held);
                }
                let status = match tagged.body.kind {
                    StatusKind::Ok => Status::Ok,
                    StatusKind::No => Status::No,
                    StatusKind::Bad => Status::Bad,
                };
                self.end_authorization(command, status)?;
                let text = tagged.body.text.inner().to_owned();
                self.events.push_back(Event::Completed { command, status, text });
            }
        }
        Ok(Some(()))
    }

    fn note_code(&mut self, code: Option<&Code<'_>>) {
        match code {
            Some(Code::UidValidity(value)) => self.events.push_back(Event::UidValidity(value.get())),
            Some(Code::UidNext(value)) => self.events.push_back(Event::UidNext(value.get())),
            Some(Code::Capability(list)) => {
                self.capabilities = list.as_ref().iter().map(|capability| capability.to_string()).collect();
            }
            _ => {}
        }
    }

    fn handle_data(&mut self, data: Data<'_>) {
        match data {
            Data::Exists(count) => self.events.push_back(Event::Exists(count)),
            Data::Recent(count) => self.events.push_back(Event::Recent(count)),
            Data::Expunge(seq) => self.events.push_back(Event::Expunged(seq.get())),
            Data::Search(found) => {
                self.events.push_back(Event::Search(found.iter().map(|number| number.get()).collect()));
            }
            Data::Capability(list) => {
                self.capabilities = list.as_ref().iter().map(|capability| capability.to_string()).collect();
            }
            Data::Fetch { seq, items } => self.handle_fetch(seq.get(), items.as_ref()),
            _ => {}
        }
    }

    fn handle_fetch(&mut self, seq: u32, items: &[MessageDataItem<'_>]) {
        let uid = uid_of(items);
        if self.body.is_some() {
            // The body itself has been passed on; what else the response says comes with its end.
            self.events.push_back(Event::BodyEnd { seq, uid });
            return;
        }
        let body = items.iter().find_map(|item| match item {
            MessageDataItem::BodyExt { data, .. } | MessageDataItem::Rfc822(data) => Some(data),
            _ => None,
        });
        if let Some(data) = body {
            // A short body may come as a quoted string, an absent one as NIL.
            let bytes = data.clone().into_option().unwrap_or_default().into_owned();
            self.events.push_back(Event::BodyStart { seq, uid, size: bytes.len() as u32 });
            if !bytes.is_empty() {
                self.events.push_back(Event::Body(Cow::Owned(bytes)));
            }
            self.events.push_back(Event::BodyEnd { seq, uid });
            return;
        }
        let size = items.iter().find_map(|item| match item {
            MessageDataItem::Rfc822Size(size) => Some(*size),
            _ => None,
        });
        let flags = items.iter().find_map(|item| match item {
            MessageDataItem::Flags(flags) => Some(Flags::from_fetched(flags)),
            _ => None,
        });
        self.events.push_back(Event::Fetch { seq, uid, size, flags });
    }
}

/// Whether the text stays on the command's line: anything else would be sent as a literal.
fn plain(text: &str) -> Result<(), InvalidArgument> {
    match text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        true => Ok(()),
        false => Err(InvalidArgument),
    }
}

#[cfg(test)]
mod tests;
