//! What runs on each shard: the listeners of SMTP, POP3, IMAP and arrivals, until the shutdown.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_runtime::net::{ListenOptions, TcpListener, UnixListener};
use chasqui_runtime::{JoinHandle, channel, shard, sleep, spawn, timeout};
use chasqui_transport::tls::{HANDSHAKE_LIMIT, ServerTls};
use chasqui_transport::{Acceptor, ConnectionLimiter, Drain, Refusals, Stream, TaskTracker};

use crate::arrivals::Arrivals;
use crate::config::Config;
use crate::error::StartError;
use crate::ports::Places;

use crate::mailbox::{Login, Store};
use crate::receiver::{Receiver, ReceiverStats, Senders};
use crate::{imap, pop3};

/// What every shard is started with.
pub(crate) struct Setup {
    pub(crate) config: Arc<Config>,
    pub(crate) places: Places,
    /// Who may send; none: whoever comes.
    pub(crate) senders: Option<Arc<Senders>>,
    /// Who may log in there, the same on all shards.
    pub(crate) login: Login,
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
    smtps: Vec<Acceptor>,
    /// As [`Config::mailbox_services`].
    mailboxes: [Option<Acceptor>; 4],
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
    let receiver = Receiver::new(
        setup.config.clone(),
        setup.store.clone(),
        arrivals.clone(),
        setup.tls.clone(),
        setup.senders.clone(),
    );
    let mut accepting = Vec::new();
    for acceptor in acceptors.smtp {
        accepting.push(spawn(receiver.clone().serve(acceptor, None)));
    }
    for acceptor in acceptors.smtps {
        accepting.push(spawn(receiver.clone().serve(acceptor, setup.tls.clone())));
    }
    if let Some(acceptor) = acceptors.arrivals {
        let arrivals = arrivals.clone();
        accepting.push(spawn(async move { arrivals.serve(acceptor).await }));
    }
    let (drain, sessions) = (Drain::default(), TaskTracker::default());
    if let Some(store) = &setup.store {
        let services = MailboxServices { setup: &setup, store, drain: &drain, sessions: &sessions };
        let [pop3, imap, pop3s, imaps] = acceptors.mailboxes;
        accepting.extend(pop3.map(|acceptor| services.pop3(acceptor, None)));
        accepting.extend(imap.map(|acceptor| services.imap(acceptor, None)));
        if let Some(tls) = &setup.tls {
            accepting.extend(pop3s.map(|acceptor| services.pop3(acceptor, Some(tls.clone()))));
            accepting.extend(imaps.map(|acceptor| services.imap(acceptor, Some(tls.clone()))));
        }
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
    let [pop3, imap, pop3s, imaps] =
        setup.places.mailboxes.each_ref().map(|address| address.as_ref().map(tcp));
    let mailboxes = [pop3.transpose()?, imap.transpose()?, pop3s.transpose()?, imaps.transpose()?];
    let all = |addresses: &[SocketAddr]| addresses.iter().map(tcp).collect::<Result<Vec<_>, _>>();
    Ok(Acceptors { smtp: all(&setup.places.smtp)?, smtps: all(&setup.places.smtps)?, mailboxes, arrivals })
}

/// What a shard's POP3 and IMAP have in common.
struct MailboxServices<'a> {
    setup: &'a Setup,
    store: &'a Arc<Store>,
    drain: &'a Drain,
    sessions: &'a TaskTracker,
}

impl MailboxServices<'_> {
    /// `implicit`: connections are in TLS from the first octet on.
    fn pop3(&self, acceptor: Acceptor, implicit: Option<ServerTls>) -> JoinHandle<()> {
        let (hostname, drain) = (self.setup.config.hostname.clone(), self.drain.clone());
        let (login, tls) = (self.setup.login.clone(), self.setup.tls.clone());
        let options = Rc::new(pop3::Options { tls, hostname, drain, ..pop3::Options::new(login) });
        let store = self.store.clone();
        let serve = move |stream, peer| pop3::serve_pop3(stream, peer, store.clone(), options.clone());
        self.spawn(acceptor, implicit, b"-ERR [SYS/TEMP] too many connections\r\n", serve)
    }

    /// As [`MailboxServices::pop3`].
    fn imap(&self, acceptor: Acceptor, implicit: Option<ServerTls>) -> JoinHandle<()> {
        let (hostname, drain) = (self.setup.config.hostname.clone(), self.drain.clone());
        let (login, tls) = (self.setup.login.clone(), self.setup.tls.clone());
        let options = Rc::new(imap::Options { tls, hostname, drain, ..imap::Options::new(login) });
        let store = self.store.clone();
        let serve = move |stream, peer| imap::serve_imap(stream, peer, store.clone(), options.clone());
        self.spawn(acceptor, implicit, b"* BYE too many connections\r\n", serve)
    }

    /// Accepts for a service; `refusal` is what one connection too many is told, where it can be told before TLS.
    fn spawn<F: Future<Output = ()> + 'static>(
        &self,
        acceptor: Acceptor,
        implicit: Option<ServerTls>,
        refusal: &'static [u8],
        serve: impl Fn(Stream, SocketAddr) -> F + 'static,
    ) -> JoinHandle<()> {
        let limiter = ConnectionLimiter::new(self.setup.config.limits.connections());
        let (sessions, drain, serve) = (self.sessions.clone(), self.drain.clone(), Rc::new(serve));
        spawn(async move {
            while let Some(mut stream) = acceptor.next().await {
                let Some(peer) = stream.peer_address() else { continue };
                let Ok(permit) = limiter.enter(peer.ip(), false) else {
                    let told = if implicit.is_some() { &[][..] } else { refusal };
                    acceptor.refuse(stream, told.to_vec());
                    continue;
                };
                let counted = sessions.track();
                let Some(tls) = &implicit else {
                    let session = serve(stream, peer);
                    spawn(async move {
                        session.await;
                        drop((permit, counted));
                    });
                    continue;
                };
                let (tls, drain, serve) = (tls.clone(), drain.clone(), serve.clone());
                spawn(async move {
                    match stream.accept_tls(&tls, HANDSHAKE_LIMIT, &drain).await {
                        Ok(()) => serve(stream, peer).await,
                        Err(error) => log::debug!("no TLS with {peer}: {error}"),
                    }
                    drop((permit, counted));
                });
            }
        })
    }
}
