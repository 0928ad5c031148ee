//! An IMAP session: IDLE tells of new messages, which are fetched and checked at once, and deleted in groups.

use std::collections::VecDeque;

use chasqui_protocol::imap::client::{Client, Command, Event, InvalidArgument, Status, UidRange};
use chasqui_protocol::sasl::Nonce;
use chasqui_protocol::sasl::accounts::Account;
use chasqui_protocol::sasl::binding::ChannelBinding;
use chasqui_protocol::sasl::client::{Exchange, Options};
use chasqui_protocol::sasl::mechanism::Mechanisms;
use chasqui_protocol::stamp::Verifier;
use chasqui_runtime::{secret, timeout};
use chasqui_transport::Stream;
use futures_lite::future::or;

use super::session::{Memory, SessionError, connect, derive, known_keys, secure};
use super::{ANSWER_LIMIT, Mailbox, Reader};
use crate::shared::Phase;
use chasqui_report::TlsMode;

/// Messages, or their octets, after which what was read is deleted.
const DELETE_MESSAGES: usize = 64;
const DELETE_OCTETS: u64 = 4 * 1024 * 1024;
/// IDLE is begun anew before servers end it (RFC 2177: 29 minutes).
const IDLE_LIMIT: std::time::Duration = std::time::Duration::from_secs(25 * 60);

/// Reads what is in the mailbox now, and deletes it.
pub(crate) async fn read_once(
    reader: &Reader,
    mailbox: &Mailbox,
    memory: &mut Memory,
) -> Result<(), SessionError> {
    let _permit = reader.sessions.acquire(1).await;
    let mut session = Session::open(reader, mailbox, memory).await?;
    session.fetch_new().await?;
    session.delete_read().await?;
    session.log_out().await;
    Ok(())
}

/// Reads what is in the mailbox and what comes into it, until the run comes to its last reading.
pub(crate) async fn read_until_last(
    reader: &Reader,
    mailbox: &Mailbox,
    memory: &mut Memory,
) -> Result<(), SessionError> {
    let permit = reader.sessions.acquire(1).await;
    let opened = Session::open(reader, mailbox, memory).await;
    drop(permit);
    let mut session = match opened {
        Ok(session) => session,
        Err(error) => {
            memory.tell_first(reader, mailbox, Some(&error));
            return Err(error);
        }
    };
    session.state.memory.tell_first(reader, mailbox, None);
    while reader.phase() < Phase::LastReading {
        session.fetch_new().await?;
        let Memory { uids_read, octets_read, .. } = &session.state.memory;
        if uids_read.len() >= DELETE_MESSAGES || *octets_read >= DELETE_OCTETS {
            session.delete_read().await?;
        }
        session.idle(reader).await?;
    }
    session.delete_read().await?;
    session.log_out().await;
    Ok(())
}

struct Session<'a> {
    stream: Stream,
    client: Client,
    state: State<'a>,
}

/// What the server's responses add up to.
struct State<'a> {
    reader: &'a Reader,
    mailbox: &'a Mailbox,
    memory: &'a mut Memory,
    greeted: bool,
    /// AUTHENTICATE waits for keys of SCRAM.
    wants_keys: bool,
    /// Messages in the mailbox.
    exists: u32,
    /// EXISTS has grown since the last fetch.
    news: bool,
    verifier: Verifier,
    uid: Option<u32>,
    octets: u32,
    completed: VecDeque<(Command, Status, String)>,
}

impl<'a> Session<'a> {
    async fn open(
        reader: &'a Reader,
        mailbox: &'a Mailbox,
        memory: &'a mut Memory,
    ) -> Result<Self, SessionError> {
        let stream = connect(reader, mailbox).await?;
        let state = State {
            reader,
            mailbox,
            memory,
            greeted: false,
            wants_keys: false,
            exists: 0,
            news: false,
            verifier: Verifier::new(),
            uid: None,
            octets: 0,
            completed: VecDeque::new(),
        };
        let mut session = Self { stream, client: Client::new(), state };
        while !session.state.greeted {
            session.exchange().await?;
        }
        if mailbox.server.tls == TlsMode::Starttls {
            session.client.starttls();
            session.complete(Command::StartTls).await?;
            secure(reader, mailbox, &mut session.stream).await?;
            session.client.secured();
        }
        if let Some(mechanisms) = reader.plan.scenario.reader.mechanisms {
            // Few sessions stand here at a time; none keeps room for it.
            Box::pin(session.authenticate(mechanisms)).await?;
        } else {
            session.log_in().await?;
        }
        session.client.select("INBOX").map_err(unusable)?;
        session.complete(Command::Select).await?;
        Ok(session)
    }

