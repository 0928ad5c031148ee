//! What drives a simulation: nodes that are started and killed, partitions, faults of disks, planted faults.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::disk::DiskOperation;
use super::nodes::Kill;
use super::options::DiskFaults;
use super::planted::PlantedFault;
use super::world::{NodeId, World, world};
use crate::channel::OneshotReceiver;

fn here() -> Rc<World> {
    world().expect("this call needs a simulation: make it inside Simulation::run")
}

/// A machine of the simulation: it has a disk, and runs one process at a time. Copies name the same machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Node {
    pub(super) id: NodeId,
}

/// Adds a node that runs nothing yet and whose disk is empty.
pub fn node(name: &str) -> Node {
    Node { id: here().add_node(name) }
}

impl Node {
    /// Starts the node's process: `main` runs on its first shard, which stands for the process's main thread, and
    /// the process ends with it. Panics when the node runs already.
    pub fn start<F, Fut, T>(&self, main: F) -> Process<T>
    where
        F: FnOnce() -> Fut + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (_, result) = here().start_process(self.id, async move { main().await });
        Process { result }
    }

    /// Whether a process runs.
    pub fn is_running(&self) -> bool {
        here().process_on(self.id).is_some()
    }

    /// Brings the node's process to an end at once: its calls lead to nothing any more, and its futures are
    /// dropped before anything else runs. No harm when none runs; a power cut then still costs the disk what was
    /// not synced.
    pub fn kill(&self, how: Kill) {
        let world = here();
        match world.process_on(self.id) {
            Some(process) => world.end_process(process, how),
            None if how == Kill::PowerCut => world.disk_power_cut(self.id),
            None => {}
        }
    }

    /// Operations that the node's disk was asked for so far: reads that may be cold, writes, syncs (begin and end
    /// count each) and changes of directories.
    pub fn disk_operations(&self) -> u64 {
        here().disks.borrow()[self.id].operations
    }

    /// Kills the node just before its disk's operation with this number, counted as [`Node::disk_operations`]
    /// counts.
    pub fn kill_at_disk_operation(&self, number: u64, how: Kill) {
        here().disks.borrow_mut()[self.id].kill_at = Some((number, how));
    }

    /// The disk fails no more: neither by chance nor as planned with [`Node::fail_disk`].
    pub fn heal_disk(&self) {
        here().disks.borrow_mut()[self.id].heal();
    }

    /// From now on the disk fails this often.
    pub fn set_disk_faults(&self, faults: DiskFaults) {
        here().disks.borrow_mut()[self.id].faults = faults;
    }

    /// The next `count` operations of this kind fail with EIO.
    pub fn fail_disk(&self, operation: DiskOperation, count: u32) {
        here().disks.borrow_mut()[self.id].fail(operation, count);
    }

    /// Sets the disk's size. Writes beyond it fail with ENOSPC; what is there stays.
    pub fn set_disk_capacity(&self, bytes: u64) {
        here().disks.borrow_mut()[self.id].set_capacity(bytes);
    }

    /// Bytes of the node's disk that files take.
    pub fn disk_used(&self) -> u64 {
        here().disks.borrow()[self.id].used_bytes()
    }

    /// Removes a file, or a directory with all that is in it, behind the back of the process that runs.
    pub fn remove_all(&self, path: &std::path::Path) {
        here().disks.borrow_mut()[self.id].remove_all(path);
    }

    /// The paths of a directory's entries.
    pub fn list(&self, path: &std::path::Path) -> Vec<std::path::PathBuf> {
        here().disks.borrow()[self.id].list(path)
    }

    /// Sets the node's wall clock so many seconds ahead of the true time, or behind it. Monotonic clocks know nothing of it.
    pub fn set_clock(&self, ahead_s: i64) {
        here().set_wall_clock(self.id, ahead_s);
    }

    /// What a file holds now, page cache included; for the scenario to look at.
    pub fn peek(&self, path: &std::path::Path) -> io::Result<Vec<u8>> {
        here().disks.borrow()[self.id].peek(path)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = world().map(|world| world.node_name(self.id));
        f.debug_struct("Node").field("id", &self.id).field("name", &name).finish()
    }
}

/// The node was killed before its main future was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node was killed")]
pub struct Killed;

/// A node's process. A future of what its main future returns; dropping it lets the process run on.
#[derive(Debug)]
pub struct Process<T> {
    result: OneshotReceiver<T>,
}

impl<T> Future for Process<T> {
    type Output = Result<T, Killed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result).poll(context).map(|result| result.ok_or(Killed))
    }
}

/// Lets no packet through between two nodes, either way, until [`heal`].
pub fn partition(a: &Node, b: &Node) {
    here().net_partition(a.id, b.id);
}

/// Ends a partition: packets that waited arrive, or their connection is reset.
pub fn heal(a: &Node, b: &Node) {
    here().net_heal(a.id, b.id);
}

/// Ends what the network does by itself: no connection is reset by chance any more, and new ones have neither tiny
/// windows nor slow readers. Partitions stay.
pub fn calm() {
    here().net_calm();
}

/// Counts a passage through this place of the code, so that a scenario can tell that it was reached. Does nothing
/// outside of the simulator.
pub fn mark(name: &'static str) {
    if let Some(world) = world() {
        *world.marks.borrow_mut().entry(name).or_default() += 1;
    }
}

/// How often [`mark`] was called with this name in this simulation, by all nodes.
pub fn marks(name: &str) -> u64 {
    here().marks.borrow().get(name).copied().unwrap_or(0)
}

/// Polls and events so far.
pub fn events() -> u64 {
    here().steps()
}

impl PlantedFault {
    /// Whether it is planted here. Always false outside of the simulator.
    pub fn is_planted(self) -> bool {
        world().is_some_and(|world| world.options.planted == Some(self))
    }
}
