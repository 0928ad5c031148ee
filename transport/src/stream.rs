//! A connected byte stream.
//!
//! A carrier that is not plain takes its place as another variant of `Carrier`: plaintext goes in and out of the same
//! calls, and no caller changes. They give the carrier's own futures: an `async fn` here would be one more layer in the future of
//! every connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use chasqui_runtime::net::{self, ConnectOptions, Parts, Received, TcpStream, UnixStream};
use chasqui_runtime::timeout;

/// How long is read what a peer goes on to send after its session was ended: a line of SMTP, POP3 or IMAP has reached
/// whoever reads at all by then.
const LINGER: Duration = Duration::from_secs(5);

/// A connected byte stream. Clones share the connection; dropping the last one closes it after what was sent.
#[derive(Clone, Debug)]
pub struct Stream {
    carrier: Carrier,
    peer: Option<SocketAddr>,
}

/// What the bytes travel in.
#[derive(Clone, Debug)]
enum Carrier {
    Plain(net::Stream),
}

impl Stream {
    /// Connects to `address`, from `local` or the address that the system chooses. Without a limit of its own: use
    /// [`chasqui_runtime::timeout`].
    pub async fn connect(address: SocketAddr, local: Option<IpAddr>) -> io::Result<Stream> {
        TcpStream::connect(address, &ConnectOptions { local }).await.map(Stream::from)
    }

    /// The address of the peer; none: it is a Unix socket.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Waits for bytes from the peer; an empty piece says that it has closed its side. Cancel-safe. One reader at a time.
    pub fn read(&self) -> impl Future<Output = io::Result<Received>> {
        match &self.carrier {
            Carrier::Plain(stream) => stream.read(),
        }
    }

    /// Whether bytes have been received that nobody has read. Costs no system call, and does not see what the kernel still
    /// has.
    pub fn has_received(&self) -> bool {
        match &self.carrier {
            Carrier::Plain(stream) => stream.has_received(),
        }
    }

    /// Whether bytes have come before the first read: the kernel is asked.
    pub fn has_unread(&self) -> bool {
        match &self.carrier {
            Carrier::Plain(stream) => stream.has_unread(),
        }
    }

    /// Has all of `bytes` sent and leaves an empty buffer in their place: see [`net::Stream::post`]. Cancel-safe. One sender
    /// at a time. The last words of a connection need [`Stream::write_all`].
    pub fn post(&self, bytes: &mut Vec<u8>) -> impl Future<Output = io::Result<()>> {
        match &self.carrier {
            Carrier::Plain(stream) => stream.post(bytes),
        }
    }

    /// Sends all of `bytes` and gives the vector back, cleared. Not cancel-safe: once cancelled, the stream is only good for
    /// closing.
    pub fn write_all(&self, bytes: Vec<u8>) -> impl Future<Output = io::Result<Vec<u8>>> {
        match &self.carrier {
            Carrier::Plain(stream) => stream.write_all(bytes),
        }
    }

    /// Sends all parts in order. Not cancel-safe, like [`Stream::write_all`].
    pub fn send(&self, parts: Parts) -> impl Future<Output = io::Result<()>> {
        match &self.carrier {
            Carrier::Plain(stream) => stream.send(parts),
        }
    }

    /// Sends parts until `stop` says so: see [`net::Stream::send_unless`]. Returns how many bytes were sent.
    pub fn send_unless(
        &self,
        parts: Parts,
        interval: Duration,
        stop: &dyn Fn() -> bool,
    ) -> impl Future<Output = io::Result<usize>> {
        match &self.carrier {
            Carrier::Plain(stream) => stream.send_unless(parts, interval, stop),
        }
    }

    /// Tells the peer that nothing more will be sent; reading goes on.
    pub fn shutdown(&self) {
        match &self.carrier {
            Carrier::Plain(stream) => stream.shutdown(),
        }
    }

    /// Ends a connection on a peer that may be sending: reads on until it has heard the last words, which a close on what it
    /// sends would take from it by a reset.
    pub async fn linger(&self) {
        self.shutdown();
        let unheard = async { while self.read().await.is_ok_and(|piece| !piece.is_empty()) {} };
        let _slow = timeout(LINGER, unheard).await;
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream { peer: Some(stream.peer_addr()), carrier: Carrier::Plain((*stream).clone()) }
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Stream {
        Stream { peer: None, carrier: Carrier::Plain((*stream).clone()) }
    }
}
