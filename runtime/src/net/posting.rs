//! What a connection sends without anybody waiting for it.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::descriptor::Descriptor;
use crate::engine::Key;
use crate::shard::with_core;

/// The largest buffer that a connection keeps for its next send.
const KEEP_BYTES: usize = 16 * 1024;
/// Larger ones, up to this, are kept by the shard for [`buffer`].
const LARGE_BYTES: usize = 256 * 1024;
/// How many it keeps.
const LARGE_KEPT: usize = 16;

/// An empty buffer with room for `bytes`, for a large [`Stream::post`](super::Stream::post): that of an earlier one, which the
/// processor's caches may still hold, if there is one.
pub fn buffer(bytes: usize) -> Vec<u8> {
    let kept = with_core(|core| core.large_buffers.borrow_mut().pop());
    let mut buffer = kept.unwrap_or_default();
    buffer.reserve_exact(bytes);
    buffer
}

/// Keeps the buffer of a send that is over, cleared.
pub fn keep_buffer(mut buffer: Vec<u8>) {
    if buffer.capacity() <= LARGE_BYTES {
        buffer.clear();
        with_core(|core| {
            let mut kept = core.large_buffers.borrow_mut();
            if kept.len() < LARGE_KEPT {
                kept.push(buffer);
            }
        });
    }
}

/// The sending side of one connection, as far as it is not somebody's own operation.
#[derive(Default)]
pub(crate) struct PostQueue {
    /// The send under way: one at a time, because the kernel may reorder two.
    under_way: Cell<Option<Key>>,
    /// The buffer of the last send, empty again.
    spare: Cell<Vec<u8>>,
    /// Why a send failed; all that follow it do.
    failure: Cell<Option<i32>>,
    /// Who wants to send next.
    waker: RefCell<Option<Waker>>,
    abandoned: Cell<bool>,
}

impl PostQueue {
    /// Waits until nothing is under way; an error is that of an earlier send.
    pub(crate) fn poll_idle(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(code) = self.failure.get() {
            return Poll::Ready(Err(io::Error::from_raw_os_error(code)));
        }
        if self.under_way.get().is_none() {
            return Poll::Ready(Ok(()));
        }
        *self.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    /// Sends `bytes`, when nothing is under way, and leaves an empty buffer in its place.
    pub(crate) fn post(self: &Rc<Self>, socket: &Descriptor, bytes: &mut Vec<u8>) {
        debug_assert!(self.under_way.get().is_none(), "one send at a time");
        let bytes = std::mem::replace(bytes, self.spare.take());
        self.submit(socket, bytes, 0);
    }

    fn submit(self: &Rc<Self>, socket: &Descriptor, bytes: Vec<u8>, from: usize) {
        with_core(|core| core.engine.post(socket, self.clone(), bytes, from));
    }

    /// A send is under way, which may complete within the call that begins it.
    pub(crate) fn begun(&self, key: Key) {
        self.under_way.set(Some(key));
    }

    /// Takes the completion of the send of `bytes[from..]`.
    pub(crate) fn complete(
        self: &Rc<Self>,
        socket: &Descriptor,
        result: i32,
        mut bytes: Vec<u8>,
        from: usize,
    ) {
        self.under_way.set(None);
        if self.abandoned.get() {
            return;
        }
        match usize::try_from(result) {
            Ok(0) => self.failure.set(Some(libc::EPIPE)),
            Ok(sent) if from + sent < bytes.len() => return self.submit(socket, bytes, from + sent),
            Ok(_) if bytes.capacity() <= KEEP_BYTES => {
                bytes.clear();
                self.spare.set(bytes);
            }
            Ok(_) => keep_buffer(bytes),
            Err(_) => self.failure.set(Some(-result)),
        }
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Nobody will send any more; what is under way must not keep the socket open.
    pub(crate) fn abandon(&self) {
        self.abandoned.set(true);
        if let Some(key) = self.under_way.get() {
            with_core(|core| core.engine.cancel(key));
        }
    }
}
