//! The state of one simulation: clock, randomness, events to come, nodes, network and disks.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BinaryHeap};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use super::EPOCH;
use super::disk::Disk;
use super::driver::Here;
use super::event::{Event, Scheduled};
use super::net::Net;
use super::nodes::Nodes;
use super::options::Options;
use crate::rng::SeededRng;
use crate::shard::Entered;

/// Numbers a node.
pub(super) type NodeId = usize;
/// Numbers a process: a node from one start to its end.
pub(super) type ProcessId = u64;
/// Numbers a shard. Never used again, like every number below.
pub(super) type CoreId = u64;

/// Virtual time at which every simulation begins, in nanoseconds: some time after the machine's start.
const START_NS: u64 = 1_000_000_000_000;

/// Everything a simulation consists of. One thread, so every borrow is short and none spans a call into tasks.
pub(crate) struct World {
    pub(super) id: u64,
    pub(super) options: Options,
    pub(super) nodes: RefCell<Nodes>,
    pub(super) net: RefCell<Net>,
    pub(super) disks: RefCell<Vec<Disk>>,
    /// The network does no harm of its own any more.
    pub(super) calm: Cell<bool>,
    pub(super) marks: RefCell<BTreeMap<&'static str, u64>>,
    map_seed: u64,
    clock: Cell<u64>,
    /// By how many seconds the wall clocks of nodes are ahead, where they are wrong.
    wall_ahead_s: RefCell<BTreeMap<NodeId, i64>>,
    rng: RefCell<SeededRng>,
    trace: Cell<u64>,
    steps: Cell<u64>,
    /// Polls by node.
    pub(super) polls: RefCell<BTreeMap<NodeId, u64>>,
    numbers: Cell<u64>,
    events: RefCell<BinaryHeap<Scheduled>>,
    current: Cell<Option<(ProcessId, CoreId)>>,
}

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
    /// The clock of WORLD, 0 when there is none: what the real engines look at, so it must be cheap.
    static CLOCK: Cell<u64> = const { Cell::new(0) };
    /// Simulations this thread has begun: a handle that outlives its simulation must not meet the next one.
    static BEGUN: Cell<u64> = const { Cell::new(0) };
}

/// The virtual clock, when this thread runs a simulation.
#[inline]
pub(crate) fn virtual_now() -> Option<u64> {
    match CLOCK.try_with(Cell::get) {
        Ok(0) | Err(_) => None,
        Ok(nanos) => Some(nanos),
    }
}

/// The wall clock of the node that runs now, when the virtual clock stands at `nanos`.
pub(crate) fn virtual_wall_clock(nanos: u64) -> Duration {
    let right = EPOCH + Duration::from_nanos(nanos);
    let ahead_s = WORLD.with_borrow(|world| {
        let world = world.as_ref()?;
        if world.wall_ahead_s.borrow().is_empty() {
            return None;
        }
        let node = world.node_of(world.current.get()?.0);
        world.wall_ahead_s.borrow().get(&node).copied()
    });
    match ahead_s.unwrap_or(0) {
        ahead @ 0.. => right + Duration::from_secs(ahead.unsigned_abs()),
        behind => right.saturating_sub(Duration::from_secs(behind.unsigned_abs())),
    }
}

/// The simulation that this thread runs.
pub(super) fn world() -> Option<Rc<World>> {
    virtual_now()?;
    WORLD.with_borrow(Clone::clone)
}

/// Seed of the hash maps, when this thread runs a simulation.
pub(crate) fn map_seed() -> Option<u64> {
    world().map(|world| world.map_seed)
}

/// Keeps a world reachable for the thread.
pub(super) struct Installed(());

impl Drop for Installed {
    fn drop(&mut self) {
        CLOCK.set(0);
        let world = WORLD.take();
        drop(world);
    }
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> Rc<Self> {
        let mut rng = SeededRng::new(seed);
        let id = BEGUN.get() + 1;
        BEGUN.set(id);
        Rc::new(Self {
            id,
            options,
            nodes: RefCell::default(),
            net: RefCell::default(),
            disks: RefCell::default(),
            calm: Cell::new(false),
            marks: RefCell::default(),
            map_seed: rng.next_u64(),
            clock: Cell::new(START_NS),
            wall_ahead_s: RefCell::default(),
            rng: RefCell::new(rng),
            trace: Cell::new(seed),
            steps: Cell::new(0),
            polls: RefCell::default(),
            numbers: Cell::new(0),
            events: RefCell::default(),
            current: Cell::new(None),
        })
    }

