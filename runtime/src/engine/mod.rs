//! Engines under the facade. The cut is low: receive, send, accept, connect, read, write, sync and the wait
//! for the next event; timers, tasks, leases and everything else above it is shared code.

mod operations;
pub(crate) mod uring;

use std::fmt;
use std::io;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use crate::descriptor::Descriptor;
use crate::net::{AcceptQueue, ReceiveQueue, VectoredSend};
use crate::sim;
pub(crate) use operations::{Completion, Key, Operation, Resources};
use operations::{Kind, Operations};

/// The engine of one shard: the operations in flight, and what carries them out.
pub(crate) struct Engine {
    operations: Operations,
    backend: Backend,
}

/// What stands below the cut.
#[expect(
    clippy::large_enum_variant,
    reason = "one per shard, behind the shard's Rc, and the large one is the hot one"
)]
pub(crate) enum Backend {
    Uring(uring::Driver),
    Sim(sim::Driver),
}

impl Engine {
    pub(crate) fn new(backend: Backend) -> Self {
        Self { operations: Operations::default(), backend }
    }

    pub(crate) fn operations(&self) -> &Operations {
        &self.operations
    }

    /// Sends `bytes[from..]`; the result is how many bytes left.
    pub(crate) fn send(&self, socket: &Descriptor, bytes: Vec<u8>, from: usize) -> Operation {
        match &self.backend {
            Backend::Uring(driver) => {
                let entry = uring::send(socket.raw(), &bytes[from..]);
                self.submit(driver, entry, socket, Resources::Bytes(bytes))
            }
            Backend::Sim(driver) => {
                let copy = sim::Outgoing::bytes(bytes[from..].to_vec());
                let operation = self.operations.once(Resources::Bytes(bytes), socket);
                driver.send(operation.user_data(), socket, vec![copy]);
                operation
            }
        }
    }

    /// Sends the window of bytes that `message` points to.
    pub(crate) fn send_vectored(&self, socket: &Descriptor, mut message: Box<VectoredSend>) -> Operation {
        match &self.backend {
            Backend::Uring(driver) => {
                message.aim();
                let entry = uring::send_vectored(socket.raw(), &message);
                self.submit(driver, entry, socket, Resources::Vectored(message))
            }
            Backend::Sim(driver) => {
                let window = message.outgoing();
                let operation = self.operations.once(Resources::Vectored(message), socket);
                driver.send(operation.user_data(), socket, window);
                operation
            }
        }
    }

    pub(crate) fn connect(&self, socket: &Descriptor, address: socket2::SockAddr) -> Operation {
        match &self.backend {
            Backend::Uring(driver) => {
                let address = Box::new(address);
                let entry = uring::connect(socket.raw(), &address);
                self.submit(driver, entry, socket, Resources::Address { _kept: address })
            }
            Backend::Sim(driver) => {
                let operation = self.operations.once(Resources::None, socket);
                driver.connect(operation.user_data(), socket, &address);
                operation
            }
        }
    }

    /// Reads into the spare capacity of `buffer` behind its length; the caller adds the result to the length.
    pub(crate) fn read_at(&self, file: &Descriptor, mut buffer: Vec<u8>, offset: u64) -> Operation {
        match &self.backend {
            Backend::Uring(driver) => {
                let entry = uring::read(file.raw(), &mut buffer, offset);
                self.submit(driver, entry, file, Resources::Bytes(buffer))
            }
            Backend::Sim(driver) => {
                let length = buffer.capacity() - buffer.len();
                let operation = self.operations.once(Resources::Bytes(buffer), file);
                driver.read(operation.user_data(), file, offset, length);
                operation
            }
        }
    }

    /// Writes `bytes[from..]` at `offset`.
    pub(crate) fn write_at(&self, file: &Descriptor, bytes: Vec<u8>, from: usize, offset: u64) -> Operation {
        match &self.backend {
            Backend::Uring(driver) => {
                let entry = uring::write(file.raw(), &bytes[from..], offset);
                self.submit(driver, entry, file, Resources::Bytes(bytes))
            }
            Backend::Sim(driver) => {
                let copy = bytes[from..].to_vec();
                let operation = self.operations.once(Resources::Bytes(bytes), file);
                driver.write(operation.user_data(), file, offset, copy);
                operation
            }
        }
    }

    /// Writes the groups one behind the other at `offset` and then syncs, each when the one before has completed.
    #[cfg(feature = "append-paths")]
    pub(crate) fn write_then_sync(
        &self,
        file: &Descriptor,
        groups: Vec<Vec<u8>>,
        mut offset: u64,
    ) -> (Vec<Operation>, Operation) {
        let Backend::Uring(driver) = &self.backend else {
            unreachable!("only files of the operating system are written by chains")
        };
        let (mut chain, mut writes) = (Vec::new(), Vec::new());
        for group in groups {
            let (entry, length) = (uring::write(file.raw(), &group, offset), group.len() as u64);
            let operation = self.operations.once(Resources::Bytes(group), file);
            chain.push(entry.user_data(operation.user_data()));
            writes.push(operation);
            offset += length;
        }
        let sync = self.operations.once(Resources::None, file);
        chain.push(uring::sync_data(file.raw()).user_data(sync.user_data()));
        driver.push_chain(chain);
        (writes, sync)
    }

