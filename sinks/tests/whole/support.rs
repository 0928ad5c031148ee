//! Clients of the sinks: SMTP, POP3 and the stream of arrivals.

use std::mem;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use chasqui_protocol::arrival::{Kind, RECORD_SIZE, Record};
use chasqui_protocol::{pop3, stamp};
use chasqui_runtime::net::{ConnectOptions, TcpStream, UnixStream};
use chasqui_runtime::{available_cores, run, timeout};
use chasqui_sinks::{Config, Running, Summary, start};
use chasqui_testkit::Client;

/// Longer than anything here takes, so that a test that hangs fails instead.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sinks without DNS, with sockets for arrivals in `directory`.
pub(crate) fn config(directory: &Path) -> Config {
    Config { dns: None, domains: 10, arrivals: Some(directory.join("arrivals")), ..Config::default() }
}

/// Starts sinks, runs `client` on a shard of its own, shuts the sinks down and gives what they did.
pub(crate) fn with_sinks<F: Future<Output = ()> + 'static>(
    config: Config,
    client: impl Fn(chasqui_sinks::SinkReady) -> F + Send + Sync + 'static,
) -> Summary {
    let running = start(config).unwrap();
    on_a_shard(&running, client);
    running.shutdown();
    running.join().unwrap()
}

/// Runs `client` on a shard of its own.
pub(crate) fn on_a_shard<F: Future<Output = ()> + 'static>(
    running: &Running,
    client: impl Fn(chasqui_sinks::SinkReady) -> F + Send + Sync + 'static,
) {
    let ready = running.ready().clone();
    let shards = chasqui_runtime::Config {
        name: "client".to_owned(),
        cores: vec![*available_cores().last().unwrap()],
        ..chasqui_runtime::Config::default()
    };
    run(shards, move || {
        let client = client(ready.clone());
        async move { timeout(PATIENCE, client).await.expect("the test takes too long") }
    })
    .unwrap();
}

/// A message with a stamp in front.
pub(crate) fn stamped(run: u64, sequence: u64, body: &[u8]) -> Vec<u8> {
    let header = b"Subject: test\r\n\r\n";
    let mut message = stamp::write(run, sequence, header, body);
    message.extend_from_slice(header);
    message.extend_from_slice(body);
    message
}

/// A client that was greeted, after EHLO.
pub(crate) async fn connect(address: SocketAddr) -> Client {
    Client::connect(address).await.expect("a greeting")
}

/// Sends a message without telling its size; gives the decisive reply for each recipient.
pub(crate) async fn send(client: &mut Client, from: &str, to: &[&str], message: &[u8]) -> Vec<String> {
    let recipients: Vec<String> = to.iter().map(|recipient| format!("RCPT TO:<{recipient}>")).collect();
    client.transact(&format!("MAIL FROM:<{from}>"), &recipients, message).await.expect("an answer")
}

/// Sends a message that must be accepted for everyone.
pub(crate) async fn deliver(client: &mut Client, from: &str, to: &[&str], message: &[u8]) {
    for reply in send(client, from, to, message).await {
        assert!(reply.starts_with("250 "), "{reply}");
    }
}

/// Everything in a mailbox, by POP3.
pub(crate) async fn fetch(address: SocketAddr, user: &str) -> Vec<Vec<u8>> {
    let stream = TcpStream::connect(address, &ConnectOptions::default()).await.unwrap();
    let mut client = pop3::client::Client::new(user, "chasqui").unwrap();
    let mut messages = Vec::new();
    loop {
        let received = stream.read().await.unwrap();
        assert!(!received.is_empty(), "the POP3 server is gone");
        let mut at = 0;
        loop {
            let (used, event) = client.handle_input(&received[at..]).unwrap();
            at += used;
            match event {
                pop3::client::Event::NeedInput => break,
                pop3::client::Event::Ready { .. } => client.stat(),
                pop3::client::Event::Stat { messages, .. } => {
                    (1..=messages).for_each(|number| client.retr(number));
                    client.quit();
                }
                pop3::client::Event::MessageStart { .. } => messages.push(Vec::new()),
                pop3::client::Event::Body(piece) => messages.last_mut().unwrap().extend_from_slice(piece),
                pop3::client::Event::MessageEnd { .. } => {}
                pop3::client::Event::Goodbye { .. } => return messages,
                other => panic!("{other:?}"),
            }
        }
        let output = mem::take(client.output());
        if !output.is_empty() {
            stream.write_all(output).await.unwrap();
        }
    }
}

/// A subscriber of a shard's arrivals.
pub(crate) struct Subscriber {
    pub(crate) stream: UnixStream,
    bytes: Vec<u8>,
}

impl Subscriber {
    /// Connects, and passes a barrier, so that everything from here on is told.
    pub(crate) async fn connect(path: &Path) -> Subscriber {
        let mut subscriber =
            Subscriber { stream: UnixStream::connect(path).await.unwrap(), bytes: Vec::new() };
        assert!(subscriber.until_barrier(u64::MAX).await.is_empty());
        subscriber
    }

    /// The next record; `None` when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Record> {
        while self.bytes.len() < RECORD_SIZE {
            let received = self.stream.read().await.unwrap();
            if received.is_empty() {
                return None;
            }
            self.bytes.extend_from_slice(&received);
        }
        let record = self.bytes.drain(..RECORD_SIZE).collect::<Vec<_>>();
        Some(Record::decode(&record.try_into().unwrap()).unwrap())
    }

    /// Sends a token and gives the records that come before its answer.
    pub(crate) async fn until_barrier(&mut self, token: u64) -> Vec<Record> {
        self.stream.write_all(token.to_le_bytes().to_vec()).await.unwrap();
        let mut records = Vec::new();
        loop {
            let record = self.next().await.expect("the stream ended before the barrier");
            if record.kind == Kind::Barrier && record.sequence == token {
                return records;
            }
            records.push(record);
        }
    }
}
