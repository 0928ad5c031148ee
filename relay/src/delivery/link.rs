//! A connection to a receiver, in a place that may be revoked, with RFC 5321's time limits.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::sasl::accounts::Account;
use chasqui_protocol::sasl::mechanism::Mechanisms;
use chasqui_protocol::smtp::client::{Event, Extension};
use chasqui_protocol::smtp::reply::Reply;
use chasqui_runtime::net::{Parts, is_shortage};
use chasqui_runtime::{Instant, timeout, turn_time};
use chasqui_transport::Stream;
use chasqui_transport::smtp_client::{AuthError, Broken, ClientConnection, Login, StartTlsError, WaitLimit};
use chasqui_transport::tls::HANDSHAKE_LIMIT;

use crate::config::TlsPolicy;
use crate::context::Context;
use crate::queue::{Slot, Stage};

/// Time that QUIT's reply may take; nothing depends on it.
const QUIT_TIMEOUT: Duration = Duration::from_secs(2);
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

/// Why there is no TLS where there should be.
enum Insecure {
    /// The host is not to be used now.
    Trouble(Trouble),
    /// The handshake failed: plaintext may do.
    Handshake(Trouble),
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
    pub(super) connection: ClientConnection,
    /// Whom it leads to.
    pub(super) host: Host,
    slot: Rc<Slot>,
    /// A transaction has ended here by replies.
    pub(super) has_carried: bool,
}

impl Link {
    /// Connects, says EHLO, goes over to TLS as `policy` wants it, and tells who we are where we have an account.
    pub(super) async fn open(
        context: &Rc<Context>,
        slot: &Rc<Slot>,
        host: Host,
        policy: TlsPolicy,
    ) -> Result<Link, Trouble> {
        let by = turn_time() + context.config.delivery.greeting_timeout;
        let Some(account) = context.credentials.find(&host.name, host.address) else {
            return Link::open_secured(context, slot, host, policy, by).await;
        };
        let policy = policy.max(context.config.auth.credentials_tls);
        let mut link = Link::open_secured(context, slot, host, policy, by).await?;
        // Few connections stand here at a time; none keeps room for it.
        Box::pin(link.authenticate(context, account, by)).await?;
        Ok(link)
    }

