//! An SMTP server with a certificate, on one shard: it takes mail, forgets it, and tells of its connections.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chasqui_protocol::smtp::server::{self, Event};
use chasqui_runtime::channel::{OneshotSender, oneshot};
use chasqui_runtime::net::{ListenOptions, TcpListener};
use chasqui_runtime::{Config, Shards, available_cores, spawn};
use chasqui_transport::smtp_server::{ServerConnection, TimeLimits};
use chasqui_transport::tls::{Certificates, HANDSHAKE_LIMIT, ServerTls};
use chasqui_transport::{Drain, Stream};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// How it has TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    Nothing,
    Starttls,
    Implicit,
}

/// A connection: who it was from, its messages, and how many of them came in TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) from: IpAddr,
    pub(crate) messages: usize,
    pub(crate) secured: usize,
    pub(crate) quit: bool,
}

/// The server, and what ends it.
pub(crate) struct TlsServer {
    pub(crate) address: SocketAddr,
    /// The certificate of the authority of its certificate, which is for `localhost`.
    pub(crate) root: PathBuf,
    seen: Arc<Mutex<Vec<Seen>>>,
    _folder: tempfile::TempDir,
    end: Option<OneshotSender<()>>,
    shards: Option<Shards<()>>,
}

impl TlsServer {
    pub(crate) fn start(offer: Offer) -> TlsServer {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [chain, key, root] = ["chain", "key", "root"].map(|name| folder.path().join(name));
        let mut authority = CertificateParams::new(Vec::new()).expect("no names");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(authority, own).expect("an authority");
        let names = CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        let pair = KeyPair::generate().expect("a key");
        let certificate = names.signed_by(&pair, &authority).expect("signed");
        std::fs::write(&chain, certificate.pem()).expect("written");
        std::fs::write(&key, pair.serialize_pem()).expect("written");
        std::fs::write(&root, authority.pem()).expect("written");
        let certificates = Certificates::read([(chain.as_path(), key.as_path())]).expect("a certificate");
        let tls = ServerTls::new(certificates).expect("TLS");

        let (end, ended) = oneshot::<()>();
        let ended = Arc::new(Mutex::new(Some(ended)));
        let (ready, address) = std::sync::mpsc::channel();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let config =
            Config { name: "tls-server".into(), cores: vec![available_cores()[0]], ..Config::default() };
        let shards = Shards::start(config, move || {
            let (ready, ended, tls, log) = (ready.clone(), ended.clone(), tls.clone(), log.clone());
            async move {
                let any = SocketAddr::from(([127, 0, 0, 1], 0));
                let listener = TcpListener::bind(any, &ListenOptions::default()).expect("a port");
                ready.send(listener.local_addr()).expect("the test waits");
                spawn(accept(listener, offer, tls, log));
                let ended = ended.lock().expect("no panic").take().expect("one shard");
                ended.await;
            }
        })
        .expect("the server starts");
        let address = address.recv().expect("the server is ready");
        TlsServer { address, root, seen, _folder: folder, end: Some(end), shards: Some(shards) }
    }

    /// The connections so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic").clone()
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(shards) = self.shards.take() {
            shards.join();
        }
    }
}

async fn accept(listener: TcpListener, offer: Offer, tls: ServerTls, log: Arc<Mutex<Vec<Seen>>>) {
    while let Ok((stream, peer)) = listener.accept().await {
        let (tls, log) = (tls.clone(), log.clone());
        spawn(async move {
            let seen = Seen { from: peer.ip(), messages: 0, secured: 0, quit: false };
            let number = {
                let mut log = log.lock().expect("no panic");
                log.push(seen);
                log.len() - 1
            };
            let see = |change: fn(&mut Seen)| change(&mut log.lock().expect("no panic")[number]);
            let mut stream = Stream::from(stream);
            // A client that does not trust the server closes, which is what its test wants.
            if offer != Offer::Implicit
                || stream.accept_tls(&tls, HANDSHAKE_LIMIT, &Drain::default()).await.is_ok()
            {
                serve(stream, offer, &tls, see).await;
            }
        });
    }
}

async fn serve(stream: Stream, offer: Offer, tls: &ServerTls, see: impl Fn(fn(&mut Seen))) {
    let starttls = offer == Offer::Starttls;
    let options =
        server::Options { hostname: "server.test".to_owned(), starttls, ..server::Options::default() };
    let hour = Duration::from_secs(3600);
    let limits = TimeLimits { idle: hour, message: hour, without_mail: None };
    let mut connection = ServerConnection::new(stream, Rc::new(options), Rc::new(limits), Drain::default());
    loop {
        let Ok(event) = connection.next_event().await else { return };
        match event {
            Event::Mail(_) | Event::Rcpt(_) | Event::Data => connection.accept(),
            Event::BodyEnd(_) => {
                see(|seen| seen.messages += 1);
                if connection.agreed().is_some() {
                    see(|seen| seen.secured += 1);
                }
                connection.accept_message("Ok");
            }
            Event::StartTls => match connection.start_tls(tls).await {
                Ok(()) => {}
                Err(_) => return,
            },
            Event::Quit => {
                see(|seen| seen.quit = true);
                let _gone = connection.close().await;
                return;
            }
            Event::TooManyErrors => return,
            _ => {}
        }
    }
}
