//! What the shards of one relay share: the configuration, the resolver, the limits on clients, and the mailboxes
//! through which they are told what to do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use chasqui_protocol::control::{Retry, Target};
use chasqui_runtime::channel::{self, OneshotSender, Receiver, Sender};
use chasqui_transport::tls::ClientTls;

use crate::config::Config;
use crate::credentials::Credentials;
use crate::error::{SetupError, ShardError, TlsError};
use crate::metrics::ShardStats;
use crate::queue::Leases;
use crate::queue::sites::ListedSite;
use crate::queue::suspensions::ListedDomain;
use crate::route::Resolver;
use crate::server;
use crate::spool::MessageId;
use crate::tls;

/// Orders that may wait for a shard.
const ORDERS_MAX: usize = 1024;

/// What a shard can be told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Listen on these addresses; once, at the start.
    Listen(Vec<SocketAddr>),
    /// List a page of the queue from the place `cursor` on.
    List { cursor: usize, reply: OneshotSender<QueuePage> },
    /// Say what was counted.
    Stats { reply: OneshotSender<ShardStats> },
    /// List a page of the sites from the place `cursor` on.
    Sites { cursor: usize, reply: OneshotSender<SitesPage> },
    /// Suspend or resume a domain or site.
    Suspend { target: Target, suspend: bool, reply: OneshotSender<()> },
    /// Try deferred messages now; says how many.
    Retry { flush: Flush, reply: OneshotSender<u64> },
    /// Drain and end.
    Shutdown,
}

/// A page of the queue's listing: finished lines, and where the next page begins.
#[derive(Debug)]
pub(crate) struct QueuePage {
    pub(crate) lines: Vec<u8>,
    pub(crate) entries: u64,
    /// Messages whose envelopes the disk did not give.
    pub(crate) unread: u64,
    pub(crate) next: Option<usize>,
}

/// Sites of one shard, and on the first page the suspended domains.
#[derive(Debug)]
pub(crate) struct SitesPage {
    pub(crate) sites: Vec<ListedSite>,
    pub(crate) domains: Vec<ListedDomain>,
    pub(crate) next: Option<usize>,
    /// The relay's time.
    pub(crate) now_ms: u64,
}

/// What is to be tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Flush {
    All,
    /// By the name that the listing of the sites gives.
    Site(String),
    /// In lower case.
    Domain(String),
    Message(MessageId),
}

/// Why a request to try messages means nothing. Who asked is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlushError {
    #[error("{0:?} is no message id; the relay's 250 and `chasqui spool inspect` give it")]
    NoMessageId(String),
    #[error("name one of site, domain and message, or none for all")]
    Many,
}

impl Flush {
    /// What is meant.
    pub(crate) fn of(request: Retry) -> Result<Flush, FlushError> {
        match request {
            Retry { site: None, domain: None, message: None } => Ok(Flush::All),
            Retry { site: Some(site), domain: None, message: None } => Ok(Flush::Site(site)),
            Retry { site: None, domain: Some(domain), message: None } => {
                Ok(Flush::Domain(domain.to_ascii_lowercase()))
            }
            Retry { site: None, domain: None, message: Some(id) } => match id.parse() {
                Ok(id) => Ok(Flush::Message(id)),
                Err(_) => Err(FlushError::NoMessageId(id)),
            },
            _ => Err(FlushError::Many),
        }
    }
}

/// What a shard reports once: where it listens, or why it cannot.
pub(crate) type Report = (usize, Result<Vec<SocketAddr>, Arc<ShardError>>);

/// Shared by the shards of a relay.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) config: Arc<Config>,
    pub(crate) resolver: Resolver,
    pub(crate) server: Arc<server::Shared>,
    /// Connections that may wait for their acceptance on one socket.
    pub(crate) backlog: u32,
    pub(crate) leases: Arc<Leases>,
    /// Of connections to next hops.
    pub(crate) tls: ClientTls,
    pub(crate) credentials: Arc<Credentials>,
    orders: Vec<Sender<Order>>,
    inboxes: Mutex<Vec<Option<Receiver<Order>>>>,
    reports: Sender<Report>,
}

impl Process {
    /// For `shards` shards; reads certificates.
    pub(crate) fn new(
        config: Config,
        resolver: Resolver,
        shards: usize,
        backlog: u32,
        reports: Sender<Report>,
    ) -> Result<Self, SetupError> {
        let (orders, inboxes) =
            (0..shards).map(|_| channel::bounded(ORDERS_MAX)).unzip::<_, _, Vec<_>, Vec<_>>();
        let delivery = &config.delivery;
        let credentials = config.auth.credentials.as_deref().map(Credentials::read).transpose()?;
        Ok(Process {
            server: Arc::new(server::Shared::new(&config)?),
            tls: tls::of_next_hops(&config)?,
            credentials: Arc::new(credentials.unwrap_or_default()),
            backlog,
            leases: Arc::new(Leases::new(shards, delivery.connections_per_site, delivery.rate_per_site)),
            config: Arc::new(config),
            resolver,
            orders,
            inboxes: Mutex::new(inboxes.into_iter().map(Some).collect()),
            reports,
        })
    }

    /// Reads the certificates of the listeners and the users again. After an error what was there before holds on.
    pub(crate) fn reload(&self) -> Result<(), SetupError> {
        let certificates = self.config.tls.read_certificates().map_err(TlsError::from)?;
        if let (Some(tls), Some(certificates)) = (&self.server.tls, certificates) {
            tls.replace(certificates);
        }
        if let (Some(auth), Some(file)) = (&self.server.auth, &self.config.auth.users) {
            auth.reload(file)?;
        }
        Ok(())
    }

    /// The mailbox of a shard, for the shard alone.
    pub(crate) fn take_orders(&self, shard: usize) -> Option<Receiver<Order>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner).get_mut(shard)?.take()
    }

    pub(crate) fn report(&self, shard: usize, outcome: Result<Vec<SocketAddr>, Arc<ShardError>>) {
        // Nobody listens once another shard has failed to start.
        let _unheard = self.reports.send((shard, outcome));
    }

    /// One mailbox per shard.
    pub(crate) fn shards(&self) -> &[Sender<Order>] {
        &self.orders
    }

    /// Tells every shard but the first.
    pub(crate) fn order_others(&self, order: impl Fn() -> Order) {
        for shard in self.orders.iter().skip(1) {
            // A shard that is gone has reported why.
            let _gone = shard.send(order());
        }
    }

    /// Has every shard drain and end.
    pub(crate) fn shut_down(&self) {
        for shard in &self.orders {
            // Full of other orders or gone: a shard that is gone has ended, and one that lags is told again by the
            // next call.
            let _undelivered = shard.send(Order::Shutdown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flush(text: &str) -> Option<Flush> {
        serde_json::from_str(text).ok().and_then(|request| Flush::of(request).ok())
    }

    /// Proves that a request means one thing, and that a misspelt one does not mean everything.
    #[test]
    fn requests() {
        assert_eq!(flush("{}"), Some(Flush::All));
        assert_eq!(flush(r#"{"domain":"A.Test"}"#), Some(Flush::Domain("a.test".into())));
        assert_eq!(flush(r#"{"site":"10 mx.a.test:25"}"#), Some(Flush::Site("10 mx.a.test:25".into())));
        for wrong in [r#"{"domian":"a.test"}"#, r#"{"site":"a","domain":"b"}"#, r#"{"message":"xyz"}"#] {
            assert_eq!(flush(wrong), None, "{wrong}");
        }
    }
}
