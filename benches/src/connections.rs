//! Clients of a relay that has many connections; `scripts/connections` starts the relay and these.
//!
//! `connections idle ADDRESS COUNT` opens COUNT connections, reads their greetings, prints `{"connected":…,"refused":…}` and
//! holds them until its standard input ends. `connections storm ADDRESS RATE SECONDS` opens RATE connections a second on a
//! schedule, reads what each is greeted with, closes it, and prints `{"attempted":…,"served":…,"refused":…,"failed":…,
//! "late_ms_max":…}`: a refusal is a 421, and lateness that of the schedule. `connections others ADDRESS COUNT SECONDS` has
//! COUNT sessions that say NOOP every 20 ms and prints `{"round_trips":…,"p50_ms":…,"p99_ms":…,"max_ms":…}`, each round trip
//! from its intended time; a session that breaks fails the program.
//!
//! Connections come from many addresses of the loopback, [`PER_SOURCE`] from each.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, TcpStream};
use chasqui_runtime::{Config, Instant, Shards, now, run, sleep, spawn, timeout};

/// Connections from one address.
const PER_SOURCE: usize = 1000;
/// Idle connections that are being opened at a time.
const OPENING: usize = 200;
/// Whoever has no greeting by then counts as failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two NOOP of a session.
const NOOP_EVERY: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match obey(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("connections: {line}");
            ExitCode::from(2)
        }
    }
}

fn obey(words: &[&str]) -> Result<(), String> {
    match *words {
        ["idle", address, count] => hold(relay(address)?, number(count)?),
        ["storm", address, rate, seconds] => {
            let (relay, rate, seconds) = (relay(address)?, number(rate)?, number(seconds)?);
            run(Config::default(), move || storm(relay, rate, seconds)).map_err(|error| error.to_string())
        }
        ["others", address, count, seconds] => {
            let (relay, count, seconds) = (relay(address)?, number(count)?, number(seconds)?);
            run(Config::default(), move || others(relay, count, seconds)).map_err(|error| error.to_string())
        }
        _ => Err("usage: connections idle ADDRESS COUNT | storm ADDRESS RATE SECONDS | others ADDRESS COUNT SECONDS"
            .into()),
    }
}

fn relay(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is no address with a port"))
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or(format!("{text:?} is no whole number above 0"))
}

/// How a connection was received.
enum Welcome {
    Served(TcpStream),
    Refused,
}

/// Opens the connection with this number; `network` tells one kind of client from the others.
async fn call(relay: SocketAddr, network: u8, number: usize) -> io::Result<Welcome> {
    let source =
        Ipv4Addr::new(127, network, (number / PER_SOURCE / 250) as u8, (1 + number / PER_SOURCE % 250) as u8);
    let calling = async {
        let options = ConnectOptions { local: Some(IpAddr::V4(source)) };
        let stream = TcpStream::connect(relay, &options).await?;
        let greeting = stream.read().await?;
        match greeting.get(..3) {
            Some(b"220") => Ok(Welcome::Served(stream)),
            Some(b"421") => Ok(Welcome::Refused),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    };
    timeout(PATIENCE, calling).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn hold(relay: SocketAddr, count: usize) -> Result<(), String> {
    let open = move || async move {
        let mut held = Vec::with_capacity(count);
        let mut refused = 0;
        for first in (0..count).step_by(OPENING) {
            let calls: Vec<_> =
                (first..count.min(first + OPENING)).map(|number| spawn(call(relay, 10, number))).collect();
            for outcome in calls {
                match outcome.await {
                    Ok(Welcome::Served(stream)) => held.push(stream),
                    Ok(Welcome::Refused) | Err(_) => refused += 1,
                }
            }
        }
        println!("{{\"connected\":{},\"refused\":{refused}}}", held.len());
        std::future::pending::<()>().await;
        drop(held);
    };
    let shards = Shards::start(Config::default(), open).map_err(|error| error.to_string())?;
    let _end = io::stdin().read_line(&mut String::new());
    // They end with the process.
    std::mem::forget(shards);
    Ok(())
}

async fn storm(relay: SocketAddr, rate: usize, seconds: usize) {
    let counts = Rc::new([const { Cell::new(0usize) }; 3]);
    let (attempted, start) = (rate * seconds, now());
    let mut late = Duration::ZERO;
    let mut calls = Vec::with_capacity(attempted);
    for number in 0..attempted {
        let due = start + Duration::from_secs_f64(number as f64 / rate as f64);
        if due > now() {
            sleep(due - now()).await;
        }
        late = late.max(now() - due);
        let counts = counts.clone();
        calls.push(spawn(async move {
            let count = match call(relay, 11, number).await {
                Ok(Welcome::Served(_)) => &counts[0],
                Ok(Welcome::Refused) => &counts[1],
                Err(_) => &counts[2],
            };
            count.set(count.get() + 1);
        }));
    }
    for call in calls {
        call.await;
    }
    let [served, refused, failed] = [&counts[0], &counts[1], &counts[2]].map(Cell::get);
    println!(
        "{{\"attempted\":{attempted},\"served\":{served},\"refused\":{refused},\"failed\":{failed},\"late_ms_max\":{:.1}}}",
        millis(late)
    );
}

async fn others(relay: SocketAddr, count: usize, seconds: usize) {
    let times = Rc::new(RefCell::new(Vec::new()));
    let end = now() + Duration::from_secs(seconds as u64);
    let sessions: Vec<_> = (0..count)
        .map(|number| {
            let times = times.clone();
            spawn(async move {
                let Ok(Welcome::Served(stream)) = call(relay, 12, number).await else {
                    panic!("a session of the others was not served");
                };
                say_noop(&stream, end, &times).await.expect("a session of the others lives on");
            })
        })
        .collect();
    for session in sessions {
        session.await;
    }
    let mut times = times.take();
    times.sort_unstable();
    let at = |share: f64| millis(times[((times.len() - 1) as f64 * share) as usize]);
    println!(
        "{{\"round_trips\":{},\"p50_ms\":{:.2},\"p99_ms\":{:.2},\"max_ms\":{:.2}}}",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

async fn say_noop(stream: &TcpStream, end: Instant, times: &RefCell<Vec<Duration>>) -> io::Result<()> {
    let mut due = now();
    while due < end {
        if due > now() {
            sleep(due - now()).await;
        }
        stream.write_all(b"NOOP\r\n".to_vec()).await?;
        let mut reply = Vec::new();
        while !reply.ends_with(b"\r\n") {
            let piece = stream.read().await?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            reply.extend_from_slice(&piece);
        }
        times.borrow_mut().push(now() - due);
        due += NOOP_EVERY;
    }
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
