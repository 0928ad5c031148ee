//! The DNS authority of the test zone: UDP and TCP, on one control thread of its own.
//!
//! UDP is ours ([`udp`]), so that answers come from the address that was asked; TCP is hickory's. hickory-server reads and writes the wire format; what it answers is made up by [`records`]. The
//! thread runs a tokio runtime, because that is where hickory lives; nothing of the shards runs on it.

mod records;
#[cfg(test)]
mod tests;
mod udp;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use chasqui_protocol::metrics;
use chasqui_runtime::net::{datagram, when_free};
use hickory_proto::op::{Edns, Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use hickory_server::Server;
use hickory_server::net::NetError;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::zone::Zone;
use records::{Records, Said, published};

/// A TCP connection without a question for this long is closed.
const TCP_IDLE_MAX: Duration = Duration::from_secs(30);
/// Answers that may wait for a slow TCP client.
const TCP_RESPONSES_MAX: usize = 32;
/// UDP payload that we send at most, whatever the client offers: no fragments (DNS flag day 2020).
const UDP_PAYLOAD_MAX: u16 = 1232;
/// Ports tried until one is free for UDP and TCP both.
const PORT_TRIES_MAX: usize = 32;

/// Why the authority could not be set up: one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// No address that is listened on can be named to others.
    #[error(
        "every address listened on stands for all of this machine's: name the one for the zone with --publish"
    )]
    NothingToPublish,
    /// The zone's name, or one below it, is none.
    #[error("{0:?} is not a domain name")]
    Zone(String),
    /// The address cannot be listened on.
    #[error("cannot serve DNS on {address}: {error}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The system gave no thread, or not what it needs.
    #[error("cannot start the DNS authority: {0}")]
    Thread(io::Error),
}

metrics! {
    /// How many questions came and what became of them.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
    pub struct DnsStats {
        /// Questions that came by UDP.
        counter udp;
        /// Questions that came by TCP.
        counter tcp;
        /// Answered with records.
        counter answered;
        /// Answered that the name has no such record.
        counter no_data;
        /// Answered NXDOMAIN.
        counter no_such_name;
        /// Answered with SERVFAIL, REFUSED or another error.
        counter errors;
        /// Left without an answer on purpose.
        counter unanswered;
    }
}

#[derive(Default)]
struct Counters {
    udp: AtomicU64,
    tcp: AtomicU64,
    answered: AtomicU64,
    no_data: AtomicU64,
    no_such_name: AtomicU64,
    errors: AtomicU64,
    unanswered: AtomicU64,
}

