//! What the shards of one relay share: the configuration, the resolver, the limits on clients, and the mailboxes
//! through which they are told what to do.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use chasqui_runtime::mailbox::{self, OneshotSender, Receiver, Sender};

use crate::config::Config;
use crate::control::Page;
use crate::control::sites::SitesPage;
use crate::flush::Flush;
use crate::queue::Leases;
use crate::route::Resolver;
use crate::server;
use crate::stats::ShardStats;
use crate::suspensions::Target;

/// Orders that may wait for a shard.
const ORDERS_MAX: usize = 1024;

/// What a shard can be told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Listen on these addresses; once, at the start.
    Listen(Vec<SocketAddr>),
    /// List a page of the queue from the place `cursor` on.
    List { cursor: usize, reply: OneshotSender<Page> },
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

/// What a shard reports once: where it listens, or why it cannot.
pub(crate) type Report = (usize, Result<Vec<SocketAddr>, String>);

/// Shared by the shards of a relay.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) config: Arc<Config>,
    pub(crate) resolver: Resolver,
    pub(crate) server: Arc<server::Shared>,
    /// Connections that may wait for their acceptance on one socket.
    pub(crate) backlog: u32,
    pub(crate) leases: Arc<Leases>,
    orders: Vec<Sender<Order>>,
    inboxes: Mutex<Vec<Option<Receiver<Order>>>>,
    reports: Sender<Report>,
}

impl Process {
    pub(crate) fn new(
        config: Config,
        resolver: Resolver,
        shards: usize,
        backlog: u32,
        reports: Sender<Report>,
    ) -> Self {
        let (orders, inboxes) =
            (0..shards).map(|_| mailbox::channel(ORDERS_MAX)).unzip::<_, _, Vec<_>, Vec<_>>();
        let delivery = &config.delivery;
        Process {
            server: Arc::new(server::Shared::new(&config)),
            backlog,
            leases: Arc::new(Leases::new(shards, delivery.connections_per_site, delivery.rate_per_site)),
            config: Arc::new(config),
            resolver,
            orders,
            inboxes: Mutex::new(inboxes.into_iter().map(Some).collect()),
            reports,
        }
    }

    /// The mailbox of a shard, for the shard alone.
    pub(crate) fn take_orders(&self, shard: usize) -> Option<Receiver<Order>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner).get_mut(shard)?.take()
    }

    pub(crate) fn report(&self, shard: usize, outcome: Result<Vec<SocketAddr>, String>) {
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
