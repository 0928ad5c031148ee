//! Engines under the facade. The cut is low: receive, send, accept, connect, read, write, sync and the wait
//! for the next event; timers, tasks, leases and everything else above it is shared code.

mod choice;
mod glommio;
mod operations;
pub(crate) mod uring;

use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use crate::descriptor::Descriptor;
use crate::net::{AcceptQueue, Parts, PostQueue, ReceiveQueue};
use crate::process::locked_memory_max;
use crate::sim;
use crate::time::now;
pub use choice::{EngineChoice, EngineKind, UnknownEngine};
pub(crate) use operations::{Completion, Key, Operation, Resources};
use operations::{Kind, Operations};

/// How long an ending shard waits for its last operations.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);
/// How long a start waits for memory that may be locked, and how long between two looks.
const LOCKED_WITHIN: Duration = Duration::from_secs(10);
const LOCKED_PAUSE: Duration = Duration::from_millis(20);

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
    Glommio(glommio::Driver),
    Sim(sim::Driver),
}

impl Backend {
    /// An engine of the kernel for the calling thread, which must be the shard's own, one of `shards` of the process. Other
    /// threads ring `bell`.
    pub(crate) fn new(kind: EngineKind, bell: RawFd, shards: usize) -> Result<Self, ProbeError> {
        match kind {
            EngineKind::Uring => uring::Driver::new(bell, shards).map(Self::Uring),
            EngineKind::Glommio => glommio::Driver::new(bell, shards).map(Self::Glommio),
        }
    }
}

