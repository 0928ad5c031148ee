//! Waiting between the tasks of one shard.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

/// Wakes waiting tasks. Clones share one state.
#[derive(Clone, Default)]
pub struct Notify(Rc<NotifyState>);

#[derive(Default)]
struct NotifyState {
    permit: Cell<bool>,
    waiters: RefCell<Slab<Waiter>>,
    order: RefCell<VecDeque<usize>>,
}

struct Waiter {
    waker: Waker,
    state: WaiterState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WaiterState {
    Waiting,
    NotifiedAlone,
    NotifiedWithAll,
}

impl Notify {
    /// A notifier without a permit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes every task that waits now.
    pub fn notify_all(&self) {
        self.0.order.borrow_mut().clear();
        for (_, waiter) in self.0.waiters.borrow_mut().iter_mut() {
            if waiter.state == WaiterState::Waiting {
                waiter.state = WaiterState::NotifiedWithAll;
                waiter.waker.wake_by_ref();
            }
        }
    }

    /// Wakes the task that has waited longest; when none waits, the next one to wait goes on at once.
    pub fn notify_one(&self) {
        let Some(key) = self.0.order.borrow_mut().pop_front() else {
            self.0.permit.set(true);
            return;
        };
        let mut waiters = self.0.waiters.borrow_mut();
        waiters[key].state = WaiterState::NotifiedAlone;
        waiters[key].waker.wake_by_ref();
    }

    /// Waits for a notification. Cancelled after it was notified by [`Notify::notify_one`], it passes the
    /// notification on.
    pub fn notified(&self) -> Notified {
        Notified { notify: self.clone(), key: None }
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify").field("waiters", &self.0.waiters.borrow().len()).finish()
    }
}

/// Future of [`Notify::notified`].
#[derive(Debug)]
pub struct Notified {
    notify: Notify,
    key: Option<usize>,
}

impl Future for Notified {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let state = self.notify.0.clone();
        if let Some(key) = self.key {
            let mut waiters = state.waiters.borrow_mut();
            if waiters[key].state != WaiterState::Waiting {
                waiters.remove(key);
                self.key = None;
                return Poll::Ready(());
            }
            waiters[key].waker.clone_from(context.waker());
            return Poll::Pending;
        }
        if state.permit.replace(false) {
            return Poll::Ready(());
        }
        let key = state
            .waiters
            .borrow_mut()
            .insert(Waiter { waker: context.waker().clone(), state: WaiterState::Waiting });
        state.order.borrow_mut().push_back(key);
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for Notified {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        let waiter = self.notify.0.waiters.borrow_mut().remove(key);
        match waiter.state {
            WaiterState::Waiting => self.notify.0.order.borrow_mut().retain(|other| *other != key),
            WaiterState::NotifiedAlone => self.notify.notify_one(),
            WaiterState::NotifiedWithAll => {}
        }
    }
}

/// Counting semaphore, served first come, first served. Clones share one state.
#[derive(Clone)]
pub struct Semaphore(Rc<SemaphoreState>);

struct SemaphoreState {
    available: Cell<usize>,
    queue: RefCell<VecDeque<Rc<Ticket>>>,
}

struct Ticket {
    wanted: usize,
    granted: Cell<bool>,
    abandoned: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Semaphore {
    /// A semaphore with `permits` permits.
    pub fn new(permits: usize) -> Self {
        Self(Rc::new(SemaphoreState { available: Cell::new(permits), queue: RefCell::default() }))
    }

    /// Permits that nobody holds.
    pub fn available(&self) -> usize {
        self.0.available.get()
    }

    /// Takes `count` permits if they are free and nobody waits.
    pub fn try_acquire(&self, count: usize) -> Option<Permit> {
        let available = self.0.available.get();
        if available < count || !self.0.queue.borrow().is_empty() {
            return None;
        }
        self.0.available.set(available - count);
        Some(Permit { semaphore: self.clone(), count })
    }

    /// Waits for `count` permits.
    pub async fn acquire(&self, count: usize) -> Permit {
        if let Some(permit) = self.try_acquire(count) {
            return permit;
        }
        let ticket = Rc::new(Ticket {
            wanted: count,
            granted: Cell::new(false),
            abandoned: Cell::new(false),
            waker: RefCell::new(None),
        });
        self.0.queue.borrow_mut().push_back(ticket.clone());
        let guard = TicketGuard { semaphore: self, ticket };
        poll_fn(|context| {
            if guard.ticket.granted.get() {
                return Poll::Ready(());
            }
            *guard.ticket.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        guard.ticket.abandoned.set(true); // the permit below owns the grant now
        Permit { semaphore: self.clone(), count }
    }

    fn release(&self, count: usize) {
        self.0.available.set(self.0.available.get() + count);
        let mut queue = self.0.queue.borrow_mut();
        while let Some(first) = queue.front() {
            if first.wanted > self.0.available.get() {
                break;
            }
            let Some(ticket) = queue.pop_front() else { break };
            self.0.available.set(self.0.available.get() - ticket.wanted);
            ticket.granted.set(true);
            if let Some(waker) = ticket.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("available", &self.available()).finish()
    }
}

struct TicketGuard<'a> {
    semaphore: &'a Semaphore,
    ticket: Rc<Ticket>,
}

impl Drop for TicketGuard<'_> {
    fn drop(&mut self) {
        if self.ticket.abandoned.get() {
            return;
        }
        if self.ticket.granted.get() {
            self.semaphore.release(self.ticket.wanted);
        } else {
            self.semaphore.0.queue.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.ticket));
            self.semaphore.release(0);
        }
    }
}

/// Permits of a [`Semaphore`], given back when dropped.
#[derive(Debug)]
pub struct Permit {
    semaphore: Semaphore,
    count: usize,
}

impl Permit {
    /// How many permits this holds.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Gives `count` of the permits back now (all of them when it holds fewer).
    pub fn give_back(&mut self, count: usize) {
        let count = count.min(self.count);
        self.count -= count;
        self.semaphore.release(count);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.semaphore.release(self.count);
    }
}
