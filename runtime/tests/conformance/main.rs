//! What every engine must do, the same for all: each test runs on real sockets and files under `uring` and `glommio`,
//! and under the simulator from several seeds.

mod accepting;
mod cancelling;
mod channels;
mod files;
mod parts;
mod streams;
mod tasks;
mod timers;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use chasqui_runtime::net::{ConnectOptions, ListenOptions, Stream, TcpListener, TcpStream};
use chasqui_runtime::sim::{self, NetworkOptions, Options, Simulation};
use chasqui_runtime::{Config, EngineKind, fs, run, shard_local, spawn};

/// Simulations of one test.
const SEEDS: u64 = 12;

/// Makes a test for each engine out of an async function.
macro_rules! on_every_engine {
    ($($name:ident),* $(,)?) => {
        mod uring {
            $(#[test] fn $name() { crate::on(chasqui_runtime::EngineKind::Uring, super::$name); })*
        }
        mod glommio {
            $(#[test] fn $name() { crate::on(chasqui_runtime::EngineKind::Glommio, super::$name); })*
        }
        mod simulated {
            $(#[test] fn $name() { crate::in_simulator(super::$name); })*
        }
    };
}
pub(crate) use on_every_engine;

/// The engine under test, kept by its shard for the shards that a test starts.
struct UnderTest(EngineKind);

fn on<Fut: Future<Output = ()> + 'static>(engine: EngineKind, test: fn() -> Fut) {
    let main = move || async move {
        shard_local(|| UnderTest(engine));
        test().await;
    };
    run(Config { engine, ..Config::default() }, main).unwrap();
}

fn in_simulator<Fut: Future<Output = ()> + 'static>(test: fn() -> Fut) {
    for seed in 0..SEEDS {
        // Odd seeds have windows of a few bytes.
        let network = match seed % 2 {
            0 => NetworkOptions { tiny_window: 0.0, ..NetworkOptions::default() },
            _ => NetworkOptions { window_bytes: 16..512, slow_reader: 0.2, ..NetworkOptions::default() },
        };
        let options = Options { network, ..Options::default() };
        let outcome = Simulation::new(seed, options).run(test);
        outcome.unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// A size for real sockets, and the one for simulated ones, whose windows are small.
fn scaled(real: usize, simulated: usize) -> usize {
    if sim::is_running() { simulated } else { real }
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// The two ends of a connection.
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(loopback(), &ListenOptions::default()).unwrap();
    let address = listener.local_addr();
    let client = spawn(async move { TcpStream::connect(address, &ConnectOptions::default()).await.unwrap() });
    let (server, _) = listener.accept().await.unwrap();
    (client.await, server)
}

async fn read_exactly(stream: &Stream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        let piece = stream.read().await.unwrap();
        assert!(!piece.is_empty(), "the peer closed too early");
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(bytes.len(), count);
    bytes
}

/// Bytes up to the peer's end.
async fn read_to_end(stream: &Stream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let piece = stream.read().await?;
        if piece.is_empty() {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&piece);
    }
}

/// A pattern that shows when bytes are lost, doubled or swapped.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251) as u8).collect()
}

/// A directory of the test's own.
struct Folder {
    path: PathBuf,
    _real: Option<tempfile::TempDir>,
}

impl Folder {
    async fn new() -> Self {
        if sim::is_running() {
            let path = PathBuf::from("/folder");
            fs::create_dir_all(&path).await.unwrap();
            return Self { path, _real: None };
        }
        let real = tempfile::tempdir().unwrap();
        Self { path: real.path().to_owned(), _real: Some(real) }
    }

    fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}
