//! The acceptor, in the simulator: sockets, a virtual clock, one seed.

use std::cell::Cell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::net::{ListenOptions, TcpListener, UnixListener, UnixStream};
use chasqui_runtime::sim::{Options, Simulation};
use chasqui_runtime::{now, sleep, spawn, timeout};
use chasqui_transport::{
    Acceptor, ConnectionLimiter, ConnectionLimits, Drain, Refusals, Stream, TaskTracker,
};

const FULL: &[u8] = b"421 full\r\n";
const ENDING: &[u8] = b"421 ending\r\n";

fn in_simulation<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + 'static) {
    Simulation::new(1, Options::default()).run(test).unwrap();
}

fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 25))
}

/// A service that greets each connection and keeps it until its peer leaves.
struct Service {
    drain: Drain,
    refusals: Refusals,
    sessions: TaskTracker,
    accepted: Rc<Cell<usize>>,
}

impl Service {
    fn start(limits: ConnectionLimits, refusals_max: usize) -> Service {
        let service = Service {
            drain: Drain::default(),
            refusals: Refusals::new(refusals_max),
            sessions: TaskTracker::default(),
            accepted: Rc::default(),
        };
        let listener = TcpListener::bind(address(), &ListenOptions::default()).unwrap();
        let acceptor = Acceptor::tcp(listener, service.drain.clone(), service.refusals.clone());
        let (limiter, sessions) = (ConnectionLimiter::new(limits), service.sessions.clone());
        let accepted = service.accepted.clone();
        spawn(async move {
            while let Some(stream) = acceptor.next().await {
                accepted.set(accepted.get() + 1);
                let peer = stream.peer_address().expect("a TCP connection");
                let Ok(permit) = limiter.enter(peer.ip(), false) else {
                    acceptor.refuse(stream, FULL.to_vec());
                    continue;
                };
                let session = sessions.track();
                spawn(async move {
                    let _greeted = stream.write_all(b"220 hello\r\n".to_vec()).await;
                    while stream.read().await.is_ok_and(|piece| !piece.is_empty()) {}
                    drop((permit, session));
                });
            }
            acceptor.refuse_backlog(ENDING).await;
        });
        service
    }
}

fn limits(total: usize, per_peer: usize) -> ConnectionLimits {
    ConnectionLimits { total, per_peer, kept_for_few: 0, kept_for_trusted: 0, unnamed: 0 }
}

/// A connection from 127.0.0.`from`, and all that it is told at first.
async fn connect(from: u8) -> (Stream, Vec<u8>) {
    let stream = Stream::connect(address(), Some([127, 0, 0, from].into())).await.unwrap();
    let piece = timeout(Duration::from_secs(10), stream.read()).await.expect("a line").unwrap();
    (stream, piece.to_vec())
}

/// The limits in all and of one peer hold, whoever is refused is told so, and a place that is given back is taken again.
#[test]
fn limits_hold() {
    in_simulation(|| async {
        let service = Service::start(limits(3, 2), usize::MAX);
        let (first, greeting) = connect(1).await;
        assert!(greeting.starts_with(b"220"));
        let (_second, greeting) = connect(1).await;
        assert!(greeting.starts_with(b"220"));
        assert_eq!(connect(1).await.1, FULL, "as many as one peer may have");
        let (_third, greeting) = connect(2).await;
        assert!(greeting.starts_with(b"220"));
        assert_eq!(connect(3).await.1, FULL, "as many as there may be");
        drop(first);
        sleep(Duration::from_secs(1)).await;
        assert!(connect(3).await.1.starts_with(b"220"));
        assert_eq!(service.accepted.get(), 6);
    });
}

/// A drain ends the accepting; what is in the backlog, or comes soon after, is told why, and then nobody listens.
#[test]
fn a_drain_answers_the_backlog() {
    in_simulation(|| async {
        let service = Service::start(limits(10, 10), usize::MAX);
        let (first, _) = connect(1).await;
        service.drain.begin();
        assert_eq!(connect(1).await.1, ENDING);
        sleep(Duration::from_secs(1)).await;
        assert!(Stream::connect(address(), None).await.is_err());
        assert_eq!((service.accepted.get(), service.sessions.count()), (1, 1));
        drop(first);
        service.sessions.empty().await;
        service.refusals.empty().await;
    });
}

/// Of connections that are refused at once no more than the limit hold a descriptor; the others are closed without a word.
#[test]
fn refusals_are_limited() {
    in_simulation(|| async {
        let service = Service::start(limits(0, 10), 2);
        let mut clients = Vec::new();
        for _ in 0..50 {
            clients.push(spawn(async {
                let stream = Stream::connect(address(), None).await.unwrap();
                stream.read().await.is_ok_and(|piece| *piece == *FULL)
            }));
        }
        let mut told = 0;
        for client in clients {
            told += usize::from(client.await);
        }
        assert!(told >= 2, "{told}");
        service.refusals.empty().await;
    });
}

/// A Unix socket's connections come without an address.
#[test]
fn unix_sockets_are_accepted() {
    in_simulation(|| async {
        let acceptor = Acceptor::unix(UnixListener::bind(Path::new("/control")).unwrap());
        assert_eq!(acceptor.to_string(), "/control");
        let client: Stream = UnixStream::connect(Path::new("/control")).await.unwrap().into();
        let stream = acceptor.next().await.expect("no drain begins");
        assert_eq!(stream.peer_address(), None);
        stream.write_all(b"line\n".to_vec()).await.unwrap();
        assert_eq!(*client.read().await.unwrap(), *b"line\n");
    });
}

/// Whoever lingers reads until the peer has closed, and not for ever.
#[test]
fn lingering_has_an_end() {
    in_simulation(|| async {
        let listener = TcpListener::bind(address(), &ListenOptions::default()).unwrap();
        let client = Stream::connect(address(), None).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let begun = now();
        Stream::from(server).linger().await;
        assert!((5..6).contains(&(now() - begun).as_secs()));
        drop(client);
    });
}
