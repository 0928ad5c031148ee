//! The client's end of an SMTP connection: a stream and [`smtp::client`](chasqui_protocol::smtp::client) together, with the time limits.

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::time::Duration;

use chasqui_protocol::sasl::Nonce;
use chasqui_protocol::sasl::accounts::Account;
use chasqui_protocol::sasl::binding::ChannelBinding;
use chasqui_protocol::sasl::client::{self as sasl, ClientKeys, LineExchange};
use chasqui_protocol::sasl::mechanism::Mechanisms;
use chasqui_protocol::smtp::client::{
    ARGUMENT_MAX, Capabilities, Client, ClientError, Event, Outcome, StartError, Transaction,
};
use chasqui_protocol::smtp::reply::Reply;
use chasqui_runtime::net::{Parts, Received};
use chasqui_runtime::{Elapsed, Instant, secret, spawn_blocking, timeout, turn_time};
use futures_lite::future::or;

use crate::stream::Stream;
use crate::tls::{Agreed, ClientTls, HandshakeError, Trust};

/// What a server has said before it broke off is there, or on its way: time for it to come.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a send of a message's parts goes on unasked: as long as it may hold a segment that is wanted for other mail.
const LEASE_TIME: Duration = Duration::from_secs(1);

/// How long is waited.
#[derive(Clone, Copy, Debug)]
pub enum WaitLimit {
    /// Until then, whatever comes.
    Until(Instant),
    /// For each reply, from when it is awaited until it is whole, in however many pieces it comes (RFC 5321 section 4.5.3.2);
    /// and as long for what is sent before.
    PerReply(Duration),
}

impl WaitLimit {
    fn for_sending(self) -> Duration {
        match self {
            WaitLimit::Until(by) => by - turn_time(),
            WaitLimit::PerReply(limit) => limit,
        }
    }
}

/// Why a connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// Nothing more can be sent. What the server has said before may still be read: [`ClientConnection::last_words`].
    #[error(transparent)]
    Send(io::Error),
    /// What is sent is not taken in time. As for [`Broken::Send`].
    #[error("timed out")]
    SendTimedOut,
    /// Nothing more can be read.
    #[error(transparent)]
    Receive(io::Error),
    /// No reply in time.
    #[error("timed out")]
    TimedOut,
    /// The server has closed.
    #[error("unexpected end of file")]
    Closed,
    /// The server does not speak SMTP as it must.
    #[error(transparent)]
    Protocol(#[from] ClientError),
}

impl Broken {
    /// Whether nothing more can be sent, while the server's last words may be there to be read.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Broken::Send(_) | Broken::SendTimedOut)
    }
}

