//! The life of a shard: its start, and its end.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use chasqui_runtime::channel::Receiver;
use chasqui_runtime::net::{TcpListener, UnixListener};
use chasqui_runtime::sync::{Notify, Semaphore};
use chasqui_runtime::{spawn, timeout};
use chasqui_transport::{Acceptor, Drain, TaskTracker};

use crate::clock::Past;
use crate::config::Config;
use crate::context::Context;
use crate::error::ShardError;
use crate::metrics::Counters;
use crate::process::{Order, Process};
use crate::queue::envelope_pool::EnvelopePool;
use crate::queue::{ConnectionLimits, Queue};
use crate::route::{RouteConfig, Router};
use crate::server::{Server, listener};
use crate::spool::{Spool, SpoolConfig};
use crate::suspensions::Suspended;
use crate::{admin, delivery, dsn, suspensions};

/// Ends the other shards, and the wait for this one, when this one panics.
struct Watch {
    process: Arc<Process>,
    shard: usize,
    reported: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            if !self.reported {
                self.process.report(self.shard, Err(ShardError::Panicked(self.shard).into()));
            }
            self.process.shut_down();
        }
    }
}

/// What a shard listens on.
struct Listeners {
    smtp: Vec<TcpListener>,
    /// As bound: ports chosen by the kernel filled in.
    addresses: Vec<SocketAddr>,
    /// On the first shard, where one is configured.
    control: Option<UnixListener>,
}

/// Runs a shard until it is told to end. Errors are one line each.
pub(crate) async fn run(process: Arc<Process>) -> Result<(), Arc<ShardError>> {
    let index = chasqui_runtime::shard();
    let Some(mut orders) = process.take_orders(index) else {
        return Err(ShardError::Twice.into());
    };
    let mut watch = Watch { process: process.clone(), shard: index, reported: false };
    let started = start(&process, index, &mut orders).await;
    watch.reported = true;
    let (context, listeners, suspended) = match started {
        Ok(started) => started,
        Err(error) => {
            let error = Arc::new(error);
            process.report(index, Err(error.clone()));
            return Err(error);
        }
    };
    let server = Server::start(context.clone(), process.server.clone(), listeners.smtp);
    if let Some(listener) = listeners.control {
        spawn(admin::serve(process.clone(), Acceptor::unix(listener), suspended));
    }
    while let Some(order) = orders.recv().await {
        if matches!(order, Order::Shutdown) {
            break;
        }
        admin::answer(&context, order);
    }
    drain(&context, &server, &mut orders).await.map_err(Arc::new)
}

async fn start(
    process: &Process,
    index: usize,
    orders: &mut Receiver<Order>,
) -> Result<(Rc<Context>, Listeners, Suspended), ShardError> {
    let config = process.config.clone();
    let (spool, recovery) = Spool::open(spool_config(&config, index)).await?;
    for line in &recovery.report {
        log::warn!("spool of shard {index}: {line}");
    }
    let (clock, past) = Past::load(&config.spool.directory, config.retry.max_age).await;
    let suspended = Suspended::load(&config.spool.directory).await?;
    let listeners = bind(process, index, orders).await?;
    let shares = |total: usize| (total / chasqui_runtime::shard_count()).max(1);
    let limits = ConnectionLimits {
        per_site: config.delivery.connections_per_site,
        total: shares(config.delivery.connections),
    };
    let context = Rc::new(Context {
        spool,
        router: Router::new(route_config(&config, &listeners.addresses), process.resolver.clone()),
        queue: RefCell::new(Queue::new(limits, process.leases.clone(), index)),
        unqueued: Cell::new(recovery.queued.len()),
        refilling: TaskTracker::default(),
        clock,
        past: RefCell::new(past),
        tls: process.tls.clone(),
        credentials: process.credentials.clone(),
        client_keys: RefCell::default(),
        composing: Semaphore::new(dsn::COMPOSING_MAX),
        overdue: Cell::default(),
        lacked: Cell::default(),
        envelopes: EnvelopePool::default(),
        counters: Counters::default(),
        sessions: TaskTracker::default(),
        deliveries: TaskTracker::default(),
        drain: Drain::default(),
        drain_ends: Notify::new(),
        config,
    });
    for (domain, address) in context.router.static_loops().iter().filter(|_| index == 0) {
        log::warn!("routes: mail for {domain} goes to {address}, where this relay itself listens");
    }
    let recovered = recovery.queued.len();
    if recovered > 0 {
        log::info!("shard {index}: {recovered} messages recovered from the spool");
    }
    for target in suspended.targets() {
        suspensions::apply(&mut context.queue.borrow_mut(), &target, true);
    }
    delivery::start(&context, &process.leases, recovery.queued);
    process.report(index, Ok(listeners.addresses.clone()));
    Ok((context, listeners, suspended))
}

