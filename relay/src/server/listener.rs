//! Listening: every shard has a socket on each address, and hands connections to sessions.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_protocol::smtp::reply::Reply;
use chasqui_runtime::net::{ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::{Seldom, sleep, spawn, timeout};
use futures_lite::future::or;

use super::connection_limits::Visitors;
use super::policy::Client;
use super::{Server, admission, session};
use crate::config;
use crate::descriptors::REFUSED_MAX;
use crate::tasks::Guard;

/// A shard's socket on one address, and what holds for its clients.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) settings: config::Listener,
    /// Of its own, over all shards.
    pub(super) limits: Option<Arc<Visitors>>,
}

/// Binds a socket on each address. `backlog`: connections that may wait for their acceptance on one. The error is one line.
pub(crate) fn bind(addresses: &[SocketAddr], backlog: u32) -> Result<Vec<TcpListener>, String> {
    let options = ListenOptions { reuse_port: true, backlog };
    let bind = |&address: &SocketAddr| {
        TcpListener::bind(address, &options).map_err(|error| cannot_listen(address, &error))
    };
    addresses.iter().map(bind).collect()
}

/// The line for an address that is not to be had.
pub(crate) fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    format!("cannot listen on {address}: {error}; free it or change `listen`")
}

/// How long a pause in arrivals shows, at the end, that the backlog is empty.
const BACKLOG_PAUSE: Duration = Duration::from_millis(20);
/// Connections refused at the end; whoever keeps calling is cut off.
const LAST_REFUSED_MAX: usize = 100_000;
/// Pause after an accept failed for a reason that is not the connection's.
const FAULT_PAUSE: Duration = Duration::from_millis(100);

/// What a line takes to leave, as a rule.
const REFUSAL_PAUSE: Duration = Duration::from_millis(1);
/// How long a reply to a connection that is not served may take.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts until the relay ends; then answers what is in the backlog with 421, since closing the socket would reset
/// it.
pub(super) async fn accept(server: Rc<Server>, listener: Listener, _counted: Guard) {
    let (context, socket) = (server.context.clone(), &listener.socket);
    let faults = Seldom::default();
    while !context.is_draining() {
        let drained = async {
            context.drain_begins.notified().await;
            None
        };
        match or(async { Some(socket.accept().await) }, drained).await {
            Some(Ok((stream, peer))) => {
                let client = Client::new(&context.config, &listener.settings, peer.ip());
                admit(&server, &listener, stream, client);
                let_refusals_go(&server).await;
            }
            Some(Err(error)) => {
                if let Some(times) = faults.happened() {
                    log::warn!("cannot accept on {} ({times} times): {error}", socket.local_addr());
                }
                sleep(FAULT_PAUSE).await;
            }
            None => {}
        }
    }
    for _ in 0..LAST_REFUSED_MAX {
        match timeout(BACKLOG_PAUSE, socket.accept()).await {
            Ok(Ok((stream, _))) => {
                refuse_later(&server, stream, session::shutting_down());
                let_refusals_go(&server).await;
            }
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

fn admit(server: &Rc<Server>, listener: &Listener, stream: TcpStream, client: Client) {
    if server.shared.memory.is_short() {
        return refuse_later(server, stream, Reply::new(421, "4.3.2", admission::MEMORY));
    }
    let enter = |limits: &Arc<Visitors>| limits.enter(client.peer, client.may_relay);
    let entered = listener.limits.as_ref().map(enter).transpose();
    match entered.and_then(|here| Ok((here, enter(&server.shared.connections)?))) {
        Ok(visits) => {
            let counted = server.context.sessions.enter().and(move || drop(visits));
            spawn(session::serve(server.clone(), stream, client, counted));
        }
        Err(text) => refuse_later(server, stream, Reply::new(421, "4.7.0", text)),
    }
}

/// With many connections being refused, gives their last words a moment to leave.
async fn let_refusals_go(server: &Server) {
    if server.refusals.count() >= REFUSED_MAX {
        sleep(REFUSAL_PAUSE).await;
    }
}

/// Answers a connection that is not served, unless so many are being answered that descriptors would run out.
fn refuse_later(server: &Server, stream: TcpStream, reply: Reply) {
    if server.refusals.count() >= REFUSED_MAX {
        return;
    }
    let counted = server.refusals.enter();
    spawn(async move {
        let mut line = Vec::new();
        reply.encode(&mut line);
        // Whoever does not take the line is closed all the same.
        let _unheard = timeout(REFUSAL_TIMEOUT, stream.write_all(line)).await;
        stream.shutdown();
        drop(counted);
    });
}
