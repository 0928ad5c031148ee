//! One seed from its start to its judgement.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chasqui_loadgen::Rate;
use chasqui_runtime::sim::{self, Kill, Node, Simulation};
use chasqui_runtime::{Instant, channel, now, sleep, sleep_until, spawn};

use crate::addresses::{SLACK, domain_of};
use crate::oracle::Key;
use crate::plan::{Fault, MESSAGES_MIN, Plan, Watch};
use crate::programs::{self, Loaded, ProgramError};
use crate::proxies::{self, Proxies};
use crate::supervisor::{CAPACITY, Supervisor};

/// Pause between two looks at the relay's queue.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Time for the last states to become durable.
const QUIET: Duration = Duration::from_secs(10);
/// How long nothing is to do at the end, and the steps that may take: timers that were set before still run out.
const IDLE: Duration = Duration::from_secs(10 * 3600);
const IDLE_EVENTS_MAX: u64 = 2_000;
/// Violations of a kind that are told.
const TOLD_MAX: usize = 3;

/// What a seed came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Messages that the load generator has sent.
    pub(crate) messages: u64,
    /// Recipients that were answered 250.
    pub(crate) accepted: u64,
    pub(crate) verified: u64,
    pub(crate) bounced: u64,
    /// Copies beyond the first, with or without cause.
    pub(crate) duplicated: u64,
    /// Times that the relay died.
    pub(crate) crashes: u64,
    /// Segments that the spool took into use again.
    pub(crate) recycled: u64,
    /// Operations of the relay's disk until its queue was empty.
    pub(crate) disk_operations: u64,
    /// What took the mail that is watched from being due to its receiver.
    pub(crate) delays: Vec<Duration>,
    pub(crate) trace: u64,
    pub(crate) events: u64,
    pub(crate) elapsed: Duration,
    /// What breaks the promise, or the frame of the test. One line each.
    pub(crate) violations: Vec<String>,
}

impl Outcome {
    /// Something is not as was promised.
    pub(crate) fn is_broken(&self) -> bool {
        !self.violations.is_empty()
    }
}

/// Plays a seed. Panics of the code under test go on to the caller.
pub(crate) fn run(plan: Plan) -> Outcome {
    log::debug!("{plan:?}");
    let simulation = Simulation::new(plan.seed, plan.options.clone());
    match simulation.run(move || World::of(plan).run()) {
        Ok(run) => Outcome { trace: run.trace, events: run.events, elapsed: run.elapsed, ..run.value },
        Err(failure) => Outcome { violations: vec![failure.to_string()], ..Outcome::default() },
    }
}

/// The nodes of a simulation.
struct World {
    plan: Rc<Plan>,
    proxies: Rc<Proxies>,
    supervisor: Rc<Supervisor>,
    sinks: Node,
    load: Node,
    proxy_nodes: Vec<Node>,
    violations: RefCell<Vec<String>>,
}

impl World {
    fn of(plan: Plan) -> Rc<World> {
        let plan = Rc::new(plan);
        let proxies = Rc::new(Proxies {
            oracle: RefCell::default(),
            domains: plan.domains.clone(),
            trouble: plan.trouble,
            habits: plan.habits.clone(),
            reply_limit: plan.reply_limit,
            connections: Cell::new(0),
            start: Cell::new(None),
            calm: Arc::default(),
        });
        Rc::new(World {
            supervisor: Supervisor::new(sim::node("relay"), plan.clone(), proxies.clone()),
            sinks: sim::node("sinks"),
            load: sim::node("load"),
            proxy_nodes: (0..plan.proxies).map(|_| sim::node("proxy")).collect(),
            violations: RefCell::default(),
            plan,
            proxies,
        })
    }

    fn violate(&self, what: impl Into<String>) {
        self.violations.borrow_mut().push(what.into());
    }

    async fn run(self: Rc<Self>) -> Outcome {
        let (ready, is_ready) = channel::oneshot();
        let shards = self.plan.sinks;
        drop(self.sinks.start(move || programs::sinks(shards, ready)));
        if is_ready.await.is_none() {
            self.violate("the sinks could not be started");
        }
        for proxy in 0..self.proxy_nodes.len() {
            self.start_proxy(proxy);
        }
        spawn(self.supervisor.clone().supervise());
        if !self.supervisor.up().await {
            self.violate("the relay could not be started");
        }
        let start = now();
        self.proxies.start.set(Some(start));
        let (scenario, generators, sinks) = (self.plan.load.clone(), self.plan.generators, self.plan.sinks);
        let load = self.load.start(move || programs::load(scenario, generators, sinks));
        for (at, fault) in &self.plan.faults {
            sleep_until(start + *at).await;
            spawn(self.clone().happen(*fault));
        }
        sleep_until(start + self.plan.calm_after).await;
        self.calm_down().await;
        let loaded = load.await.unwrap_or_else(|killed| Err(killed.into()));
        let window_end = start + self.plan.load.duration;
        self.drain(window_end + self.plan.age_max + SLACK * 2).await;
        let disk_operations = self.supervisor.node.disk_operations();
        self.come_back().await;
        Outcome { disk_operations, ..self.judge(loaded) }
    }