    pub(super) fn install(self: &Rc<Self>) -> Installed {
        assert!(virtual_now().is_none(), "a simulation cannot run inside another");
        WORLD.set(Some(self.clone()));
        CLOCK.set(self.clock.get());
        Installed(())
    }

    // ---- Time and chance --------------------------------------------------------------------------------

    pub(super) fn now(&self) -> u64 {
        self.clock.get()
    }

    /// Moves the clock forward.
    pub(super) fn advance_to(&self, nanos: u64) {
        let nanos = nanos.max(self.clock.get());
        self.clock.set(nanos);
        CLOCK.set(nanos);
    }

    pub(super) fn set_wall_clock(&self, node: NodeId, ahead_s: i64) {
        self.wall_ahead_s.borrow_mut().insert(node, ahead_s);
    }

    pub(super) fn elapsed_ns(&self) -> u64 {
        self.clock.get() - START_NS
    }

    pub(super) fn below(&self, bound: u64) -> u64 {
        self.rng.borrow_mut().below(bound)
    }

    pub(super) fn between(&self, range: &Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// The window of a connection, in bytes.
    pub(super) fn window(&self) -> u64 {
        let bytes = &self.options.network.window_bytes;
        self.between(&(bytes.start as u64..bytes.end as u64))
    }

    /// A time drawn from a range of microseconds, in nanoseconds.
    pub(super) fn micros(&self, range: &Range<u64>) -> u64 {
        self.between(&(range.start * 1000..range.end * 1000))
    }

    pub(super) fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.rng.borrow_mut().unit() < probability
    }

    pub(super) fn random(&self) -> u64 {
        self.rng.borrow_mut().next_u64()
    }

    /// A number that nothing else in this simulation has.
    pub(super) fn number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    // ---- The trace --------------------------------------------------------------------------------------

    /// Counts a step and mixes it into the trace: two runs with one trace have taken the same steps.
    pub(super) fn step(&self, kind: u64, value: u64) {
        self.steps.set(self.steps.get() + 1);
        for word in [kind, value, self.clock.get()] {
            let mixed = (self.trace.get() ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            self.trace.set(mixed ^ (mixed >> 29));
        }
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }

    pub(super) fn trace(&self) -> u64 {
        self.trace.get()
    }

    // ---- Events -----------------------------------------------------------------------------------------

    /// Has `event` happen `delay_ns` from now; events of one instant happen in the order of these calls.
    pub(super) fn schedule(&self, delay_ns: u64, event: Event) {
        self.schedule_at(self.now() + delay_ns, event);
    }

    pub(super) fn schedule_at(&self, at: u64, event: Event) {
        let scheduled = Scheduled { at, order: self.number(), event };
        self.events.borrow_mut().push(scheduled);
    }

    pub(super) fn next_event_at(&self) -> Option<u64> {
        self.events.borrow().peek().map(|scheduled| scheduled.at)
    }

    /// The next event that is due.
    pub(super) fn take_due_event(&self) -> Option<Event> {
        let mut events = self.events.borrow_mut();
        if events.peek()?.at > self.now() {
            return None;
        }
        events.pop().map(|scheduled| scheduled.event)
    }

    /// Drops every event; called when the simulation is over.
    pub(super) fn forget_events(&self) {
        let events = self.events.take();
        drop(events);
    }

    // ---- Where we are -----------------------------------------------------------------------------------

    /// The shard whose task runs now, or whose work a helper thread does.
    pub(super) fn here(self: &Rc<Self>) -> Option<Here> {
        let (process, core) = self.current.get()?;
        Some(Here { world: self.clone(), process, core })
    }

    /// Makes a shard the current one until the guard is dropped.
    pub(super) fn enter(self: &Rc<Self>, process: ProcessId, core: CoreId, entered: Entered) -> Inside {
        let outer = self.current.replace(Some((process, core)));
        Inside { world: self.clone(), outer, _entered: entered }
    }
}

/// Keeps a shard the current one.
pub(super) struct Inside {
    world: Rc<World>,
    outer: Option<(ProcessId, CoreId)>,
    _entered: Entered,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.world.current.set(self.outer);
    }
}