    /// Logs in by LOGIN.
    async fn log_in(&mut self) -> Result<(), SessionError> {
        let State { reader, mailbox, .. } = self.state;
        self.client.login(&mailbox.address, reader.password(mailbox)).map_err(unusable)?;
        self.complete(Command::Login).await
    }

    /// Logs in by the best of these mechanisms that the server offers; by LOGIN if it has none and the password
    /// may be shown.
    async fn authenticate(&mut self, mechanisms: Mechanisms) -> Result<(), SessionError> {
        if self.client.mechanisms().is_empty() {
            self.client.capability();
            self.complete(Command::Capability).await?;
        }
        let State { reader, mailbox, .. } = self.state;
        let channel_binding = self.stream.exporter().map(ChannelBinding::TlsExporter);
        let may_show_password = mailbox.server.may_see_password();
        let options = Options::new(self.client.mechanisms(), mechanisms, channel_binding, may_show_password);
        if self.client.mechanisms().is_empty() && may_show_password {
            return self.log_in().await;
        }
        let account = Account::new(&mailbox.address, reader.password(mailbox));
        let account = account.map_err(|error| SessionError::Refused(error.to_string()))?;
        let keys = known_keys(reader, mailbox, self.state.memory);
        self.client.authenticate(Exchange::new(&options, &account, Nonce(secret()), keys)?);
        while self.state.completed.is_empty() {
            self.exchange().await?;
            if std::mem::take(&mut self.state.wants_keys)
                && let Some(derivation) = self.client.take_derivation()
            {
                let keys = derive(reader, mailbox, self.state.memory, derivation).await;
                self.client.use_keys(&keys)?;
            }
        }
        self.complete(Command::Authenticate).await
    }

    /// Fetches what has come since the last fetch.
    async fn fetch_new(&mut self) -> Result<(), SessionError> {
        while std::mem::take(&mut self.state.news) && self.state.exists > 0 {
            let first = self.state.memory.uid_highest.saturating_add(1);
            self.client.uid_fetch_bodies(UidRange { first, last: None });
            self.complete(Command::Fetch).await?;
        }
        Ok(())
    }

    /// Deletes what has been read.
    async fn delete_read(&mut self) -> Result<(), SessionError> {
        if self.state.memory.uids_read.is_empty() {
            return Ok(());
        }
        let ranges = ranges(&mut self.state.memory.uids_read);
        for &(first, last) in &ranges {
            self.client.uid_store_deleted(UidRange { first, last: Some(last) });
        }
        for _ in &ranges {
            self.complete(Command::Store).await?;
        }
        self.client.expunge();
        self.complete(Command::Expunge).await?;
        self.state.memory.uids_read.clear();
        self.state.memory.octets_read = 0;
        Ok(())
    }

    /// Waits in IDLE until there is news or the last reading begins.
    async fn idle(&mut self, reader: &Reader) -> Result<(), SessionError> {
        if self.state.news {
            return Ok(());
        }
        self.client.idle();
        self.flush().await?;
        while !self.state.news && reader.phase() < Phase::LastReading && self.state.completed.is_empty() {
            let input = async { Some(timeout(IDLE_LIMIT, self.stream.read()).await) };
            let last = async {
                reader.reached(Phase::LastReading).await;
                None
            };
            match or(input, last).await {
                None | Some(Err(_)) => break,
                Some(Ok(received)) => self.state.take(&mut self.client, &received?)?,
            }
        }
        if self.state.completed.is_empty() {
            self.client.done();
        }
        self.complete(Command::Idle).await
    }

