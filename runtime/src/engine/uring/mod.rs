//! The uring engine: one ring per shard, entered by its own thread only (SINGLE_ISSUER, DEFER_TASKRUN).
//!
//! Submissions gather in the ring and leave with the enter that waits; completions are reaped to a list and
//! dispatched from there. `user_data` is a slot's index with a generation, so that a late completion of a
//! reused slot finds nobody. What an operation points to lives in its slot until its own completion, also when
//! the future that waited for it is gone.

mod buffers;
pub(crate) mod probe;

use std::cell::{Cell, RefCell, UnsafeCell};
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use slab::Slab;

use crate::engine::{EngineKind, ProbeError};
use crate::net::{AcceptQueue, Piece, ReceiveQueue, VectoredSend};
use crate::shard::{available_cores, cpu_set, try_with_core, with_core};
use crate::time::now;
use buffers::BufferPool;
pub(crate) use buffers::Pooled;

const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 16 * 1024;
/// `user_data` of operations whose completion nobody waits for.
const UNATTENDED: u64 = u64::MAX;
/// Below this many free buffers a receive brings memory of its own: readers that do not read may hold the
/// whole pool, and those who do must go on.
const SPARE_BUFFERS: usize = 64;
/// How long an ending shard waits for its last operations.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// What an operation's pointers refer to; handed back with its result.
pub(crate) enum Resources {
    None,
    Bytes(Vec<u8>),
    Vectored(Box<VectoredSend>),
    Address { _kept: Box<socket2::SockAddr> },
}

/// Result of a finished operation: a byte count or similar, with what it was given.
pub(crate) struct Completion {
    pub(crate) result: io::Result<u32>,
    pub(crate) resources: Resources,
}

/// Names an operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

enum OnceState {
    Pending(Option<Waker>),
    Done(i32),
    Orphaned,
}

enum Kind {
    Once { state: OnceState, resources: Resources },
    Receive(Rc<ReceiveQueue>),
    ReceiveOwned(Rc<ReceiveQueue>, Vec<u8>),
    Accept(Rc<AcceptQueue>),
    Bell,
}

struct Slot {
    generation: u32,
    kind: Kind,
    /// Keeps the descriptor open until the operation's last completion.
    _descriptor: Option<Arc<OwnedFd>>,
}

/// The engine of one shard.
pub(crate) struct Driver {
    ring: RefCell<IoUring>,
    slots: RefCell<Slab<Slot>>,
    generation: Cell<u32>,
    reaped: RefCell<Vec<(u64, i32, u32)>>,
    pool: Rc<BufferPool>,
    bell: RawFd,
    bell_count: UnsafeCell<u64>,
}

