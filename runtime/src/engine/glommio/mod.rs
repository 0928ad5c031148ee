//! The glommio engine: the shard's loop is one task of a glommio executor, and so is every operation that has to wait.
//!
//! Readiness, timers, file reads, writes and syncs are glommio's; the calls on sockets are non-blocking ones of ours,
//! made at once or when glommio's reactor says that the socket is ready, as glommio's own streams make them. So nothing
//! of ours is ever lent to the kernel, and an idle connection holds no buffer.

mod disk;
mod net;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use ::glommio::io::{PollableFd, ReadResult};
use ::glommio::timer::Timer;
use ::glommio::{
    GlommioError, LocalExecutor, LocalExecutorBuilder, Placement, ReactorErrorKind, Task, spawn_local,
};
use futures_lite::future::yield_now;

use crate::descriptor::Descriptor;
use crate::engine::operations::{Key, Kind, Operations};
use crate::engine::{CLOSE_LIMIT, Next, ProbeError, largest_lockable, ring_bytes, shortage};
use crate::map::HashMap;
use crate::net::{AcceptQueue, Piece, ReceiveQueue};
use crate::shard::unpinned;
use crate::time::now;
pub(crate) use net::Outgoing;

/// Entries of each of glommio's three rings, to try in turn: memory that may be locked can be short. As many completions in one
/// round are a preemption, see [`PULSE`].
const RING_DEPTHS: [usize; 3] = [4096, 1024, 256];
/// Bytes of I/O memory, the least that glommio takes, which it registers with each ring.
const IO_MEMORY: u64 = 64 << 10;
/// glommio's timer that preempts its tasks must not fire, see [`PULSE`].
const PREEMPTION: Duration = Duration::from_secs(3600);
/// How long the loop may go on without a look at the rings: what the timer would be for.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// An executor that is preempted after its look at the rings and before its first task takes itself to have nothing to do
/// and sleeps, whatever it has just woken (`LocalExecutor::run` of glommio-ng 0.12 and of its ancestors). Nothing here
/// preempts it but more completions in one round than a ring has entries; then this timer ends the sleep.
const PULSE: Duration = Duration::from_millis(50);
/// Bytes of one receive at most, as of a buffer of the uring engine.
const RECEIVE_BYTES: usize = 8 * 1024;

/// The engine of one shard.
pub(crate) struct Driver {
    executor: Rc<LocalExecutor>,
    shared: Rc<Shared>,
    bell: RawFd,
}

/// What the loop shares with the tasks of its operations.
struct Shared {
    /// What has happened, until the loop takes it.
    events: RefCell<Vec<Event>>,
    /// Something has happened since the loop took the events.
    news: Cell<bool>,
    /// Wakes the loop.
    waker: RefCell<Option<Waker>>,
    /// The tasks of operations that can be cancelled, by `user_data`; none while it is being spawned.
    tasks: RefCell<HashMap<u64, Option<Task<()>>>>,
    /// Takes what is received, until its length is known.
    scratch: RefCell<Vec<u8>>,
}

/// A completion, or a step of an operation that has several.
struct Event {
    user_data: u64,
    result: i32,
    more: bool,
    gain: Gain,
}

/// What an operation brings besides its result.
enum Gain {
    Nothing,
    Received(Vec<u8>),
    Connection(OwnedFd),
    Read(ReadResult),
}

impl Driver {
    /// Makes the executor on the calling thread, which must be the shard's own.
    pub(crate) fn new(bell: RawFd, shards: usize) -> Result<Self, ProbeError> {
        let shared = Shared {
            events: RefCell::default(),
            news: Cell::new(false),
            waker: RefCell::default(),
            tasks: RefCell::default(),
            scratch: RefCell::new(vec![0; RECEIVE_BYTES]),
        };
        Ok(Self { executor: Rc::new(executor(shards)?), shared: Rc::new(shared), bell })
    }

    // ---- Operations: called by the loop's task ------------------------------------------------------------

