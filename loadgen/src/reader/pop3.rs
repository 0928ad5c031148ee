//! A POP3 session: everything that has come since the last one is fetched, checked and deleted.

use chasqui_protocol::pop3::client::{Client, Command, Event, Options, Sasl};
use chasqui_protocol::sasl::Nonce;
use chasqui_protocol::sasl::binding::ChannelBinding;
use chasqui_protocol::sasl::client::Derivation;
use chasqui_protocol::stamp::Verifier;
use chasqui_runtime::{secret, timeout};
use chasqui_transport::Stream;

use super::session::{Memory, SessionError, connect, derive, known_keys, secure};
use super::{ANSWER_LIMIT, Mailbox, Reader};
use chasqui_report::TlsMode;

/// RETR commands that wait for their answers at once (RFC 2449, 6.6): a round trip is paid once for so many messages.
const RETRIEVING_MAX: usize = 32;

/// Reads what is in the maildrop now.
pub(crate) async fn read_once(
    reader: &Reader,
    mailbox: &Mailbox,
    memory: &mut Memory,
) -> Result<(), SessionError> {
    let _permit = reader.sessions.acquire(1).await;
    let mut stream = connect(reader, mailbox).await?;
    let client = client(reader, mailbox, memory, &stream)?;
    let kept_before = memory.kept;
    let mut session = Session {
        reader,
        mailbox,
        memory,
        client,
        verifier: Verifier::new(),
        next: 1,
        last: 0,
        awaited: 0,
        told: Vec::new(),
        derivation: None,
        is_turning: false,
        quitting: false,
    };
    let read = session.run(&mut stream).await;
    if read.is_err() {
        // Without the answer to QUIT nobody knows whether the deletions were carried out.
        session.memory.undeleted.extend(session.told);
        session.memory.kept = kept_before;
    }
    read
}

fn client(
    reader: &Reader,
    mailbox: &Mailbox,
    memory: &Memory,
    stream: &Stream,
) -> Result<Client, SessionError> {
    let sasl = reader.plan.scenario.reader.mechanisms.map(|mechanisms| Sasl {
        mechanisms,
        nonce: Nonce(secret()),
        keys: known_keys(reader, mailbox, memory),
        channel_binding: stream.exporter().map(ChannelBinding::TlsExporter),
        may_show_password: mailbox.server.may_see_password(),
    });
    let options = Options { starttls: mailbox.server.tls == TlsMode::Starttls, sasl };
    Client::with_options(&mailbox.address, reader.password(mailbox), options)
        .map_err(|error| SessionError::Refused(error.to_string()))
}

struct Session<'a> {
    reader: &'a Reader,
    mailbox: &'a Mailbox,
    memory: &'a mut Memory,
    client: Client,
    verifier: Verifier,
    /// The next message to ask for, and the last.
    next: u32,
    last: u32,
    /// Messages asked for whose end has not come.
    awaited: usize,
    /// Messages told of in this session.
    told: Vec<u64>,
    /// Keys that the login waits for.
    derivation: Option<Derivation>,
    /// The server waits for TLS.
    is_turning: bool,
    quitting: bool,
}

impl Session<'_> {
    async fn run(&mut self, stream: &mut Stream) -> Result<(), SessionError> {
        loop {
            let output = std::mem::take(self.client.output());
            if !output.is_empty() {
                *self.client.output() = stream.write_all(output).await?;
            }
            let received =
                timeout(ANSWER_LIMIT, stream.read()).await.map_err(|_| SessionError::TimedOut)??;
            if received.is_empty() {
                return Err(SessionError::Closed);
            }
            if self.take(&received)? {
                return Ok(());
            }
            drop(received);
            if std::mem::take(&mut self.is_turning) {
                secure(self.reader, self.mailbox, stream).await?;
                self.client.secured(stream.exporter().map(ChannelBinding::TlsExporter));
            }
            if let Some(derivation) = self.derivation.take() {
                let keys = derive(self.reader, self.mailbox, self.memory, derivation).await;
                self.client.use_keys(&keys)?;
            }
        }
    }

    /// `true`: the session is over, its deletions carried out.
    fn take(&mut self, mut input: &[u8]) -> Result<bool, SessionError> {
        loop {
            let (used, event) = self.client.handle_input(input)?;
            input = &input[used..];
            match event {
                Event::NeedInput => return Ok(false),
                Event::StartTls => self.is_turning = true,
                Event::DeriveKeys => self.derivation = self.client.take_derivation(),
                Event::Ready { .. } => self.client.stat(),
                Event::LoginRefused { text, .. } => return Err(SessionError::Refused(text)),
                Event::Stat { messages, .. } => {
                    self.next = self.memory.kept + 1;
                    self.last = messages;
                    self.ask();
                }
                Event::MessageStart { .. } => {}
                Event::Body(piece) => self.verifier.push(piece),
                Event::MessageEnd { number } => {
                    self.awaited -= 1;
                    self.end_message(number);
                    self.ask();
                }
                Event::Refused { command: Command::Quit | Command::Dele(_), .. } => {}
                Event::Refused { text, .. } => return Err(SessionError::Refused(text)),
                Event::Goodbye { committed: true } => {
                    self.memory.undeleted.clear();
                    return Ok(true);
                }
                Event::Goodbye { committed: false } => {
                    return Err(SessionError::Refused("the deletions were not carried out".into()));
                }
                _ => {}
            }
        }
    }

    fn end_message(&mut self, number: u32) {
        let verification = self.verifier.finish();
        let ours = verification.run == self.reader.plan.run;
        if ours && self.memory.undeleted.contains(&verification.sequence) {
            self.client.dele(number);
        } else if self.reader.found(self.mailbox, &verification) {
            self.told.push(verification.sequence);
            self.client.dele(number);
        } else {
            // Left alone. Such messages come first in the next session, in the same order: those that were
            // read before them are deleted.
            self.memory.kept += 1;
        }
    }

    /// Asks for more messages, or says QUIT after the last.
    fn ask(&mut self) {
        while self.awaited < RETRIEVING_MAX && self.next <= self.last {
            self.client.retr(self.next);
            self.next += 1;
            self.awaited += 1;
        }
        if self.awaited == 0 && !self.quitting {
            self.quitting = true;
            self.client.quit();
        }
    }
}
