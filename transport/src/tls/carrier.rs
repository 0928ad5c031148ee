//! A connection's bytes in and out of TLS records.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use chasqui_protocol::sasl::binding::EXPORTER_LABEL;
use chasqui_runtime::net::{self, Parts, Received};
use chasqui_runtime::timeout;
use rustls::{CipherSuite, Connection, HandshakeKind};

use super::{Agreed, EXPORTED_OCTETS, HandshakeError, version_name};

/// Octets of a message that are sealed and sent at once: eight records. Bounds what a connection holds of a message.
const WINDOW: usize = 128 * 1024;
/// What sealing adds to a record of 16 KiB, by a wide margin.
const RECORD_EXTRA: usize = 64;
const RECORD: usize = 16 * 1024;

/// The records of one connection.
pub(crate) struct Tls {
    connection: RefCell<Connection>,
    /// Deciphered, and not read yet.
    received: RefCell<Vec<u8>>,
    /// The peer will send no more.
    is_ended: Cell<bool>,
    /// We have said that we send no more: what comes then is for nobody. It is not deciphered, because rustls fails a debug
    /// assertion on a bad record behind its close_notify.
    has_closed: Cell<bool>,
    /// Something has come since room was last given back.
    is_grown: Cell<bool>,
}

impl Tls {
    /// Makes the handshake on `stream`. Without a limit of its own.
    pub(super) async fn handshake(
        mut connection: Connection,
        stream: &net::Stream,
    ) -> Result<Tls, HandshakeError> {
        // What is written is sealed and taken at once; the default would refuse more than 64 KiB.
        connection.set_buffer_limit(None);
        let tls = Tls {
            connection: RefCell::new(connection),
            received: RefCell::default(),
            is_ended: Cell::new(false),
            has_closed: Cell::new(false),
            is_grown: Cell::new(true),
        };
        let mut output = Vec::new();
        loop {
            tls.take_records(&mut output)?;
            if !output.is_empty() {
                output = stream.write_all(output).await?;
            }
            if !tls.connection.borrow().is_handshaking() {
                return Ok(tls);
            }
            let piece = stream.read().await?;
            if piece.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            if let Err(error) = tls.decipher(&piece) {
                // The alert tells the peer why.
                let _unsent = tls.take_records(&mut output);
                let _untold = stream.write_all(output).await;
                return Err(error.into());
            }
        }
    }