    /// fdatasync.
    pub(crate) fn sync_data(&self, file: &Descriptor) -> Operation {
        match &self.backend {
            Backend::Uring(driver) => {
                self.submit(driver, uring::sync_data(file.raw()), file, Resources::None)
            }
            Backend::Sim(driver) => {
                let operation = self.operations.once(Resources::None, file);
                driver.sync(operation.user_data(), file);
                operation
            }
        }
    }

    pub(crate) fn allocate(&self, file: &Descriptor, offset: u64, length: u64) -> Operation {
        match &self.backend {
            Backend::Uring(driver) => {
                self.submit(driver, uring::allocate(file.raw(), offset, length), file, Resources::None)
            }
            Backend::Sim(driver) => {
                let operation = self.operations.once(Resources::None, file);
                driver.allocate(operation.user_data(), file, offset, length);
                operation
            }
        }
    }

    /// Arms a receive whose pieces go to `queue`.
    pub(crate) fn receive(&self, socket: &Descriptor, queue: Rc<ReceiveQueue>) -> Key {
        match &self.backend {
            Backend::Uring(driver) => driver.receive(&self.operations, socket, queue),
            Backend::Sim(driver) => {
                let key = self.operations.insert(Kind::Receive(queue), socket);
                driver.receive(key.user_data(), socket);
                key
            }
        }
    }

    /// Arms an accept whose connections go to `queue`.
    pub(crate) fn accept(&self, socket: &Descriptor, queue: Rc<AcceptQueue>) -> Key {
        let key = self.operations.insert(Kind::Accept(queue), socket);
        match &self.backend {
            Backend::Uring(driver) => driver.push(uring::accept(socket.raw()), key.user_data()),
            Backend::Sim(driver) => driver.accept(key.user_data(), socket),
        }
        key
    }

    /// Asks for the end of an operation; it still completes on its own.
    pub(crate) fn cancel(&self, key: Key) {
        match &self.backend {
            Backend::Uring(driver) => driver.cancel(key),
            Backend::Sim(driver) => driver.cancel(key.user_data()),
        }
    }

    /// Takes what has completed, without waiting.
    pub(crate) fn poll(&self) {
        match &self.backend {
            Backend::Uring(driver) => driver.poll(&self.operations),
            Backend::Sim(_) => unreachable!("the simulator's own loop completes operations"),
        }
    }

    /// Waits for a completion, for `limit` at most.
    pub(crate) fn wait(&self, limit: Option<Duration>) {
        match &self.backend {
            Backend::Uring(driver) => driver.wait(&self.operations, limit),
            Backend::Sim(_) => unreachable!("the simulator's own loop waits"),
        }
    }

    /// Ends every operation.
    pub(crate) fn close(&self) {
        match &self.backend {
            Backend::Uring(driver) => driver.close(&self.operations),
            Backend::Sim(_) => drop(self.operations.take_all()),
        }
    }

    fn submit(
        &self,
        driver: &uring::Driver,
        entry: io_uring::squeue::Entry,
        descriptor: &Descriptor,
        resources: Resources,
    ) -> Operation {
        let operation = self.operations.once(resources, descriptor);
        driver.push(entry, operation.user_data());
        operation
    }
}

/// Which engine the shards of a process run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// io_uring, directly on its ring (Linux 6.1 and later).
    #[default]
    Uring,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uring => f.write_str("uring"),
        }
    }
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "uring" => Ok(Self::Uring),
            other => Err(format!("no engine is called {other:?}; this build has: uring")),
        }
    }
}

/// What the kernel lacks for an engine, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ProbeError(pub(crate) String);

impl ProbeError {
    pub(crate) fn from_setup(error: io::Error) -> Self {
        let mend = match error.raw_os_error() {
            Some(libc::ENOSYS) => {
                "the kernel has no io_uring, or a seccomp rule hides it: use Linux 6.1 or \
                                   later and allow io_uring_setup, io_uring_enter and io_uring_register"
            }
            Some(libc::EPERM | libc::EACCES) => {
                "io_uring is switched off: set the sysctl kernel.io_uring_disabled to 0, or allow it in the \
                 seccomp or LSM policy"
            }
            Some(libc::EINVAL) => "the kernel lacks SINGLE_ISSUER and DEFER_TASKRUN: Linux 6.1 brings them",
            Some(libc::ENOMEM) => "locked memory is exhausted: raise ulimit -l to 8192 KiB or more",
            Some(libc::EMFILE | libc::ENFILE) => "no file descriptor is left: raise ulimit -n",
            _ => "see io_uring_setup(2)",
        };
        Self(format!("cannot set up io_uring: {error}; {mend}"))
    }
}

/// Checks on the calling thread that the kernel has what `kind` needs.
pub(crate) fn probe(kind: EngineKind) -> Result<(), ProbeError> {
    match kind {
        EngineKind::Uring => uring::probe::check(),
    }
}
