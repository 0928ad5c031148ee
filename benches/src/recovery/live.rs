//! A client that fills a relay by SMTP, and a next hop that takes nothing.

use std::net::SocketAddr;

use chasqui_runtime::net::{ConnectOptions, ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::{Config, Shards, run, spawn};

use crate::NOWHERE;

const CLIENTS: usize = 200;

/// A next hop that refuses every message for the time being.
pub(crate) struct NextHop {
    pub(crate) address: String,
    _shards: Option<Shards<()>>,
}

impl NextHop {
    /// One that `refuses`, or none at all.
    pub(crate) fn start(refuses: bool) -> Result<NextHop, String> {
        if !refuses {
            return Ok(NextHop { address: NOWHERE.into(), _shards: None });
        }
        let (sender, receiver) = std::sync::mpsc::channel::<SocketAddr>();
        let shards = Shards::start(Config::default(), move || {
            let sender = sender.clone();
            async move {
                let any = "127.0.0.1:0".parse().expect("an address");
                let listener = TcpListener::bind(any, &ListenOptions::default()).expect("a free port");
                sender.send(listener.local_addr()).expect("it is waited for");
                loop {
                    if let Ok((stream, _)) = listener.accept().await {
                        spawn(refuse(stream));
                    }
                }
            }
        })
        .map_err(|error| error.to_string())?;
        let address = receiver.recv().map_err(|error| error.to_string())?.to_string();
        Ok(NextHop { address, _shards: Some(shards) })
    }
}

async fn refuse(stream: TcpStream) {
    let mut unread = Vec::new();
    let mut answer = b"220 refuses.test\r\n".to_vec();
    loop {
        if stream.write_all(std::mem::take(&mut answer)).await.is_err() {
            return;
        }
        while answer.is_empty() {
            match stream.read().await {
                Ok(piece) if !piece.is_empty() => unread.extend_from_slice(&piece),
                _ => return,
            }
            while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = unread.drain(..=end).collect();
                let reply: &[u8] = match line.get(..4) {
                    Some(b"MAIL") => b"451 4.7.1 Greylisted, please try again later\r\n",
                    Some(b"RCPT" | b"DATA") => b"503 5.5.1 no transaction\r\n",
                    Some(b"QUIT") => return,
                    _ => b"250 refuses.test\r\n",
                };
                answer.extend_from_slice(reply);
            }
        }
    }
}

/// Hands messages of `bytes` octets to a relay, until each was answered 250.
pub(crate) fn send(relay: &str, count: usize, bytes: usize) -> Result<(), String> {
    let address: SocketAddr = relay.parse().map_err(|_| format!("{relay:?} is no address"))?;
    run(Config::default(), move || async move {
        let clients: Vec<_> =
            (0..CLIENTS.min(count)).map(|first| spawn(client(address, first, count, bytes))).collect();
        for client in clients {
            client.await;
        }
    })
    .map_err(|error| error.to_string())
}

async fn client(address: SocketAddr, first: usize, count: usize, bytes: usize) {
    let mut client = Client::connect(address).await;
    client.expect("220").await;
    client.say(b"EHLO client.test\r\n".to_vec(), "250").await;
    let line = b"0123456789abcde\r\n";
    let body = [b"Subject: bench\r\n\r\n".as_slice(), &line.repeat(bytes / line.len()), b".\r\n"].concat();
    for number in (first..count).step_by(CLIENTS) {
        let from = format!("MAIL FROM:<bounces+{number}@newsletter.sender.example>\r\n");
        client.say(from.into_bytes(), "250").await;
        let to = format!("RCPT TO:<recipient.{number}@domain{}.receiver.example>\r\n", number % 5000);
        client.say(to.into_bytes(), "250").await;
        client.say(b"DATA\r\n".to_vec(), "354").await;
        client.say(body.clone(), "250").await;
    }
}

struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address, &ConnectOptions::default()).await;
        Client { stream: stream.expect("the relay listens"), unread: Vec::new() }
    }

    async fn say(&mut self, line: Vec<u8>, code: &str) {
        self.stream.write_all(line).await.expect("the relay reads");
        self.expect(code).await;
    }

    /// Reads a reply to its last line.
    async fn expect(&mut self, code: &str) {
        loop {
            while let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                if line.get(3) == Some(&b' ') {
                    let line = String::from_utf8_lossy(&line);
                    assert!(line.starts_with(code), "{line}");
                    return;
                }
            }
            let piece = self.stream.read().await.expect("the relay answers");
            assert!(!piece.is_empty(), "the relay has closed");
            self.unread.extend_from_slice(&piece);
        }
    }
}
