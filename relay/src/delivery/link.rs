//! A connection to a receiver: socket and protocol together, with RFC 5321's time limits.

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::smtp::client::{
    Capabilities, Client, Event, Outcome as Replies, StartError, Transaction,
};
use chasqui_protocol::smtp::reply::Reply;
use chasqui_runtime::net::{ConnectOptions, Parts, Received, TcpStream, is_shortage};
use chasqui_runtime::{Instant, timeout, turn_time};
use futures_lite::future::or;

use crate::context::Context;
use crate::queue::{Slot, Stage};

/// Time that QUIT's reply may take; nothing depends on it.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);
/// What a server has said before it broke off is there, or on its way: time for it to come.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A send may hold a segment that is wanted for other mail this long.
const LEASE_TIME: Duration = Duration::from_secs(1);

/// "This host takes no mail" (RFC 7504).
const TAKES_NO_MAIL: u16 = 521;

/// A host of a site, at one of its addresses.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) name: Rc<str>,
    /// Among the hosts of the site's route.
    pub(super) place: usize,
    pub(super) address: SocketAddr,
}

impl Host {
    pub(super) fn is_at(&self, place: usize, address: SocketAddr) -> bool {
        self.place == place || self.address == address
    }

    pub(super) fn trouble(&self, status: &'static str, kind: Kind, text: String) -> Trouble {
        Trouble { status, text, remote: self.name.clone(), kind }
    }
}

/// Why a host could not be used.
#[derive(Debug, Clone)]
pub(super) struct Trouble {
    pub(super) status: &'static str,
    pub(super) text: String,
    pub(super) remote: Rc<str>,
    pub(super) kind: Kind,
}

/// Whose trouble it is, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The host's, for now.
    Temporary,
    /// The host takes no mail, ever.
    Permanent,
    /// We lack descriptors, memory or ports: nothing is known of the host.
    Ours,
}

/// A connection that is past EHLO.
pub(super) struct Link {
    stream: TcpStream,
    client: Client,
    host: Host,
    slot: Rc<Slot>,
    closed: bool,
    /// A transaction has ended here by replies.
    pub(super) has_carried: bool,
    /// How many replies had come when one began to be awaited, and by when it must be whole.
    awaited: (u64, Instant),
    /// What the server said while a message was being sent.
    heard: RefCell<Option<Received>>,
}

impl Link {
    /// Connects and says EHLO.
    pub(super) async fn open(context: &Rc<Context>, slot: &Rc<Slot>, host: Host) -> Result<Link, Trouble> {
        let delivery = &context.config.delivery;
        let address = host.address;
        let source = delivery.source_address.filter(|source| source.is_ipv4() == address.is_ipv4());
        let connected = slot.unless_revoked(connect(address, source, delivery.connect_timeout)).await;
        let stream = match connected {
            Ok(stream) => stream,
            Err(error) => {
                // A machine without IPv6 has no address for it: then it is no shortage that will pass.
                let is_family = address.is_ipv6() && error.kind() == io::ErrorKind::AddrNotAvailable;
                let kind = if is_shortage(&error) && !is_family { Kind::Ours } else { Kind::Temporary };
                return Err(host.trouble("4.4.1", kind, format!("cannot connect to {address}: {error}")));
            }
        };
        let helo = delivery.helo.as_ref().unwrap_or(&context.config.hostname);
        let client = Client::new(helo.as_str());
        let (awaited, heard) = ((u64::MAX, turn_time()), RefCell::default());
        let slot = slot.clone();
        let mut link = Link { stream, client, host, slot, closed: false, has_carried: false, awaited, heard };
        let by = turn_time() + delivery.greeting_timeout;
        loop {
            match link.client.poll_event() {
                Some(Event::Ready) => return Ok(link),
                Some(Event::Refused(reply) | Event::Closing(reply)) => {
                    link.quit().await;
                    return Err(link.refused(&reply));
                }
                Some(_) => {
                    let text = format!("{address} does not speak SMTP");
                    return Err(link.host.trouble("4.5.0", Kind::Temporary, text));
                }
                None => {}
            }
            if let Err(error) = link.exchange(by - turn_time()).await {
                return Err(link.broken_off(&error));
            }
        }
    }

    /// The connection has ended before a transaction: a refusal that came before counts.
    fn broken_off(&mut self, error: &io::Error) -> Trouble {
        self.client.read_rest();
        let refusal = match self.client.poll_event() {
            Some(Event::Refused(reply) | Event::Closing(reply)) => Some(reply),
            _ => self.client.ehlo_refusal().cloned(),
        };
        if let Some(reply) = refusal {
            return self.refused(&reply);
        }
        let kind = if is_shortage(error) { Kind::Ours } else { Kind::Temporary };
        let text = format!("{} broke off before a transaction: {error}", self.host.address);
        self.host.trouble("4.4.2", kind, text)
    }