    /// # Safety
    ///
    /// What is sent is owned by the slot that `user_data` names, and does not change until the operation has completed.
    pub(crate) unsafe fn send(
        &self,
        operations: &Operations,
        user_data: u64,
        socket: &Descriptor,
        bytes: Outgoing,
    ) {
        // SAFETY: the slot is there.
        match unsafe { net::send_now(socket.real_fd(), &bytes) } {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // SAFETY: the slot is there until the task has ended or was dropped: see `Shared::cancelled`.
                let sending = unsafe { net::send(socket.real_fd().clone(), bytes) };
                self.shared.spawn(user_data, sending);
            }
            // SAFETY: the send has ended.
            outcome => unsafe { at_once(operations, user_data, code(outcome)) },
        }
    }

    pub(crate) fn connect(
        &self,
        operations: &Operations,
        user_data: u64,
        socket: &Descriptor,
        address: socket2::SockAddr,
    ) {
        match net::connect_now(socket.real_fd(), &address) {
            Err(error) if net::is_under_way(&error) => {
                self.shared.spawn(user_data, net::connect(socket.real_fd().clone(), address));
            }
            // SAFETY: a connect has no buffer, and it has ended.
            outcome => unsafe { at_once(operations, user_data, code(outcome.map(|()| 0))) },
        }
    }

    /// Arms a receive whose pieces go to `queue`.
    pub(crate) fn receive(
        &self,
        operations: &Operations,
        socket: &Descriptor,
        queue: Rc<ReceiveQueue>,
    ) -> Key {
        let key = operations.insert(Kind::Receive(queue), socket);
        let receive = net::receive(self.shared.clone(), key.user_data(), socket.real_fd().clone());
        self.shared.spawn(key.user_data(), receive);
        key
    }

    /// Arms an accept whose connections go to `queue`.
    pub(crate) fn accept(&self, operations: &Operations, socket: &Descriptor, queue: Rc<AcceptQueue>) -> Key {
        let key = operations.insert(Kind::Accept(queue), socket);
        let accept = net::accept(self.shared.clone(), key.user_data(), socket.real_fd().clone());
        self.shared.spawn(key.user_data(), accept);
        key
    }

    pub(crate) fn read(&self, user_data: u64, file: &Descriptor, offset: u64, length: usize) {
        self.shared.run(user_data, disk::read(file.real_fd().clone(), offset, length));
    }

    pub(crate) fn write(&self, user_data: u64, file: &Descriptor, offset: u64, bytes: Vec<u8>) {
        self.shared.run(user_data, disk::write(file.real_fd().clone(), offset, bytes));
    }

    pub(crate) fn sync(&self, user_data: u64, file: &Descriptor) {
        self.shared.run(user_data, disk::sync(file.real_fd().clone()));
    }

    pub(crate) fn allocate(&self, user_data: u64, file: &Descriptor, offset: u64, length: u64) {
        self.shared.run(user_data, disk::allocate(file.real_fd().clone(), offset, length));
    }

    /// Ends an operation, unless it has ended; one on a file goes on to its own end.
    pub(crate) fn cancel(&self, key: Key) {
        if let Some(task) = self.shared.tasks.borrow_mut().remove(&key.user_data()) {
            self.shared.cancelled(key.user_data(), task);
        }
    }

    // ---- The loop -----------------------------------------------------------------------------------------

    /// Runs `turn` again and again inside the executor, and waits between as it says.
    pub(crate) fn drive(&self, operations: &Operations, mut turn: impl FnMut() -> Next) {
        // A panic must not cross the executor, which would be of no use afterwards.
        let ended = self.executor.run(async {
            let _bell = spawn_local(heed(self.shared.clone(), self.bell));
            let _pulse = spawn_local(async {
                loop {
                    Timer::new(PULSE).await;
                }
            });
            let mut looked = now();
            loop {
                let next = catch_unwind(AssertUnwindSafe(|| {
                    self.dispatch(operations);
                    turn()
                }));
                match next {
                    Ok(Next::Wait(limit)) if !self.shared.news.get() => {
                        self.shared.wait(limit).await;
                        looked = now();
                    }
                    Ok(Next::Wait(_) | Next::Turn) if looked.elapsed() < LOOK_INTERVAL => yield_now().await,
                    Ok(Next::Wait(_) | Next::Turn) => {
                        look_at_rings().await;
                        looked = now();
                    }
                    Ok(Next::End) => return Ok(()),
                    Err(panic) => return Err(panic),
                }
            }
        });
        if let Err(panic) = ended {
            resume_unwind(panic);
        }
    }

    fn dispatch(&self, operations: &Operations) {
        self.shared.news.set(false);
        let mut events = self.shared.events.take();
        for Event { user_data, result, more, gain } in events.drain(..) {
            let (mut piece, mut connection) = (None, None);
            match gain {
                Gain::Nothing => {}
                Gain::Received(bytes) => piece = Some(Piece::Owned(bytes)),
                Gain::Connection(descriptor) => connection = Some(descriptor),
                Gain::Read(found) => operations.fill(user_data, &found),
            }
            let accepted =
                |_| Descriptor::real(connection.expect("an accept that succeeds brings a connection"));
            // SAFETY: an event is the word of the operation's own task, or of its end; a read is filled in above.
            unsafe { operations.complete(user_data, result, more, piece, accepted) };
        }
        // Completions may have cancelled operations, which are events too.
        let mut fresh = self.shared.events.borrow_mut();
        if fresh.is_empty() {
            *fresh = events;
        }
    }

    /// Drops the shard's tasks by `drop_tasks`, ends every operation and waits for those that end on their own.
    pub(crate) fn close(&self, operations: &Operations, drop_tasks: impl FnOnce()) {
        let deadline = now() + CLOSE_LIMIT;
        self.executor.run(async {
            drop_tasks();
            for (user_data, task) in self.shared.tasks.take() {
                self.shared.cancelled(user_data, task);
            }
            loop {
                self.dispatch(operations);
                operations.drop_finished();
                if operations.is_empty() || now() >= deadline {
                    break;
                }
                self.shared.wait(Some(Duration::from_millis(10))).await;
            }
            // The cancelled tasks' futures go in the executor's next round, and with the look at the rings behind it
            // the kernel gives up their sockets.
            yield_now().await;
            look_at_rings().await;
        });
        // SAFETY: the tasks that sent from what is left are gone, and reads and writes have buffers of glommio's.
        let (count, left) = unsafe { operations.take_all() };
        if count > 0 {
            log::error!("a shard ends with {count} operations that the kernel does not end");
            // The kernel still writes to what they point to.
            std::mem::forget(self.executor.clone());
        }
        drop(left);
    }
}