impl Driver {
    /// Sets up the ring on the calling thread, which must be the shard's own.
    pub(crate) fn new(_kind: EngineKind, bell: RawFd) -> Result<Self, ProbeError> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
            .map_err(ProbeError::from_setup)?;
        // Workers inherit the shard's pin; syncs must not compete with the shard for its one core.
        ring.submitter().register_iowq_aff(&cpu_set(&available_cores())).map_err(ProbeError::from_setup)?;
        let pool = BufferPool::register(&ring).map_err(|error| {
            ProbeError(format!("cannot register provided buffers: {error}; Linux 5.19 brings them"))
        })?;
        let driver = Self {
            ring: RefCell::new(ring),
            slots: RefCell::default(),
            generation: Cell::new(0),
            reaped: RefCell::default(),
            pool,
            bell,
            bell_count: UnsafeCell::new(0),
        };
        driver.arm_bell();
        Ok(driver)
    }

    // ---- Operations -------------------------------------------------------------------------------------

    /// Sends `bytes[from..]`; the result is how many bytes left.
    pub(crate) fn send(&self, socket: &Arc<OwnedFd>, bytes: Vec<u8>, from: usize) -> Operation {
        let rest = &bytes[from..];
        let entry = opcode::Send::new(Fd(socket.as_raw_fd()), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build();
        self.start(entry, Some(socket.clone()), Resources::Bytes(bytes))
    }

    /// Sends what `message` points to.
    pub(crate) fn send_vectored(&self, socket: &Arc<OwnedFd>, message: Box<VectoredSend>) -> Operation {
        let entry = opcode::SendMsg::new(Fd(socket.as_raw_fd()), message.header())
            .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
            .build();
        self.start(entry, Some(socket.clone()), Resources::Vectored(message))
    }

    pub(crate) fn connect(&self, socket: &Arc<OwnedFd>, address: socket2::SockAddr) -> Operation {
        let address = Box::new(address);
        let entry =
            opcode::Connect::new(Fd(socket.as_raw_fd()), address.as_ptr().cast(), address.len()).build();
        self.start(entry, Some(socket.clone()), Resources::Address { _kept: address })
    }

    /// Reads into the spare capacity of `buffer` behind its length; the caller adds the result to the length.
    pub(crate) fn read_at(&self, file: &Arc<OwnedFd>, mut buffer: Vec<u8>, offset: u64) -> Operation {
        let spare = buffer.spare_capacity_mut();
        let entry = opcode::Read::new(Fd(file.as_raw_fd()), spare.as_mut_ptr().cast(), spare.len() as u32)
            .offset(offset)
            .build();
        self.start(entry, Some(file.clone()), Resources::Bytes(buffer))
    }

    /// Writes `bytes[from..]` at `offset`.
    pub(crate) fn write_at(
        &self,
        file: &Arc<OwnedFd>,
        bytes: Vec<u8>,
        from: usize,
        offset: u64,
    ) -> Operation {
        let rest = &bytes[from..];
        let entry =
            opcode::Write::new(Fd(file.as_raw_fd()), rest.as_ptr(), rest.len() as u32).offset(offset).build();
        self.start(entry, Some(file.clone()), Resources::Bytes(bytes))
    }

    /// fdatasync, on a worker of the kernel.
    pub(crate) fn sync_data(&self, file: &Arc<OwnedFd>) -> Operation {
        let entry = opcode::Fsync::new(Fd(file.as_raw_fd())).flags(FsyncFlags::DATASYNC).build();
        self.start(entry, Some(file.clone()), Resources::None)
    }

    pub(crate) fn allocate(&self, file: &Arc<OwnedFd>, offset: u64, length: u64) -> Operation {
        let entry = opcode::Fallocate::new(Fd(file.as_raw_fd()), length).offset(offset).build();
        self.start(entry, Some(file.clone()), Resources::None)
    }

    /// Arms a receive whose pieces go to `queue`: multishot from the pool, or a single one into memory of its
    /// own while the pool is dry.
    pub(crate) fn receive(&self, socket: &Arc<OwnedFd>, queue: Rc<ReceiveQueue>) -> Key {
        let descriptor = Some(socket.clone());
        if self.pool.free() >= SPARE_BUFFERS {
            let entry = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), buffers::GROUP).build();
            let key = self.insert(Kind::Receive(queue), descriptor);
            self.push(entry.user_data(key.user_data()));
            return key;
        }
        let mut own = Vec::with_capacity(buffers::BUFFER_BYTES);
        let entry = opcode::Recv::new(
            Fd(socket.as_raw_fd()),
            own.spare_capacity_mut().as_mut_ptr().cast(),
            buffers::BUFFER_BYTES as u32,
        )
        .build();
        let key = self.insert(Kind::ReceiveOwned(queue, own), descriptor);
        self.push(entry.user_data(key.user_data()));
        key
    }

    /// Arms a multishot accept whose connections go to `queue`.
    pub(crate) fn accept(&self, socket: &Arc<OwnedFd>, queue: Rc<AcceptQueue>) -> Key {
        let entry = opcode::AcceptMulti::new(Fd(socket.as_raw_fd())).flags(libc::SOCK_CLOEXEC).build();
        let key = self.insert(Kind::Accept(queue), Some(socket.clone()));
        self.push(entry.user_data(key.user_data()));
        key
    }

    /// Asks for the end of an operation; it still completes on its own.
    pub(crate) fn cancel(&self, key: Key) {
        self.push(opcode::AsyncCancel::new(key.user_data()).build().user_data(UNATTENDED));
    }

    fn arm_bell(&self) {
        let key = self.insert(Kind::Bell, None);
        let entry = opcode::Read::new(Fd(self.bell), self.bell_count.get().cast(), 8).build();
        self.push(entry.user_data(key.user_data()));
    }

    fn start(
        &self,
        entry: squeue::Entry,
        descriptor: Option<Arc<OwnedFd>>,
        resources: Resources,
    ) -> Operation {
        let key = self.insert(Kind::Once { state: OnceState::Pending(None), resources }, descriptor);
        self.push(entry.user_data(key.user_data()));
        Operation { key: Some(key), _of_this_shard: PhantomData }
    }

    fn insert(&self, kind: Kind, descriptor: Option<Arc<OwnedFd>>) -> Key {
        // One generation is left out, so that no key equals UNATTENDED.
        let generation = (self.generation.get() + 1) % u32::MAX;
        self.generation.set(generation);
        let index = self.slots.borrow_mut().insert(Slot { generation, kind, _descriptor: descriptor });
        Key { index: index as u32, generation }
    }

    fn push(&self, entry: squeue::Entry) {
        let mut ring = self.ring.borrow_mut();
        loop {
            // SAFETY: what the entry points to is owned by its slot until its completion, by the driver (the
            // bell's counter), or nothing (cancel, sync).
            if unsafe { ring.submission().push(&entry) }.is_ok() {
                return;
            }
            enter(&mut ring, 0, None);
        }
    }

    // ---- The wait ---------------------------------------------------------------------------------------

    /// Submits what has gathered and takes what has completed, without waiting.
    pub(crate) fn poll(&self) {
        let mut ring = self.ring.borrow_mut();
        let submission = ring.submission();
        let work = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        if work {
            enter(&mut ring, 0, None);
        }
        drop(ring);
        self.dispatch();
    }

    /// Submits what has gathered and waits for a completion, for `limit` at most.
    pub(crate) fn wait(&self, limit: Option<Duration>) {
        let mut ring = self.ring.borrow_mut();
        if ring.completion().is_empty() {
            enter(&mut ring, 1, limit);
        } else if !ring.submission().is_empty() {
            enter(&mut ring, 0, None);
        }
        drop(ring);
        self.dispatch();
    }

    fn dispatch(&self) {
        let mut reaped = self.reaped.take();
        reaped.extend(
            self.ring
                .borrow_mut()
                .completion()
                .map(|entry| (entry.user_data(), entry.result(), entry.flags())),
        );
        for (user_data, result, flags) in reaped.drain(..) {
            if user_data != UNATTENDED {
                self.complete(user_data, result, flags);
            }
        }
        self.reaped.replace(reaped);
    }

    fn complete(&self, user_data: u64, result: i32, flags: u32) {
        let index = (user_data & u64::from(u32::MAX)) as usize;
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(index).filter(|slot| u64::from(slot.generation) == user_data >> 32)
        else {
            return;
        };
        let more = cqueue::more(flags);
        match &mut slot.kind {
            Kind::Once { state, .. } => match std::mem::replace(state, OnceState::Done(result)) {
                OnceState::Pending(waker) => {
                    drop(slots);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                OnceState::Orphaned | OnceState::Done(_) => drop(slots.remove(index)),
            },
            Kind::Receive(queue) => {
                let queue = queue.clone();
                let ended = if more { None } else { Some(slots.remove(index)) };
                drop(slots);
                let buffer = cqueue::buffer_select(flags);
                let piece = buffer.map(|id| Piece::Pooled(self.pool.take(id, result.max(0) as usize)));
                queue.complete(result, piece, more);
                drop(ended);
            }
            Kind::ReceiveOwned(..) => {
                let slot = slots.remove(index);
                drop(slots);
                let Kind::ReceiveOwned(queue, mut bytes) = slot.kind else { unreachable!("matched above") };
                let length = (result.max(0) as usize).min(bytes.capacity());
                // SAFETY: the kernel has written this many bytes into the vector's spare capacity.
                unsafe { bytes.set_len(length) };
                queue.complete(result, Some(Piece::Owned(bytes)), false);
            }
            Kind::Accept(queue) => {
                let queue = queue.clone();
                let ended = if more { None } else { Some(slots.remove(index)) };
                drop(slots);
                let outcome = if result >= 0 {
                    // SAFETY: the kernel has just given this process a new descriptor; nobody else owns it.
                    Ok(unsafe { OwnedFd::from_raw_fd(result) })
                } else {
                    Err(io::Error::from_raw_os_error(-result))
                };
                queue.complete(outcome, more);
                drop(ended);
            }
            Kind::Bell => {
                slots.remove(index);
                drop(slots);
                if result != -libc::ECANCELED {
                    self.arm_bell();
                }
            }
        }
    }

    /// Ends every operation and waits for the last completion, so that the kernel refers to nothing of ours.
    pub(crate) fn close(&self) {
        let deadline = now() + CLOSE_LIMIT;
        let cancel_all = || {
            let ring = self.ring.borrow();
            let _nothing_left = ring.submitter().register_sync_cancel(None, CancelBuilder::any());
        };
        enter(&mut self.ring.borrow_mut(), 0, None);
        cancel_all();
        while !self.slots.borrow().is_empty() && now() < deadline {
            self.wait(Some(Duration::from_millis(10)));
            self.slots
                .borrow_mut()
                .retain(|_, slot| !matches!(slot.kind, Kind::Once { state: OnceState::Done(_), .. }));
            cancel_all();
        }
        // Whatever the kernel still holds after the limit must stay in memory.
        let left = self.slots.take();
        if !left.is_empty() {
            log::error!("a shard ends with {} operations that the kernel does not end", left.len());
            std::mem::forget(left);
            std::mem::forget(self.pool.clone());
        }
    }
}

