//! One shard of the relay: what its tasks share, its start, and its end.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use chasqui_protocol::smtp::server;
use chasqui_runtime::mailbox::Receiver;
use chasqui_runtime::sync::{Notify, Semaphore};
use chasqui_runtime::{HashMap, HashSet, Instant, spawn, timeout};

use crate::clock::{Clock, Past};
use crate::config::{BareNewlines, Class, Config, EarlyTalkers, LongLines, NulOctets};
use crate::dispatch::Waiting;
use crate::envelopes::SpareEnvelopes;
use crate::listen::{self, Listeners};
use crate::metrics::{Counters, ShardStats};
use crate::peers::rates::Rates;
use crate::peers::space::Space;
use crate::pressure::Memory;
use crate::process::{Order, Process};
use crate::queue::messages::Overdue;
use crate::queue::{ConnectionLimits, Leases, Queue};
use crate::route::{RouteConfig, Router};
use crate::spool::{Durability, MessageId, Spool, SpoolConfig};
use crate::suspend::Suspended;
use crate::{admin, attend, bounce, dispatch};

/// What the tasks of a shard share.
pub(crate) struct Shard {
    pub(crate) config: Arc<Config>,
    pub(crate) session_options: Rc<server::Options>,
    pub(crate) spool: Rc<Spool>,
    pub(crate) router: Router,
    pub(crate) queue: RefCell<Queue>,
    /// Jobs that wait for the route of a domain.
    pub(crate) waiting: RefCell<HashMap<Rc<str>, Vec<Waiting>>>,
    /// Messages that the spool has recovered and that are not yet in the queue.
    pub(crate) unqueued: Cell<usize>,
    /// What the spool has recovered is on its way into the queue.
    pub(crate) refilling: Census,
    /// A timer was set that may be the next one due.
    pub(crate) timer_set: Notify,
    /// A message was queued.
    pub(crate) filled: Notify,
    /// Sites wait for connections that others hold.
    pub(crate) held_up: Notify,
    pub(crate) leases: Arc<Leases>,
    /// Messages with a notification for which the spool had no room.
    pub(crate) short_of_room: RefCell<HashSet<MessageId>>,
    /// By which mail ages.
    pub(crate) clock: Clock,
    pub(crate) past: RefCell<Past>,
    /// Permits to have a notification in memory.
    pub(crate) composing: Semaphore,
    /// What the watchdog found last.
    pub(crate) overdue: Cell<Overdue>,
    /// When the log was told last that connections could not be opened for lack of something.
    pub(crate) lacked: Cell<Option<Instant>>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) rates: Arc<Rates>,
    /// What peers hold of the spool for messages on their way.
    pub(crate) space: Rc<Space>,
    pub(crate) envelopes: SpareEnvelopes,
    pub(crate) counters: Counters,
    pub(crate) listeners: Census,
    /// Connections that are being told that they are not served.
    pub(crate) refusals: Census,
    pub(crate) sessions: Census,
    pub(crate) deliveries: Census,
    draining: Cell<bool>,
    pub(crate) drain_begins: Notify,
    /// Deliveries that are still under way are cut off.
    pub(crate) drain_ends: Notify,
}

impl Shard {
    /// The relay is ending: nothing new is begun.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Messages in the queue, and on their way into it.
    pub(crate) fn queued(&self) -> usize {
        self.queue.borrow().messages.len() + self.unqueued.get()
    }

    pub(crate) fn stats(&self) -> ShardStats {
        self.spool.look();
        let (accepted, accepted_recipients) = self.counters.accepted();
        let spool = self.spool.stats();
        let queue = self.queue.borrow();
        ShardStats {
            accepted,
            accepted_recipients,
            delivered: self.counters.delivered.sum(),
            deferred: self.counters.deferred.sum(),
            bounced: self.counters.bounced.sum(),
            expired: self.counters.expired.sum(),
            notifications: self.counters.notifications.sum(),
            lost_replies: self.counters.lost_replies.sum(),
            overdue: self.overdue.get().jobs,
            oldest_unattended_s: u64::from(self.overdue.get().oldest_s),
            recovering: self.unqueued.get() as u64,
            queued: self.queued() as u64,
            queued_recipients: queue.messages.open_recipients(),
            sites: queue.sites.len() as u64,
            sessions: self.sessions.count() as u64,
            connections: queue.sites.connections() as u64,
            connections_made: self.counters.connections_made.sum(),
            syncs: spool.syncs,
            synced_messages: spool.synced_messages,
            appended_bytes: spool.bytes,
            states: spool.states,
            segments_live: spool.segments_live,
            segments_free: spool.segments_free,
            segments_recycled: spool.recycled,
            segments_cleaned: spool.cleaned,
            copied_bytes: spool.copied_bytes,
            live_bytes: spool.live_bytes,
            used_bytes: spool.used_bytes,
            in_flight: spool.inflight_bytes,
            in_memory: spool.in_memory,
            in_memory_octets: spool.in_memory_bytes,
            route_cache: self.router.stats(),
            sealed: self.spool.sealed().map(|why| why.to_string()),
        }
    }
}

