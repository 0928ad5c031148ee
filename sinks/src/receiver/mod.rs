//! The SMTP receiver: takes the zone's mail, checks its stamp, puts it into mailboxes, tells of its arrival.
//!
//! | file | job |
//! |---|---|
//! | [`connection`] | one client: bytes to events, events to replies |
//! | [`message`] | one message while it comes in: unstuffing, checksum, memory |
//! | [`memory`] | what large messages may hold, and what of it one client
//! | [`senders`] | who may send, where not everybody may |
//! | [`bounce`] | what a delivery status notification says |
//!
//! A message is answered 250 after every recipient's mailbox has it and its arrival records are queued.

mod bounce;
mod connection;
mod memory;
mod message;
mod senders;

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use chasqui_protocol::metrics;
use chasqui_protocol::smtp::server;
use chasqui_runtime::{shard_count, spawn};
use chasqui_transport::smtp_server::TimeLimits;
use chasqui_transport::tls::{HANDSHAKE_LIMIT, ServerTls};
use chasqui_transport::{Acceptor, ConnectionLimiter, Drain, Stream, TaskTracker};
use serde::Serialize;

use crate::arrivals::Arrivals;
use crate::config::Config;
use crate::mailbox::Store;
use crate::zone::Zone;
use memory::Memory;
pub(crate) use senders::Senders;

metrics! {
    /// What a shard's receiver did.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
    pub struct ReceiverStats {
        /// Connections accepted.
        counter connections;
        /// Messages answered 250.
        counter messages;
        /// Recipients of those messages, bounces included.
        counter recipients;
        /// Octets of those messages, as received and unstuffed.
        counter bytes;
        /// Recipients in the bounce zone.
        counter bounces;
        /// Messages whose checksums were not right, or that had none.
        counter not_intact;
        /// Exchanges of AUTH that came to nothing.
        counter refused_logins;
        /// Recipients refused for their address.
        counter refused_recipients;
        /// Messages refused: too large, badly framed, or without room for them.
        counter refused_messages;
        /// Messages that made room for others before anybody had read them.
        counter dropped_unread;
    }
}

/// The receiver of one shard.
pub(crate) struct Receiver {
    config: Arc<Config>,
    zone: Zone,
    /// `None`: messages are discarded.
    store: Option<Arc<Store>>,
    arrivals: Arrivals,
    options: Rc<server::Options>,
    /// For clients on this machine, where there is AUTH.
    options_here: Rc<server::Options>,
    /// None: everybody may send.
    senders: Option<Arc<Senders>>,
    /// None: there is no certificate.
    tls: Option<ServerTls>,
    /// Octets that large messages may hold on this shard.
    memory: Memory,
    time_limits: Rc<TimeLimits>,
    connections: ConnectionLimiter,
    sessions: TaskTracker,
    drain: Drain,
    next_id: Cell<u64>,
    stats: Cell<ReceiverStats>,
}

impl Receiver {
    /// The receiver of this shard.
    pub(crate) fn new(
        config: Arc<Config>,
        store: Option<Arc<Store>>,
        arrivals: Arrivals,
        tls: Option<ServerTls>,
        senders: Option<Arc<Senders>>,
    ) -> Rc<Receiver> {
        let limits = &config.limits;
        let options = server::Options {
            hostname: config.hostname.clone(),
            max_message_size: limits.message_bytes_max,
            max_recipients: limits.recipients_max,
            long_lines: match config.allow_long_lines {
                true => server::LongLines::Allow,
                false => server::LongLines::Refuse,
            },
            early_talkers: match config.allow_early_talkers {
                true => server::EarlyTalkers::Allow,
                false => server::EarlyTalkers::Refuse,
            },
            starttls: tls.is_some(),
            ..server::Options::default()
        };
        let with_auth = |is_here| {
            let auth = senders.as_ref().map(|senders| senders.options(is_here)).unwrap_or_default();
            Rc::new(server::Options { auth, ..options.clone() })
        };
        Rc::new(Receiver {
            options: with_auth(false),
            options_here: with_auth(true),
            senders,
            zone: Zone::new(&config.zone, config.domains),
            store,
            arrivals,
            tls,
            memory: Memory::new(limits.buffered_bytes_max / shard_count()),
            time_limits: Rc::new(TimeLimits {
                idle: limits.idle_timeout,
                message: limits.message_timeout,
                without_mail: Some(limits.without_mail_timeout),
            }),
            connections: ConnectionLimiter::new(limits.connections()),
            sessions: TaskTracker::default(),
            drain: Drain::default(),
            next_id: Cell::new(0),
            stats: Cell::default(),
            config,
        })
    }

    /// Accepts connections until it is dropped; during a shutdown they get 421. `implicit`: they are in TLS from the first octet on.
    pub(crate) async fn serve(self: Rc<Self>, acceptor: Acceptor, implicit: Option<ServerTls>) {
        while let Some(stream) = acceptor.next().await {
            self.clone().admit(&acceptor, stream, implicit.clone());
        }
    }

    /// Ends idle connections, and the others after the transaction they are in.
    pub(crate) fn begin_drain(&self) {
        self.drain.begin();
    }

    /// Waits until no connection is left.
    pub(crate) async fn drained(&self) {
        self.sessions.empty().await;
    }

    /// What happened so far.
    pub(crate) fn stats(&self) -> ReceiverStats {
        self.stats.get()
    }

    fn admit(self: Rc<Self>, acceptor: &Acceptor, mut stream: Stream, implicit: Option<ServerTls>) {
        let Some(peer) = stream.peer_address() else { return };
        let permit = self.connections.enter(peer.ip(), false).ok().filter(|_| !self.drain.has_begun());
        let Some(permit) = permit else {
            let told: &[u8] =
                if implicit.is_some() { b"" } else { b"421 4.3.2 Not accepting connections now\r\n" };
            return acceptor.refuse(stream, told.to_vec());
        };
        self.count(|stats| stats.connections += 1);
        let session = self.sessions.track();
        spawn(async move {
            let served = match &implicit {
                None => connection::serve(stream, peer, &self).await,
                // Few connections stand here at a time; none keeps room for it.
                Some(tls) => match Box::pin(stream.accept_tls(tls, HANDSHAKE_LIMIT, &self.drain)).await {
                    Ok(()) => connection::serve(stream, peer, &self).await,
                    Err(error) => Err(io::Error::other(error)),
                },
            };
            if let Err(error) = served {
                log::debug!("SMTP connection from {peer}: {error}");
            }
            drop((permit, session));
        });
    }

    fn count(&self, change: impl FnOnce(&mut ReceiverStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }
}
