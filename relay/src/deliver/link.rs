//! A connection to a receiver: socket and protocol together, with RFC 5321's time limits.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::smtp::client::{Capabilities, Client, Event, Transaction};
use chasqui_runtime::net::{ConnectOptions, Parts, TcpStream};
use chasqui_runtime::timeout;

use super::Trouble;
use crate::shard::Shard;

/// Time that QUIT's reply may take; nothing depends on it.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);

/// A send may hold a segment that is wanted for other mail this long.
const LEASE_TIME: Duration = Duration::from_secs(1);

/// A connection that was lost within a transaction.
#[derive(Debug)]
pub(super) struct Loss {
    pub(super) error: io::Error,
    /// The server has answered something of this transaction.
    pub(super) began: bool,
    /// The message and its end were handed to the socket: the receiver may have taken it.
    pub(super) sent_whole: bool,
}

/// A connection that is past EHLO.
pub(super) struct Link {
    stream: TcpStream,
    client: Client,
    host: Rc<str>,
    closed: bool,
    pub(super) began: bool,
}

impl Link {
    /// Connects and says EHLO.
    pub(super) async fn open(shard: &Rc<Shard>, address: SocketAddr, host: Rc<str>) -> Result<Link, Trouble> {
        let delivery = &shard.config.delivery;
        let source = delivery.source_address.filter(|source| source.is_ipv4() == address.is_ipv4());
        let options = ConnectOptions { local: source };
        let fault = |status, text| Trouble { status, text, remote: host.clone() };
        let connected = timeout(delivery.connect_timeout, TcpStream::connect(address, &options)).await;
        let stream = match connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => stream,
            Err(error) => return Err(fault("4.4.1", format!("cannot connect to {address}: {error}"))),
        };
        let helo = delivery.helo.as_ref().unwrap_or(&shard.config.hostname);
        let client = Client::new(helo.as_str());
        let mut link = Link { stream, client, host: host.clone(), closed: false, began: false };
        loop {
            match link.client.poll_event() {
                Some(Event::Ready) => return Ok(link),
                Some(Event::Refused(reply) | Event::Closing(reply)) => {
                    link.quit().await;
                    return Err(fault("4.3.2", format!("{address} said: {reply}")));
                }
                Some(_) => return Err(fault("4.5.0", format!("{address} does not speak SMTP"))),
                None => {}
            }
            if let Err(error) = link.exchange(delivery.greeting_timeout).await {
                return Err(fault("4.4.2", format!("{address} broke off before a transaction: {error}")));
            }
        }
    }

    /// Sends what is to be sent and reads what comes.
    pub(super) async fn exchange(&mut self, limit: Duration) -> io::Result<()> {
        self.flush(limit).await?;
        self.read(limit).await
    }

    async fn flush(&mut self, limit: Duration) -> io::Result<()> {
        timeout(limit, self.stream.post(self.client.output()))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn read(&mut self, limit: Duration) -> io::Result<()> {
        let piece = self.within(limit, self.stream.read()).await?;
        if piece.is_empty() {
            self.closed = true;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.began = true;
        let handled = self.client.handle_input(&piece);
        self.closed |= self.client.is_closed();
        handled.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Sends parts of a message, at most a piece of 256 KiB at a time. When that takes longer than a second, `stop` may
    /// end it. Returns how many octets were sent.
    pub(super) async fn send(
        &self,
        limit: Duration,
        parts: Parts,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<usize> {
        self.within(limit, self.stream.send_unless(parts, LEASE_TIME, stop)).await
    }

    async fn within<T>(&self, limit: Duration, io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        timeout(limit, io).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    pub(super) fn start(&mut self, transaction: Transaction) -> bool {
        self.began = false;
        self.client.start(transaction).is_ok()
    }

    /// A transaction to fill, with the memory of the last.
    pub(super) fn take_spent(&mut self) -> Transaction {
        self.client.take_spent()
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        self.client.poll_event()
    }

    /// What the client has to say, to be sent in one go with the message.
    pub(super) fn take_output(&mut self) -> Vec<u8> {
        let output = self.client.output();
        // As a rule there is nothing, and the buffer stays where it is of use.
        if output.is_empty() { Vec::new() } else { std::mem::take(output) }
    }

    pub(super) fn body_sent(&mut self) {
        self.client.body_sent();
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        self.client.capabilities()
    }

    pub(super) fn host(&self) -> Rc<str> {
        self.host.clone()
    }

    /// The server has said that it closes, or has closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed || self.client.is_closed()
    }

    pub(super) fn trouble(&self, status: &'static str, text: String) -> Trouble {
        Trouble { status, text, remote: self.host() }
    }

    /// Waits for the server to say or do something out of turn, which ends the connection. Cancel-safe.
    pub(super) async fn hear_out(&mut self) {
        if let Ok(piece) = self.stream.read().await {
            // 421 or nonsense; either way it is over.
            let _over = self.client.handle_input(&piece);
        }
        self.closed = true;
    }

    /// Says QUIT, if it is the time for it, and waits a moment for the answer.
    pub(super) async fn quit(&mut self) {
        self.client.quit();
        if !self.closed && self.flush(QUIT_TIMEOUT).await.is_ok() {
            // The server may close without a word.
            let _gone = self.read(QUIT_TIMEOUT).await;
        }
        self.closed = true;
        self.stream.shutdown();
    }
}
