//! Operations in flight, the same for every engine: a slab of slots from submission to the last completion.
//!
//! `user_data` is a slot's index with a generation, so that a late completion of a reused slot finds nobody. What
//! an operation points to lives in its slot until its own completion, also when the future that waited for it is
//! gone.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use slab::Slab;

use crate::descriptor::Descriptor;
use crate::net::{AcceptQueue, Parts, Piece, PostQueue, ReceiveQueue};
use crate::prefetch::prefetch;
use crate::shard::{try_with_core, with_core};

/// What an operation's pointers refer to; handed back with its result.
pub(crate) enum Resources {
    None,
    Bytes(Vec<u8>),
    Vectored(Parts),
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
    /// Never one of the values from [`RESERVED`] on.
    pub(crate) fn user_data(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

/// The first `user_data` that no key has; engines use these values for purposes of their own.
pub(crate) const RESERVED: u64 = (u32::MAX as u64) << 32;

pub(crate) enum OnceState {
    Pending(Option<Waker>),
    Done(i32),
    Orphaned,
}

pub(crate) enum Kind {
    Once {
        state: OnceState,
        resources: Resources,
    },
    /// A send of the bytes from that place on, for which nobody waits.
    Post(Rc<PostQueue>, Vec<u8>, usize),
    Receive(Rc<ReceiveQueue>),
    ReceiveOwned(Rc<ReceiveQueue>, Vec<u8>),
    Accept(Rc<AcceptQueue>),
}

struct Slot {
    generation: u32,
    kind: Kind,
    /// Keeps the descriptor open until the operation's last completion.
    descriptor: Descriptor,
}

/// The slots of one shard.
#[derive(Default)]
pub(crate) struct Operations {
    slots: RefCell<Slab<Slot>>,
    generation: Cell<u32>,
}

impl Operations {
    pub(crate) fn insert(&self, kind: Kind, descriptor: &Descriptor) -> Key {
        // One generation is left out, so that no key is among the reserved values.
        let generation = (self.generation.get() + 1) % u32::MAX;
        self.generation.set(generation);
        let slot = Slot { generation, kind, descriptor: descriptor.clone() };
        Key { index: self.slots.borrow_mut().insert(slot) as u32, generation }
    }

    /// An operation with one completion.
    pub(crate) fn once(&self, resources: Resources, descriptor: &Descriptor) -> Operation {
        let key = self.insert(Kind::Once { state: OnceState::Pending(None), resources }, descriptor);
        Operation { key: Some(key), _of_this_shard: PhantomData }
    }

    /// Puts the bytes that a simulated read has found into the buffer that was given for them.
    pub(crate) fn fill(&self, user_data: u64, found: &[u8]) {
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = find(&mut slots, user_data)
            && let Kind::Once { resources: Resources::Bytes(bytes), .. } = &mut slot.kind
        {
            bytes.extend_from_slice(found);
        }
    }

    /// Begins to fetch what the completion of an operation will need.
    pub(crate) fn prefetch(&self, user_data: u64) {
        let slots = self.slots.borrow();
        let index = index_of(user_data);
        match slots.get(index).map(|slot| &slot.kind) {
            Some(Kind::Receive(queue)) => prefetch::<3, _>(Rc::as_ptr(queue)),
            Some(Kind::Post(queue, ..)) => prefetch::<2, _>(Rc::as_ptr(queue)),
            _ => {}
        }
    }

    /// Takes a completion from the engine. `accepted` makes the descriptor of an accepted connection from the
    /// result.
    ///
    /// # Safety
    ///
    /// The operation has come so far: a receive or read has written `result` bytes into the spare capacity of its buffer, and
    /// without `more` nothing refers any longer to what the operation was given.
    pub(crate) unsafe fn complete(
        &self,
        user_data: u64,
        result: i32,
        more: bool,
        piece: Option<Piece>,
        accepted: impl FnOnce(i32) -> Descriptor,
    ) {
        let index = index_of(user_data);
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = find(&mut slots, user_data) else { return };
        match &mut slot.kind {
            Kind::Once { state, .. } => match std::mem::replace(state, OnceState::Done(result)) {
                OnceState::Pending(waker) => {
                    drop(slots);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                OnceState::Orphaned | OnceState::Done(_) => {
                    let ended = slots.remove(index);
                    drop(slots);
                    drop(ended);
                }
            },
            Kind::Post(..) => {
                let Slot { kind, descriptor, .. } = slots.remove(index);
                drop(slots);
                let Kind::Post(queue, bytes, from) = kind else { unreachable!("matched above") };
                queue.complete(&descriptor, result, bytes, from);
            }
            Kind::Receive(queue) => {
                let queue = queue.clone();
                let ended = if more { None } else { Some(slots.remove(index)) };
                drop(slots);
                queue.complete(result, piece, more);
                drop(ended);
            }
            Kind::ReceiveOwned(..) => {
                let slot = slots.remove(index);
                drop(slots);
                let Kind::ReceiveOwned(queue, mut bytes) = slot.kind else { unreachable!("matched above") };
                let length = (result.max(0) as usize).min(bytes.capacity());
                // SAFETY: this many bytes have been written into the vector's spare capacity, by the caller's promise.
                unsafe { bytes.set_len(length) };
                queue.complete(result, Some(Piece::Owned(bytes)), false);
            }
            Kind::Accept(queue) => {
                let queue = queue.clone();
                let ended = if more { None } else { Some(slots.remove(index)) };
                drop(slots);
                let outcome = match result {
                    error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
                    descriptor => Ok(accepted(descriptor)),
                };
                queue.complete(outcome, more);
                drop(ended);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.borrow().is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Drops what has finished and was not asked for again.
    pub(crate) fn drop_finished(&self) {
        self.slots
            .borrow_mut()
            .retain(|_, slot| !matches!(slot.kind, Kind::Once { state: OnceState::Done(_), .. }));
    }

    /// Takes out everything that is left, and returns how many operations it was.
    ///
    /// # Safety
    ///
    /// What is returned is not dropped while something refers to what an operation was given.
    pub(crate) unsafe fn take_all(&self) -> (usize, impl Sized + use<>) {
        let slots = self.slots.take();
        (slots.len(), slots)
    }
}

fn index_of(user_data: u64) -> usize {
    (user_data & u64::from(u32::MAX)) as usize
}

fn find(slots: &mut Slab<Slot>, user_data: u64) -> Option<&mut Slot> {
    let index = index_of(user_data);
    slots.get_mut(index).filter(|slot| u64::from(slot.generation) == user_data >> 32)
}

/// Future of one operation. Dropped before the end, it asks the engine to cancel and leaves what the operation
/// points to alive until the engine is done with it.
pub(crate) struct Operation {
    key: Option<Key>,
    _of_this_shard: PhantomData<*const ()>,
}

impl Operation {
    /// Asks for its end: it completes with what it has done so far, or with ECANCELED.
    pub(crate) fn cancel(&self) {
        if let Some(key) = self.key {
            with_core(|core| core.engine.cancel(key));
        }
    }

    pub(crate) fn user_data(&self) -> u64 {
        self.key.expect("a new operation has its key").user_data()
    }
}

impl Future for Operation {
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        let key = self.key.expect("an operation is not polled after its end");
        let finished = with_core(|core| {
            let mut slots = core.engine.operations().slots.borrow_mut();
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
            let mut slots = core.engine.operations().slots.borrow_mut();
            let Some(slot) = slots.get_mut(key.index as usize) else { return };
            let Kind::Once { state, .. } = &mut slot.kind else {
                unreachable!("an operation's slot keeps its kind")
            };
            if matches!(state, OnceState::Done(_)) {
                let ended = slots.remove(key.index as usize);
                drop(slots);
                drop(ended);
            } else {
                *state = OnceState::Orphaned;
                drop(slots);
                core.engine.cancel(key);
            }
        });
    }
}
