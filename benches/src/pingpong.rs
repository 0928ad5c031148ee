//! CPU of one shard per round trip of 64 bytes over TCP on loopback.
//!
//! `cargo run --release -p chasqui-benches --bin pingpong -- [CONNECTIONS] [SECONDS]` runs a server shard on the
//! first core and a client shard on the last, and prints one line of JSON:
//! `{"connections":64,"round_trips":…,"server_cpu_us":…,"client_cpu_us":…}` (CPU of the shards' threads per
//! round trip, in microseconds).

use std::cell::Cell;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::{
    Config, Shards, available_cores, mailbox, now, process::thread_cpu, shard, sleep, spawn,
};

const MESSAGE: usize = 64;
const WARM_UP: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut number = |name: &str, default: u64| match arguments.next() {
        None => Ok(default),
        Some(text) => text.parse().map_err(|_| format!("{name} {text:?} is no whole number")),
    };
    match number("CONNECTIONS", 64).and_then(|connections| Ok((connections, number("SECONDS", 3)?))) {
        Ok((connections, seconds)) => {
            measure(connections.max(1) as usize, Duration::from_secs(seconds.max(1)));
            ExitCode::SUCCESS
        }
        Err(line) => {
            eprintln!("pingpong: {line}");
            ExitCode::from(2)
        }
    }
}

fn measure(connections: usize, window: Duration) {
    let cores = available_cores();
    let (first, last) = (cores[0], cores[cores.len() - 1]);
    let (address_sender, address_receiver) = mailbox::channel::<SocketAddr>(1);
    let address_receiver = Arc::new(std::sync::Mutex::new(Some(address_receiver)));
    let config = Config { name: "pingpong".into(), cores: vec![first, last], ..Config::default() };
    let results = Shards::start(config, move || {
        let (sender, receiver) = (address_sender.clone(), address_receiver.clone());
        async move {
            if shard() == 0 {
                serve(sender, window).await
            } else {
                let taken = receiver.lock().expect("nobody panics with the lock").take();
                let mut receiver = taken.expect("one client shard");
                let address = receiver.recv().await.expect("the server sends its address");
                drive(address, connections, window).await
            }
        }
    })
    .expect("the shards start")
    .join();
    let figures: Vec<(u64, Duration)> = results.into_iter().map(|result| result.expect("no panic")).collect();
    let (round_trips, client) = figures[1];
    let per_trip = |cpu: Duration| cpu.as_secs_f64() * 1e6 / round_trips.max(1) as f64;
    println!(
        "{{\"connections\":{connections},\"round_trips\":{round_trips},\"server_cpu_us\":{:.2},\"client_cpu_us\":{:.2}}}",
        per_trip(figures[0].1),
        per_trip(client)
    );
}

/// Echoes for as long as the client measures; gives the CPU of the window, which starts with the client's.
async fn serve(address: mailbox::Sender<SocketAddr>, window: Duration) -> (u64, Duration) {
    let listener =
        TcpListener::bind(([127, 0, 0, 1], 0).into(), &ListenOptions::default()).expect("a free port");
    address.send(listener.local_addr()).expect("the client waits");
    let start = Rc::new(Cell::new(None));
    let marked = start.clone();
    spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            marked.set(marked.get().or(Some(now())));
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
    while start.get().is_none() {
        sleep(Duration::from_millis(1)).await;
    }
    sleep(WARM_UP).await;
    let before = thread_cpu();
    sleep(window).await;
    (0, thread_cpu() - before)
}

async fn drive(address: SocketAddr, connections: usize, window: Duration) -> (u64, Duration) {
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
    let (count, cpu) = (trips.get(), thread_cpu());
    sleep(window).await;
    (trips.get() - count, thread_cpu() - cpu)
}
