//! The uring engine: one ring per shard, entered by its own thread only (SINGLE_ISSUER, DEFER_TASKRUN).
//!
//! Submissions gather in the ring and leave with the enter that waits; completions are reaped to a list and
//! dispatched from there.

mod buffers;
mod counts;
pub(crate) mod probe;
mod ring;

use std::cell::{Cell, RefCell, UnsafeCell};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::descriptor::Descriptor;
use crate::engine::operations::{Key, Kind, Operations, RESERVED};
use crate::engine::{CLOSE_LIMIT, ProbeError};
use crate::net::{Piece, ReceiveQueue, VectoredSend};
use crate::time::now;
use buffers::BufferPool;
pub(crate) use buffers::Pooled;
use counts::Counters;
pub use counts::{RingCounts, ring_counts};
pub(in crate::engine) use ring::locked_bytes;

/// Completions that are awaited at once at a shard's end.
const CLOSE_ROUND: usize = 1024;
/// `user_data` of operations whose completion nobody waits for.
const UNATTENDED: u64 = u64::MAX;
/// `user_data` of the read that ends the shard's sleep.
const BELL: u64 = u64::MAX - 1;
const _: () = assert!(BELL >= RESERVED && BELL < UNATTENDED);
/// Below this many free buffers a receive brings memory of its own: readers that do not read may hold the
/// whole pool, and those who do must go on.
const SPARE_BUFFERS: usize = 64;

/// A completion as the kernel gives it.
#[derive(Clone, Copy)]
struct Reaped {
    user_data: u64,
    result: i32,
    flags: u32,
}

/// The engine of one shard.
pub(crate) struct Driver {
    ring: RefCell<IoUring>,
    reaped: RefCell<Vec<Reaped>>,
    pool: Rc<BufferPool>,
    bell: RawFd,
    /// What the kernel writes to: not in the driver, which moves to its place after the first entry was queued.
    bell_count: Rc<UnsafeCell<u64>>,
    bell_armed: Cell<bool>,
    counters: Arc<Counters>,
}

impl Driver {
    /// Sets up the ring on the calling thread, which must be the shard's own.
    pub(crate) fn new(bell: RawFd, shards: usize) -> Result<Self, ProbeError> {
        let (ring, pool) = ring::set_up(shards)?;
        let driver = Self {
            ring: RefCell::new(ring),
            reaped: RefCell::default(),
            pool,
            bell,
            bell_count: Rc::default(),
            bell_armed: Cell::new(false),
            counters: Counters::register(),
        };
        driver.arm_bell();
        Ok(driver)
    }

    // ---- Operations -------------------------------------------------------------------------------------

    /// Arms a receive whose pieces go to `queue`: multishot from the pool, or a single one into memory of its
    /// own while the pool is dry.
    pub(crate) fn receive(
        &self,
        operations: &Operations,
        socket: &Descriptor,
        queue: Rc<ReceiveQueue>,
    ) -> Key {
        let fd = Fd(socket.raw());
        if self.pool.free() >= SPARE_BUFFERS {
            let entry = opcode::RecvMulti::new(fd, buffers::GROUP).build();
            let key = operations.insert(Kind::Receive(queue), socket);
            // SAFETY: the entry points to nothing; its buffers are the pool's.
            unsafe { self.push(entry, key.user_data()) };
            return key;
        }
        let mut own = Vec::with_capacity(buffers::BUFFER_BYTES);
        let start = own.spare_capacity_mut().as_mut_ptr().cast();
        let entry = opcode::Recv::new(fd, start, buffers::BUFFER_BYTES as u32).build();
        let key = operations.insert(Kind::ReceiveOwned(queue, own), socket);
        // SAFETY: the entry points to the spare capacity of the vector that the slot now owns, and nobody else touches it.
        unsafe { self.push(entry, key.user_data()) };
        key
    }

    /// Asks for the end of an operation; it still completes on its own.
    pub(crate) fn cancel(&self, key: Key) {
        // SAFETY: the entry points to nothing.
        unsafe { self.push(opcode::AsyncCancel::new(key.user_data()).build(), UNATTENDED) };
    }

    fn arm_bell(&self) {
        let entry = opcode::Read::new(Fd(self.bell), self.bell_count.get().cast(), 8).build();
        self.bell_armed.set(true);
        // SAFETY: the entry points to the driver's own counter on the heap; `close` waits for its completion, or has it stay.
        unsafe { self.push(entry, BELL) };
    }

