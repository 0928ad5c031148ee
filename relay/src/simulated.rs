//! For tests: a whole relay in the simulator, where disks and hosts fail at will.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use chasqui_runtime::EngineKind;
use chasqui_runtime::net::{ConnectOptions, TcpStream};

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

/// Runs a relay that listens on 127.0.1.1:25 and is given one answer about every domain.
pub(crate) async fn relay(answer: fn() -> SimulatedAnswer) {
    let config = Config::parse(CONFIG, Path::new("relay.toml")).unwrap();
    let placement = Placement { engine: EngineKind::Uring, cores: vec![0] };
    let names = Resolver::simulated(move |_| (Duration::ZERO, answer()));
    launch(config, placement, names).await.unwrap().ended().await.unwrap();
}

/// Reads a whole reply; its last line.
async fn reply(stream: &TcpStream) -> io::Result<String> {
    let mut reply = String::new();
    loop {
        let piece = stream.read().await?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reply.push_str(&String::from_utf8_lossy(&piece));
        let last = reply.ends_with('\n').then(|| reply.lines().last().unwrap_or_default());
        if let Some(last) = last.filter(|line| line.as_bytes().get(3) == Some(&b' ')) {
            return Ok(last.to_owned());
        }
    }
}

/// Sends a message to b@b.test. `Err`: what it was refused with.
pub(crate) async fn submit() -> Result<(), String> {
    let (address, options) = (SocketAddr::from(([127, 0, 1, 1], 25)), ConnectOptions::default());
    let stream = TcpStream::connect(address, &options).await.unwrap();
    reply(&stream).await.unwrap();
    let commands =
        ["EHLO a.test", "MAIL FROM:<a@a.test>", "RCPT TO:<b@b.test>", "DATA", "Subject: a\r\n\r\na\r\n."];
    for command in commands {
        stream.write_all(format!("{command}\r\n").into_bytes()).await.unwrap();
        let answer = reply(&stream).await.unwrap();
        if !answer.starts_with(['2', '3']) {
            return Err(answer);
        }
    }
    Ok(())
}
