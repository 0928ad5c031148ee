//! What a connection has received and nobody has read yet.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Deref;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use crate::descriptor::Descriptor;
use crate::engine::Key;
use crate::engine::uring::Pooled;
use crate::shard::with_core;

/// Pieces one connection may hold unread before its receive is stopped: one fast sender must not drain the
/// shard's buffers.
const MAX_PIECES: usize = 16;

/// Bytes from the peer, as a rule in a buffer of the shard's pool; drop it soon, the pool is shared. Empty:
/// the peer has closed its side.
pub struct Received(Piece);

/// One piece of received bytes.
pub(crate) enum Piece {
    /// In a buffer of the shard's pool.
    Pooled(Pooled),
    /// In memory of its own, because the pool was dry.
    Owned(Vec<u8>),
}

impl From<Vec<u8>> for Received {
    /// Bytes that did not come in a buffer of the pool, as what was deciphered.
    fn from(bytes: Vec<u8>) -> Received {
        Received(Piece::Owned(bytes))
    }
}

impl Deref for Received {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Piece::Pooled(buffer) => buffer.bytes(),
            Piece::Owned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Received {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Received").field("length", &self.len()).finish()
    }
}

enum End {
    Closed,
    Failed(i32),
}

/// The receiving side of one connection.
pub(crate) struct ReceiveQueue {
    socket: Descriptor,
    myself: Weak<ReceiveQueue>,
    pieces: RefCell<VecDeque<Piece>>,
    waker: RefCell<Option<Waker>>,
    armed: Cell<Option<Key>>,
    stopping: Cell<bool>,
    end: RefCell<Option<End>>,
    abandoned: Cell<bool>,
}

impl ReceiveQueue {
    pub(crate) fn new(socket: Descriptor) -> Rc<Self> {
        Rc::new_cyclic(|myself| Self {
            socket,
            myself: myself.clone(),
            pieces: RefCell::default(),
            waker: RefCell::default(),
            armed: Cell::new(None),
            stopping: Cell::new(false),
            end: RefCell::default(),
            abandoned: Cell::new(false),
        })
    }

    pub(crate) fn poll_read(&self, context: &mut Context<'_>) -> Poll<io::Result<Received>> {
        if let Some(piece) = self.pieces.borrow_mut().pop_front() {
            return Poll::Ready(Ok(Received(piece)));
        }
        match &*self.end.borrow() {
            Some(End::Closed) => return Poll::Ready(Ok(Received(Piece::Owned(Vec::new())))),
            Some(End::Failed(code)) => return Poll::Ready(Err(io::Error::from_raw_os_error(*code))),
            None => {}
        }
        if self.armed.get().is_none() {
            let myself = self.myself.upgrade().expect("called through an Rc");
            self.armed.set(Some(with_core(|core| core.engine.receive(&self.socket, myself))));
        }
        let mut waker = self.waker.borrow_mut();
        match &mut *waker {
            Some(waker) => waker.clone_from(context.waker()),
            None => *waker = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Has these bytes read next, as if nobody had read them.
    pub(crate) fn put_back(&self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.pieces.borrow_mut().push_front(Piece::Owned(bytes));
        }
    }

    /// Whether bytes have come that nobody has read; the kernel is not asked.
    pub(crate) fn has_pieces(&self) -> bool {
        !self.pieces.borrow().is_empty()
    }

    /// Takes a completion of the receive.
    pub(crate) fn complete(&self, result: i32, piece: Option<Piece>, more: bool) {
        if !more {
            self.armed.set(None);
            self.stopping.set(false);
        }
        if self.abandoned.get() {
            return;
        }
        match result {
            length if length > 0 => {
                let mut pieces = self.pieces.borrow_mut();
                pieces.extend(piece);
                if pieces.len() >= MAX_PIECES
                    && !self.stopping.get()
                    && let Some(key) = self.armed.get()
                {
                    self.stopping.set(true);
                    with_core(|core| core.engine.cancel(key));
                }
            }
            0 => *self.end.borrow_mut() = Some(End::Closed),
            // Stopped at the cap, or the pool was dry: whoever waits arms it again by polling.
            error if error == -libc::ENOBUFS || error == -libc::ECANCELED => {}
            error => *self.end.borrow_mut() = Some(End::Failed(-error)),
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether a receive stands that would keep the socket open.
    pub(crate) fn is_armed(&self) -> bool {
        self.armed.get().is_some()
    }

    /// Nobody will read any more.
    pub(crate) fn abandon(&self) {
        self.abandoned.set(true);
        self.pieces.borrow_mut().clear();
        self.waker.borrow_mut().take();
        if let Some(key) = self.armed.get() {
            with_core(|core| core.engine.cancel(key));
        }
    }
}