    fn start_proxy(&self, proxy: usize) {
        if !self.proxy_nodes[proxy].is_running() {
            let (proxies, addresses) = (self.proxies.clone(), proxies::addresses(&self.plan, proxy));
            drop(self.proxy_nodes[proxy].start(move || proxies::serve(proxies, addresses)));
        }
    }

    async fn happen(self: Rc<Self>, fault: Fault) {
        log::info!("{fault:?}");
        let relay = self.supervisor.node;
        match fault {
            Fault::Crash { how, down } => self.supervisor.crash(how, down),
            Fault::CrashAtDisk { operations, how, down } => {
                self.supervisor.set_down(down);
                self.supervisor.crash_at(operations, how);
            }
            Fault::Restart { down } => self.restart(down).await,
            Fault::ProxyCrash { proxy, how, down } => {
                let from = now();
                self.proxy_nodes[proxy].kill(how);
                sleep(down).await;
                self.proxies.oracle.borrow_mut().doubt(from, now());
                self.start_proxy(proxy);
            }
            Fault::ProxyPartition { proxy, lasts } => {
                let from = now();
                sim::partition(&relay, &self.proxy_nodes[proxy]);
                sleep(lasts).await;
                sim::heal(&relay, &self.proxy_nodes[proxy]);
                self.proxies.oracle.borrow_mut().doubt(from, now());
            }
            Fault::LoadPartition { lasts } => {
                sim::partition(&relay, &self.load);
                sleep(lasts).await;
                sim::heal(&relay, &self.load);
            }
            Fault::DiskFailure { operation, count, lasts } => {
                let from = now();
                self.supervisor.impair();
                relay.fail_disk(operation, count);
                sleep(lasts).await;
                self.still_impaired(from);
                self.restart(lasts).await;
            }
            Fault::DiskFailures { faults, lasts } => {
                let harms = faults.write > 0.0 || faults.sync > 0.0;
                if harms {
                    self.supervisor.impair();
                }
                let from = now();
                relay.set_disk_faults(faults);
                sleep(lasts).await;
                relay.heal_disk();
                self.proxies.oracle.borrow_mut().doubt(from, now());
                if harms {
                    self.still_impaired(from);
                    self.restart(lasts).await;
                }
            }
            Fault::DiskFull { left, lasts } => self.fill_disk(left, lasts).await,
            Fault::FullStart { how, left, lasts } => {
                self.supervisor.crash(how, Duration::ZERO);
                self.fill_disk(left, lasts).await;
            }
            Fault::Clock { ahead_s, dies } => {
                if dies {
                    self.supervisor.crash(Kill::Process, Duration::from_millis(10));
                }
                relay.set_clock(ahead_s);
            }
        }
    }

    /// The relay's disk has room for `left` bytes more, for so long.
    async fn fill_disk(&self, left: u64, lasts: Duration) {
        let (relay, from) = (self.supervisor.node, now());
        relay.set_disk_capacity(relay.disk_used() + left);
        sleep(lasts).await;
        relay.set_disk_capacity(CAPACITY);
        self.proxies.oracle.borrow_mut().excuse(from, now());
    }

    /// The relay may have been started again while its disk failed.
    fn still_impaired(&self, from: Instant) {
        self.proxies.oracle.borrow_mut().excuse(from, now());
        self.supervisor.impair();
    }

    async fn restart(&self, down: Duration) {
        if !self.supervisor.restart(down).await {
            self.violate("the relay does not end when it is told to");
        }
    }

    /// Ends the trouble: what can heal does.
    async fn calm_down(&self) {
        self.supervisor.calm.set(true);
        self.proxies.calm.store(true, Ordering::Relaxed);
        sim::calm();
        self.supervisor.crash_no_more();
        self.supervisor.node.heal_disk();
        self.supervisor.node.set_disk_capacity(CAPACITY);
        for proxy in 0..self.proxy_nodes.len() {
            sim::heal(&self.supervisor.node, &self.proxy_nodes[proxy]);
            self.start_proxy(proxy);
        }
        sim::heal(&self.supervisor.node, &self.load);
        self.supervisor.set_down(Duration::ZERO);
        // One that is just starting may have sealed its spool by now.
        let mut is_up = self.supervisor.up().await;
        if self.supervisor.is_impaired() {
            self.restart(Duration::ZERO).await;
            is_up = self.supervisor.up().await;
        }
        if !is_up {
            self.violate("the relay could not be started after the trouble");
        }
    }

    /// Waits until the relay's queue is empty.
    async fn drain(&self, deadline: Instant) {
        loop {
            let queued = programs::queued().await;
            match queued {
                Ok(0) => return,
                _ if now() < deadline => sleep(LOOK_AGAIN).await,
                Ok(count) => {
                    return self
                        .violate(format!("stuck: {count} recipients are queued long after the age limit"));
                }
                Err(error) => return self.violate(format!("the relay does not list its queue: {error}")),
            }
        }
    }