/// One io_uring_enter: submits all, runs the kernel's deferred work, waits for `want` completions.
fn enter(ring: &mut IoUring, want: usize, limit: Option<Duration>) {
    let outcome = match limit {
        Some(limit) if want > 0 => {
            let limit = Timespec::from(limit);
            ring.submitter().submit_with_args(want, &SubmitArgs::new().timespec(&limit)).map(drop)
        }
        _ => {
            let waiting = ring.submission().len() as u32;
            const GETEVENTS: u32 = 1;
            // SAFETY: no argument structure is passed, and every queued entry keeps the promise of `push`.
            unsafe { ring.submitter().enter::<libc::sigset_t>(waiting, want as u32, GETEVENTS, None) }
                .map(drop)
        }
    };
    if let Err(error) = outcome {
        match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
            _ => panic!("io_uring_enter failed in a way that no retry mends: {error}"),
        }
    }
}

/// Future of one operation. Dropped before the end, it asks the kernel to cancel and leaves what the operation
/// points to alive until the kernel is done with it.
pub(crate) struct Operation {
    key: Option<Key>,
    _of_this_shard: PhantomData<*const ()>,
}

impl Future for Operation {
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        let key = self.key.expect("an operation is not polled after its end");
        let finished = with_core(|core| {
            let mut slots = core.engine.slots.borrow_mut();
            let Kind::Once { state, .. } = &mut slots[key.index as usize].kind else {
                unreachable!("an operation's slot keeps its kind")
            };
            match state {
                OnceState::Pending(waker) => {
                    match waker {
                        Some(waker) => waker.clone_from(context.waker()),
                        None => *waker = Some(context.waker().clone()),
                    }
                    None
                }
                _ => Some(slots.remove(key.index as usize)),
            }
        });
        let Some(slot) = finished else { return Poll::Pending };
        self.key = None;
        match slot.kind {
            Kind::Once { state: OnceState::Done(result), resources } => Poll::Ready(Completion {
                result: if result < 0 {
                    Err(io::Error::from_raw_os_error(-result))
                } else {
                    Ok(result as u32)
                },
                resources,
            }),
            _ => unreachable!("only finished operations leave their slot here"),
        }
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        try_with_core(|core| {
            let mut slots = core.engine.slots.borrow_mut();
            let Kind::Once { state, .. } = &mut slots[key.index as usize].kind else {
                unreachable!("an operation's slot keeps its kind")
            };
            match state {
                OnceState::Done(_) => drop(slots.remove(key.index as usize)),
                _ => {
                    *state = OnceState::Orphaned;
                    drop(slots);
                    core.engine.cancel(key);
                }
            }
        });
    }
}
