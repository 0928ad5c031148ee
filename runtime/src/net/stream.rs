//! Connected byte streams.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::path::Path;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockAddr;

use super::parts::{self, Parts};
use super::posting::PostQueue;
use super::receive::{ReceiveQueue, Received};
use super::socket;
use crate::descriptor::Descriptor;
use crate::engine::Resources;
use crate::shard::with_core;

/// A connected stream. Clones share the connection; dropping the last one closes it after what was sent.
#[derive(Clone)]
pub struct Stream(Rc<Handle>);

struct Handle {
    socket: Descriptor,
    receive: Rc<ReceiveQueue>,
    posted: Rc<PostQueue>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // A standing receive keeps the socket open, and a close would send no FIN: shut down, cancel, and let
        // the last completion close.
        if self.receive.is_armed() {
            socket::shut_down(&self.socket);
        }
        self.receive.abandon();
        self.posted.abandon();
    }
}

impl Stream {
    pub(super) fn new(socket: Descriptor) -> Self {
        let receive = ReceiveQueue::new(socket.clone());
        Self(Rc::new(Handle { receive, posted: Rc::default(), socket }))
    }

    /// Waits for bytes from the peer; an empty piece says that it has closed its side. Cancel-safe. One reader
    /// at a time.
    pub async fn read(&self) -> io::Result<Received> {
        poll_fn(|context| self.poll_read(context)).await
    }

    /// [`Stream::read`], for whoever reads on behalf of others.
    pub fn poll_read(&self, context: &mut Context<'_>) -> Poll<io::Result<Received>> {
        self.0.receive.poll_read(context)
    }

    /// Gives bytes back that were read and are somebody else's to read: they come first then.
    pub fn put_back(&self, bytes: Vec<u8>) {
        self.0.receive.put_back(bytes);
    }

    /// Whether bytes have been received that nobody has read. Costs no system call, and does not see what the kernel still
    /// has.
    pub fn has_received(&self) -> bool {
        self.0.receive.has_pieces()
    }

    /// Whether bytes have come before the first read: the kernel is asked.
    pub fn has_unread(&self) -> bool {
        self.has_received() || socket::has_unread(&self.0.socket)
    }

    /// Has all of `bytes` sent and leaves an empty buffer in their place, without waiting until they are gone: only what
    /// was posted before is waited for. When it fails, everything that is sent later does. Cancel-safe until it is done,
    /// when the bytes are on their way. One sender at a time.
    ///
    /// The last words of a connection need [`Stream::write_all`]: what is posted may be lost when the stream is shut
    /// down or dropped.
    pub async fn post(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.posted().await?;
        self.post_now(bytes);
        Ok(())
    }

    /// Waits until all that was posted has been sent.
    async fn posted(&self) -> io::Result<()> {
        poll_fn(|context| self.poll_posted(context)).await
    }

    /// Whether all that was posted has been sent.
    pub fn poll_posted(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.posted.poll_idle(context)
    }

    /// [`Stream::post`], when [`Stream::poll_posted`] has just said that nothing is under way.
    pub fn post_now(&self, bytes: &mut Vec<u8>) {
        if !bytes.is_empty() {
            self.0.posted.post(&self.0.socket, bytes);
        }
    }

    /// Sends all of `bytes` and gives the vector back, cleared. Not cancel-safe: once cancelled, nobody knows
    /// how much was sent, and the stream is only good for closing.
    pub async fn write_all(&self, bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        self.posted().await?;
        let (mut bytes, mut sent) = (bytes, 0);
        while sent < bytes.len() {
            let completion = with_core(|core| core.engine.send(&self.0.socket, bytes, sent)).await;
            let Resources::Bytes(returned) = completion.resources else {
                unreachable!("the engine hands back what it was given")
            };
            bytes = returned;
            match completion.result? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                count => sent += count as usize,
            }
        }
        bytes.clear();
        Ok(bytes)
    }

    /// Sends all parts in order, at most 256 KiB a system call. Not cancel-safe, like [`Stream::write_all`].
    pub async fn send(&self, parts: Parts) -> io::Result<()> {
        self.posted().await?;
        parts::send(&self.0.socket, parts).await
    }

    /// Sends parts as [`Stream::send`] does, until `stop` says so: it is asked whenever a system call has taken another
    /// `interval`. Returns how many bytes were sent, all or, when it was stopped, perhaps fewer; the leases are given
    /// up by then, and sending can go on behind those bytes.
    pub async fn send_unless(
        &self,
        parts: Parts,
        interval: Duration,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<usize> {
        self.posted().await?;
        parts::send_unless(&self.0.socket, parts, interval, stop).await
    }

    /// Tells the peer that nothing more will be sent; reading goes on.
    pub fn shutdown(&self) {
        socket::shut_down(&self.0.socket);
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stream").field(&self.0.socket).finish()
    }
}

/// How a connection is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectOptions {
    /// Source address; the kernel chooses when `None`.
    pub local: Option<IpAddr>,
}

/// A TCP connection, with Nagle's algorithm off.
#[derive(Clone, Debug)]
pub struct TcpStream {
    stream: Stream,
    local: SocketAddr,
    peer: SocketAddr,
}

impl TcpStream {
    /// Connects to `address`. Without a limit of its own: use [`crate::timeout`].
    pub async fn connect(address: SocketAddr, options: &ConnectOptions) -> io::Result<Self> {
        let socket = connect(socket::new_tcp(address, options.local)?, address.into()).await?;
        Self::from_socket(socket, Some(address))
    }

    pub(super) fn from_socket(socket: Descriptor, peer: Option<SocketAddr>) -> io::Result<Self> {
        let (local, peer) = socket::addresses(&socket, peer)?;
        Ok(Self { stream: Stream::new(socket), local, peer })
    }

    /// The address of the peer.
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Our own address.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Deref for TcpStream {
    type Target = Stream;
    fn deref(&self) -> &Stream {
        &self.stream
    }
}

/// A connection on a Unix socket.
#[derive(Clone, Debug)]
pub struct UnixStream(Stream);

impl UnixStream {
    /// Connects to the socket at `path`.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self::from_socket(connect(socket::new_unix()?, SockAddr::unix(path)?).await?))
    }

    pub(super) fn from_socket(socket: Descriptor) -> Self {
        Self(Stream::new(socket))
    }
}

impl Deref for UnixStream {
    type Target = Stream;
    fn deref(&self) -> &Stream {
        &self.0
    }
}

async fn connect(socket: Descriptor, address: SockAddr) -> io::Result<Descriptor> {
    with_core(|core| core.engine.connect(&socket, address)).await.result?;
    Ok(socket)
}
