//! Nodes, their processes and shards: how they start and how they end.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::rc::Rc;

use async_task::Runnable;

use super::driver::Driver;
use super::world::{CoreId, NodeId, ProcessId, World};
use crate::channel::{OneshotReceiver, oneshot};
use crate::engine::{Backend, Engine};
use crate::executor::{JoinHandle, Remote};
use crate::shard::{Core, Entered};

/// How a node's process is brought to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kill {
    /// Like kill -9: the kernel closes the sockets; what was written to files stays in the page cache.
    Process,
    /// The machine goes dark: nobody is told, and the disk keeps what was synced and any part of the rest.
    PowerCut,
}

/// What ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Core(CoreId),
    Process(ProcessId, Kill),
}

struct NodeState {
    name: String,
    process: Option<ProcessId>,
    /// Not since a power cut.
    powered: bool,
}

struct SimCore {
    core: Rc<Core>,
    process: ProcessId,
    /// The process ends with this one.
    first: bool,
    main: JoinHandle<()>,
    /// The tasks of the current round; those they wake wait for the next one.
    round: Vec<Runnable>,
}

/// Everything that runs.
#[derive(Default)]
pub(super) struct Nodes {
    nodes: Vec<NodeState>,
    /// Those that are alive, with their nodes.
    processes: BTreeMap<ProcessId, NodeId>,
    cores: BTreeMap<CoreId, SimCore>,
    endings: VecDeque<Ending>,
}

/// A task that has been picked to run.
pub(super) struct Picked {
    pub(super) id: CoreId,
    pub(super) process: ProcessId,
    pub(super) core: Rc<Core>,
    pub(super) task: Runnable,
}

impl World {
    pub(super) fn add_node(&self, name: &str) -> NodeId {
        let mut nodes = self.nodes.borrow_mut();
        nodes.nodes.push(NodeState { name: name.to_owned(), process: None, powered: true });
        self.disks.borrow_mut().push(super::disk::Disk::new(self.options.disk.capacity_bytes));
        nodes.nodes.len() - 1
    }

    pub(super) fn node_name(&self, node: NodeId) -> String {
        self.nodes.borrow().nodes[node].name.clone()
    }

    /// The node whose tasks ran most often, and how often.
    pub(super) fn busiest(&self) -> String {
        let polls = self.polls.borrow();
        let most = polls.iter().max_by_key(|(_, count)| **count);
        most.map_or_else(String::new, |(node, count)| format!("{}, {count} polls", self.node_name(*node)))
    }

    /// Whether a process runs and has not been told to end.
    pub(super) fn is_alive(&self, process: ProcessId) -> bool {
        self.nodes.borrow().processes.contains_key(&process)
    }

    pub(super) fn is_powered(&self, node: NodeId) -> bool {
        self.nodes.borrow().nodes[node].powered
    }

    pub(super) fn process_on(&self, node: NodeId) -> Option<ProcessId> {
        self.nodes.borrow().nodes[node].process
    }

    /// The node of a process that is alive, or of one that has just ended.
    pub(super) fn node_of(&self, process: ProcessId) -> NodeId {
        // A process's number is drawn with its node in the low bits.
        (process % MAX_NODES) as NodeId
    }

    pub(super) fn core(&self, core: CoreId) -> Option<(Rc<Core>, ProcessId)> {
        self.nodes.borrow().cores.get(&core).map(|state| (state.core.clone(), state.process))
    }

