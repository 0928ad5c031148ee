//! The simulator itself: that it repeats, and that its machines and disks fail as real ones do.

mod disks;
mod nodes;
mod repetition;

use std::future::Future;
use std::io;

use chasqui_runtime::net::{ConnectOptions, ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::sim::{self, NetworkOptions, Node, Options, Outcome, Simulation};
use chasqui_runtime::{channel, spawn};

const SERVER: &str = "10.0.0.1:25";

fn simulate<Fut: Future<Output = T> + 'static, T: Send + 'static>(
    seed: u64,
    control: fn() -> Fut,
) -> Outcome<T> {
    let network = NetworkOptions { tiny_window: 0.0, slow_reader: 0.0, ..NetworkOptions::default() };
    Simulation::new(seed, Options { network, ..Options::default() })
        .run(control)
        .unwrap_or_else(|failure| panic!("{failure}"))
}

/// Starts a server that echoes, and waits until it listens.
async fn echo_server() -> Node {
    let node = sim::node("server");
    restart_echo(&node).await;
    node
}

async fn restart_echo(node: &Node) {
    let (ready, listening) = channel::oneshot();
    drop(node.start(move || async move {
        let listener = TcpListener::bind(SERVER.parse().unwrap(), &ListenOptions::default()).unwrap();
        ready.send(()).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            spawn(async move {
                while let Ok(piece) = stream.read().await {
                    if piece.is_empty() || stream.write_all(piece.to_vec()).await.is_err() {
                        break;
                    }
                }
            });
        }
    }));
    listening.await.unwrap();
}

async fn connect() -> io::Result<TcpStream> {
    TcpStream::connect(SERVER.parse().unwrap(), &ConnectOptions::default()).await
}

/// Sends `bytes` and waits until as many have come back.
async fn ask(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes.to_vec()).await?;
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        let piece = stream.read().await?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        got.extend_from_slice(&piece);
    }
    assert_eq!(got, bytes);
    Ok(())
}
