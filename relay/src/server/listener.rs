//! Listening: every shard has a socket on each address, and hands connections to sessions. What a proxy says of a connection is read
//! here, before the session, and before TLS.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::proxy::{Header, HeaderError, HeaderReader};
use chasqui_protocol::smtp::reply::Reply;
use chasqui_runtime::net::{ListenOptions, TcpListener};
use chasqui_runtime::{spawn, timeout};
use chasqui_transport::{Acceptor, ConnectionLimiter, Stream, TaskGuard};
use futures_lite::future::or;

use super::connection_limits::Place;
use super::policy::{self, Client, Speaker};
use super::{Server, admission, session};
use crate::config;
use crate::error::ShardError;

/// How long a proxy may take for its header. It sends it with the connection, so this is a matter of packets that are sent again.
const HEADER_LIMIT: Duration = Duration::from_secs(5);

/// A shard's socket on one address, and what holds for its clients.
pub(super) struct Listener {
    pub(super) acceptor: Acceptor,
    pub(super) settings: Rc<config::Listener>,
    /// Of its own, over all shards.
    pub(super) limits: Option<ConnectionLimiter>,
}

/// Binds a socket on each address. `backlog`: connections that may wait for their acceptance on one.
pub(crate) fn bind(addresses: &[SocketAddr], backlog: u32) -> Result<Vec<TcpListener>, ShardError> {
    let options = ListenOptions { reuse_port: true, backlog };
    let bind = |&address: &SocketAddr| {
        TcpListener::bind(address, &options).map_err(|error| ShardError::Listen { address, error })
    };
    addresses.iter().map(bind).collect()
}

/// Accepts until the relay ends; then answers what is in the backlog with 421.
pub(super) async fn accept(server: Rc<Server>, listener: Rc<Listener>, _counted: TaskGuard) {
    while let Some(stream) = listener.acceptor.next().await {
        if let Some(peer) = stream.peer_address() {
            admit(&server, &listener, stream, peer.ip());
        }
    }
    listener.acceptor.refuse_backlog(&encoded(&Reply::new(421, "4.3.2", "Shutting down"))).await;
}

fn admit(server: &Rc<Server>, listener: &Rc<Listener>, stream: Stream, peer: IpAddr) {
    let refuse = |stream, reply: &Reply| listener.acceptor.refuse(stream, encoded(reply));
    if server.shared.memory.is_short() {
        return refuse(stream, &Reply::new(421, "4.3.2", admission::MEMORY));
    }
    let client = match policy::is_proxy(&listener.settings, peer) {
        true => None,
        false => Some(Client::new(&server.context.config, &listener.settings, peer)),
    };
    let enter = |limits: &ConnectionLimiter| match client {
        Some(client) => limits.enter(client.peer, client.may_relay),
        None => limits.enter_unnamed(),
    };
    let entered = listener.limits.as_ref().map(enter).transpose();
    let permits = entered.and_then(|here| Ok((here, enter(&server.shared.connections)?)));
    let place = match permits {
        Ok(permits) => Place::new(server.context.sessions.track(), permits),
        Err(reached) => return refuse(stream, &Reply::new(421, "4.7.0", reached.to_string())),
    };
    match client {
        Some(client) => serve(server, listener, stream, client, true, place),
        None => drop(spawn(hear_proxy(server.clone(), listener.clone(), stream, peer, place))),
    }
}

fn serve(
    server: &Rc<Server>,
    listener: &Listener,
    stream: Stream,
    client: Client,
    is_named: bool,
    place: Place,
) {
    let speaker = Box::new(Speaker::new(listener.settings.clone(), client, is_named));
    spawn(session::serve(server.clone(), stream, speaker, place));
}

/// Reads a proxy's header, and serves the client that it names as if that had connected.
async fn hear_proxy(server: Rc<Server>, listener: Rc<Listener>, stream: Stream, proxy: IpAddr, place: Place) {
    let notified = server.context.drain.notified();
    if server.context.is_draining() {
        return;
    }
    let header = async { Some(timeout(HEADER_LIMIT, header(&stream)).await.unwrap_or(Err(NoHeader::Late))) };
    let drained = async {
        notified.await;
        None
    };
    // At the drain it is closed like a handshake that is under way.
    let Some(heard) = or(header, drained).await else { return };
    let header = match heard {
        Ok(header) => header,
        Err(why) => return server.tell_of_bad_header(proxy, &why),
    };
    let client = match header.client {
        Some(address) => Client::new(&server.context.config, &listener.settings, address),
        None => Client::unnamed(proxy),
    };
    match place.pass_to(&client) {
        Ok(()) => serve(&server, &listener, stream, client, header.client.is_some(), place),
        Err(reached) => {
            let reply = Reply::new(421, "4.7.0", reached.to_string());
            listener.acceptor.refuse(stream, encoded(&reply));
        }
    }
}

/// Why a proxy's connection is closed.
#[derive(Debug, thiserror::Error)]
enum NoHeader {
    #[error(transparent)]
    Bad(#[from] HeaderError),
    #[error("no PROXY header within {} s", HEADER_LIMIT.as_secs())]
    Late,
    #[error("closed within the PROXY header")]
    Closed,
    /// As who only looks whether the port is open.
    #[error("closed before the PROXY header")]
    Silent,
}

/// The header that a connection begins with. What follows it is left to be read.
async fn header(stream: &Stream) -> Result<Header, NoHeader> {
    let mut reader = HeaderReader::default();
    loop {
        let piece = stream.read().await.unwrap_or_else(|_| Vec::new().into());
        if piece.is_empty() {
            return Err(if reader.is_empty() { NoHeader::Silent } else { NoHeader::Closed });
        }
        if let (used, Some(header)) = reader.handle_input(&piece)? {
            stream.put_back(piece[used..].to_vec());
            return Ok(header);
        }
    }
}

impl Server {
    fn tell_of_bad_header(&self, proxy: IpAddr, why: &NoHeader) {
        if matches!(why, NoHeader::Silent) {
            return;
        }
        self.context.counters.proxy_refused.add(1);
        if let Some(times) = self.bad_headers.happened() {
            log::warn!("{proxy}, which is in proxy_from, was closed ({times} times one was): {why}");
        }
    }
}

fn encoded(reply: &Reply) -> Vec<u8> {
    let mut line = Vec::new();
    reply.encode(&mut line);
    line
}
