//! Listening sockets.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::stream::{TcpStream, UnixStream};
use super::unix::{FileId, LOOK_PAUSE};
use super::{FREE_WITHIN, socket};
use crate::descriptor::Descriptor;
use crate::engine::Key;
use crate::shard::with_core;
use crate::time::{now, sleep};

/// Accepted connections that wait for [`TcpListener::accept`]; beyond it the rest stays in the backlog.
const MAX_ACCEPTED: usize = 1024;
/// Pause after the process or the system ran out of descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// How a listening socket is made.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Connections the kernel may hold before they are accepted.
    pub backlog: u32,
    /// Lets every shard bind a socket of its own to the same address.
    pub reuse_port: bool,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 4096, reuse_port: false }
    }
}

/// Connections as they come from a multishot accept.
pub(crate) struct AcceptQueue {
    accepted: RefCell<VecDeque<io::Result<Descriptor>>>,
    armed: Cell<Option<Key>>,
    stopping: Cell<bool>,
    abandoned: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl AcceptQueue {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            accepted: RefCell::default(),
            armed: Cell::new(None),
            stopping: Cell::new(false),
            abandoned: Cell::new(false),
            waker: RefCell::default(),
        })
    }

    pub(crate) fn complete(&self, outcome: io::Result<Descriptor>, more: bool) {
        if !more {
            self.armed.set(None);
            self.stopping.set(false);
        }
        let stopped = matches!(&outcome, Err(error) if error.raw_os_error() == Some(libc::ECANCELED));
        if self.abandoned.get() {
            return;
        }
        let mut accepted = self.accepted.borrow_mut();
        if !stopped {
            accepted.push_back(outcome);
        }
        if accepted.len() >= MAX_ACCEPTED
            && !self.stopping.get()
            && let Some(key) = self.armed.get()
        {
            self.stopping.set(true);
            with_core(|core| core.engine.cancel(key));
        }
        drop(accepted);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

struct Listener {
    socket: Descriptor,
    queue: Rc<AcceptQueue>,
}

impl Listener {
    fn new(socket: Descriptor) -> Self {
        Self { socket, queue: AcceptQueue::new() }
    }

    async fn accept(&self) -> io::Result<Descriptor> {
        loop {
            match poll_fn(|context| self.poll_accept(context)).await {
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                    if let Some(times) = with_core(|core| core.exhausted.happened()) {
                        log::warn!("cannot accept connections ({times} times): {error}; raise ulimit -n");
                    }
                    sleep(EXHAUSTED_PAUSE).await;
                }
                // The peer gave up before it was accepted (accept(2) asks to treat these as a retry).
                Err(error) if matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::EPROTO)) => {}
                outcome => return outcome,
            }
        }
    }

    fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Descriptor>> {
        if let Some(outcome) = self.queue.accepted.borrow_mut().pop_front() {
            return Poll::Ready(outcome);
        }
        if self.queue.armed.get().is_none() {
            let key = with_core(|core| core.engine.accept(&self.socket, self.queue.clone()));
            self.queue.armed.set(Some(key));
        }
        *self.queue.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.queue.abandoned.set(true);
        self.queue.accepted.borrow_mut().clear();
        if let Some(key) = self.queue.armed.get() {
            with_core(|core| core.engine.cancel(key));
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(&self.socket).finish()
    }
}

/// A listening TCP socket of one shard.
#[derive(Debug)]
pub struct TcpListener {
    listener: Listener,
    address: SocketAddr,
}

impl TcpListener {
    /// Binds and listens; port 0 lets the kernel choose, see [`TcpListener::local_addr`].
    pub fn bind(address: SocketAddr, options: &ListenOptions) -> io::Result<Self> {
        let (socket, address) = socket::listen_tcp(address, options)?;
        Ok(Self { listener: Listener::new(socket), address })
    }

    /// The address bound to.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Waits for a connection. Cancel-safe. Waits out a lack of descriptors.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let socket = self.listener.accept().await?;
            // The peer's address is gone when the connection is: then wait for the next one.
            if let Ok(stream) = TcpStream::from_socket(socket, None) {
                let peer = stream.peer_addr();
                return Ok((stream, peer));
            }
        }
    }
}

/// A listening Unix socket of one shard; its file is removed when it is dropped.
#[derive(Debug)]
pub struct UnixListener {
    listener: Listener,
    path: std::path::PathBuf,
    id: Option<FileId>,
}

impl UnixListener {
    /// Binds to `path`, with mode 0600. Takes the place of a socket file that nobody listens on any more, and of nothing
    /// else: [`io::ErrorKind::AlreadyExists`] where something else is.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let (socket, id) = socket::listen_unix(path)?;
        Ok(Self { listener: Listener::new(socket), path: path.to_owned(), id })
    }

    /// As [`UnixListener::bind`], but waits for up to 2 s while somebody listens there: a process that was killed does for a
    /// moment.
    pub async fn bind_when_free(path: &Path) -> io::Result<Self> {
        let until = now() + FREE_WITHIN;
        loop {
            match Self::bind(path) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && now() < until => {
                    sleep(LOOK_PAUSE).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// Waits for a connection. Cancel-safe.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        Ok(UnixStream::from_socket(self.listener.accept().await?))
    }

    /// Where the socket's file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixListener {
    fn drop(&mut self) {
        socket::unlink_unix(&self.listener.socket, &self.path, self.id);
    }
}
