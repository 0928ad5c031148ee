//! The simulator itself: that it repeats, and that its machines fail as machines do.

use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::sim::{self, Options, Simulation};
use chasqui_runtime::{now, sleep, spawn};

/// A server echoes to clients on another node.
#[test]
fn smoke() {
    for seed in 0..50 {
        let outcome = Simulation::new(seed, Options::default())
            .run(|| async {
                let server = sim::node("server");
                let address = "10.0.0.1:25".parse().unwrap();
                let running = server.start(move || async move {
                    let listener = TcpListener::bind(address, &ListenOptions::default()).unwrap();
                    loop {
                        let (stream, _) = listener.accept().await.unwrap();
                        spawn(async move {
                            loop {
                                let piece = stream.read().await.unwrap();
                                if piece.is_empty() {
                                    break;
                                }
                                stream.write_all(piece.to_vec()).await.unwrap();
                            }
                        });
                    }
                });
                drop(running);
                sleep(Duration::from_millis(1)).await;
                let start = now();
                for _ in 0..10 {
                    let stream = TcpStream::connect(address, &ConnectOptions::default()).await.unwrap();
                    stream.write_all(vec![7; 10_000]).await.unwrap();
                    stream.shutdown();
                    let mut got = 0;
                    loop {
                        let piece = stream.read().await.unwrap();
                        if piece.is_empty() {
                            break;
                        }
                        got += piece.len();
                    }
                    assert_eq!(got, 10_000);
                }
                now() - start
            })
            .unwrap();
        println!("{seed}: {outcome:?}");
    }
}