impl Shared {
    /// Runs an operation that has to wait as a task, which can be cancelled; its last completion is what it returns.
    fn spawn(self: &Rc<Self>, user_data: u64, operation: impl Future<Output = i32> + 'static) {
        self.tasks.borrow_mut().insert(user_data, None);
        let shared = self.clone();
        let task = spawn_local(async move {
            let result = operation.await;
            if let Some(Some(task)) = shared.tasks.borrow_mut().remove(&user_data) {
                task.detach();
            }
            shared.push(Event { user_data, result, more: false, gain: Gain::Nothing });
        });
        // It has run up to its first wait already, or to its end.
        match self.tasks.borrow_mut().get_mut(&user_data) {
            Some(place) => *place = Some(task),
            None => drop(task.detach()),
        }
    }

    /// Runs an operation to its end as a task.
    fn run(self: &Rc<Self>, user_data: u64, operation: impl Future<Output = (i32, Gain)> + 'static) {
        let shared = self.clone();
        let task = spawn_local(async move {
            let (result, gain) = operation.await;
            shared.push(Event { user_data, result, more: false, gain });
        });
        drop(task.detach());
    }

    /// Ends a task that was taken off the list. Its operation completes with the loop's next look at the events.
    fn cancelled(&self, user_data: u64, task: Option<Task<()>>) {
        drop(task);
        self.push(Event { user_data, result: -libc::ECANCELED, more: false, gain: Gain::Nothing });
    }