    /// Queues an entry.
    ///
    /// # Safety
    ///
    /// What the entry points to stays where it is, and nobody else touches it (or writes, where the kernel only reads), until
    /// the operation's last completion: it is owned by the slot that `user_data` names, or by the driver itself.
    pub(crate) unsafe fn push(&self, entry: squeue::Entry, user_data: u64) {
        let entry = entry.user_data(user_data);
        let mut ring = self.ring.borrow_mut();
        loop {
            // SAFETY: the caller's promise.
            if unsafe { ring.submission().push(&entry) }.is_ok() {
                return;
            }
            self.enter(&mut ring, 0, None);
        }
    }

    /// Queues entries, each begun when the one before has completed.
    ///
    /// # Safety
    ///
    /// As for `push`, for each entry by the `user_data` that it carries.
    #[cfg(feature = "append-paths")]
    pub(crate) unsafe fn push_chain(&self, mut chain: Vec<squeue::Entry>) {
        let last = chain.pop();
        let chain: Vec<_> =
            chain.into_iter().map(|entry| entry.flags(squeue::Flags::IO_LINK)).chain(last).collect();
        let mut ring = self.ring.borrow_mut();
        assert!(chain.len() <= ring.params().sq_entries() as usize, "a chain fits into one submission");
        // SAFETY: the caller's promise.
        while unsafe { ring.submission().push_multiple(&chain) }.is_err() {
            self.enter(&mut ring, 0, None);
        }
    }

    // ---- The wait ---------------------------------------------------------------------------------------

    /// Submits what has gathered and takes what has completed, without waiting.
    pub(crate) fn poll(&self, operations: &Operations) {
        let mut ring = self.ring.borrow_mut();
        let submission = ring.submission();
        let work = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if work {
            self.enter(&mut ring, 0, None);
        }
        drop(ring);
        self.dispatch(operations);
    }

    /// Submits what has gathered and waits for a completion, for `limit` at most.
    pub(crate) fn wait(&self, operations: &Operations, limit: Option<Duration>) {
        self.wait_for(operations, 1, limit);
    }

    fn wait_for(&self, operations: &Operations, want: usize, limit: Option<Duration>) {
        let mut ring = self.ring.borrow_mut();
        if ring.completion().is_empty() {
            self.enter(&mut ring, want, limit);
        } else if !ring.submission().is_empty() {
            self.enter(&mut ring, 0, None);
        }
        drop(ring);
        self.dispatch(operations);
    }

