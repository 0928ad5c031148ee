//! Hot parts of the sinks: a message into a mailbox, and messages out of it through IMAP.
//! CPU of the shard's thread. `cargo bench -p chasqui-benches --bench sinks`.

mod on_shard;

use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::spawn;
use chasqui_sinks::imap::{Options, serve_imap};
use chasqui_sinks::mailbox::{Limits, Login, Store};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use on_shard::OnShard;

const ADDRESS: &str = "u0@d0.chasqui.test";
const DATE: Duration = Duration::from_secs(1_700_000_000);
/// Messages that one FETCH brings.
const FETCHED: u64 = 100;

fn message() -> Vec<u8> {
    let header = b"From: <a@b.example>\r\nTo: <u0@d0.chasqui.test>\r\nSubject: bench\r\n\r\n";
    let line = b"The runners passed the message from station to station along the road.\r\n";
    header.iter().copied().chain(line.iter().copied().cycle().take(line.len() * 28)).collect()
}

fn append(criterion: &mut Criterion) {
    let shard = OnShard::start(|rounds| async move {
        let (message, addresses): (_, Vec<String>) =
            (message(), (0..1000).map(|number| format!("u{number}@d0.chasqui.test")).collect());
        rounds
            .serve(async |rounds| {
                // A store for each order, so that memory does not grow with the bench.
                let store = Store::new(Limits::default());
                for address in addresses.iter().cycle().take(rounds as usize) {
                    store.deliver(address, &[&message], DATE).expect("there is room");
                }
            })
            .await;
    });
    criterion.bench_function("mailbox: 2 KiB appended, 1000 mailboxes", |bencher| {
        bencher.iter_custom(|rounds| shard.time(rounds));
    });
}

/// A client that says a line and reads to the line that answers it.
struct Client {
    stream: TcpStream,
    heard: Vec<u8>,
}

impl Client {
    /// Says a command, whose tag is one letter, and tells how many octets the answer has.
    async fn say(&mut self, command: &str) -> usize {
        self.stream.write_all(format!("{command}\r\n").into_bytes()).await.expect("the server lives");
        self.hear(&[command.as_bytes()[0], b' ', b'O', b'K']).await
    }

    /// Reads until the last line begins with `answer`.
    async fn hear(&mut self, answer: &[u8]) -> usize {
        self.heard.clear();
        loop {
            let piece = self.stream.read().await.expect("the server lives");
            assert!(!piece.is_empty(), "the server hung up: {}", String::from_utf8_lossy(&self.heard));
            self.heard.extend_from_slice(&piece);
            let Some(lines) = self.heard.strip_suffix(b"\r\n") else { continue };
            let last = lines.iter().rposition(|&octet| octet == b'\n').map_or(0, |end| end + 1);
            if lines[last..].starts_with(answer) {
                return self.heard.len();
            }
        }
    }
}

fn fetch(criterion: &mut Criterion) {
    let shard = OnShard::start(|rounds| async move {
        let store = Store::new(Limits::default());
        for _ in 0..FETCHED {
            store.deliver(ADDRESS, &[&message()], DATE).expect("there is room");
        }
        let listener = TcpListener::bind(([127, 0, 0, 1], 0).into(), &ListenOptions::default());
        let listener = listener.expect("a free port");
        let options = Rc::new(Options::new(Login::any("chasqui")));
        let target = listener.local_addr();
        let server = spawn(async move {
            let (stream, peer) = listener.accept().await.expect("the client connects");
            serve_imap(stream.into(), peer, store, options).await;
        });
        let stream =
            TcpStream::connect(target, &ConnectOptions::default()).await.expect("the server listens");
        let mut client = Client { stream, heard: Vec::new() };
        client.hear(b"* OK").await;
        client.say(&format!("a LOGIN {ADDRESS} chasqui")).await;
        client.say("b EXAMINE INBOX").await;
        let make = async |rounds| {
            for _ in 0..rounds {
                let octets = client.say("c FETCH 1:* (UID FLAGS BODY.PEEK[])").await;
                assert!(octets as u64 > FETCHED * 2048, "{octets} octets are too few");
            }
        };
        rounds.serve(make).await;
        drop(server);
    });
    let mut group = criterion.benchmark_group("IMAP, server and client of one shard");
    group.throughput(Throughput::Elements(FETCHED));
    group.bench_function("FETCH of 100 messages of 2 KiB", |bencher| {
        bencher.iter_custom(|rounds| shard.time(rounds));
    });
    group.finish();
}

criterion_group!(benches, append, fetch);
criterion_main!(benches);
