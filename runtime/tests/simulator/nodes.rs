//! Nodes that are killed, cut off and started again, and what their peers see of it.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::net::{ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::sim::{self, Kill, NetworkOptions, Options, Simulation};
use chasqui_runtime::{Config, Shards, channel, sleep, spawn, timeout};

use crate::{SERVER, ask, connect, echo_server, restart_echo, simulate};

/// A killed node's futures are dropped, with calls that lead to nothing; the others live on, and the node starts
/// anew.
#[test]
fn a_killed_node_falls_silent() {
    struct Farewell(TcpStream, channel::Sender<&'static str>);
    impl Drop for Farewell {
        fn drop(&mut self) {
            let stream = self.0.clone();
            drop(spawn(async move { stream.write_all(b"farewell".to_vec()).await }));
            self.0.shutdown();
            drop(futures_lite::future::block_on(futures_lite::future::poll_once(
                self.0.write_all(b"farewell".to_vec()),
            )));
            drop(TcpListener::bind(SERVER.parse().unwrap(), &ListenOptions::default()));
            let _ = self.1.send("dropped");
        }
    }
    for seed in 0..20 {
        simulate(seed, || async {
            let server = echo_server().await;
            let (sender, mut receiver) = channel::bounded(10);
            let client = sim::node("client");
            let running = client.start(move || async move {
                let stream = connect().await.unwrap();
                ask(&stream, b"hello").await.unwrap();
                let farewell = Farewell(stream, sender.clone());
                sender.send("connected").unwrap();
                spawn(async move {
                    let _farewell = farewell;
                    std::future::pending::<()>().await;
                });
                std::future::pending::<()>().await;
            });
            assert_eq!(receiver.recv().await, Some("connected"));
            client.kill(Kill::Process);
            assert_eq!(running.await, Err(sim::Killed));
            assert!(!client.is_running());
            assert_eq!(receiver.recv().await, Some("dropped"));
            assert_eq!(receiver.recv().await, None);
            ask(&connect().await.unwrap(), b"still there").await.unwrap();
            let again = client.start(|| async { connect().await.is_ok() });
            assert_eq!(again.await, Ok(true));
            assert!(server.is_running());
        });
    }
}

/// A process that ends closes its sockets; at a power cut the peer is told nothing until it asks the node that is
/// back.
#[test]
fn peers_learn_of_an_end_as_they_would() {
    for seed in 0..20 {
        simulate(seed, || async {
            let server = echo_server().await;
            let stream = connect().await.unwrap();
            ask(&stream, b"hello").await.unwrap();
            server.kill(Kill::Process);
            let end = timeout(Duration::from_secs(1), stream.read()).await.unwrap();
            assert!(end.is_err() || end.is_ok_and(|piece| piece.is_empty()));
            assert_eq!(connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);

            restart_echo(&server).await;
            let stream = connect().await.unwrap();
            ask(&stream, b"hello").await.unwrap();
            server.kill(Kill::PowerCut);
            assert!(timeout(Duration::from_secs(60), stream.read()).await.is_err(), "half open");
            assert!(timeout(Duration::from_secs(5), connect()).await.is_err(), "nobody answers");
            stream.write_all(b"anybody?".to_vec()).await.unwrap();
            assert!(timeout(Duration::from_secs(5), stream.read()).await.is_err());
            restart_echo(&server).await;
            stream.write_all(b"anybody now?".to_vec()).await.unwrap();
            let end = timeout(Duration::from_secs(5), stream.read()).await.unwrap();
            assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        });
    }
}

/// A process ends with its main future, and its other shards and tasks with it.
#[test]
fn a_process_ends_with_its_main_future() {
    simulate(3, || async {
        let (sender, mut receiver) = channel::bounded::<()>(1);
        let node = sim::node("node");
        let value = node.start(move || async move {
            let shards = Shards::start(Config { cores: vec![0, 1], ..Config::default() }, move || {
                let sender = sender.clone();
                async move {
                    let _sender = sender;
                    std::future::pending::<()>().await;
                }
            });
            sleep(Duration::from_millis(1)).await;
            drop(shards.unwrap());
            7
        });
        assert_eq!(value.await, Ok(7));
        assert_eq!(receiver.recv().await, None);
        assert!(!node.is_running());
    });
}

/// A partition holds packets back and new connections off; after it the connection goes on whole, or is reset.
#[test]
fn partitions_heal() {
    let fates = Rc::new(Cell::new((0, 0)));
    for seed in 0..40 {
        let seen = simulate(seed, || async {
            let server = echo_server().await;
            let client = sim::node("client");
            let (sender, mut receiver) = channel::bounded(10);
            let running = client.start(move || async move {
                let stream = connect().await.unwrap();
                ask(&stream, b"before").await.unwrap();
                sender.send(()).unwrap();
                sleep(Duration::from_secs(1)).await;
                assert!(
                    timeout(Duration::from_secs(2), connect()).await.is_err(),
                    "no connection through it"
                );
                let late = timeout(Duration::from_secs(60), ask(&stream, &[9; 5000])).await.unwrap();
                late.is_ok()
            });
            receiver.recv().await.unwrap();
            sim::partition(&server, &client);
            sleep(Duration::from_secs(10)).await;
            sim::heal(&server, &client);
            running.await.unwrap()
        });
        let (whole, reset) = fates.get();
        fates.set(if seen.value { (whole + 1, reset) } else { (whole, reset + 1) });
    }
    let (whole, reset) = fates.get();
    assert!(whole > 5 && reset > 2, "both happen: {whole} and {reset}");
}

/// Random resets hit some connections, which then fail on both sides.
#[test]
fn connections_are_reset_at_random() {
    let mut failed = 0;
    for seed in 0..30 {
        let network = NetworkOptions { reset: 0.5, ..NetworkOptions::default() };
        let outcome = Simulation::new(seed, Options { network, ..Options::default() }).run(|| async {
            echo_server().await;
            let stream = connect().await.unwrap();
            for _ in 0..10 {
                if ask(&stream, &[5; 2000]).await.is_err() {
                    return true;
                }
            }
            false
        });
        failed += u32::from(outcome.unwrap().value);
    }
    assert!((5..28).contains(&failed), "{failed} of 30");
}

/// After `calm` no connection is reset by chance, not even one that was about to be.
#[test]
fn a_calm_network_resets_nothing() {
    for seed in 0..20 {
        let network = NetworkOptions { reset: 1.0, ..NetworkOptions::default() };
        let outcome = Simulation::new(seed, Options { network, ..Options::default() }).run(|| async {
            echo_server().await;
            let early = connect().await.unwrap();
            sim::calm();
            let late = connect().await.unwrap();
            for _ in 0..50 {
                ask(&early, &[5; 2000]).await.unwrap();
                ask(&late, &[6; 2000]).await.unwrap();
            }
        });
        outcome.unwrap();
    }
}

/// Proves that a node sees nothing of the interfaces of the machine that the simulator runs on.
#[test]
fn a_node_has_no_interfaces() {
    assert!(!chasqui_runtime::net::interface_addresses().unwrap().is_empty(), "loopback at least");
    simulate(1, || async {
        let node = sim::node("relay");
        let addresses = node.start(|| async { chasqui_runtime::net::interface_addresses().unwrap() });
        assert_eq!(addresses.await, Ok(Vec::new()));
    });
}
