//! Listening: every shard has a socket on each address, and hands connections to sessions.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_protocol::smtp::reply::Reply;
use chasqui_runtime::mailbox::Receiver;
use chasqui_runtime::net::{ListenOptions, TcpListener, TcpStream, UnixListener};
use chasqui_runtime::{Seldom, sleep, spawn, timeout};
use futures_lite::future::or;

use crate::context::Shard;
use crate::descriptors::REFUSED_MAX;
use crate::process::{Order, Process};
use crate::server::admission;
use crate::server::session;
use crate::tasks::Guard;

/// What a shard listens on.
pub(crate) struct Listeners {
    pub(crate) smtp: Vec<TcpListener>,
    /// As bound: ports chosen by the kernel filled in.
    pub(crate) addresses: Vec<SocketAddr>,
    /// On the first shard, where one is configured.
    pub(crate) control: Option<UnixListener>,
}

/// Binds the shard's sockets, whose ports the start has claimed. The first shard picks the ports that are 0, the others take the same ones.
pub(crate) async fn bind(
    process: &Process,
    index: usize,
    orders: &mut Receiver<Order>,
) -> Result<Listeners, String> {
    let wanted = if index == 0 {
        process.config.listen.clone()
    } else {
        loop {
            match orders.recv().await {
                Some(Order::Listen(addresses)) => break addresses,
                Some(Order::Shutdown) | None => return Err("another shard could not be started".into()),
                Some(_) => {}
            }
        }
    };
    let options = ListenOptions { reuse_port: true, backlog: process.backlog };
    let mut smtp = Vec::new();
    for address in wanted {
        let listener =
            TcpListener::bind(address, &options).map_err(|error| cannot_listen(address, &error))?;
        smtp.push(listener);
    }
    let addresses: Vec<SocketAddr> = smtp.iter().map(TcpListener::local_addr).collect();
    let mut control = None;
    if index == 0 {
        if let Some(path) = &process.config.control.socket {
            let bound = UnixListener::bind_when_free(path).await;
            let fault = |error| format!("cannot open {}: {error}; change `control.socket`", path.display());
            control = Some(bound.map_err(fault)?);
        }
        process.order_others(|| Order::Listen(addresses.clone()));
    }
    Ok(Listeners { smtp, addresses, control })
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
pub(crate) async fn accept(shard: Rc<Shard>, process: Arc<Process>, listener: TcpListener, _counted: Guard) {
    let faults = Seldom::default();
    while !shard.is_draining() {
        let drained = async {
            shard.drain_begins.notified().await;
            None
        };
        match or(async { Some(listener.accept().await) }, drained).await {
            Some(Ok((stream, peer))) => {
                admit(&shard, &process, stream, peer.ip());
                let_refusals_go(&shard).await;
            }
            Some(Err(error)) => {
                if let Some(times) = faults.happened() {
                    log::warn!("cannot accept on {} ({times} times): {error}", listener.local_addr());
                }
                sleep(FAULT_PAUSE).await;
            }
            None => {}
        }
    }
    for _ in 0..LAST_REFUSED_MAX {
        match timeout(BACKLOG_PAUSE, listener.accept()).await {
            Ok(Ok((stream, _))) => {
                refuse_later(&shard, stream, session::shutting_down());
                let_refusals_go(&shard).await;
            }
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

fn admit(shard: &Rc<Shard>, process: &Arc<Process>, stream: TcpStream, peer: IpAddr) {
    if process.memory.is_short() {
        return refuse_later(shard, stream, Reply::new(421, "4.3.2", admission::MEMORY));
    }
    match process.visitors.enter(peer, shard.config.may_relay(peer)) {
        Ok(visit) => {
            let counted = shard.sessions.enter().and(move || drop(visit));
            spawn(session::serve(shard.clone(), stream, counted));
        }
        Err(text) => refuse_later(shard, stream, Reply::new(421, "4.7.0", text)),
    }
}

/// With many connections being refused, gives their last words a moment to leave.
async fn let_refusals_go(shard: &Shard) {
    if shard.refusals.count() >= REFUSED_MAX {
        sleep(REFUSAL_PAUSE).await;
    }
}

/// Answers a connection that is not served, unless so many are being answered that descriptors would run out.
fn refuse_later(shard: &Rc<Shard>, stream: TcpStream, reply: Reply) {
    if shard.refusals.count() >= REFUSED_MAX {
        return;
    }
    let counted = shard.refusals.enter();
    spawn(async move {
        let mut line = Vec::new();
        reply.encode(&mut line);
        // Whoever does not take the line is closed all the same.
        let _unheard = timeout(REFUSAL_TIMEOUT, stream.write_all(line)).await;
        stream.shutdown();
        drop(counted);
    });
}
