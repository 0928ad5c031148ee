//! Tasks of one shard: spawning, the ready queue, and wake-ups that come from other threads.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use async_task::{Runnable, Task};
use crossbeam::queue::SegQueue;
use pin_project_lite::pin_project;
use slab::Slab;

use crate::handshake::Handshake;
use crate::prefetch::prefetch;
use crate::shard::{try_with_core, with_core};
use crate::sim;

/// What other threads see of a shard: its inbox of woken tasks and the bell that ends its sleep.
pub(crate) struct Remote {
    inbox: SegQueue<Runnable>,
    handshake: Handshake,
    /// None in the simulator, whose shards never sleep.
    bell: Option<OwnedFd>,
}

impl Remote {
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        // SAFETY: eventfd takes no pointers; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just created and nobody else owns it.
        let bell = Some(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok(Arc::new(Self { inbox: SegQueue::new(), handshake: Handshake::new(), bell }))
    }

    /// Of a shard in the simulator.
    pub(crate) fn simulated() -> Arc<Self> {
        Arc::new(Self { inbox: SegQueue::new(), handshake: Handshake::new(), bell: None })
    }

    /// Publishes a woken task, and rings only if the shard may be asleep.
    fn push(&self, runnable: Runnable) {
        self.inbox.push(runnable);
        if self.handshake.must_ring()
            && let Some(bell) = &self.bell
        {
            let one = 1u64.to_ne_bytes();
            // SAFETY: the buffer is eight bytes long, as an eventfd wants them, and is only read.
            let written = unsafe { libc::write(bell.as_raw_fd(), one.as_ptr().cast(), one.len()) };
            debug_assert_eq!(written, 8, "an eventfd's counter does not reach its limit");
        }
    }

    /// Announces that the shard is about to sleep. False: work has come meanwhile, do not sleep.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.handshake.prepare_sleep(|| self.inbox.is_empty())
    }

    pub(crate) fn awake(&self) {
        self.handshake.awake();
    }

    pub(crate) fn bell(&self) -> Option<RawFd> {
        self.bell.as_ref().map(AsRawFd::as_raw_fd)
    }
}

/// The tasks of one shard. Used on the shard's thread only.
pub(crate) struct Executor {
    ready: RefCell<VecDeque<Runnable>>,
    tasks: RefCell<Slab<Waker>>,
    closing: Cell<bool>,
    pub(crate) remote: Arc<Remote>,
}

impl Executor {
    pub(crate) fn new(remote: Arc<Remote>) -> Self {
        Self {
            ready: RefCell::new(VecDeque::with_capacity(256)),
            tasks: RefCell::default(),
            closing: Cell::new(false),
            remote,
        }
    }

    pub(crate) fn spawn<F: Future + 'static>(self: &Rc<Self>, future: F) -> JoinHandle<F::Output> {
        if self.closing.get() {
            // From the drop of another task's future: the shard is ending, and this one never runs.
            return JoinHandle { task: None };
        }
        let mut tasks = self.tasks.borrow_mut();
        let entry = tasks.vacant_entry();
        let registration = Registration { executor: self.clone(), key: entry.key() };
        let registered = Registered { future, _registration: registration };
        let remote = self.remote.clone();
        let (runnable, task) = async_task::spawn_local(registered, move |runnable: Runnable| {
            let mut runnable = Some(runnable);
            try_with_core(|core| {
                if Arc::ptr_eq(&core.executor.remote, &remote) {
                    core.executor.ready.borrow_mut().extend(runnable.take());
                }
            });
            if let Some(runnable) = runnable {
                remote.push(runnable);
            }
        });
        entry.insert(runnable.waker());
        drop(tasks);
        runnable.schedule();
        JoinHandle { task: Some(task) }
    }

    /// Runs the tasks that are ready now, not those they wake meanwhile; returns whether more are ready.
    pub(crate) fn run_ready(&self) -> bool {
        while let Some(runnable) = self.remote.inbox.pop() {
            self.ready.borrow_mut().push_back(runnable);
        }
        let count = self.ready.borrow().len();
        for _ in 0..count {
            let Some(runnable) = self.next_ready() else { break };
            runnable.run();
        }
        !self.ready.borrow().is_empty()
    }

    /// The next task, while those behind it are fetched: with many connections none of them is in the cache.
    fn next_ready(&self) -> Option<Runnable> {
        let mut ready = self.ready.borrow_mut();
        if let Some(behind) = ready.get(2) {
            prefetch::<4, _>(behind.metadata());
        }
        ready.pop_front()
    }

    /// Takes the tasks that are ready now out of the queue: the simulator runs them in an order of its own.
    pub(crate) fn take_ready(&self) -> VecDeque<Runnable> {
        let mut ready = self.ready.take();
        ready.extend(std::iter::from_fn(|| self.remote.inbox.pop()));
        ready
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.borrow().is_empty() || !self.remote.inbox.is_empty()
    }

    /// Drops every task that is left.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        let wakers: Vec<Waker> = self.tasks.borrow_mut().drain().collect();
        wakers.into_iter().for_each(Waker::wake);
        loop {
            let next = self.ready.borrow_mut().pop_front().or_else(|| self.remote.inbox.pop());
            let Some(runnable) = next else { break };
            drop(runnable);
        }
    }
}

pin_project! {
    /// A task's future. An `async` block would hold it twice.
    struct Registered<F> {
        #[pin]
        future: F,
        _registration: Registration,
    }
}

impl<F: Future> Future for Registered<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        self.project().future.poll(context)
    }
}

/// Takes the task off the executor's list when its future ends or is dropped.
struct Registration {
    executor: Rc<Executor>,
    key: usize,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.executor.tasks.borrow_mut().try_remove(self.key);
    }
}

/// Runs `future` as a task of this shard. Dropping the handle lets the task run on.
pub fn spawn<F: Future + 'static>(future: F) -> JoinHandle<F::Output> {
    with_core(|core| core.executor.clone()).spawn(future)
}

/// Gives the result of a spawned task.
pub struct JoinHandle<T> {
    task: Option<Task<T>>,
}

impl<T> JoinHandle<T> {
    /// Drops the task's future, unless it has ended, and waits until it is gone.
    pub async fn cancel(mut self) -> Option<T> {
        match self.task.take() {
            Some(task) => task.cancel().await,
            None => None,
        }
    }

    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        self.task.as_ref().is_none_or(Task::is_finished)
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match self.task.as_mut() {
            Some(task) => Pin::new(task).poll(context),
            // Never started, on a shard that is ending: nobody is left to wait for it.
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for JoinHandle<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.detach();
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("finished", &self.is_finished()).finish()
    }
}

/// Lets the other ready tasks of this shard run first.
pub async fn yield_now() {
    if sim::is_running() {
        // Rounds of the simulator have no order: those that are ready now run in the next one.
        futures_lite::future::yield_now().await;
    }
    futures_lite::future::yield_now().await;
}
