//! The simulator below the engines' cut, and the calls of a task that answer at once.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::disk::{DiskWork, FileId};
use super::event::{Event, Op};
use super::handle::{Handle, What};
use super::net::{Address, ByteQueue, Syn};
use super::world::{CoreId, NodeId, ProcessId, World};
use crate::blocking::Job;
use crate::channel::OneshotReceiver;
use crate::descriptor::Descriptor;
use crate::net::ListenOptions;

/// Time from the end of an operation to its completion, in nanoseconds.
pub(super) const COMPLETION_NS: std::ops::Range<u64> = 500..20_000;

/// A shard's way to the simulator.
pub(crate) struct Driver {
    pub(super) world: Rc<World>,
    pub(super) process: ProcessId,
    pub(super) core: CoreId,
}

/// Bytes that a send reads when there is room for them.
pub(crate) struct Outgoing(pub(super) Source);

pub(super) enum Source {
    Bytes(ByteQueue),
    File { node: NodeId, file: FileId, offset: u64, length: usize },
}

impl Outgoing {
    pub(crate) fn bytes(bytes: Vec<u8>) -> Self {
        Self(Source::Bytes(bytes.into()))
    }

    /// Bytes of a mapped file: what the file holds at the moment they are sent.
    pub(crate) fn file(handle: &Handle, offset: u64, length: usize) -> Self {
        let file = handle.file();
        Self(Source::File { node: file.node, file: file.file, offset, length })
    }
}

/// Calls of a process that is being killed lead to nothing.
impl Driver {
    fn op(&self, user_data: u64) -> Option<Op> {
        self.world.is_alive(self.process).then_some(Op { core: self.core, user_data })
    }

    pub(crate) fn send(&self, user_data: u64, socket: &Descriptor, bytes: Vec<Outgoing>) {
        if let Some(op) = self.op(user_data) {
            self.world.net_send(op, socket.simulated().socket_id(), bytes);
        }
    }

    pub(crate) fn connect(&self, user_data: u64, socket: &Descriptor, address: &socket2::SockAddr) {
        let Some(op) = self.op(user_data) else { return };
        let target = match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => Address::Tcp(address),
            (None, Some(path)) => Address::Unix(path.to_owned()),
            (None, None) => unreachable!("the facade knows IP addresses and paths"),
        };
        self.world.net_connect(Syn { op, socket: socket.simulated().socket_id(), target, attempts: 0 });
    }

    pub(crate) fn receive(&self, user_data: u64, socket: &Descriptor) {
        if let Some(op) = self.op(user_data) {
            self.world.net_arm_receive(op, socket.simulated().socket_id());
        }
    }

    pub(crate) fn accept(&self, user_data: u64, socket: &Descriptor) {
        if let Some(op) = self.op(user_data) {
            self.world.net_arm_accept(op, socket.simulated().socket_id());
        }
    }

    pub(crate) fn read(&self, user_data: u64, file: &Descriptor, offset: u64, length: usize) {
        self.disk(user_data, DiskWork::Read { file: file.simulated().file(), offset, length });
    }

    pub(crate) fn write(&self, user_data: u64, file: &Descriptor, offset: u64, bytes: Vec<u8>) {
        self.disk(user_data, DiskWork::Write { file: file.simulated().file(), offset, bytes });
    }

    pub(crate) fn allocate(&self, user_data: u64, file: &Descriptor, offset: u64, length: u64) {
        self.disk(user_data, DiskWork::Allocate { file: file.simulated().file(), offset, length });
    }

    pub(crate) fn sync(&self, user_data: u64, file: &Descriptor) {
        if let Some(op) = self.op(user_data) {
            self.world.start_sync(op, file.simulated().file());
        }
    }

    pub(crate) fn cancel(&self, user_data: u64) {
        if let Some(op) = self.op(user_data) {
            self.world.schedule(self.world.between(&COMPLETION_NS), Event::Cancel(op));
        }
    }

    fn disk(&self, user_data: u64, work: DiskWork) {
        if let Some(op) = self.op(user_data) {
            let delay = self.world.micros(&self.world.options.disk.operation_us);
            self.world.schedule(delay, Event::Disk(op, self.process, work));
        }
    }
}