    /// Cuts the power when everything is over: nothing may come back.
    async fn come_back(&self) {
        sleep(QUIET).await;
        self.supervisor.crash(Kill::PowerCut, Duration::ZERO);
        sleep(Duration::from_millis(1)).await;
        if !self.supervisor.up().await {
            return self.violate("the relay could not be started after the end");
        }
        match programs::queued().await {
            Ok(0) => {}
            Ok(count) => return self.violate(format!("{count} recipients that were done with came back")),
            Err(error) => {
                return self.violate(format!("the relay does not list its queue after the end: {error}"));
            }
        }
        let before = sim::events();
        sleep(IDLE).await;
        let events = sim::events() - before;
        if events > IDLE_EVENTS_MAX {
            self.violate(format!("{events} events while nothing was to do: something does not rest"));
        }
    }

    fn judge(&self, loaded: Result<Loaded, ProgramError>) -> Outcome {
        let mut violations = self.violations.take();
        let recycled = sim::marks("segment-recycled");
        let oracle = self.proxies.oracle.borrow();
        let (mut duplicates, mut bounces) = (Vec::new(), Vec::new());
        let duplicated = oracle.duplicates(&mut duplicates);
        let is_doomed =
            |recipient: &str| domain_of(recipient).is_none_or(|number| self.plan.domains[number].is_doomed());
        oracle.check_bounces(is_doomed, &mut bounces);
        let (mut refusals, mut waits) = (Vec::new(), Vec::new());
        oracle.check_refusals(&mut refusals);
        oracle.check_waits(&mut waits);
        for kind in [duplicates, bounces, refusals, waits] {
            violations.extend(kind.into_iter().take(TOLD_MAX));
        }
        if recycled < self.plan.recycled_min {
            violations.push(format!("only {recycled} segments were recycled"));
        }
        let mut outcome = Outcome {
            duplicated,
            recycled,
            crashes: self.supervisor.crashes.get().saturating_sub(1),
            ..Outcome::default()
        };
        match loaded {
            Ok(loaded) => {
                outcome.messages = loaded.ledger.sent / self.plan.load.recipients_per_message.mean() as u64;
                outcome.accepted = loaded.ledger.accepted;
                outcome.verified = loaded.ledger.verified;
                outcome.bounced = loaded.ledger.bounced;
                check_ledger(&loaded, outcome.messages, &mut violations);
                if let (Some(watch), Some(begun)) = (&self.plan.watch, loaded.begun) {
                    outcome.delays = self.delays(watch, begun, &mut violations);
                }
            }
            Err(error) => violations.push(format!("the load generator failed: {error}")),
        }
        Outcome { violations, ..outcome }
    }
}

impl World {
    /// The delays of the mail that is watched. Adds those that are too long to `violations`.
    fn delays(&self, watch: &Watch, begun: Instant, violations: &mut Vec<String>) -> Vec<Duration> {
        let Rate::PerSecond(rate) = self.plan.load.rate else { return Vec::new() };
        let oracle = self.proxies.oracle.borrow();
        let (mut delays, mut late) = (Vec::new(), Vec::new());
        for (Key { sequence, recipient }, at) in oracle.arrivals() {
            let is_slow = |number| watch.treated.host(number).is_some_and(|host| host.slow.is_some());
            if watch.treated.treatment(*sequence).is_some() || domain_of(recipient).is_some_and(is_slow) {
                continue;
            }
            let delay = at - (begun + Duration::from_secs_f64(*sequence as f64 / rate));
            if watch.delay_max.is_some_and(|most| delay > most) {
                late.push(format!("kept waiting: message {sequence} to {recipient}, for {delay:?}"));
            }
            delays.push(delay);
        }
        violations.extend(late.into_iter().take(TOLD_MAX));
        delays
    }
}

fn check_ledger(loaded: &Loaded, messages: u64, violations: &mut Vec<String>) {
    let ledger = &loaded.ledger;
    for (count, what) in [
        (ledger.lost, "lost"),
        (ledger.corrupted, "changed"),
        (ledger.pending, "still queued or unread at the end"),
        (ledger.phantom, "never sent and yet arrived"),
    ] {
        if count > 0 {
            violations.push(format!("{count} recipients {what}"));
        }
    }
    if !violations.is_empty() {
        let samples = loaded.notes.iter().filter(|note| note.contains(": message ")).take(TOLD_MAX).cloned();
        violations.extend(samples);
    }
    if !ledger.adds_up() {
        violations.push("the ledger does not add up".into());
    }
    if !loaded.relay_answered {
        violations.push("the relay did not list its queue for the ledger".into());
    }
    if messages < MESSAGES_MIN {
        violations.push(format!("only {messages} messages were sent"));
    }
}
