//! A connected byte stream, plain or in TLS: plaintext goes in and out of the same calls.
//!
//! They poll, or give the carrier's own futures, as far as they can: an `async fn` here would be one more layer in the future of
//! every connection. What plain connections never do is boxed.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::net::{self, ConnectOptions, Parts, Received, TcpStream, UnixStream};
use chasqui_runtime::timeout;
use futures_lite::future::or;

use crate::drain::Drain;
use crate::tls::{Agreed, ClientTls, EXPORTED_OCTETS, HandshakeError, ServerTls, Tls, Trust};

/// How long is read what a peer goes on to send after its session was ended: a line of SMTP, POP3 or IMAP has reached
/// whoever reads at all by then.
const LINGER: Duration = Duration::from_secs(5);

/// How often a send that cannot be stopped is looked at.
const NEVER: Duration = Duration::from_secs(3600);

/// A connected byte stream. Clones share the connection; dropping the last one closes it after what was sent.
#[derive(Clone, Debug)]
pub struct Stream {
    carrier: net::Stream,
    /// None: it is plain.
    tls: Option<Rc<Tls>>,
    peer: Option<SocketAddr>,
}

impl Stream {
    /// Connects to `address`, from `local` or the address that the system chooses. Without a limit of its own: use
    /// [`chasqui_runtime::timeout`].
    pub async fn connect(address: SocketAddr, local: Option<IpAddr>) -> io::Result<Stream> {
        TcpStream::connect(address, &ConnectOptions { local }).await.map(Stream::from)
    }

