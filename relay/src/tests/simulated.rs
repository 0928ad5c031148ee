//! For tests: a whole relay in the simulator, where disks and hosts fail at will.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use chasqui_runtime::EngineKind;
use chasqui_runtime::net::{ConnectOptions, TcpStream, UnixStream};

use crate::route::{Resolver, SimulatedAnswer};
use crate::{Config, Placement, launch};

const CONFIG: &str = r#"
hostname = "relay.test"
listen = ["127.0.1.1:25"]
control.socket = "/control"
spool.directory = "/spool"
spool.segment_size = "1MiB"
spool.space = "64MiB"
"#;

const RETRY: &str = r#"
[retry]
first = "10s"
max = "10s"
"#;

/// Runs a relay that listens on 127.0.1.1:25 and is given one answer about every domain.
pub(crate) async fn relay(answer: fn() -> SimulatedAnswer) {
    relay_with(RETRY, move |_| answer()).await;
}

/// As [`relay`], with these tables of the configuration, and answers by domain.
pub(crate) async fn relay_with(
    tables: &str,
    answer: impl Fn(&str) -> SimulatedAnswer + Send + Sync + 'static,
) {
    let config = Config::parse(&format!("{CONFIG}{tables}"), Path::new("relay.toml")).unwrap();
    let placement = Placement { engine: EngineKind::Uring, cores: vec![0] };
    let names = Resolver::simulated(move |domain| (Duration::ZERO, answer(domain)));
    launch(config, placement, names).await.unwrap().ended().await.unwrap();
}

/// What the relay's control socket answers to one command: lines.
pub(crate) async fn ask(command: &str) -> Vec<serde_json::Value> {
    let stream = UnixStream::connect(Path::new("/control")).await.unwrap();
    stream.write_all(format!("{{\"command\":{command:?}}}\n").into_bytes()).await.unwrap();
    stream.shutdown();
    let mut answer = Vec::new();
    loop {
        let piece = stream.read().await.unwrap();
        if piece.is_empty() {
            let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            return lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
        }
        answer.extend_from_slice(&piece);
    }
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

/// Sends a message from a@a.test to b@b.test. `Err`: what it was refused with.
pub(crate) async fn submit() -> Result<(), String> {
    submit_as("a@a.test", &["b@b.test"], "Subject: a\r\n\r\na\r\n").await
}

/// Sends a message in wire form, without its end. `Err`: what it was refused with.
pub(crate) async fn submit_as(sender: &str, recipients: &[&str], message: &str) -> Result<(), String> {
    let (address, options) = (SocketAddr::from(([127, 0, 1, 1], 25)), ConnectOptions::default());
    let stream = TcpStream::connect(address, &options).await.unwrap();
    reply(&stream).await.unwrap();
    let mut commands = vec!["EHLO a.test".to_owned(), format!("MAIL FROM:<{sender}>")];
    commands.extend(recipients.iter().map(|recipient| format!("RCPT TO:<{recipient}>")));
    commands.extend(["DATA".to_owned(), format!("{message}.")]);
    for command in commands {
        stream.write_all(format!("{command}\r\n").into_bytes()).await.unwrap();
        let answer = reply(&stream).await.unwrap();
        if !answer.starts_with(['2', '3']) {
            return Err(answer);
        }
    }
    Ok(())
}