/// Why there is no TLS after a server has said that it has it.
#[derive(Debug, thiserror::Error)]
pub enum StartTlsError {
    /// The server has thought better of it; the connection goes on in plaintext.
    #[error("STARTTLS was refused: {0}")]
    Refused(Reply),
    /// The handshake failed. The connection is of no more use.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The connection failed before.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// Why a server does not believe who we are.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// It says so.
    #[error("AUTH was refused: {0}")]
    Refused(Reply),
    /// There is no way to prove it, or the server has not proved that it knows us.
    #[error("AUTH: {0}")]
    Failed(#[from] sasl::Failure),
    /// The connection failed before.
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// How a client tells who it is.
#[derive(Clone, Copy, Debug)]
pub struct Login<'a> {
    /// Who it is.
    pub account: &'a Account,
    /// The best of these that the server offers is used.
    pub mechanisms: Mechanisms,
    /// Whether the password may be shown if there is nothing better.
    pub may_show_password: bool,
}

/// The line that answers a challenge; keys are derived beside the shard.
async fn answer(
    exchange: &mut LineExchange,
    challenge: &str,
    keys: &mut Option<ClientKeys>,
) -> Result<String, sasl::Failure> {
    if let Some(line) = exchange.handle_challenge(challenge.as_bytes())? {
        return Ok(line);
    }
    let derivation = exchange.take_derivation().ok_or(sasl::Failure::OutOfTurn)?;
    let derived = spawn_blocking(move || derivation.derive()).await;
    exchange.use_keys(keys.insert(derived))
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> io::Error {
        match broken {
            Broken::Send(error) | Broken::Receive(error) => error,
            Broken::SendTimedOut | Broken::TimedOut => io::ErrorKind::TimedOut.into(),
            Broken::Closed => io::ErrorKind::UnexpectedEof.into(),
            Broken::Protocol(error) => io::Error::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// A connection to a server, used for one transaction after the other.
pub struct ClientConnection {
    stream: Stream,
    client: Client,
    /// How many replies had come when one began to be awaited, and by when it must be whole.
    awaited: (u64, Instant),
    /// What the server said while a message was being sent.
    heard: RefCell<Option<Received>>,
    is_closed: bool,
}

impl ClientConnection {
    /// A connection whose greeting has not been read. `helo` is what the client calls itself.
    pub fn new(stream: Stream, helo: &str) -> ClientConnection {
        let (awaited, heard) = ((u64::MAX, turn_time()), RefCell::default());
        ClientConnection { stream, client: Client::new(helo), awaited, heard, is_closed: false }
    }

    /// Sends what is to be sent and reads until the server has decided something.
    pub async fn next_event(&mut self, limit: WaitLimit) -> Result<Event, Broken> {
        loop {
            if let Some(event) = self.client.poll_event() {
                return Ok(event);
            }
            self.exchange(limit).await?;
        }
    }

    /// Goes over to TLS, when it is idle and the server has STARTTLS, until `by`. The next event is [`Event::Ready`], as at the
    /// beginning.
    pub async fn start_tls(
        &mut self,
        tls: &ClientTls,
        trust: Trust,
        host: &str,
        by: Instant,
    ) -> Result<(), StartTlsError> {
        self.request_tls(by).await?;
        self.handshake(tls, trust, host, by).await
    }

    /// The first half of [`ClientConnection::start_tls`]: asks for TLS, until the server waits for a handshake.
    pub async fn request_tls(&mut self, by: Instant) -> Result<(), StartTlsError> {
        self.client.start_tls();
        match self.next_event(WaitLimit::Until(by)).await? {
            Event::StartTls => Ok(()),
            Event::StartTlsRefused(reply) => Err(StartTlsError::Refused(reply)),
            _ => Err(self.ended().into()),
        }
    }

    /// The server has said something else than an answer: 421, as a rule.
    fn ended(&mut self) -> Broken {
        self.is_closed = true;
        Broken::Closed
    }

    /// The other half: the handshake that the server waits for.
    pub async fn handshake(
        &mut self,
        tls: &ClientTls,
        trust: Trust,
        host: &str,
        by: Instant,
    ) -> Result<(), StartTlsError> {
        // Few connections stand here at a time; none keeps room for it.
        let handshake = Box::pin(timeout(by - turn_time(), self.stream.connect_tls(tls, trust, host))).await;
        let late = |Elapsed| HandshakeError::Connection(io::ErrorKind::TimedOut.into());
        if let Err(error) = handshake.map_err(late).flatten() {
            self.is_closed = true;
            return Err(error.into());
        }
        self.client.secured();
        Ok(())
    }

    /// Proves, when it is idle, to be the user of the login's account, until `by`. `keys` are those of an earlier exchange for this
    /// account, and become those of this one.
    pub async fn authenticate(
        &mut self,
        login: Login<'_>,
        keys: &mut Option<ClientKeys>,
        by: Instant,
    ) -> Result<(), AuthError> {
        let Login { account, mechanisms, may_show_password } = login;
        let (offered, exported) = (self.client.capabilities().mechanisms(), self.stream.exporter());
        let binding = exported.map(ChannelBinding::TlsExporter);
        let options = sasl::Options::new(offered, mechanisms, binding, may_show_password);
        let exchange = sasl::Exchange::new(&options, account, Nonce(secret()), keys.clone())?;
        let (mut exchange, argument) = LineExchange::begin(exchange, ARGUMENT_MAX);
        self.client.start_auth(&argument);
        loop {
            match self.next_event(WaitLimit::Until(by)).await? {
                Event::Challenge(challenge) => match answer(&mut exchange, &challenge, keys).await {
                    Ok(response) => self.client.respond(&response),
                    Err(failure) => {
                        self.client.cancel_auth();
                        let _cancelled = self.next_event(WaitLimit::Until(by)).await?;
                        return Err(failure.into());
                    }
                },
                Event::Authenticated => return Ok(exchange.handle_success()?),
                Event::AuthRefused(reply) => return Err(AuthError::Refused(reply)),
                _ => return Err(self.ended().into()),
            }
        }
    }

    /// What was agreed on for TLS; none: the connection is plain.
    pub fn agreed(&self) -> Option<Agreed> {
        self.stream.agreed()
    }

    /// An event that has come and was not taken yet.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.client.poll_event()
    }

    /// Sends what is to be sent and reads what comes next, which may be an event or a part of one. Until it waits for input it
    /// is not cancel-safe.
    pub async fn exchange(&mut self, limit: WaitLimit) -> Result<(), Broken> {
        let posted = timeout(limit.for_sending(), self.stream.post(self.client.output())).await;
        posted.map_err(|_| Broken::SendTimedOut)?.map_err(Broken::Send)?;
        let by = self.reply_by(limit);
        if let Some(handled) = self.handle_heard() {
            return handled;
        }
        let read = timeout(by - turn_time(), self.stream.read()).await;
        self.handle_read(read)
    }

    /// Until when the reply that comes next is awaited.
    fn reply_by(&mut self, limit: WaitLimit) -> Instant {
        match limit {
            WaitLimit::Until(by) => by,
            WaitLimit::PerReply(limit) => {
                let replies = self.client.replies();
                if self.awaited.0 != replies {
                    self.awaited = (replies, turn_time() + limit);
                }
                self.awaited.1
            }
        }
    }

    /// Takes what the server said while a message was being sent, if it did.
    fn handle_heard(&mut self) -> Option<Result<(), Broken>> {
        let piece = self.heard.take()?;
        Some(self.handle_input(&piece))
    }

    fn handle_read(&mut self, read: Result<io::Result<Received>, Elapsed>) -> Result<(), Broken> {
        let piece = read.map_err(|Elapsed| Broken::TimedOut).and_then(|read| read.map_err(Broken::Receive));
        self.is_closed |= piece.is_err();
        self.handle_input(&piece?)
    }

    fn handle_input(&mut self, piece: &[u8]) -> Result<(), Broken> {
        if piece.is_empty() {
            self.is_closed = true;
            return Err(Broken::Closed);
        }
        let handled = self.client.handle_input(piece);
        self.is_closed |= self.client.is_closed();
        Ok(handled?)
    }

    /// Nothing more can be sent: reads what the server has said before, until that ends the session.
    pub async fn last_words(&mut self) {
        let by = turn_time() + LAST_WORDS;
        let mut handled = self.handle_heard().unwrap_or(Ok(()));
        while !self.client.is_closed() && handled.is_ok() {
            let read = timeout(by - turn_time(), self.stream.read()).await;
            handled = self.handle_read(read);
        }
        self.is_closed = true;
    }

    /// Waits for what the server says unasked, while no transaction is under way; it may be an event. Cancel-safe.
    pub async fn unasked(&mut self) -> Result<(), Broken> {
        let read = self.stream.read().await;
        self.handle_read(Ok(read))
    }

    /// Has a piece of the message sent, and leaves an empty buffer in its place: see [`Stream::post`].
    pub async fn post_body(&mut self, bytes: &mut Vec<u8>, limit: Duration) -> Result<(), Broken> {
        let posted = timeout(limit, self.stream.post(bytes)).await;
        posted.map_err(|_| Broken::SendTimedOut)?.map_err(Broken::Send)
    }

    /// Sends parts of a message, at most a piece of 256 KiB at a time. When that takes longer than a second, `stop` may
    /// end it. Returns how many octets were sent. Fails when the server refuses the message meanwhile; its words are read next.
    pub async fn send_body(
        &self,
        limit: Duration,
        parts: Parts,
        stop: &dyn Fn() -> bool,
    ) -> Result<usize, Broken> {
        let sending = async {
            let sent = timeout(limit, self.stream.send_unless(parts, LEASE_TIME, stop)).await;
            sent.map_err(|_| Broken::SendTimedOut)?.map_err(Broken::Send)
        };
        or(sending, self.refusal()).await
    }

    /// Ends when the server refuses the message that is being sent. Other words wait to be read.
    async fn refusal(&self) -> Result<usize, Broken> {
        if self.heard.borrow().is_none()
            && let Ok(piece) = self.stream.read().await
            && !piece.is_empty()
        {
            let first = piece.iter().find(|byte| !byte.is_ascii_whitespace());
            let is_refusal = matches!(first, Some(b'4' | b'5'));
            self.heard.replace(Some(piece));
            if is_refusal {
                return Err(Broken::Send(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        pending().await
    }

    /// What the client has to say, to be sent in one go with the message.
    pub fn take_output(&mut self) -> Vec<u8> {
        let output = self.client.output();
        // As a rule there is nothing, and the buffer stays where it is of use.
        if output.is_empty() { Vec::new() } else { std::mem::take(output) }
    }

    /// See [`Client::start`].
    pub fn start(&mut self, transaction: Transaction) -> Result<(), StartError> {
        self.client.start(transaction)
    }

    /// A transaction to fill, with the memory of the last: see [`Client::take_spent`].
    pub fn take_spent(&mut self) -> Transaction {
        self.client.take_spent()
    }

    /// See [`Client::body_sent`].
    pub fn body_sent(&mut self) {
        self.client.body_sent();
    }

    /// The connection is lost: what was answered of the transaction under way.
    pub fn cut_off(&mut self) -> Option<Outcome> {
        self.is_closed = true;
        self.client.cut_off()
    }

    /// The connection has ended before a transaction: the refusal that came before, also one that was cut short.
    pub fn refusal_before_end(&mut self) -> Option<Reply> {
        self.client.read_rest();
        match self.client.poll_event() {
            Some(Event::Refused(reply) | Event::Closing(reply)) => Some(reply),
            _ => self.client.ehlo_refusal().cloned(),
        }
    }

    /// See [`Client::capabilities`].
    pub fn capabilities(&self) -> Capabilities {
        self.client.capabilities()
    }

    /// See [`Client::is_idle`].
    pub fn is_idle(&self) -> bool {
        self.client.is_idle()
    }

    /// The server has said that it closes, or has closed, or the connection was given up.
    pub fn is_closed(&self) -> bool {
        self.is_closed || self.client.is_closed()
    }

    /// Says QUIT, if it is the time for it, and waits so long for the answer; nothing depends on it.
    pub async fn quit(&mut self, limit: Duration) {
        self.client.quit();
        if !self.is_closed {
            // The server may close without a word.
            let _gone = self.exchange(WaitLimit::PerReply(limit)).await;
        }
        if self.stream.agreed().is_some() {
            // The server's TLS is told that nothing was cut off; it need not take it.
            let _gone = timeout(limit, self.stream.write_last(Vec::new())).await;
        }
        self.close();
    }

    /// It is of no more use, whatever is under way; dropped, it closes.
    pub fn give_up(&mut self) {
        self.is_closed = true;
    }

    /// Closes it, whatever is under way.
    pub fn close(&mut self) {
        self.is_closed = true;
        self.stream.shutdown();
    }
}
