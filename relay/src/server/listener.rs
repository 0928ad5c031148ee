//! Listening: every shard has a socket on each address, and hands connections to sessions.

use std::net::SocketAddr;
use std::rc::Rc;

use chasqui_protocol::smtp::reply::Reply;
use chasqui_runtime::net::{ListenOptions, TcpListener};
use chasqui_runtime::spawn;
use chasqui_transport::{Acceptor, ConnectionLimiter, Stream, TaskGuard};

use super::connection_limits::Place;
use super::policy::Client;
use super::{Server, admission, session};
use crate::config;
use crate::error::ShardError;

/// A shard's socket on one address, and what holds for its clients.
pub(super) struct Listener {
    pub(super) acceptor: Acceptor,
    pub(super) settings: config::Listener,
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
pub(super) async fn accept(server: Rc<Server>, listener: Listener, _counted: TaskGuard) {
    while let Some(stream) = listener.acceptor.next().await {
        if let Some(peer) = stream.peer_address() {
            let client = Client::new(&server.context.config, &listener.settings, peer.ip());
            admit(&server, &listener, stream, client);
        }
    }
    listener.acceptor.refuse_backlog(&encoded(&Reply::new(421, "4.3.2", "Shutting down"))).await;
}

fn admit(server: &Rc<Server>, listener: &Listener, stream: Stream, client: Client) {
    let refuse = |stream, reply: &Reply| listener.acceptor.refuse(stream, encoded(reply));
    if server.shared.memory.is_short() {
        return refuse(stream, &Reply::new(421, "4.3.2", admission::MEMORY));
    }
    let enter = |limits: &ConnectionLimiter| limits.enter(client.peer, client.may_relay);
    let entered = listener.limits.as_ref().map(enter).transpose();
    match entered.and_then(|here| Ok((here, enter(&server.shared.connections)?))) {
        Ok(permits) => {
            let place = Place::new(server.context.sessions.track(), permits);
            spawn(session::serve(server.clone(), stream, listener.settings.kind, client, place));
        }
        Err(reached) => refuse(stream, &Reply::new(421, "4.7.0", reached.to_string())),
    }
}

fn encoded(reply: &Reply) -> Vec<u8> {
    let mut line = Vec::new();
    reply.encode(&mut line);
    line
}