    fn push(&self, event: Event) {
        self.events.borrow_mut().push(event);
        self.tell();
    }

    /// Ends the loop's wait.
    fn tell(&self) {
        self.news.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Waits until something has happened, for `limit` at most.
    async fn wait(&self, limit: Option<Duration>) {
        let mut timer = limit.map(Timer::new);
        let mut waits = false;
        poll_fn(|context| {
            // Whatever wakes the loop is a reason for a turn. (A timer that is polled twice is set twice.)
            if std::mem::replace(&mut waits, true) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            match &mut timer {
                Some(timer) => Pin::new(timer).poll(context).map(drop),
                None => Poll::Pending,
            }
        })
        .await;
        self.waker.borrow_mut().take();
    }
}

/// Ends after glommio has submitted what has gathered and taken what has completed: with no task ready it does that, and
/// the timer has passed by then.
async fn look_at_rings() {
    Timer::new(Duration::from_micros(1)).await;
}

/// Ends the loop's wait whenever the shard's bell rings.
async fn heed(shared: Rc<Shared>, bell: RawFd) {
    let Ok(bell) = PollableFd::new(bell) else { return };
    while bell.readable().await.is_ok() {
        let mut count = 0u64;
        // SAFETY: the buffer is eight bytes long, as an eventfd wants them; the descriptor is the shard's own.
        let _spurious = unsafe { libc::read(bell.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
        shared.tell();
    }
}

/// Completes an operation that did not have to wait.
///
/// # Safety
///
/// It is a send or a connect, and it has ended.
unsafe fn at_once(operations: &Operations, user_data: u64, result: i32) {
    let accepted = |_| unreachable!("no connection was accepted");
    // SAFETY: neither has a buffer to fill, and it has ended by the caller's promise.
    unsafe { operations.complete(user_data, result, false, None, accepted) };
}

/// A result as the kernel's rings give it.
fn code(outcome: io::Result<usize>) -> i32 {
    match outcome {
        Ok(count) => i32::try_from(count).unwrap_or(i32::MAX),
        Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// The kernel's error behind one of glommio's.
fn plain(error: GlommioError<()>) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::from(error), io::Error::from_raw_os_error)
}

/// An executor with as little registered memory as glommio takes. Its helper thread is not for the shard's core.
fn executor(shards: usize) -> Result<LocalExecutor, ProbeError> {
    let of_depth = |depth| {
        LocalExecutorBuilder::new(Placement::Unbound)
            .io_memory(0)
            .ring_depth(depth)
            .preempt_timer(PREEMPTION)
            .make()
    };
    let is_short = |error: &GlommioError<()>| error.raw_os_error() == Some(libc::ENOMEM);
    let made = unpinned(|| largest_lockable(RING_DEPTHS, locked, shards, is_short, of_depth));
    made.map_err(|error| match error {
        GlommioError::ReactorError(ReactorErrorKind::MemLockLimit(limit, wanted)) => ProbeError(format!(
            "glommio asks for {} KiB of locked memory and {} KiB are allowed: raise ulimit -l",
            wanted / 1024,
            limit / 1024
        )),
        error if is_short(&error) => ProbeError(format!(
            "cannot set up glommio: {}",
            shortage([RING_DEPTHS[RING_DEPTHS.len() - 1], RING_DEPTHS[0]].map(locked))
        )),
        error => ProbeError(format!("cannot set up glommio: {error}")),
    })
}

/// Bytes that the three rings lock.
fn locked(depth: usize) -> u64 {
    3 * (ring_bytes(depth as u32, 2 * depth as u32) + IO_MEMORY)
}

/// Checks that glommio works here.
pub(crate) fn check() -> Result<(), ProbeError> {
    executor(1).map(drop)
}