    /// As [`net::Stream::poll_read`]. A peer that closes without a close_notify has closed: what SMTP, POP3 and IMAP say tells
    /// whether it was whole.
    pub(crate) fn poll_read(
        &self,
        stream: &net::Stream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Received>> {
        loop {
            let received = self.received.take();
            if !received.is_empty() || self.is_ended.get() {
                return Poll::Ready(Ok(received.into()));
            }
            let Poll::Ready(piece) = stream.poll_read(context) else {
                self.give_room_back();
                return Poll::Pending;
            };
            let piece = piece?;
            if piece.is_empty() {
                self.is_ended.set(true);
            } else if let Err(error) = self.decipher(&piece) {
                self.say_why(stream, context);
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
        }
    }

    /// Whether something was deciphered that nobody has read, of what has come without asking the kernel.
    pub(crate) fn has_received(&self, stream: &net::Stream) -> bool {
        while self.received.borrow().is_empty() && stream.has_received() {
            let Poll::Ready(Ok(piece)) = stream.poll_read(&mut Context::from_waker(Waker::noop())) else {
                break;
            };
            // Who reads next is told of the failure, which stays.
            if piece.is_empty() || self.decipher(&piece).is_err() {
                self.is_ended.set(true);
                break;
            }
        }
        !self.received.borrow().is_empty()
    }

    fn decipher(&self, piece: &[u8]) -> Result<(), rustls::Error> {
        if self.has_closed.get() {
            return Ok(());
        }
        let (mut connection, mut received) = (self.connection.borrow_mut(), self.received.borrow_mut());
        self.is_grown.set(true);
        let mut rest = piece;
        while !rest.is_empty() && !self.is_ended.get() {
            let read = connection.read_tls(&mut rest);
            let state = connection.process_new_packets()?;
            let (from, more) = (received.len(), state.plaintext_bytes_to_read());
            received.resize(from + more, 0);
            let taken = connection.reader().read_exact(&mut received[from..]);
            // Both read from memory and into memory that is there.
            if read.is_err() || taken.is_err() {
                return Err(rustls::Error::General("records out of step".into()));
            }
            if state.peer_has_closed() {
                self.is_ended.set(true);
            }
        }
        Ok(())
    }

    /// Whoever waits holds no room for records: rustls gives up what it has beyond 4 KiB when it is about to read.
    fn give_room_back(&self) {
        struct Nothing;
        impl io::Read for Nothing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
        if self.is_grown.replace(false) {
            let _nothing = self.connection.borrow_mut().read_tls(&mut Nothing);
        }
    }

    /// An alert, if nothing else is under way: nobody waits for it.
    fn say_why(&self, stream: &net::Stream, context: &mut Context<'_>) {
        let mut alert = Vec::new();
        if self.take_records(&mut alert).is_ok() && matches!(stream.poll_posted(context), Poll::Ready(Ok(())))
        {
            stream.post_now(&mut alert);
        }
    }

    /// As [`net::Stream::post`]; records are sealed when they can be sent, in the buffer that they came in.
    pub(crate) fn poll_post(
        &self,
        stream: &net::Stream,
        bytes: &mut Vec<u8>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(stream.poll_posted(context))?;
        if !bytes.is_empty() {
            self.seal(bytes)?;
            stream.post_now(bytes);
        }
        Poll::Ready(Ok(()))
    }

    /// Replaces `bytes` by the records that carry them, with what waits to go before.
    pub(crate) fn seal(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        self.connection.borrow_mut().writer().write_all(bytes)?;
        let records = bytes.len() / RECORD + 2;
        let length = bytes.len();
        bytes.clear();
        bytes.reserve(length + records * RECORD_EXTRA);
        self.take_records(bytes)
    }

    /// As [`Tls::seal`], with the record that says that nothing follows; nor is anything read any more but the peer's end.
    pub(crate) fn seal_last(&self, bytes: &mut Vec<u8>) -> io::Result<()> {
        if !bytes.is_empty() {
            self.connection.borrow_mut().writer().write_all(bytes)?;
            bytes.clear();
        }
        self.connection.borrow_mut().send_close_notify();
        self.has_closed.set(true);
        self.take_records(bytes)
    }

    fn take_records(&self, output: &mut Vec<u8>) -> io::Result<()> {
        let mut connection = self.connection.borrow_mut();
        while connection.wants_write() {
            connection.write_tls(output)?;
        }
        Ok(())
    }

    /// As [`net::Stream::send_unless`]. Pages are read for it, a window at a time; leases are held on what is still to come.
    pub(crate) async fn send_unless(
        &self,
        stream: &net::Stream,
        mut parts: Parts,
        interval: Duration,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<usize> {
        let mut sent = 0;
        let mut buffer = net::buffer(parts.len().min(WINDOW) + (WINDOW / RECORD + 2) * RECORD_EXTRA);
        let mut is_stopped = false;
        while !parts.is_empty() && !is_stopped {
            parts.take_into(&mut buffer, WINDOW).await?;
            sent += buffer.len();
            self.seal(&mut buffer)?;
            let mut writing = std::pin::pin!(stream.write_all(std::mem::take(&mut buffer)));
            buffer = loop {
                match timeout(interval, writing.as_mut()).await {
                    Ok(written) => break written?,
                    // The window goes out all the same, from a copy; the leases on the rest are given up now.
                    Err(_) if !is_stopped && stop() => {
                        is_stopped = true;
                        parts = Parts::new();
                    }
                    Err(_) => {}
                }
            };
        }
        net::keep_buffer(buffer);
        Ok(sent)
    }

    pub(crate) fn agreed(&self) -> Agreed {
        let connection = self.connection.borrow();
        let suite = connection.negotiated_cipher_suite().map(|suite| suite.suite());
        Agreed {
            version: version_name(connection.protocol_version()),
            cipher: suite.map_or("unknown", iana_name),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
        }
    }

    /// Keying material that both ends of this connection have and nobody else (RFC 9266: `tls-exporter`). None: this
    /// connection cannot have it (RFC 9266 section 3: TLS 1.2 needs the extended master secret, which may not be there).
    pub(crate) fn exporter(&self) -> Option<[u8; EXPORTED_OCTETS]> {
        let connection = self.connection.borrow();
        if version_name(connection.protocol_version()) != "TLS1.3" {
            return None;
        }
        connection.export_keying_material([0; EXPORTED_OCTETS], EXPORTER_LABEL, Some(b"")).ok()
    }
}

/// rustls tells the suites of TLS 1.3 by names of its own.
fn iana_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        suite => suite.as_str().unwrap_or("unknown"),
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.agreed()).finish()
    }
}