    /// Goes over to TLS as a server, within `limit` and unless a drain begins: what was read before is plaintext, and what comes
    /// next is the client's handshake. Clones made before stay plain. After an error the stream is of no more use.
    pub async fn accept_tls(
        &mut self,
        tls: &ServerTls,
        limit: Duration,
        drain: &Drain,
    ) -> Result<(), HandshakeError> {
        let drained = drain.notified();
        if drain.has_begun() {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted).into());
        }
        // Few connections stand here at a time; none keeps room for it.
        let handshake = Box::pin(async {
            let accepted = timeout(limit, tls.accept(&self.carrier)).await;
            accepted.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
        });
        let ended = async {
            drained.await;
            Err(io::Error::from(io::ErrorKind::ConnectionAborted).into())
        };
        self.tls = Some(Rc::new(or(handshake, ended).await?));
        Ok(())
    }

    /// Goes over to TLS as a client of `host`; the rest as [`Stream::accept_tls`], without a limit of its own.
    pub async fn connect_tls(
        &mut self,
        tls: &ClientTls,
        trust: Trust,
        host: &str,
    ) -> Result<(), HandshakeError> {
        let address = self.peer.map(|peer| peer.ip());
        self.tls = Some(Rc::new(tls.connect(&self.carrier, trust, host, address).await?));
        Ok(())
    }

    /// What was agreed on for TLS; none: it is plain.
    pub fn agreed(&self) -> Option<Agreed> {
        self.tls.as_ref().map(|tls| tls.agreed())
    }

    /// Keying material that only the two ends of this connection have (`tls-exporter`, RFC 9266).
    pub fn exporter(&self) -> Option<[u8; EXPORTED_OCTETS]> {
        self.tls.as_ref()?.exporter()
    }

    /// The address of the peer; none: it is a Unix socket.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Waits for bytes from the peer; an empty piece says that it has closed its side. Cancel-safe. One reader at a time.
    pub fn read(&self) -> impl Future<Output = io::Result<Received>> {
        poll_fn(|context| match &self.tls {
            None => self.carrier.poll_read(context),
            Some(tls) => tls.poll_read(&self.carrier, context),
        })
    }

    /// Gives bytes back that were read on a plain connection and belong to what is read next, the handshake of TLS perhaps.
    pub fn put_back(&self, bytes: Vec<u8>) {
        debug_assert!(self.tls.is_none(), "the carrier has records");
        self.carrier.put_back(bytes);
    }

    /// Whether bytes have been received that nobody has read. Costs no system call, and does not see what the kernel still
    /// has.
    pub fn has_received(&self) -> bool {
        match &self.tls {
            None => self.carrier.has_received(),
            Some(tls) => tls.has_received(&self.carrier),
        }
    }

    /// Whether bytes have come before the first read: the kernel is asked, except in TLS, where it cannot tell.
    pub fn has_unread(&self) -> bool {
        match &self.tls {
            None => self.carrier.has_unread(),
            Some(tls) => tls.has_received(&self.carrier),
        }
    }

    /// Has all of `bytes` sent and leaves an empty buffer in their place: see [`net::Stream::post`]. Cancel-safe. One sender
    /// at a time. The last words of a connection need [`Stream::write_last`].
    pub fn post(&self, bytes: &mut Vec<u8>) -> impl Future<Output = io::Result<()>> {
        poll_fn(move |context| match &self.tls {
            None => self.carrier.poll_posted(context).map_ok(|()| self.carrier.post_now(bytes)),
            Some(tls) => tls.poll_post(&self.carrier, bytes, context),
        })
    }

    /// Sends all of `bytes` and gives the vector back, cleared. Not cancel-safe: once cancelled, the stream is only good for
    /// closing.
    pub async fn write_all(&self, mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        if let Some(tls) = &self.tls {
            tls.seal(&mut bytes)?;
        }
        self.carrier.write_all(bytes).await
    }

    /// As [`Stream::write_all`]; nothing more will be sent, and in TLS nothing more is read but the end.
    pub async fn write_last(&self, mut bytes: Vec<u8>) -> io::Result<()> {
        if let Some(tls) = &self.tls {
            tls.seal_last(&mut bytes)?;
        }
        self.carrier.write_all(bytes).await.map(drop)
    }

    /// Sends all parts in order. Not cancel-safe, like [`Stream::write_all`].
    pub async fn send(&self, parts: Parts) -> io::Result<()> {
        match &self.tls {
            None => self.carrier.send(parts).await,
            Some(tls) => Box::pin(tls.send_unless(&self.carrier, parts, NEVER, &|| false)).await.map(drop),
        }
    }

    /// Sends parts until `stop` says so: see [`net::Stream::send_unless`]. Returns how many bytes were sent.
    pub fn send_unless<'a>(
        &'a self,
        parts: Parts,
        interval: Duration,
        stop: &'a dyn Fn() -> bool,
    ) -> impl Future<Output = io::Result<usize>> + 'a {
        // What is kept of a plain send is its own future, and nothing of TLS beside it.
        let sending = match &self.tls {
            None => Sending::Plain(self.carrier.send_unless(parts, interval, stop)),
            Some(tls) => Sending::Tls(Box::pin(tls.send_unless(&self.carrier, parts, interval, stop))),
        };
        async move {
            match sending {
                Sending::Plain(sending) => sending.await,
                Sending::Tls(sending) => sending.await,
            }
        }
    }

    /// Tells the peer that nothing more will be sent; reading goes on. In TLS without saying so: [`Stream::write_last`] does.
    pub fn shutdown(&self) {
        self.carrier.shutdown();
    }

    /// Ends a connection on a peer that may be sending: reads on until it has heard the last words, which a close on what it
    /// sends would take from it by a reset.
    pub async fn linger(&self) {
        self.shutdown();
        let unheard = async { while self.read().await.is_ok_and(|piece| !piece.is_empty()) {} };
        let _slow = timeout(LINGER, unheard).await;
    }
}

/// A send of parts, by its carrier.
enum Sending<'a, P> {
    Plain(P),
    Tls(Pin<Box<dyn Future<Output = io::Result<usize>> + 'a>>),
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream { peer: Some(stream.peer_addr()), carrier: (*stream).clone(), tls: None }
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Stream {
        Stream { peer: None, carrier: (*stream).clone(), tls: None }
    }
}