/// The shard a call comes from.
pub(crate) struct Here {
    pub(super) world: Rc<World>,
    pub(super) process: ProcessId,
    pub(super) core: CoreId,
}

/// The shard a call comes from, when this thread runs a simulation.
pub(crate) fn here() -> Option<Here> {
    let world = super::world::world()?;
    Some(world.here().expect("calls of the facade come from tasks and blocking work, which belong to a node"))
}

impl Here {
    /// An error once the process is being killed.
    pub(super) fn check(&self) -> io::Result<()> {
        if self.world.is_alive(self.process) {
            Ok(())
        } else {
            Err(io::Error::other("the process has ended"))
        }
    }

    pub(super) fn node(&self) -> NodeId {
        self.world.node_of(self.process)
    }

    pub(crate) fn process_number(&self) -> u32 {
        1000 + self.process as u32
    }

    pub(crate) fn new_socket(&self, local: Option<IpAddr>) -> io::Result<Descriptor> {
        self.check()?;
        let socket = self.world.net_new_socket(self.process, local);
        Ok(Descriptor::Sim(Handle::socket(self.world.id, socket)))
    }

    pub(crate) fn listen_tcp(
        &self,
        address: SocketAddr,
        options: &ListenOptions,
    ) -> io::Result<(Descriptor, SocketAddr)> {
        self.check()?;
        let (socket, address) = self.world.net_listen_tcp(self.process, address, options)?;
        Ok((Descriptor::Sim(Handle::socket(self.world.id, socket)), address))
    }

    pub(crate) fn listen_unix(&self, path: &Path) -> io::Result<Descriptor> {
        self.check()?;
        let socket = self.world.net_listen_unix(self.process, path)?;
        Ok(Descriptor::Sim(Handle::socket(self.world.id, socket)))
    }

    /// Runs a job of [`crate::spawn_blocking()`] some time later.
    pub(crate) fn spawn_blocking(&self, job: Job) {
        if self.check().is_ok() {
            let delay = self.world.between(&(5_000..200_000));
            self.world.schedule(delay, Event::Job(self.process, self.core, job));
        }
    }

    /// Starts shards of this node's process.
    pub(crate) fn start_shards<F, Fut, T>(&self, count: usize, main: F) -> Vec<OneshotReceiver<T>>
    where
        F: Fn() -> Fut + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let main = Rc::new(main);
        (0..count)
            .map(|index| {
                let main = main.clone();
                self.world.start_core(self.process, index, count, false, async move { main().await })
            })
            .collect()
    }

    pub(super) fn handle(&self, what: What) -> Arc<Handle> {
        Handle::new(&self.world, what)
    }
}

/// Our address and the peer's.
pub(crate) fn addresses(handle: &Handle, peer: Option<SocketAddr>) -> io::Result<(SocketAddr, SocketAddr)> {
    let world = handle.world().ok_or(io::ErrorKind::NotConnected)?;
    world.net_addresses(handle.socket_id(), peer)
}

/// Whether bytes have come that a receive would give.
pub(crate) fn has_unread(handle: &Handle) -> bool {
    handle.world().is_some_and(|world| world.net_has_unread(handle.socket_id()))
}

/// Says that nothing more will be sent.
pub(crate) fn shut_down(handle: &Handle) {
    if let Some(world) = handle.world() {
        world.net_shut_down(handle.socket_id());
    }
}

/// Removes the file of a listening Unix socket.
pub(crate) fn unlink_unix(handle: &Handle, path: &Path) {
    if let Some(world) = handle.world() {
        world.net_unlink(handle.socket_id(), path);
    }
}