/// What a turn of the shard's loop leaves to be done.
pub(crate) enum Next {
    /// There is more to do at once.
    Turn,
    /// Nothing until something completes or the bell rings, or until this time has passed.
    Wait(Option<Duration>),
    /// The shard ends.
    End,
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
                // SAFETY: the entry points into the bytes.
                unsafe { self.submit(driver, entry, socket, Resources::Bytes(bytes)) }
            }
            Backend::Glommio(driver) => {
                let outgoing = glommio::Outgoing::bytes(&bytes[from..]);
                let operation = self.operations.once(Resources::Bytes(bytes), socket);
                // SAFETY: the operation's slot owns the bytes.
                unsafe { driver.send(&self.operations, operation.user_data(), socket, outgoing) };
                operation
            }
            Backend::Sim(driver) => {
                let copy = sim::Outgoing::bytes(bytes[from..].to_vec());
                let operation = self.operations.once(Resources::Bytes(bytes), socket);
                driver.send(operation.user_data(), socket, vec![copy]);
                operation
            }
        }
    }

    /// Sends `bytes[from..]`; `queue` is told the key first, and then the result.
    pub(crate) fn post(&self, socket: &Descriptor, queue: Rc<PostQueue>, bytes: Vec<u8>, from: usize) {
        let insert = |bytes| {
            let key = self.operations.insert(Kind::Post(queue.clone(), bytes, from), socket);
            queue.begun(key);
            key.user_data()
        };
        match &self.backend {
            Backend::Uring(driver) => {
                let entry = uring::send(socket.raw(), &bytes[from..]);
                // SAFETY: the slot owns the bytes that the entry points into.
                unsafe { driver.push(entry, insert(bytes)) };
            }
            Backend::Glommio(driver) => {
                let outgoing = glommio::Outgoing::bytes(&bytes[from..]);
                // SAFETY: the slot owns the bytes.
                unsafe { driver.send(&self.operations, insert(bytes), socket, outgoing) };
            }
            Backend::Sim(driver) => {
                let copy = sim::Outgoing::bytes(bytes[from..].to_vec());
                driver.send(insert(bytes), socket, vec![copy]);
            }
        }
    }

    /// Sends the next window of `parts`.
    pub(crate) fn send_vectored(&self, socket: &Descriptor, mut parts: Parts) -> Operation {
        match &self.backend {
            Backend::Uring(driver) => {
                parts.message_mut().aim();
                let entry = uring::send_vectored(socket.raw(), parts.message());
                // SAFETY: the entry points to the boxed message in `parts`, whose vectors point to what it owns or leases.
                unsafe { self.submit(driver, entry, socket, Resources::Vectored(parts)) }
            }
            Backend::Glommio(driver) => {
                parts.message_mut().aim();
                let outgoing = glommio::Outgoing::message(parts.message());
                let operation = self.operations.once(Resources::Vectored(parts), socket);
                // SAFETY: the operation's slot owns the message.
                unsafe { driver.send(&self.operations, operation.user_data(), socket, outgoing) };
                operation
            }
            Backend::Sim(driver) => {
                let window = parts.message().outgoing();
                let operation = self.operations.once(Resources::Vectored(parts), socket);
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
                // SAFETY: the entry points to the boxed address.
                unsafe { self.submit(driver, entry, socket, Resources::Address { _kept: address }) }
            }
            Backend::Glommio(driver) => {
                let operation = self.operations.once(Resources::None, socket);
                driver.connect(&self.operations, operation.user_data(), socket, address);
                operation
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
                // SAFETY: the entry points to the buffer's spare capacity.
                unsafe { self.submit(driver, entry, file, Resources::Bytes(buffer)) }
            }
            Backend::Glommio(driver) => {
                let length = buffer.capacity() - buffer.len();
                let operation = self.operations.once(Resources::Bytes(buffer), file);
                driver.read(operation.user_data(), file, offset, length);
                operation
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
                // SAFETY: the entry points into the bytes.
                unsafe { self.submit(driver, entry, file, Resources::Bytes(bytes)) }
            }
            Backend::Glommio(driver) => {
                // glommio keeps what it writes from, and the caller wants its buffer back.
                let copy = bytes[from..].to_vec();
                let operation = self.operations.once(Resources::Bytes(bytes), file);
                driver.write(operation.user_data(), file, offset, copy);
                operation
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
    /// None: only uring has chains.
    #[cfg(feature = "append-paths")]
    pub(crate) fn write_then_sync(
        &self,
        file: &Descriptor,
        groups: Vec<Vec<u8>>,
        mut offset: u64,
    ) -> Option<(Vec<Operation>, Operation)> {
        let Backend::Uring(driver) = &self.backend else { return None };
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
        // SAFETY: each entry points into the bytes that its slot owns, or to nothing (the sync).
        unsafe { driver.push_chain(chain) };
        Some((writes, sync))
    }

    /// fdatasync.
    pub(crate) fn sync_data(&self, file: &Descriptor) -> Operation {
        match &self.backend {
            Backend::Uring(driver) => {
                // SAFETY: the entry points to nothing.
                unsafe { self.submit(driver, uring::sync_data(file.raw()), file, Resources::None) }
            }
            Backend::Glommio(driver) => {
                let operation = self.operations.once(Resources::None, file);
                driver.sync(operation.user_data(), file);
                operation
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
                let entry = uring::allocate(file.raw(), offset, length);
                // SAFETY: the entry points to nothing.
                unsafe { self.submit(driver, entry, file, Resources::None) }
            }
            Backend::Glommio(driver) => {
                let operation = self.operations.once(Resources::None, file);
                driver.allocate(operation.user_data(), file, offset, length);
                operation
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
            Backend::Glommio(driver) => driver.receive(&self.operations, socket, queue),
            Backend::Sim(driver) => {
                let key = self.operations.insert(Kind::Receive(queue), socket);
                driver.receive(key.user_data(), socket);
                key
            }
        }
    }

    /// Arms an accept whose connections go to `queue`.
    pub(crate) fn accept(&self, socket: &Descriptor, queue: Rc<AcceptQueue>) -> Key {
        match &self.backend {
            Backend::Uring(driver) => {
                let key = self.operations.insert(Kind::Accept(queue), socket);
                // SAFETY: the entry points to nothing.
                unsafe { driver.push(uring::accept(socket.raw()), key.user_data()) };
                key
            }
            Backend::Glommio(driver) => driver.accept(&self.operations, socket, queue),
            Backend::Sim(driver) => {
                let key = self.operations.insert(Kind::Accept(queue), socket);
                driver.accept(key.user_data(), socket);
                key
            }
        }
    }

    /// Asks for the end of an operation; it still completes on its own.
    pub(crate) fn cancel(&self, key: Key) {
        match &self.backend {
            Backend::Uring(driver) => driver.cancel(key),
            Backend::Glommio(driver) => driver.cancel(key),
            Backend::Sim(driver) => driver.cancel(key.user_data()),
        }
    }

    /// Runs `turn` until it says that the shard ends, and carries operations out between.
    pub(crate) fn drive(&self, mut turn: impl FnMut() -> Next) {
        match &self.backend {
            Backend::Uring(driver) => loop {
                match turn() {
                    Next::Turn => driver.poll(&self.operations),
                    Next::Wait(limit) => driver.wait(&self.operations, limit),
                    Next::End => break,
                }
            },
            Backend::Glommio(driver) => driver.drive(&self.operations, turn),
            Backend::Sim(_) => unreachable!("the simulator has a loop of its own"),
        }
    }

    /// Drops the shard's tasks by `drop_tasks` and ends every operation.
    pub(crate) fn close(&self, drop_tasks: impl FnOnce()) {
        match &self.backend {
            Backend::Uring(driver) => {
                drop_tasks();
                driver.close(&self.operations);
            }
            Backend::Glommio(driver) => driver.close(&self.operations, drop_tasks),
            Backend::Sim(_) => {
                drop_tasks();
                // SAFETY: the simulator copies what it sends and writes, and fills buffers through their slots.
                drop(unsafe { self.operations.take_all() });
            }
        }
    }

    /// # Safety
    ///
    /// What the entry points to is in `resources`, and does not move with it.
    unsafe fn submit(
        &self,
        driver: &uring::Driver,
        entry: io_uring::squeue::Entry,
        descriptor: &Descriptor,
        resources: Resources,
    ) -> Operation {
        let operation = self.operations.once(resources, descriptor);
        // SAFETY: the slot owns the resources.
        unsafe { driver.push(entry, operation.user_data()) };
        operation
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
            Some(libc::ENOMEM) => return shortage(uring::locked_bytes()),
            Some(libc::EMFILE | libc::ENFILE) => "no file descriptor is left: raise ulimit -n",
            _ => "see io_uring_setup(2)",
        };
        Self(format!("cannot set up io_uring: {error}; {mend}"))
    }
}

/// Bytes that the kernel locks for a ring of so many entries for submissions (with an index each) and for completions.
fn ring_bytes(submissions: u32, completions: u32) -> u64 {
    const SUBMISSION_BYTES: u64 = 64 + 4;
    const COMPLETION_BYTES: u64 = 16;
    u64::from(submissions) * SUBMISSION_BYTES + u64::from(completions) * COMPLETION_BYTES
}

/// Which of the sizes of a shard's rings, in bytes and the largest first, a process with so many shards begins with: together
/// they take a quarter of what its user may lock, so that several processes have their part.
fn fitting(sizes: &[u64], shards: usize, allowed: Option<u64>) -> usize {
    let part = allowed.map_or(u64::MAX, |bytes| bytes / 4);
    let fits = |bytes: &u64| bytes.saturating_mul(shards as u64) <= part;
    sizes.iter().position(fits).unwrap_or(sizes.len() - 1)
}

/// Makes what locks memory, of the largest of these sizes that there is room for, for one of `shards` of this process; again for
/// up to [`LOCKED_WITHIN`] while there is none for the smallest, which blocks the calling thread: the kernel takes its time to
/// give back what rings that have ended had.
fn largest_lockable<S: Copy, T, E, const N: usize>(
    sizes: [S; N],
    bytes: impl Fn(S) -> u64,
    shards: usize,
    is_short: impl Fn(&E) -> bool,
    mut make: impl FnMut(S) -> Result<T, E>,
) -> Result<T, E> {
    let first = fitting(&sizes.map(bytes), shards, locked_memory_max());
    let until = now() + LOCKED_WITHIN;
    let (mut at, mut is_told) = (first, false);
    loop {
        match make(sizes[at]) {
            Err(error) if !is_short(&error) => return Err(error),
            Err(_) if at + 1 < N => {
                log::debug!("memory that may be locked is short: smaller rings");
                at += 1;
            }
            Err(_) if now() < until => {
                if !std::mem::replace(&mut is_told, true) {
                    log::info!(
                        "waits up to {LOCKED_WITHIN:?} for memory that may be locked: others have it (ulimit -l)"
                    );
                }
                std::thread::sleep(LOCKED_PAUSE);
                at = first;
            }
            outcome => return outcome,
        }
    }
}

/// Tells that memory which may be locked has run out: what a shard takes, at the least and the most, and what there is.
fn shortage(a_shard: [u64; 2]) -> ProbeError {
    let [least, most] = a_shard.map(|bytes| bytes.div_ceil(1024));
    let allowed = locked_memory_max().map_or("no limit".into(), |bytes| format!("{} KiB", bytes / 1024));
    ProbeError(format!(
        "no memory that may be locked is left: a shard takes {least} to {most} KiB of it for io_uring, and all processes of this \
         user together have {allowed} (ulimit -l, LimitMEMLOCK); raise that, end other programs with rings, or take fewer shards"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Few shards have large rings under a login's 8 MiB, many have small ones, and without a limit all are large.
    #[test]
    fn rings_fit_what_may_be_locked() {
        let sizes = [120 << 10, 50 << 10, 30 << 10];
        let allowed = Some(8 << 20);
        assert_eq!(
            [1, 17, 18, 40, 41, 1000].map(|shards| fitting(&sizes, shards, allowed)),
            [0, 0, 1, 1, 2, 2]
        );
        assert_eq!(fitting(&sizes, 1000, None), 0);
        let [least, most] = uring::locked_bytes();
        assert!(least < most && most <= 128 << 10, "{least} {most}");
    }
}
