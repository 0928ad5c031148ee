//! What runs on each shard: the listeners of SMTP, POP3, IMAP and arrivals, until the shutdown.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use chasqui_runtime::net::{ListenOptions, TcpListener, TcpStream, UnixListener};
use chasqui_runtime::{Seldom, mailbox as channels, shard, sleep, spawn, timeout};

use crate::arrivals::Arrivals;
use crate::config::Config;
use crate::gate::Gate;
use crate::mailbox::{Login, Store};
use crate::receiver::{Receiver, ReceiverStats};
use crate::{ACCEPT_PAUSE, imap, pop3};

/// What every shard is started with.
pub(crate) struct Setup {
    pub(crate) config: Arc<Config>,
    /// With the ports that were chosen.
    pub(crate) smtp: Vec<SocketAddr>,
    pub(crate) pop3: Option<SocketAddr>,
    pub(crate) imap: Option<SocketAddr>,
    pub(crate) store: Option<Arc<Store>>,
}

/// The socket of a shard's arrivals.
pub(crate) fn arrivals_path(prefix: &Path, shard: usize) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(format!(".{shard}"));
    path.into()
}

struct Listeners {
    smtp: Vec<TcpListener>,
    pop3: Option<TcpListener>,
    imap: Option<TcpListener>,
    arrivals: Option<UnixListener>,
}

/// Runs one shard: reports that it listens (or the one line why not), serves until `stop` says so or its
/// sender is gone, and ends what is under way.
pub(crate) async fn main(
    setup: Arc<Setup>,
    report: channels::Sender<Result<(), String>>,
    mut stop: channels::Receiver<()>,
) -> ReceiverStats {
    let listeners = match listen(&setup).await {
        Ok(listeners) => listeners,
        Err(line) => {
            // The starter waits for every shard's report.
            let _ = report.send(Err(line));
            return ReceiverStats::default();
        }
    };
    let arrivals = Arrivals::new(setup.config.limits.arrival_backlog_bytes_max);
    let receiver = Receiver::new(setup.config.clone(), setup.store.clone(), arrivals.clone());
    let mut accepting = Vec::new();
    for listener in listeners.smtp {
        accepting.push(spawn(receiver.clone().serve(listener)));
    }
    if let Some(listener) = listeners.arrivals {
        let arrivals = arrivals.clone();
        accepting.push(spawn(async move { arrivals.serve(listener).await }));
    }
    if let Some(store) = &setup.store {
        let sessions = mailbox_services(&setup.config, store, listeners.pop3, listeners.imap);
        accepting.extend(sessions);
    }
    let _ = report.send(Ok(()));
    stop.recv().await;
    receiver.begin_drain();
    let ended = async {
        receiver.drained().await;
        arrivals.drained().await;
    };
    if timeout(setup.config.limits.shutdown_grace, ended).await.is_err() {
        log::warn!("shard {}: connections were cut off at the end of the grace period", shard());
    }
    for task in accepting {
        task.cancel().await;
    }
    receiver.stats()
}

async fn listen(setup: &Setup) -> Result<Listeners, String> {
    let tcp = |address: &SocketAddr| {
        let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        TcpListener::bind(*address, &options).map_err(|error| format!("cannot listen on {address}: {error}"))
    };
    let arrivals = match setup.config.arrivals.as_deref().map(|prefix| arrivals_path(prefix, shard())) {
        None => None,
        Some(path) => {
            let bound = UnixListener::bind_when_free(&path).await;
            Some(bound.map_err(|error| format!("cannot listen on {}: {error}", path.display()))?)
        }
    };
    Ok(Listeners {
        smtp: setup.smtp.iter().map(tcp).collect::<Result<_, _>>()?,
        pop3: setup.pop3.as_ref().map(tcp).transpose()?,
        imap: setup.imap.as_ref().map(tcp).transpose()?,
        arrivals,
    })
}

fn mailbox_services(
    config: &Config,
    store: &Arc<Store>,
    pop3: Option<TcpListener>,
    imap: Option<TcpListener>,
) -> Vec<chasqui_runtime::JoinHandle<()>> {
    let login = || Login::within(&config.zone, &config.password);
    let mut accepting = Vec::new();
    if let Some(listener) = pop3 {
        let options =
            Rc::new(pop3::Options { hostname: config.hostname.clone(), ..pop3::Options::new(login()) });
        let store = store.clone();
        accepting.push(spawn(accept(listener, config.limits.connections_max, move |stream, peer| {
            pop3::serve_pop3(stream, peer, store.clone(), options.clone())
        })));
    }
    if let Some(listener) = imap {
        let options =
            Rc::new(imap::Options { hostname: config.hostname.clone(), ..imap::Options::new(login()) });
        let store = store.clone();
        accepting.push(spawn(accept(listener, config.limits.connections_max, move |stream, peer| {
            imap::serve_imap(stream, peer, store.clone(), options.clone())
        })));
    }
    accepting
}

async fn accept<F: Future<Output = ()> + 'static>(
    listener: TcpListener,
    connections_max: usize,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) {
    let gate = Gate::new(connections_max);
    let faults = Seldom::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // One too many is closed at once.
                if let Some(pass) = gate.enter(peer.ip()) {
                    let session = serve(stream, peer);
                    spawn(async move {
                        session.await;
                        drop(pass);
                    });
                }
            }
            Err(error) => {
                if let Some(times) = faults.happened() {
                    log::warn!("{}: cannot accept ({times} times): {error}", listener.local_addr());
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