    fn dispatch(&self, operations: &Operations) {
        let mut reaped = self.reaped.take();
        reaped.extend(self.ring.borrow_mut().completion().map(|entry| Reaped {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
        self.counters.reaped(reaped.len());
        for entry in &reaped {
            operations.prefetch(entry.user_data);
        }
        for Reaped { user_data, result, flags } in reaped.drain(..) {
            match user_data {
                UNATTENDED => {}
                BELL => {
                    self.bell_armed.set(false);
                    if result != -libc::ECANCELED {
                        self.arm_bell();
                    }
                }
                _ => {
                    let piece = cqueue::buffer_select(flags).map(|id| {
                        // SAFETY: the kernel has picked this buffer, filled so much of it, and told of it once.
                        Piece::Pooled(unsafe { self.pool.take(id, result.max(0) as usize) })
                    });
                    let accepted = |descriptor| {
                        // SAFETY: the kernel has just given this process a new descriptor; nobody else owns it.
                        Descriptor::real(unsafe { OwnedFd::from_raw_fd(descriptor) })
                    };
                    // SAFETY: it is the kernel that says so.
                    unsafe { operations.complete(user_data, result, cqueue::more(flags), piece, accepted) };
                }
            }
        }
        self.reaped.replace(reaped);
    }

    /// One io_uring_enter: submits all, runs the kernel's deferred work, waits for `want` completions.
    fn enter(&self, ring: &mut IoUring, want: usize, limit: Option<Duration>) {
        let outcome = match limit {
            Some(limit) if want > 0 => {
                let limit = Timespec::from(limit);
                ring.submitter().submit_with_args(want, &SubmitArgs::new().timespec(&limit))
            }
            _ => {
                let waiting = ring.submission().len() as u32;
                const GETEVENTS: u32 = 1;
                // SAFETY: no argument structure is passed, and every queued entry keeps the promise of `push`.
                unsafe { ring.submitter().enter::<libc::sigset_t>(waiting, want as u32, GETEVENTS, None) }
            }
        };
        self.counters.entered(*outcome.as_ref().unwrap_or(&0));
        if let Err(error) = outcome {
            match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => panic!("io_uring_enter failed in a way that no retry mends: {error}"),
            }
        }
    }

    /// Ends every operation and waits for the last completion, so that the kernel refers to nothing of ours.
    pub(crate) fn close(&self, operations: &Operations) {
        let deadline = now() + CLOSE_LIMIT;
        let cancel_all = || {
            let ring = self.ring.borrow();
            let _nothing_left = ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        };
        self.enter(&mut self.ring.borrow_mut(), 0, None);
        cancel_all();
        while (self.bell_armed.get() || !operations.is_empty()) && now() < deadline {
            let left = operations.len();
            // The kernel runs as many completions in one round as are asked for: one at a time would take seconds.
            self.wait_for(operations, left.clamp(1, CLOSE_ROUND), Some(Duration::from_millis(10)));
            operations.drop_finished();
            if operations.len() == left {
                cancel_all();
            }
        }
        // SAFETY: whatever the kernel still holds after the limit is forgotten below, and so stays in memory.
        let (count, left) = unsafe { operations.take_all() };
        if count > 0 || self.bell_armed.get() {
            log::error!("a shard ends with {count} operations that the kernel does not end");
            std::mem::forget(left);
            std::mem::forget(self.pool.clone());
            std::mem::forget(self.bell_count.clone());
        }
    }
}

/// Sends `bytes`.
pub(crate) fn send(socket: RawFd, bytes: &[u8]) -> squeue::Entry {
    opcode::Send::new(Fd(socket), bytes.as_ptr(), bytes.len() as u32)
        .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
        .build()
}

/// Sends what `message` points to.
pub(crate) fn send_vectored(socket: RawFd, message: &VectoredSend) -> squeue::Entry {
    opcode::SendMsg::new(Fd(socket), message.header())
        .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
        .build()
}

/// Connects to an address, which must not move.
pub(crate) fn connect(socket: RawFd, address: &socket2::SockAddr) -> squeue::Entry {
    opcode::Connect::new(Fd(socket), address.as_ptr().cast(), address.len()).build()
}

/// Reads into the spare capacity of `buffer`.
pub(crate) fn read(file: RawFd, buffer: &mut Vec<u8>, offset: u64) -> squeue::Entry {
    let spare = buffer.spare_capacity_mut();
    opcode::Read::new(Fd(file), spare.as_mut_ptr().cast(), spare.len() as u32).offset(offset).build()
}

/// Writes `bytes`.
pub(crate) fn write(file: RawFd, bytes: &[u8], offset: u64) -> squeue::Entry {
    opcode::Write::new(Fd(file), bytes.as_ptr(), bytes.len() as u32).offset(offset).build()
}

/// fdatasync, on a worker of the kernel.
pub(crate) fn sync_data(file: RawFd) -> squeue::Entry {
    opcode::Fsync::new(Fd(file)).flags(FsyncFlags::DATASYNC).build()
}

/// fallocate.
pub(crate) fn allocate(file: RawFd, offset: u64, length: u64) -> squeue::Entry {
    opcode::Fallocate::new(Fd(file), length).offset(offset).build()
}

/// A multishot accept.
pub(crate) fn accept(socket: RawFd) -> squeue::Entry {
    opcode::AcceptMulti::new(Fd(socket)).flags(libc::SOCK_CLOEXEC).build()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    /// The bell's count goes to where the driver looks for it, also the first after the driver was moved.
    #[test]
    fn a_driver_that_was_moved_hears_its_bell() {
        // SAFETY: the call takes no pointers, and its descriptor is nobody else's.
        let bell = unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
        let driver = Box::new(Driver::new(bell.as_raw_fd(), 1).expect("a ring"));
        let operations = Operations::default();
        for rung in [3_u64, 4] {
            // SAFETY: the eight octets are there.
            assert_eq!(unsafe { libc::write(bell.as_raw_fd(), (&raw const rung).cast(), 8) }, 8);
            driver.wait(&operations, Some(Duration::from_secs(10)));
            // SAFETY: the kernel has written; the bell rings no more.
            assert_eq!(unsafe { *driver.bell_count.get() }, rung);
        }
        driver.close(&operations);
    }
}