/// Binds the shard's sockets, whose ports the start has claimed. The first shard picks the ports that are 0, the others take the
/// same ones.
async fn bind(
    process: &Process,
    index: usize,
    orders: &mut Receiver<Order>,
) -> Result<Listeners, ShardError> {
    let wanted = if index == 0 {
        process.config.listeners().iter().map(|listener| listener.address).collect()
    } else {
        loop {
            match orders.recv().await {
                Some(Order::Listen(addresses)) => break addresses,
                Some(Order::Shutdown) | None => return Err(ShardError::Other),
                Some(_) => {}
            }
        }
    };
    let smtp = listener::bind(&wanted, process.backlog)?;
    let addresses: Vec<SocketAddr> = smtp.iter().map(TcpListener::local_addr).collect();
    let mut control = None;
    if index == 0 {
        if let Some(path) = &process.config.control.socket {
            let bound = UnixListener::bind_when_free(path).await;
            let fault = |error| ShardError::Control { path: path.clone(), error };
            control = Some(bound.map_err(fault)?);
        }
        process.order_others(|| Order::Listen(addresses.clone()));
    }
    Ok(Listeners { smtp, addresses, control })
}

/// Ends: no new connections, messages being received are finished, deliveries under way too, the spool is flushed.
async fn drain(
    context: &Rc<Context>,
    server: &Server,
    orders: &mut Receiver<Order>,
) -> Result<(), ShardError> {
    context.drain.begin();
    context.queue.borrow_mut().sites.call_all();
    let ended = async {
        server.ended().await;
        context.deliveries.empty().await;
    };
    let answering = async {
        // The control socket goes on answering, so that a listing that has begun is finished.
        while let Some(order) = orders.recv().await {
            admin::answer(context, order);
        }
        std::future::pending().await
    };
    let limit = context.config.limits.drain;
    if timeout(limit, futures_lite::future::or(ended, answering)).await.is_err() {
        let (sessions, deliveries) = (context.sessions.count(), context.deliveries.count());
        log::warn!("{sessions} sessions and {deliveries} deliveries were cut off after {limit:?}");
        // What hears a reply from now on could not record it.
        context.drain_ends.notify_all();
        let _stays = timeout(limit, context.deliveries.empty()).await;
    }
    context.spool.close().await.map_err(|error| ShardError::Flush(error.to_string()))
}

fn spool_config(config: &Config, index: usize) -> SpoolConfig {
    let shards = chasqui_runtime::shard_count();
    let mut spool = SpoolConfig::new(config.spool.directory.clone(), index, shards);
    spool.class = config.spool.class;
    spool.segment_size = config.spool.segment_size.0;
    spool.max_space = (config.spool.space.0 / shards as u64).max(spool.segment_size * 4);
    spool.max_inflight_bytes = usize::try_from(config.limits.in_flight.0).unwrap_or(usize::MAX);
    spool.write_back.bytes = usize::try_from(config.spool.memory.0).unwrap_or(usize::MAX);
    spool
}

fn route_config(config: &Config, listen: &[SocketAddr]) -> RouteConfig {
    RouteConfig {
        static_routes: config.routes.clone(),
        port: config.delivery.port,
        own_names: vec![config.hostname.as_str().to_owned()],
        own_addresses: listen.to_vec(),
        interfaces: chasqui_runtime::net::interface_addresses,
        tls: config.tls.policy,
        tls_of_domains: config.tls.domains.clone(),
        ..RouteConfig::default()
    }
}