    async fn authenticate(
        &mut self,
        context: &Rc<Context>,
        account: &Account,
        by: Instant,
    ) -> Result<(), Trouble> {
        let mut keys = context.client_keys.borrow().get(account.user()).cloned();
        // Who has allowed less than verified TLS has allowed this.
        let login = Login { account, mechanisms: Mechanisms::ALL, may_show_password: true };
        let authenticating = async { Ok(self.connection.authenticate(login, &mut keys, by).await) };
        let authenticated = self.slot.unless_revoked(authenticating).await;
        if let Some(keys) = keys {
            context.client_keys.borrow_mut().insert(account.user().into(), keys);
        }
        let error = match authenticated {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(AuthError::Broken(broken))) => return Err(self.broken_off(&broken.into())),
            Ok(Err(error)) => error,
            Err(revoked) => return Err(self.broken_off(&revoked)),
        };
        self.quit().await;
        let text = format!("{} {error}", self.host.address);
        Err(self.host.trouble("4.7.8", Kind::Temporary, text))
    }

    /// Connects, says EHLO, and goes over to TLS as `policy` wants it. Where the handshake fails and plaintext will do, it is
    /// plaintext, within the same limit and from then on for a while.
    async fn open_secured(
        context: &Rc<Context>,
        slot: &Rc<Slot>,
        host: Host,
        policy: TlsPolicy,
        by: Instant,
    ) -> Result<Link, Trouble> {
        let is_known = policy == TlsPolicy::Opportunistic
            && context.queue.borrow_mut().plain_hosts.contains(host.address, turn_time());
        if is_known {
            return Link::greet(context, slot, host, by).await;
        }
        let mut link = Link::greet(context, slot, host, by).await?;
        match link.secure(context, policy, by).await {
            Ok(()) => Ok(link),
            Err(Insecure::Trouble(trouble)) => Err(trouble),
            Err(Insecure::Handshake(trouble)) if policy != TlsPolicy::Opportunistic => Err(trouble),
            Err(Insecure::Handshake(trouble)) => {
                let host = link.host.clone();
                drop(link);
                log::info!("{} ({}): {}; plaintext for a while", host.name, host.address, trouble.text);
                context.queue.borrow_mut().plain_hosts.add(host.address, turn_time());
                Link::greet(context, slot, host, by).await
            }
        }
    }

    /// Goes over to TLS, as `policy` wants it and the host can, and greets it again.
    async fn secure(
        &mut self,
        context: &Rc<Context>,
        policy: TlsPolicy,
        by: Instant,
    ) -> Result<(), Insecure> {
        let Some(trust) = policy.trust() else { return Ok(()) };
        let trouble = |link: &Link, status, text: String| {
            link.host.trouble(status, Kind::Temporary, format!("{} {text}", link.host.address))
        };
        if !self.connection.capabilities().has(Extension::StartTls) {
            if policy.allows_plaintext() {
                return Ok(());
            }
            let text = format!("has no STARTTLS, and the policy is `{}`", policy.name());
            return Err(Insecure::Trouble(trouble(self, "4.7.4", text)));
        }
        // What is left after a handshake that stalls is enough for a host that answers.
        let limit = HANDSHAKE_LIMIT.min((by - turn_time()) / 2);
        let (slot, name) = (self.slot.clone(), self.host.name.clone());
        let starting =
            async { Ok(self.connection.start_tls(&context.tls, trust, &name, turn_time() + limit).await) };
        // None keeps room for it.
        let started = Box::pin(slot.unless_revoked(starting)).await;
        match started.map_err(|revoked| StartTlsError::Broken(Broken::Receive(revoked))).flatten() {
            Ok(()) => {}
            Err(StartTlsError::Refused(_)) if policy.allows_plaintext() => return Ok(()),
            Err(error @ StartTlsError::Refused(_)) => {
                return Err(Insecure::Trouble(trouble(self, "4.7.4", error.to_string())));
            }
            Err(StartTlsError::Broken(broken)) if slot.revoked().is_some() => {
                return Err(Insecure::Trouble(self.broken_off(&broken.into())));
            }
            Err(error) => return Err(Insecure::Handshake(trouble(self, "4.7.5", error.to_string()))),
        }
        match self.await_ready(by).await {
            Ok(()) => Ok(()),
            Err(trouble) => Err(Insecure::Trouble(trouble)),
        }
    }

    /// Connects and says EHLO.
    async fn greet(context: &Rc<Context>, slot: &Rc<Slot>, host: Host, by: Instant) -> Result<Link, Trouble> {
        let delivery = &context.config.delivery;
        let address = host.address;
        let source = delivery.source_address.filter(|source| source.is_ipv4() == address.is_ipv4());
        let limit = delivery.connect_timeout;
        let connected = slot.unless_revoked(connect(address, source, limit)).await;
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
        let connection = ClientConnection::new(stream, helo.as_str());
        let mut link = Link { connection, host, slot: slot.clone(), has_carried: false };
        link.await_ready(by).await?;
        Ok(link)
    }

    async fn await_ready(&mut self, by: Instant) -> Result<(), Trouble> {
        loop {
            match self.connection.poll_event() {
                Some(Event::Ready) => return Ok(()),
                Some(Event::Refused(reply) | Event::Closing(reply)) => {
                    self.quit().await;
                    return Err(self.refused(&reply));
                }
                Some(_) => {
                    let text = format!("{} does not speak SMTP", self.host.address);
                    return Err(self.host.trouble("4.5.0", Kind::Temporary, text));
                }
                None => {}
            }
            if let Err(error) = self.exchange_within(WaitLimit::Until(by)).await {
                return Err(self.broken_off(&error));
            }
        }
    }

    /// The connection has ended before a transaction: a refusal that came before counts.
    fn broken_off(&mut self, error: &io::Error) -> Trouble {
        if let Some(reply) = self.connection.refusal_before_end() {
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
        self.exchange_within(WaitLimit::PerReply(limit)).await
    }

    async fn exchange_within(&mut self, limit: WaitLimit) -> io::Result<()> {
        let exchange = async { Ok(self.connection.exchange(limit).await) };
        let error = match self.slot.unless_revoked(exchange).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(broken)) if !broken.is_unsent() => broken.into(),
            Ok(Err(broken)) => {
                self.last_words().await;
                broken.into()
            }
            Err(revoked) => revoked,
        };
        self.connection.give_up();
        Err(error)
    }

    /// Nothing more can be sent: reads what the server has said before, until that ends the session.
    pub(super) async fn last_words(&mut self) {
        let last_words = async {
            self.connection.last_words().await;
            Ok(())
        };
        let _revoked = self.slot.unless_revoked(last_words).await;
        self.connection.give_up();
    }

    /// Sends parts of a message: see [`ClientConnection::send_body`].
    pub(super) async fn send(
        &self,
        limit: Duration,
        parts: Parts,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<usize> {
        let sending = async { self.connection.send_body(limit, parts, stop).await.map_err(io::Error::from) };
        self.slot.unless_revoked(sending).await
    }

    /// A stage of a transaction begins.
    pub(super) fn enter(&self, stage: Stage) {
        self.slot.enter(stage, turn_time());
    }

    /// The stage takes longer than usual.
    pub(super) fn is_slow(&self) -> bool {
        self.slot.is_slow(turn_time())
    }

    /// Waits for the server to say or do something out of turn, which ends the connection: 421 or nonsense. Cancel-safe.
    pub(super) async fn hear_out(&mut self) {
        let _over = self.connection.unasked().await;
        self.connection.give_up();
    }

    /// Says QUIT, if it is the time for it, and waits a moment for the answer.
    pub(super) async fn quit(&mut self) {
        let quit = async {
            self.connection.quit(QUIT_TIMEOUT).await;
            Ok(())
        };
        if self.slot.unless_revoked(quit).await.is_err() {
            self.connection.close();
        }
    }
}

async fn connect(address: SocketAddr, local: Option<IpAddr>, limit: Duration) -> io::Result<Stream> {
    let connected = timeout(limit, Stream::connect(address, local)).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
