//! What runs on each shard: the listeners of SMTP, POP3, IMAP and arrivals, until the shutdown.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_runtime::net::{ListenOptions, TcpListener, TcpStream, UnixListener};
use chasqui_runtime::{Seldom, mailbox as channels, shard, sleep, spawn, timeout};

use crate::arrivals::Arrivals;
use crate::config::Config;
use crate::gate::Gate;
use crate::mailbox::{Login, Store};
use crate::receiver::{Receiver, ReceiverStats};
use crate::turns::Closing;
use crate::{ACCEPT_PAUSE, REFUSAL_TIMEOUT, imap, pop3};

/// What every shard is started with.
pub(crate) struct Setup {
    pub(crate) config: Arc<Config>,
    /// With the ports that were chosen.
    pub(crate) smtp: Vec<SocketAddr>,
    pub(crate) pop3: Option<SocketAddr>,
    pub(crate) imap: Option<SocketAddr>,
    pub(crate) store: Option<Arc<Store>>,
    /// How long no mailbox may be served yet.
    pub(crate) wait: Option<Duration>,
    /// Nobody else has the state meanwhile.
    pub(crate) _claim: Option<File>,
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
    let sessions = Sessions::new(setup.config.limits.connections_max);
    if let Some(store) = &setup.store {
        accepting.extend(mailbox_services(&setup.config, store, &sessions, listeners.pop3, listeners.imap));
    }
    let _ = report.send(Ok(()));
    stop.recv().await;
    receiver.begin_drain();
    sessions.closing.begin();
    let ended = async {
        receiver.drained().await;
        sessions.pop3.emptied().await;
        sessions.imap.emptied().await;
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
    if let Some(wait) = setup.wait {
        sleep(wait).await;
    }
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

/// The POP3 and IMAP sessions of a shard.
struct Sessions {
    closing: Closing,
    pop3: Gate,
    imap: Gate,
}

impl Sessions {
    fn new(connections_max: usize) -> Sessions {
        let gate = || Gate::new(connections_max);
        Sessions { closing: Closing::default(), pop3: gate(), imap: gate() }
    }
}

fn mailbox_services(
    config: &Config,
    store: &Arc<Store>,
    sessions: &Sessions,
    pop3: Option<TcpListener>,
    imap: Option<TcpListener>,
) -> Vec<chasqui_runtime::JoinHandle<()>> {
    let login = || match config.catch_all {
        true => Login::any(&config.password),
        false => Login::within(&config.zone, &config.password),
    };
    let mut accepting = Vec::new();
    if let Some(listener) = pop3 {
        let (hostname, closing) = (config.hostname.clone(), sessions.closing.clone());
        let options = Rc::new(pop3::Options { hostname, closing, ..pop3::Options::new(login()) });
        let store = store.clone();
        let serve = move |stream, peer| pop3::serve_pop3(stream, peer, store.clone(), options.clone());
        accepting.push(spawn(accept(
            listener,
            sessions.pop3.clone(),
            b"-ERR [SYS/TEMP] too many connections\r\n",
            serve,
        )));
    }
    if let Some(listener) = imap {
        let (hostname, closing) = (config.hostname.clone(), sessions.closing.clone());
        let options = Rc::new(imap::Options { hostname, closing, ..imap::Options::new(login()) });
        let store = store.clone();
        let serve = move |stream, peer| imap::serve_imap(stream, peer, store.clone(), options.clone());
        accepting.push(spawn(accept(
            listener,
            sessions.imap.clone(),
            b"* BYE too many connections\r\n",
            serve,
        )));
    }
    accepting
}

/// `refusal` is what one connection too many is told.
async fn accept<F: Future<Output = ()> + 'static>(
    listener: TcpListener,
    gate: Gate,
    refusal: &'static [u8],
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) {
    let faults = Seldom::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match gate.enter(peer.ip()) {
                Some(pass) => {
                    let session = serve(stream, peer);
                    spawn(async move {
                        session.await;
                        drop(pass);
                    });
                }
                None => drop(spawn(async move {
                    // Whoever does not read this will see the connection closed.
                    let _ = timeout(REFUSAL_TIMEOUT, stream.write_all(refusal.to_vec())).await;
                })),
            },
            Err(error) => {
                if let Some(times) = faults.happened() {
                    log::warn!("{}: cannot accept ({times} times): {error}", listener.local_addr());
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