/// The running authority. Dropping it ends its thread.
pub(crate) struct Authority {
    address: SocketAddr,
    counters: Arc<Counters>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Authority {
    /// Binds `address` (port 0: a free one, the same for UDP and TCP) and answers for `zone`, whose mail
    /// goes to `receivers`.
    pub(crate) fn start(
        address: SocketAddr,
        zone: Zone,
        receivers: &[IpAddr],
        publish: Option<IpAddr>,
        ttl_s: u32,
    ) -> Result<Authority, DnsError> {
        let (receivers, own) =
            published(receivers, address.ip(), publish).ok_or(DnsError::NothingToPublish)?;
        let records = Records::new(zone, receivers, own, ttl_s)?;
        let cannot_listen = |error| DnsError::Listen { address, error };
        let (udp, tcp) = when_free(|| bind(address)).map_err(cannot_listen)?;
        let address = udp.local_addr().map_err(cannot_listen)?;
        let counters = Arc::new(Counters::default());
        let handler = Handler { records, counters: counters.clone() };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(DnsError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("dns-authority".to_owned())
            .spawn(move || {
                if let Err(error) = runtime.block_on(serve(udp, tcp, handler, stopped)) {
                    log::error!("the DNS authority ended: {error}");
                }
            })
            .map_err(DnsError::Thread)?;
        Ok(Authority { address, counters, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked so far.
    pub(crate) fn stats(&self) -> DnsStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DnsStats {
            udp: read(&self.counters.udp),
            tcp: read(&self.counters.tcp),
            answered: read(&self.counters.answered),
            no_data: read(&self.counters.no_data),
            no_such_name: read(&self.counters.no_such_name),
            errors: read(&self.counters.errors),
            unanswered: read(&self.counters.unanswered),
        }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The thread may have ended by itself; then nobody is there to tell.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the DNS authority panicked");
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = 0;
    loop {
        let udp = UdpSocket::bind(address)?;
        match TcpListener::bind(udp.local_addr()?) {
            Ok(tcp) => {
                datagram::tell_destinations(&udp)?;
                udp.set_nonblocking(true)?;
                tcp.set_nonblocking(true)?;
                return Ok((udp, tcp));
            }
            Err(error) if address.port() != 0 || tries == PORT_TRIES_MAX => return Err(error),
            Err(_) => tries += 1,
        }
    }
}

async fn serve(
    udp: UdpSocket,
    tcp: TcpListener,
    handler: Handler,
    stopped: oneshot::Receiver<()>,
) -> Result<(), NetError> {
    let handler = Arc::new(handler);
    let mut server = Server::new(Shared(handler.clone()));
    let udp = tokio::net::UdpSocket::from_std(udp)?;
    let tcp = tokio::net::TcpListener::from_std(tcp)?;
    server.register_listener(tcp, TCP_IDLE_MAX, TCP_RESPONSES_MAX);
    tokio::select! {
        // Told to stop, or the owner is gone.
        _ = stopped => Ok(()),
        ended = server.block_until_done() => ended,
        never = udp::serve(&udp, &handler) => match never {},
    }
}

struct Handler {
    records: Records,
    counters: Arc<Counters>,
}

/// One handler for UDP and TCP.
struct Shared(Arc<Handler>);

#[async_trait::async_trait]
impl RequestHandler for Shared {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        response_handle: R,
    ) -> ResponseInfo {
        self.0.handle(request, response_handle).await
    }
}

impl Handler {
    async fn handle<R: ResponseHandler>(&self, request: &Request, mut response_handle: R) -> ResponseInfo {
        let by = if request.protocol() == Protocol::Udp { &self.counters.udp } else { &self.counters.tcp };
        by.fetch_add(1, Ordering::Relaxed);
        let Some(Said { code, records, soa }) = self.answer(request) else {
            self.counters.unanswered.fetch_add(1, Ordering::Relaxed);
            return no_response(request);
        };
        self.count(code, &records);
        let edns = request.edns.as_ref().map(|offered| {
            // Of version 0, which is what we speak, also to those who speak another (RFC 6891 section 6.1.3).
            let mut edns = Edns::new();
            edns.set_max_payload(offered.max_payload().clamp(512, UDP_PAYLOAD_MAX));
            edns.set_dnssec_ok(offered.flags().dnssec_ok);
            edns.set_rcode_high(code.high());
            edns
        });
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = matches!(code, ResponseCode::NoError | ResponseCode::NXDomain);
        metadata.response_code = code;
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let none: [&Record; 0] = [];
        let response = builder.build(metadata, records.iter(), none, soa.iter(), none);
        match response_handle.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                log::debug!("a DNS answer could not be sent: {error}");
                no_response(request)
            }
        }
    }

    fn answer(&self, request: &Request) -> Option<Said> {
        let error = |code| Some(Said { code, records: Vec::new(), soa: None });
        if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
            return error(ResponseCode::BADVERS);
        }
        if request.metadata.op_code != OpCode::Query {
            return error(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else { return error(ResponseCode::FormErr) };
        if info.query.query_class() != DNSClass::IN {
            return error(ResponseCode::Refused);
        }
        match info.query.query_type() {
            // There is none over UDP (RFC 5936 section 4.2).
            RecordType::AXFR if request.protocol() == Protocol::Udp => error(ResponseCode::FormErr),
            RecordType::AXFR | RecordType::IXFR => error(self.records.refuse_transfer(info.query.name())),
            record_type => self.records.answer(info.query.name(), record_type),
        }
    }

    fn count(&self, code: ResponseCode, answers: &[Record]) {
        let counter = match code {
            ResponseCode::NoError if answers.is_empty() => &self.counters.no_data,
            ResponseCode::NoError => &self.counters.answered,
            ResponseCode::NXDomain => &self.counters.no_such_name,
            _ => &self.counters.errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the server's bookkeeping wants of a request that was not answered.
fn no_response(request: &Request) -> ResponseInfo {
    let metadata = Metadata::response_from_request(&request.metadata);
    ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
}