    /// Starts a node's process, whose first shard runs `main`. Panics when the node runs.
    pub(super) fn start_process<F, T>(
        self: &Rc<Self>,
        node: NodeId,
        main: F,
    ) -> (ProcessId, OneshotReceiver<T>)
    where
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        assert!((node as u64) < MAX_NODES, "a simulation has at most {MAX_NODES} nodes");
        let process = self.number() * MAX_NODES + node as u64;
        let mut nodes = self.nodes.borrow_mut();
        let state = &mut nodes.nodes[node];
        assert!(state.process.is_none(), "node {} runs already", state.name);
        (state.process, state.powered) = (Some(process), true);
        nodes.processes.insert(process, node);
        drop(nodes);
        (process, self.start_core(process, 0, 1, true, main))
    }

    pub(super) fn start_core<F, T>(
        self: &Rc<Self>,
        process: ProcessId,
        index: usize,
        count: usize,
        first: bool,
        main: F,
    ) -> OneshotReceiver<T>
    where
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (sender, receiver) = oneshot();
        if !self.is_alive(process) {
            return receiver;
        }
        let id = self.number();
        let driver = Driver { world: self.clone(), process, core: id };
        let engine = Engine::new(Backend::Sim(driver));
        let core = Core::new(index, count, engine, Remote::simulated(), self.random());
        let main = core.executor.spawn(async move {
            let _nobody_waits = sender.send(main.await);
        });
        let state = SimCore { core, process, first, main, round: Vec::new() };
        self.nodes.borrow_mut().cores.insert(id, state);
        receiver
    }

    // ---- Running ----------------------------------------------------------------------------------------

    /// Picks a shard that has something to run, and one of its tasks.
    pub(super) fn pick(&self) -> Option<Picked> {
        let mut nodes = self.nodes.borrow_mut();
        let has_work = |core: &SimCore| !core.round.is_empty() || core.core.executor.has_ready();
        let ready = nodes.cores.values().filter(|core| has_work(core)).count();
        if ready == 0 {
            return None;
        }
        let choice = if ready == 1 { 0 } else { self.below(ready as u64) as usize };
        let (id, core) = nodes.cores.iter_mut().filter(|(_, core)| has_work(core)).nth(choice)?;
        if core.round.is_empty() {
            core.round.extend(core.core.executor.take_ready());
        }
        let index = if core.round.len() == 1 { 0 } else { self.below(core.round.len() as u64) as usize };
        let task = core.round.swap_remove(index);
        *self.polls.borrow_mut().entry(self.node_of(core.process)).or_default() += 1;
        self.step(10, id << 32 ^ (core.round.len() as u64) << 16 ^ index as u64);
        Some(Picked { id: *id, process: core.process, core: core.core.clone(), task })
    }

    /// Runs the task that was picked.
    pub(super) fn run(self: &Rc<Self>, picked: Picked) {
        let Picked { id, process, core, task } = picked;
        // SAFETY: the world's loop is inside of no core, and what runs here leaves those that it enters.
        let inside = self.enter(process, id, unsafe { Entered::new(core) });
        task.run();
        drop(inside);
        let mut nodes = self.nodes.borrow_mut();
        if nodes.cores.get(&id).is_some_and(|core| core.main.is_finished()) {
            nodes.endings.push_back(Ending::Core(id));
        }
    }

    /// Wakes what waits for a time that has come; gives the time of the next timer.
    pub(super) fn expire_timers(self: &Rc<Self>) -> Option<u64> {
        let now = self.now();
        let mut next: Option<u64> = None;
        let mut due = Vec::new();
        for core in self.nodes.borrow().cores.values() {
            let mut timers = core.core.timers.borrow_mut();
            timers.start(now);
            if timers.next_wake().is_some_and(|at| at <= now) {
                timers.expire(now, |waker| due.push(waker));
            }
            next = match (next, timers.next_wake()) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        due.into_iter().for_each(std::task::Waker::wake);
        next
    }

    // ---- Ending -----------------------------------------------------------------------------------------

    /// Ends a process: from now on its calls lead to nothing, and as soon as no task runs its futures are
    /// dropped. No harm when it has ended.
    pub(super) fn end_process(&self, process: ProcessId, how: Kill) {
        self.step(11, process << 1 ^ u64::from(how == Kill::PowerCut));
        let mut nodes = self.nodes.borrow_mut();
        let Some(node) = nodes.processes.remove(&process) else { return };
        nodes.nodes[node].process = None;
        nodes.nodes[node].powered = how != Kill::PowerCut;
        // The shards of a dead process are taken apart by `carry_out_endings`.
        nodes.endings.push_back(Ending::Process(process, how));
        drop(nodes);
        self.net_process_ended(process, how);
    }

    /// Takes apart what has ended. Called when no task runs.
    pub(super) fn carry_out_endings(self: &Rc<Self>) {
        loop {
            let Some(ending) = self.nodes.borrow_mut().endings.pop_front() else { return };
            match ending {
                Ending::Core(id) => {
                    let Some((first, process)) =
                        self.nodes.borrow().cores.get(&id).map(|core| (core.first, core.process))
                    else {
                        continue;
                    };
                    if first {
                        // The first shard is the process's main thread: the process exits.
                        self.end_process(process, Kill::Process);
                    } else {
                        self.drop_core(id);
                    }
                }
                Ending::Process(process, how) => {
                    let cores = self.cores_of(process);
                    cores.into_iter().for_each(|core| self.drop_core(core));
                    self.disk_process_ended(process, how);
                }
            }
        }
    }

    fn cores_of(&self, process: ProcessId) -> Vec<CoreId> {
        let nodes = self.nodes.borrow();
        nodes.cores.iter().filter(|(_, core)| core.process == process).map(|(id, _)| *id).collect()
    }

    fn drop_core(self: &Rc<Self>, id: CoreId) {
        let Some(state) = self.nodes.borrow_mut().cores.remove(&id) else { return };
        let SimCore { core, process, main, round, .. } = state;
        // SAFETY: the world's loop is inside of no core, and what runs here leaves those that it enters.
        let _inside = self.enter(process, id, unsafe { Entered::new(core.clone()) });
        drop(round);
        drop(main);
        core.close();
    }

    /// Ends every process; the simulation is over.
    pub(super) fn end_everything(self: &Rc<Self>) {
        let processes: Vec<_> = self.nodes.borrow().processes.keys().copied().collect();
        processes.into_iter().for_each(|process| self.end_process(process, Kill::Process));
        self.carry_out_endings();
        self.forget_events();
    }
}

/// Nodes of a simulation: a process is numbered by its simulation times this, and its node.
const MAX_NODES: u64 = 1 << 16;