    fn refused(&self, reply: &Reply) -> Trouble {
        let text = format!("{} said: {reply}", self.host.address);
        if reply.code == TAKES_NO_MAIL {
            self.host.trouble("5.3.2", Kind::Permanent, text)
        } else {
            self.host.trouble("4.3.2", Kind::Temporary, text)
        }
    }

    /// Sends what is to be sent and reads what comes. From when it is awaited a reply has `limit` to be whole, in however many
    /// pieces it comes. What the server said before it broke off has been taken when this fails.
    pub(super) async fn exchange(&mut self, limit: Duration) -> io::Result<()> {
        if let Err(error) = self.flush(limit).await {
            self.last_words().await;
            return Err(error);
        }
        let replies = self.client.replies();
        if self.awaited.0 != replies {
            self.awaited = (replies, turn_time() + limit);
        }
        self.read(self.awaited.1 - turn_time()).await
    }

    async fn flush(&mut self, limit: Duration) -> io::Result<()> {
        timeout(limit, self.slot.unless_revoked(self.stream.post(self.client.output())))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn read(&mut self, limit: Duration) -> io::Result<()> {
        let heard = self.heard.take();
        let piece = match heard {
            Some(piece) => piece,
            None => match self.within(limit, self.stream.read()).await {
                Ok(piece) => piece,
                Err(error) => {
                    self.closed = true;
                    return Err(error);
                }
            },
        };
        if piece.is_empty() {
            self.closed = true;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let handled = self.client.handle_input(&piece);
        self.closed |= self.client.is_closed();
        handled.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Nothing more can be sent: reads what the server has said before, until that ends the session.
    pub(super) async fn last_words(&mut self) {
        let by = turn_time() + LAST_WORDS;
        while !self.client.is_closed() && self.read(by - turn_time()).await.is_ok() {}
        self.closed = true;
    }

    /// Sends parts of a message, at most a piece of 256 KiB at a time. When that takes longer than a second, `stop` may
    /// end it. Returns how many octets were sent. Fails when the server refuses the message meanwhile; its words are read next.
    pub(super) async fn send(
        &self,
        limit: Duration,
        parts: Parts,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<usize> {
        let sending = self.within(limit, self.stream.send_unless(parts, LEASE_TIME, stop));
        or(sending, self.refusal()).await
    }

    /// A stage of a transaction begins.
    pub(super) fn enter(&self, stage: Stage) {
        self.slot.enter(stage, turn_time());
    }

    /// The stage takes longer than usual.
    pub(super) fn is_slow(&self) -> bool {
        self.slot.is_slow(turn_time())
    }

    /// Ends when the server refuses the message that is being sent. Other words wait to be read.
    async fn refusal(&self) -> io::Result<usize> {
        if self.heard.borrow().is_none()
            && let Ok(piece) = self.stream.read().await
            && !piece.is_empty()
        {
            let first = piece.iter().find(|byte| !byte.is_ascii_whitespace());
            let is_refusal = matches!(first, Some(b'4' | b'5'));
            self.heard.replace(Some(piece));
            if is_refusal {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        pending().await
    }

    async fn within<T>(&self, limit: Duration, io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let io = self.slot.unless_revoked(io);
        timeout(limit, io).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    pub(super) fn start(&mut self, transaction: Transaction) -> Result<(), StartError> {
        self.client.start(transaction)
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

    /// The connection is lost: what was answered of the transaction under way.
    pub(super) fn cut_off(&mut self) -> Option<Replies> {
        self.closed = true;
        self.client.cut_off()
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        self.client.capabilities()
    }

    /// Whom it leads to.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// The server has said that it closes, or has closed.
    pub(super) fn is_closed(&self) -> bool {
        self.closed || self.client.is_closed()
    }

    /// Waits for the server to say or do something out of turn, which ends the connection. Cancel-safe.
    pub(super) async fn hear_out(&mut self) {
        if let Ok(piece) = self.stream.read().await {
            // 421 or nonsense; either way it is over.
            let _over = self.client.handle_input(&piece);
        }
        self.closed = true;
    }

    /// Closes it, whatever is under way.
    pub(super) fn abandon(&mut self) {
        self.closed = true;
        self.stream.shutdown();
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

async fn connect(address: SocketAddr, local: Option<IpAddr>, limit: Duration) -> io::Result<TcpStream> {
    let options = ConnectOptions { local };
    let connected = timeout(limit, TcpStream::connect(address, &options)).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
