//! CPU of one shard per round trip of 64 bytes over TCP on loopback.
//!
//! `cargo run --release -p chasqui-benches --bin pingpong -- [CONNECTIONS] [SECONDS] [ENGINE] [ROUNDS]` runs a server
//! shard on the first core and a client shard on the last, and prints one line of JSON a round:
//! `{"engine":"uring","connections":64,"round_trips":…,"server_cpu_us":…,"client_cpu_us":…}` (CPU of the shards' threads
//! per round trip, in microseconds). ENGINE is the server's: auto (the default), uring, glommio, or both, which takes
//! turns and ends with the medians: `{"connections":64,"rounds":…,"uring_us":…,"glommio_us":…,"ratio":…}`. The client
//! runs on the kernel's best engine, so that every server has the same one.

use std::cell::Cell;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::{
    Config, EngineChoice, EngineKind, Shards, available_cores, channel, process::thread_cpu, sleep, spawn,
};

const MESSAGE: usize = 64;
const WARM_UP: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    match Plan::of_arguments(std::env::args().skip(1)) {
        Ok(plan) => {
            plan.run();
            ExitCode::SUCCESS
        }
        Err(line) => {
            eprintln!("pingpong: {line}");
            ExitCode::from(2)
        }
    }
}

/// What is measured.
struct Plan {
    connections: usize,
    window: Duration,
    engines: Vec<EngineKind>,
    rounds: usize,
}

impl Plan {
    fn of_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
        let number = |name: &str, text: String| match text.parse::<u32>() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("{name} {text:?} is no whole number above 0")),
        };
        let connections = number("CONNECTIONS", next("64"))? as usize;
        let window = Duration::from_secs(number("SECONDS", next("3"))?.into());
        let engine = next("auto");
        let engines = match engine.as_str() {
            "both" => vec![EngineKind::Uring, EngineKind::Glommio],
            one => vec![one.parse::<EngineChoice>().map_err(|error| error.to_string())?.resolve()],
        };
        let rounds = number("ROUNDS", next(if engines.len() > 1 { "5" } else { "1" }))? as usize;
        Ok(Self { connections, window, engines, rounds })
    }

    fn run(&self) {
        let mut figures = vec![Vec::new(); self.engines.len()];
        for _ in 0..self.rounds {
            for (engine, figures) in self.engines.iter().zip(&mut figures) {
                // None: the machine was too busy for a single round trip.
                figures.extend(measure(*engine, self.connections, self.window));
            }
        }
        if let [uring, glommio] = &mut figures[..]
            && !uring.is_empty()
            && !glommio.is_empty()
        {
            let (uring, glommio) = (median(uring), median(glommio));
            println!(
                "{{\"connections\":{},\"rounds\":{},\"uring_us\":{uring:.2},\"glommio_us\":{glommio:.2},\"ratio\":{:.3}}}",
                self.connections,
                self.rounds,
                uring / glommio
            );
        }
    }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// The server's CPU per round trip in microseconds, if there was one.
fn measure(engine: EngineKind, connections: usize, window: Duration) -> Option<f64> {
    let cores = available_cores();
    let (first, last) = (cores[0], cores[cores.len() - 1]);
    let (address_sender, address) = channel::bounded::<SocketAddr>(1);
    let (edge_sender, edges) = channel::bounded::<()>(2);
    let (address, edges) = (Arc::new(Mutex::new(Some(address))), Arc::new(Mutex::new(Some(edges))));
    let config = Config { name: "server".into(), engine, cores: vec![first] };
    let server = Shards::start(config, move || serve(address_sender.clone(), taken(&edges)));
    let best = EngineChoice::Auto.resolve();
    let config = Config { name: "client".into(), engine: best, cores: vec![last] };
    let client = Shards::start(config, move || {
        let (mut address, edges) = (taken(&address), edge_sender.clone());
        async move {
            let address = address.recv().await.expect("the server sends its address");
            drive(address, edges, connections, window).await
        }
    });
    let (server, client) = (server.expect("a server"), client.expect("a client"));
    let (round_trips, client) = client.join().remove(0).expect("no panic");
    let server = server.join().remove(0).expect("no panic");
    let per_trip = |cpu: Duration| cpu.as_secs_f64() * 1e6 / round_trips.max(1) as f64;
    println!(
        "{{\"engine\":\"{engine}\",\"connections\":{connections},\"round_trips\":{round_trips},\"server_cpu_us\":{:.2},\"client_cpu_us\":{:.2}}}",
        per_trip(server),
        per_trip(client)
    );
    (round_trips > 0).then(|| per_trip(server))
}

/// What the only shard of its kind takes along.
fn taken<T>(place: &Mutex<Option<T>>) -> T {
    place.lock().expect("nobody panics with the lock").take().expect("one shard")
}

/// Echoes until the second edge of the client's window; gives the CPU between the two.
async fn serve(address: channel::Sender<SocketAddr>, mut edges: channel::Receiver<()>) -> Duration {
    let listener =
        TcpListener::bind(([127, 0, 0, 1], 0).into(), &ListenOptions::default()).expect("a free port");
    address.send(listener.local_addr()).expect("the client waits");
    spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            spawn(async move {
                let mut reply = Vec::with_capacity(MESSAGE);
                loop {
                    match stream.read().await {
                        Ok(piece) if !piece.is_empty() => reply.extend_from_slice(&piece),
                        _ => return,
                    }
                    match stream.write_all(reply).await {
                        Ok(returned) => reply = returned,
                        Err(_) => return,
                    }
                }
            });
        }
    });
    edges.recv().await.expect("the window begins");
    let before = thread_cpu();
    edges.recv().await.expect("the window ends");
    thread_cpu() - before
}

/// Plays on every connection, and tells the server when the window begins and ends; gives its round trips and CPU.
async fn drive(
    address: SocketAddr,
    edges: channel::Sender<()>,
    connections: usize,
    window: Duration,
) -> (u64, Duration) {
    let trips = Rc::new(Cell::new(0u64));
    for _ in 0..connections {
        let stream =
            TcpStream::connect(address, &ConnectOptions::default()).await.expect("the server listens");
        let trips = trips.clone();
        spawn(async move {
            let mut message = vec![0u8; MESSAGE];
            loop {
                let Ok(mut returned) = stream.write_all(message).await else { return };
                let mut left = MESSAGE;
                while left > 0 {
                    match stream.read().await {
                        Ok(piece) if !piece.is_empty() => left = left.saturating_sub(piece.len()),
                        _ => return,
                    }
                }
                returned.resize(MESSAGE, 0);
                message = returned;
                trips.set(trips.get() + 1);
            }
        });
    }
    sleep(WARM_UP).await;
    edges.send(()).expect("the server waits");
    let (count, cpu) = (trips.get(), thread_cpu());
    sleep(window).await;
    edges.send(()).expect("the server waits");
    (trips.get() - count, thread_cpu() - cpu)
}