/// Counts the tasks of a kind, and tells when the last has ended.
#[derive(Clone, Default)]
pub(crate) struct Census(Rc<CensusState>);

#[derive(Default)]
struct CensusState {
    count: Cell<usize>,
    gone: Notify,
}

/// Keeps a task counted in a [`Census`].
pub(crate) struct Guard {
    census: Census,
    on_drop: Option<Box<dyn FnOnce()>>,
}

impl Census {
    pub(crate) fn enter(&self) -> Guard {
        self.0.count.set(self.0.count.get() + 1);
        Guard { census: self.clone(), on_drop: None }
    }

    pub(crate) fn count(&self) -> usize {
        self.0.count.get()
    }

    pub(crate) async fn empty(&self) {
        while self.count() > 0 {
            self.0.gone.notified().await;
        }
    }
}

impl Guard {
    /// Does something more when the task ends.
    pub(crate) fn and(mut self, on_drop: impl FnOnce() + 'static) -> Guard {
        self.on_drop = Some(Box::new(on_drop));
        self
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let state = &self.census.0;
        state.count.set(state.count.get() - 1);
        if state.count.get() == 0 {
            state.gone.notify_all();
        }
        if let Some(on_drop) = self.on_drop.take() {
            on_drop();
        }
    }
}

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
                self.process.report(self.shard, Err(format!("shard {} panicked", self.shard)));
            }
            self.process.shut_down();
        }
    }
}

/// Runs a shard until it is told to end. Errors are one line each.
pub(crate) async fn run(process: Arc<Process>) -> Result<(), String> {
    let index = chasqui_runtime::shard();
    let Some(mut orders) = process.take_orders(index) else {
        return Err("the shard was started twice".into());
    };
    let mut watch = Watch { process: process.clone(), shard: index, reported: false };
    let started = start(&process, index, &mut orders).await;
    watch.reported = true;
    let (shard, listeners, suspended) = match started {
        Ok(started) => started,
        Err(error) => {
            process.report(index, Err(error.clone()));
            return Err(error);
        }
    };
    for listener in listeners.smtp {
        spawn(listen::accept(shard.clone(), process.clone(), listener, shard.listeners.enter()));
    }
    if let Some(listener) = listeners.control {
        spawn(admin::serve(process.clone(), listener, suspended));
    }
    spawn(dispatch::timers(shard.clone()));
    spawn(dispatch::relieve(shard.clone()));
    spawn(dispatch::room(shard.clone()));
    spawn(attend::attend(shard.clone()));
    if let Some(bell) = shard.leases.take_bell(index) {
        spawn(dispatch::calls(shard.clone(), bell));
    }
    while let Some(order) = orders.recv().await {
        if matches!(order, Order::Shutdown) {
            break;
        }
        admin::answer(&shard, order);
    }
    drain(&shard, &mut orders).await
}

async fn start(
    process: &Process,
    index: usize,
    orders: &mut Receiver<Order>,
) -> Result<(Rc<Shard>, Listeners, Suspended), String> {
    let config = process.config.clone();
    let (spool, recovery) =
        Spool::open(spool_config(&config, index)).await.map_err(|error| error.to_string())?;
    for line in &recovery.report {
        log::warn!("spool of shard {index}: {line}");
    }
    let (clock, past) = Past::load(&config.spool.directory, config.retry.max_age).await;
    let suspended = Suspended::load(&config.spool.directory).await?;
    let listeners = listen::bind(process, index, orders).await?;
    let shares = |total: usize| (total / chasqui_runtime::shard_count()).max(1);
    let limits = ConnectionLimits {
        per_site: config.delivery.connections_per_site,
        total: shares(config.delivery.connections),
    };
    let shard = Rc::new(Shard {
        session_options: Rc::new(session_options(&config)),
        spool,
        router: Router::new(route_config(&config, &listeners.addresses), process.resolver.clone()),
        queue: RefCell::new(Queue::new(limits, process.leases.clone(), index)),
        waiting: RefCell::default(),
        unqueued: Cell::new(recovery.queued.len()),
        refilling: Census::default(),
        timer_set: Notify::new(),
        filled: Notify::new(),
        held_up: Notify::new(),
        leases: process.leases.clone(),
        short_of_room: RefCell::default(),
        clock,
        past: RefCell::new(past),
        composing: Semaphore::new(bounce::COMPOSING_MAX),
        overdue: Cell::default(),
        lacked: Cell::default(),
        memory: process.memory.clone(),
        rates: process.rates.clone(),
        space: Rc::default(),
        envelopes: SpareEnvelopes::default(),
        counters: Counters::default(),
        listeners: Census::default(),
        refusals: Census::default(),
        sessions: Census::default(),
        deliveries: Census::default(),
        draining: Cell::new(false),
        drain_begins: Notify::new(),
        drain_ends: Notify::new(),
        config,
    });
    for (domain, address) in shard.router.static_loops().iter().filter(|_| index == 0) {
        log::warn!("routes: mail for {domain} goes to {address}, where this relay itself listens");
    }
    let recovered = recovery.queued.len();
    if recovered > 0 {
        log::info!("shard {index}: {recovered} messages recovered from the spool");
    }
    for target in suspended.targets() {
        shard.suspend(&target, true);
    }
    let counted = (shard.refilling.enter(), shard.deliveries.enter());
    spawn(dispatch::refill(shard.clone(), recovery.queued, counted));
    process.report(index, Ok(listeners.addresses.clone()));
    Ok((shard, listeners, suspended))
}

