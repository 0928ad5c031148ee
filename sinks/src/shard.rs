//! What runs on each shard: the listeners of SMTP, POP3, IMAP and arrivals, until the shutdown.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_runtime::net::{ListenOptions, TcpListener, UnixListener};
use chasqui_runtime::{JoinHandle, channel, shard, sleep, spawn, timeout};
use chasqui_transport::tls::ServerTls;
use chasqui_transport::{Acceptor, ConnectionLimiter, Drain, Refusals, Stream, TaskTracker};

use crate::arrivals::Arrivals;
use crate::config::Config;
use crate::error::StartError;
use crate::mailbox::{Login, Store};
use crate::receiver::{Receiver, ReceiverStats};
use crate::{imap, pop3};

/// What every shard is started with.
pub(crate) struct Setup {
    pub(crate) config: Arc<Config>,
    /// With the ports that were chosen.
    pub(crate) smtp: Vec<SocketAddr>,
    pub(crate) pop3: Option<SocketAddr>,
    pub(crate) imap: Option<SocketAddr>,
    /// None: there is no certificate.
    pub(crate) tls: Option<ServerTls>,
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

/// They go on during a drain, when who comes is told so.
struct Acceptors {
    smtp: Vec<Acceptor>,
    pop3: Option<Acceptor>,
    imap: Option<Acceptor>,
    arrivals: Option<Acceptor>,
}

/// Runs one shard: reports that it listens (or why not), serves until `stop` says so or its
/// sender is gone, and ends what is under way.
pub(crate) async fn main(
    setup: Arc<Setup>,
    report: channel::Sender<Result<(), StartError>>,
    mut stop: channel::Receiver<()>,
) -> ReceiverStats {
    let acceptors = match listen(&setup).await {
        Ok(acceptors) => acceptors,
        Err(error) => {
            // The starter waits for every shard's report.
            let _ = report.send(Err(error));
            return ReceiverStats::default();
        }
    };
    let arrivals = Arrivals::new(setup.config.limits.arrival_backlog_bytes_max);
    let receiver =
        Receiver::new(setup.config.clone(), setup.store.clone(), arrivals.clone(), setup.tls.clone());
    let mut accepting = Vec::new();
    for acceptor in acceptors.smtp {
        accepting.push(spawn(receiver.clone().serve(acceptor)));
    }
    if let Some(acceptor) = acceptors.arrivals {
        let arrivals = arrivals.clone();
        accepting.push(spawn(async move { arrivals.serve(acceptor).await }));
    }
    let (drain, sessions) = (Drain::default(), TaskTracker::default());
    if let Some(store) = &setup.store {
        let services = MailboxServices { config: &setup.config, store, drain: &drain, sessions: &sessions };
        accepting.extend(acceptors.pop3.map(|acceptor| services.pop3(acceptor)));
        accepting.extend(acceptors.imap.map(|acceptor| services.imap(acceptor)));
    }
    let _ = report.send(Ok(()));
    stop.recv().await;
    receiver.begin_drain();
    drain.begin();
    let ended = async {
        receiver.drained().await;
        sessions.empty().await;
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

async fn listen(setup: &Setup) -> Result<Acceptors, StartError> {
    if let Some(wait) = setup.wait {
        sleep(wait).await;
    }
    let tcp = |address: &SocketAddr| -> Result<Acceptor, StartError> {
        let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
        let bound = TcpListener::bind(*address, &options);
        let listener = bound.map_err(|error| StartError::Listen { address: *address, error })?;
        Ok(Acceptor::tcp(listener, Drain::default(), Refusals::new(usize::MAX)))
    };
    let arrivals = match setup.config.arrivals.as_deref().map(|prefix| arrivals_path(prefix, shard())) {
        None => None,
        Some(path) => {
            let bound = UnixListener::bind_when_free(&path).await;
            Some(Acceptor::unix(bound.map_err(|error| StartError::Arrivals { path, error })?))
        }
    };
    Ok(Acceptors {
        smtp: setup.smtp.iter().map(tcp).collect::<Result<_, _>>()?,
        pop3: setup.pop3.as_ref().map(tcp).transpose()?,
        imap: setup.imap.as_ref().map(tcp).transpose()?,
        arrivals,
    })
}

/// What a shard's POP3 and IMAP have in common.
struct MailboxServices<'a> {
    config: &'a Config,
    store: &'a Arc<Store>,
    drain: &'a Drain,
    sessions: &'a TaskTracker,
}

impl MailboxServices<'_> {
    fn pop3(&self, acceptor: Acceptor) -> JoinHandle<()> {
        let (hostname, drain) = (self.config.hostname.clone(), self.drain.clone());
        let options = Rc::new(pop3::Options { hostname, drain, ..pop3::Options::new(self.login()) });
        let store = self.store.clone();
        let serve = move |stream, peer| pop3::serve_pop3(stream, peer, store.clone(), options.clone());
        self.spawn(acceptor, b"-ERR [SYS/TEMP] too many connections\r\n", serve)
    }

    fn imap(&self, acceptor: Acceptor) -> JoinHandle<()> {
        let (hostname, drain) = (self.config.hostname.clone(), self.drain.clone());
        let options = Rc::new(imap::Options { hostname, drain, ..imap::Options::new(self.login()) });
        let store = self.store.clone();
        let serve = move |stream, peer| imap::serve_imap(stream, peer, store.clone(), options.clone());
        self.spawn(acceptor, b"* BYE too many connections\r\n", serve)
    }

    fn login(&self) -> Login {
        match self.config.catch_all {
            true => Login::any(&self.config.password),
            false => Login::within(&self.config.zone, &self.config.password),
        }
    }

    /// Accepts for a service; `refusal` is what one connection too many is told.
    fn spawn<F: Future<Output = ()> + 'static>(
        &self,
        acceptor: Acceptor,
        refusal: &'static [u8],
        serve: impl Fn(Stream, SocketAddr) -> F + 'static,
    ) -> JoinHandle<()> {
        let limiter = ConnectionLimiter::new(self.config.limits.connections());
        let sessions = self.sessions.clone();
        spawn(async move {
            while let Some(stream) = acceptor.next().await {
                let Some(peer) = stream.peer_address() else { continue };
                let Ok(permit) = limiter.enter(peer.ip(), false) else {
                    acceptor.refuse(stream, refusal.to_vec());
                    continue;
                };
                let (session, counted) = (serve(stream, peer), sessions.track());
                spawn(async move {
                    session.await;
                    drop((permit, counted));
                });
            }
        })
    }
}
