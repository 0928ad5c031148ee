//! Keeps the relay running: starts its process, and starts it again when it has died or was told to end.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use chasqui_relay::{Config, Placement, Stopper};
use chasqui_runtime::sim::{Kill, Node};
use chasqui_runtime::sync::Notify;
use chasqui_runtime::{EngineKind, Instant, now, rng, sleep, timeout};

use crate::addresses::SLACK;
use crate::names::names;
use crate::plan::Plan;
use crate::programs::ProgramError;
use crate::proxies::Proxies;

/// A relay that could not be started is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);
/// Space on the disk when it is not full.
pub(crate) const CAPACITY: u64 = 1 << 40;

/// The relay of a simulation.
pub(crate) struct Supervisor {
    pub(crate) node: Node,
    plan: Rc<Plan>,
    proxies: Rc<Proxies>,
    /// While it is ready.
    stopper: RefCell<Option<Stopper>>,
    changed: Notify,
    /// How long it is down after its next end.
    down: Cell<Duration>,
    /// A write or sync may have failed since it was started.
    impaired_since: Cell<Option<Instant>>,
    pub(crate) crashes: Cell<u64>,
    /// The trouble is over: nothing more is planned.
    pub(crate) calm: Cell<bool>,
}

impl Supervisor {
    pub(crate) fn new(node: Node, plan: Rc<Plan>, proxies: Rc<Proxies>) -> Rc<Supervisor> {
        Rc::new(Supervisor {
            node,
            plan,
            proxies,
            stopper: RefCell::default(),
            changed: Notify::new(),
            down: Cell::new(Duration::ZERO),
            impaired_since: Cell::new(None),
            crashes: Cell::new(0),
            calm: Cell::new(false),
        })
    }

    /// Keeps it running for good.
    pub(crate) async fn supervise(self: Rc<Self>) {
        let mut shards = self.plan.shards;
        if let Some((operation, how)) = self.plan.crash {
            self.crash_at(operation, how);
        }
        loop {
            let supervisor = self.clone();
            let ended = self.node.start(move || supervisor.relay(shards)).await;
            *self.stopper.borrow_mut() = None;
            self.changed.notify_all();
            if let Some(since) = self.impaired_since.take() {
                self.proxies.oracle.borrow_mut().excuse(since, now());
            }
            let pause = match ended {
                Err(_killed) => {
                    self.crashes.set(self.crashes.get() + 1);
                    self.proxies.oracle.borrow_mut().excuse(now(), now());
                    self.down.take()
                }
                Ok(Err(error)) => {
                    log::info!("the relay ended: {error}");
                    AGAIN
                }
                Ok(Ok(())) => self.down.take(),
            };
            sleep(pause).await;
            if !self.calm.get() {
                if rng().unit() < self.plan.other_shards {
                    shards = 1 + rng().below(3) as usize;
                }
                if rng().unit() < self.plan.crash_at_start {
                    self.crash_at(1 + rng().below(40), Kill::PowerCut);
                }
            }
        }
    }

    async fn relay(self: Rc<Self>, shards: usize) -> Result<(), ProgramError> {
        let config = Config::parse(&self.plan.relay, Path::new("relay.toml"))?;
        let placement = Placement { engine: EngineKind::Uring, cores: (0..shards).collect() };
        let running = chasqui_relay::launch(config, placement, names(&self.proxies)).await?;
        *self.stopper.borrow_mut() = Some(running.stopper());
        self.changed.notify_all();
        running.ended().await?;
        Ok(())
    }

    pub(crate) fn is_up(&self) -> bool {
        self.stopper.borrow().is_some()
    }

    /// Waits until it is ready. `false`: that takes too long.
    pub(crate) async fn up(&self) -> bool {
        let ready = async {
            while !self.is_up() {
                self.changed.notified().await;
            }
        };
        timeout(SLACK, ready).await.is_ok()
    }

    /// Kills it; it is started again after `down`.
    pub(crate) fn crash(&self, how: Kill, down: Duration) {
        self.down.set(down);
        self.node.kill(how);
    }

    /// Has it be killed `operations` operations of its disk from now.
    pub(crate) fn crash_at(&self, operations: u64, how: Kill) {
        self.node.kill_at_disk_operation(self.node.disk_operations() + operations, how);
    }

    /// Forgets what [`Supervisor::crash_at`] has planned.
    pub(crate) fn crash_no_more(&self) {
        self.node.kill_at_disk_operation(u64::MAX, Kill::Process);
    }

    pub(crate) fn set_down(&self, down: Duration) {
        self.down.set(down);
    }

    /// A write or sync of its disk may fail from now on.
    pub(crate) fn impair(&self) {
        if self.impaired_since.get().is_none() {
            self.impaired_since.set(Some(now()));
        }
    }

    pub(crate) fn is_impaired(&self) -> bool {
        self.impaired_since.get().is_some()
    }

    /// Tells it to end and waits until it has. `false`: it does not end, and was killed.
    pub(crate) async fn restart(&self, down: Duration) -> bool {
        self.down.set(down);
        let stopper = self.stopper.borrow().clone();
        let Some(stopper) = stopper else { return true };
        let from = now();
        stopper.shutdown();
        let ended = async {
            while self.is_up() {
                self.changed.notified().await;
            }
        };
        let ended = timeout(SLACK, ended).await.is_ok();
        self.proxies.oracle.borrow_mut().doubt(from, now());
        if !ended {
            self.crash(Kill::Process, down);
        }
        ended
    }
}