/// Ends: no new connections, messages being received are finished, deliveries under way too, the spool is flushed.
async fn drain(shard: &Rc<Shard>, orders: &mut Receiver<Order>) -> Result<(), String> {
    shard.draining.set(true);
    shard.drain_begins.notify_all();
    shard.queue.borrow_mut().sites.call_all();
    let ended = async {
        shard.listeners.empty().await;
        shard.refusals.empty().await;
        shard.sessions.empty().await;
        shard.deliveries.empty().await;
    };
    let answering = async {
        // The control socket goes on answering, so that a listing that has begun is finished.
        while let Some(order) = orders.recv().await {
            admin::answer(shard, order);
        }
        std::future::pending().await
    };
    let limit = shard.config.limits.drain;
    if timeout(limit, futures_lite::future::or(ended, answering)).await.is_err() {
        let (sessions, deliveries) = (shard.sessions.count(), shard.deliveries.count());
        log::warn!("{sessions} sessions and {deliveries} deliveries were cut off after {limit:?}");
        // What hears a reply from now on could not record it.
        shard.drain_ends.notify_all();
        let _stays = timeout(limit, shard.deliveries.empty()).await;
    }
    shard.spool.close().await.map_err(|error| format!("the spool could not be flushed: {error}"))
}

fn spool_config(config: &Config, index: usize) -> SpoolConfig {
    let shards = chasqui_runtime::shard_count();
    let mut spool = SpoolConfig::new(config.spool.directory.clone(), index, shards);
    spool.class = match config.spool.class {
        Class::Synced => Durability::Synced,
        Class::Buffered => Durability::Buffered,
        Class::Memory => Durability::Memory,
    };
    spool.segment_size = config.spool.segment_size.0;
    spool.max_space = (config.spool.space.0 / shards as u64).max(spool.segment_size * 4);
    spool.max_inflight_bytes = usize::try_from(config.limits.in_flight.0).unwrap_or(usize::MAX);
    spool.residents.bytes = usize::try_from(config.spool.memory.0).unwrap_or(usize::MAX);
    spool
}

fn session_options(config: &Config) -> server::Options {
    server::Options {
        hostname: config.hostname.as_str().to_owned(),
        max_message_size: config.limits.message_size.0,
        max_recipients: config.limits.recipients,
        max_errors: config.limits.errors,
        max_junk: config.limits.junk,
        bare_newline: match config.compat.bare_newlines {
            BareNewlines::Refuse => server::BareNewline::Refuse,
            BareNewlines::Repair => server::BareNewline::Repair,
        },
        long_lines: match config.compat.long_lines {
            LongLines::Refuse => server::LongLines::Refuse,
            LongLines::Allow => server::LongLines::Allow,
        },
        nul_octets: match config.compat.nul_octets {
            NulOctets::Refuse => server::NulOctets::Refuse,
            NulOctets::Repair => server::NulOctets::Repair,
            NulOctets::Allow => server::NulOctets::Allow,
        },
        early_talkers: match config.compat.early_talkers {
            EarlyTalkers::Refuse => server::EarlyTalkers::Refuse,
            EarlyTalkers::Allow => server::EarlyTalkers::Allow,
        },
        // Who sends no notifications must not promise them.
        dsn: config.bounce.enabled,
        ..server::Options::default()
    }
}

fn route_config(config: &Config, listen: &[SocketAddr]) -> RouteConfig {
    RouteConfig {
        static_routes: config.routes.clone(),
        port: config.delivery.port,
        own_names: vec![config.hostname.as_str().to_owned()],
        own_addresses: listen.to_vec(),
        interfaces: chasqui_runtime::net::interface_addresses,
        ..RouteConfig::default()
    }
}
