//! The control socket in the simulator, where disks fail at will.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, TcpStream, UnixStream};
use chasqui_runtime::sim::{self, DiskFaults, Options, Simulation};
use chasqui_runtime::{EngineKind, sleep};
use serde_json::{Value, json};

use crate::route::{Resolver, SimulatedAnswer};
use crate::{Config, Placement, launch};

const CONFIG: &str = r#"
hostname = "relay.test"
listen = ["127.0.1.1:25"]
control.socket = "/control"
spool.directory = "/spool"
[retry]
first = "10s"
max = "10s"
"#;
const MESSAGES: u64 = 3;
/// Whatever the relay does by itself has happened within this.
const WHILE: Duration = Duration::from_secs(90);

/// A relay whose DNS fails, so that all mail stays.
async fn relay() {
    let config = Config::parse(CONFIG, Path::new("relay.toml")).unwrap();
    let placement = Placement { engine: EngineKind::Uring, cores: vec![0] };
    let failing = |_: &str| (Duration::ZERO, SimulatedAnswer::Temporary("SERVFAIL"));
    launch(config, placement, Resolver::simulated(failing)).await.unwrap().ended().await.unwrap();
}

/// Reads a reply, whose last line begins so.
async fn expect(stream: &TcpStream, start: &str) {
    let mut reply = String::new();
    while !reply.ends_with('\n') || reply.lines().last().unwrap().as_bytes()[3] != b' ' {
        reply.push_str(std::str::from_utf8(&stream.read().await.unwrap()).unwrap());
    }
    assert!(reply.lines().last().unwrap().starts_with(start), "{reply}");
}

async fn submit() {
    let (address, options) = (SocketAddr::from(([127, 0, 1, 1], 25)), ConnectOptions::default());
    let stream = TcpStream::connect(address, &options).await.unwrap();
    expect(&stream, "220 ").await;
    for (command, expected) in [
        ("EHLO a.test", "250 "),
        ("MAIL FROM:<a@a.test>", "250 "),
        ("RCPT TO:<b@b.test>", "250 "),
        ("DATA", "354 "),
        ("Subject: a\r\n\r\na\r\n.", "250 "),
    ] {
        stream.write_all(format!("{command}\r\n").into_bytes()).await.unwrap();
        expect(&stream, expected).await;
    }
}

/// The numbers of the listing's last line: entries, and messages that could not be read.
async fn queue() -> (u64, u64) {
    let stream = UnixStream::connect(Path::new("/control")).await.unwrap();
    stream.write_all(b"{\"command\":\"queue\"}\n".to_vec()).await.unwrap();
    let mut answer = String::new();
    loop {
        answer.push_str(std::str::from_utf8(&stream.read().await.unwrap()).unwrap());
        let end = answer.ends_with('\n').then(|| answer.lines().last().unwrap());
        let end = end.map(|line| serde_json::from_str::<Value>(line).unwrap());
        if let Some(end) = end.filter(|end| end["end"] == json!(true)) {
            let count = |name: &str| end[name].as_u64().unwrap();
            assert_eq!(count("entries"), answer.lines().count() as u64 - 1, "{answer}");
            return (count("entries"), count("unread"));
        }
    }
}

/// A queued message whose envelope the disk does not give is counted, and listed when the disk has got over it.
#[test]
fn what_the_disk_does_not_give_is_counted() {
    let outcome = Simulation::new(1, Options::default()).run(|| async {
        let node = sim::node("relay");
        drop(node.start(relay));
        sleep(Duration::from_secs(1)).await;
        for _ in 0..MESSAGES {
            submit().await;
        }
        sleep(WHILE).await;
        let refuse_reads = || node.set_disk_faults(DiskFaults { read: 1.0, ..DiskFaults::default() });
        assert_eq!(queue().await, (MESSAGES, 0));
        refuse_reads();
        assert_eq!(queue().await, (0, MESSAGES));
        node.heal_disk();
        assert_eq!(queue().await, (MESSAGES, 0));
    });
    outcome.unwrap();
}