    async fn log_out(&mut self) {
        self.client.logout();
        // Everything is done; how the session ends is of no consequence.
        let _ = self.complete(Command::Logout).await;
    }

    /// Waits for the completion of `command`, which must be good.
    async fn complete(&mut self, command: Command) -> Result<(), SessionError> {
        loop {
            match self.state.completed.pop_front() {
                Some((done, Status::Ok, _)) if done == command => return Ok(()),
                Some((done, _, text)) => return Err(SessionError::Refused(format!("{done:?}: {text}"))),
                None => self.exchange().await?,
            }
        }
    }

    async fn flush(&mut self) -> Result<(), SessionError> {
        let output = std::mem::take(self.client.output());
        if !output.is_empty() {
            *self.client.output() = self.stream.write_all(output).await?;
        }
        Ok(())
    }

    /// Sends what is to be sent and takes one piece of input.
    async fn exchange(&mut self) -> Result<(), SessionError> {
        self.flush().await?;
        let received =
            timeout(ANSWER_LIMIT, self.stream.read()).await.map_err(|_| SessionError::TimedOut)??;
        self.state.take(&mut self.client, &received)
    }
}

impl State<'_> {
    fn take(&mut self, client: &mut Client, received: &[u8]) -> Result<(), SessionError> {
        if received.is_empty() {
            return Err(SessionError::Closed);
        }
        let mut input = received;
        loop {
            let (used, event) = client.handle_input(input)?;
            input = &input[used..];
            match event {
                Event::NeedInput => return Ok(()),
                Event::Greeting => self.greeted = true,
                Event::DeriveKeys => self.wants_keys = true,
                Event::Exists(count) => {
                    self.news |= count > self.exists;
                    self.exists = count;
                }
                Event::Expunged(_) => self.exists = self.exists.saturating_sub(1),
                Event::UidValidity(validity) => {
                    let before = self.memory.uid_validity.replace(validity);
                    if before.is_some_and(|before| before != validity) {
                        self.memory.uid_highest = 0;
                        self.memory.uids_read.clear();
                    }
                }
                Event::BodyStart { uid, size, .. } => (self.uid, self.octets) = (uid, size),
                Event::Body(piece) => self.verifier.push(&piece),
                Event::BodyEnd { uid, .. } => self.end_message(uid)?,
                Event::Completed { command, status, text } => {
                    self.completed.push_back((command, status, text));
                }
                Event::Bye(text) if client.outstanding() == 0 => {
                    return Err(SessionError::Refused(text));
                }
                _ => {}
            }
        }
    }

    fn end_message(&mut self, uid: Option<u32>) -> Result<(), SessionError> {
        let verification = self.verifier.finish();
        let uid = uid
            .or(self.uid)
            .ok_or_else(|| SessionError::Refused("the server gave a message without its UID".into()))?;
        // `n:*` names the last message even where its UID is below n.
        if uid <= self.memory.uid_highest {
            return Ok(());
        }
        self.memory.uid_highest = uid;
        if self.reader.found(self.mailbox, &verification) {
            self.memory.uids_read.push(uid);
            self.memory.octets_read += u64::from(self.octets);
        }
        Ok(())
    }
}

/// Runs of consecutive UIDs, sorted.
fn ranges(uids: &mut [u32]) -> Vec<(u32, u32)> {
    uids.sort_unstable();
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &uid in &*uids {
        match ranges.last_mut() {
            Some((_, last)) if uid == *last || uid == *last + 1 => *last = uid,
            _ => ranges.push((uid, uid)),
        }
    }
    ranges
}

fn unusable(error: InvalidArgument) -> SessionError {
    SessionError::Refused(error.to_string())
}

#[cfg(test)]
mod tests {
    /// UIDs come out as the fewest ranges that hold them and no others.
    #[test]
    fn ranges() {
        assert_eq!(super::ranges(&mut [9, 1, 2, 3, 7, 3, 10]), [(1, 3), (7, 7), (9, 10)]);
        assert_eq!(super::ranges(&mut []), []);
    }
}
