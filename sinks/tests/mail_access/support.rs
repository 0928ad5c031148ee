//! Servers on loopback sockets, and clients to talk to them.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::{Config, run, spawn, timeout};
use chasqui_sinks::mailbox::{Limits, Login, Store};
use chasqui_sinks::{imap, pop3};

pub(crate) const USER: &str = "u1@d2.chasqui.test";
pub(crate) const PASSWORD: &str = "chasqui";
/// What [`Lines::line`] gives at the end of the stream.
pub(crate) const CLOSED: &str = "(closed)";
const PATIENCE: Duration = Duration::from_secs(60);

/// A store with both servers.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) store: Arc<Store>,
    pub(crate) pop3: SocketAddr,
    pub(crate) imap: SocketAddr,
}

/// Held to read by a test, and to write by one that measures the memory of the process, which is everybody's.
static PROCESS: RwLock<()> = RwLock::new(());

/// Runs a test on a shard of its own with a time limit.
pub(crate) fn with_site<F: Future<Output = ()> + 'static>(test: fn(Site) -> F) {
    let _shared = PROCESS.read().unwrap_or_else(PoisonError::into_inner);
    run_test(test);
}

/// The same while no other test runs.
pub(crate) fn with_site_alone<F: Future<Output = ()> + 'static>(test: fn(Site) -> F) {
    let _alone = PROCESS.write().unwrap_or_else(PoisonError::into_inner);
    run_test(test);
}

fn run_test<F: Future<Output = ()> + 'static>(test: fn(Site) -> F) {
    let outcome = run(Config::default(), move || async move {
        let site = serve(Store::new(Limits::default()));
        timeout(PATIENCE, test(site)).await
    });
    outcome.unwrap().expect("the test ends in time");
}

/// Starts both servers on this shard.
pub(crate) fn serve(store: Arc<Store>) -> Site {
    let listen = || {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        TcpListener::bind(any, &ListenOptions::default()).unwrap()
    };
    let login = || Login::within("chasqui.test", PASSWORD);
    let (pop3_listener, imap_listener) = (listen(), listen());
    let site = Site { store, pop3: pop3_listener.local_addr(), imap: imap_listener.local_addr() };
    let (pop3_options, imap_options) =
        (Rc::new(pop3::Options::new(login())), Rc::new(imap::Options::new(login())));
    let store = site.store.clone();
    spawn(async move {
        while let Ok((stream, peer)) = pop3_listener.accept().await {
            spawn(pop3::serve_pop3(stream.into(), peer, store.clone(), pop3_options.clone()));
        }
    });
    let store = site.store.clone();
    spawn(async move {
        while let Ok((stream, peer)) = imap_listener.accept().await {
            spawn(imap::serve_imap(stream.into(), peer, store.clone(), imap_options.clone()));
        }
    });
    site
}

impl Site {
    pub(crate) fn deliver(&self, message: &[u8]) -> u32 {
        self.store.deliver(USER, &[message], Duration::from_secs(1_700_000_000)).unwrap().get()
    }
}

pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address, &ConnectOptions::default()).await.unwrap()
}

/// A connection that speaks in lines.
pub(crate) struct Lines {
    pub(crate) stream: TcpStream,
    input: Vec<u8>,
}

impl Lines {
    pub(crate) async fn connect(address: SocketAddr) -> Lines {
        Lines { stream: connect(address).await, input: Vec::new() }
    }

    /// An IMAP connection, greeted, logged in and with INBOX selected.
    pub(crate) async fn selected(site: &Site) -> Lines {
        let mut lines = Lines::connect(site.imap).await;
        lines.line().await;
        assert!(lines.command(&format!("l LOGIN {USER} {PASSWORD}")).await.ends_with("logged in"));
        assert!(lines.command("s SELECT INBOX").await.contains("s OK [READ-WRITE]"));
        lines
    }

    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes().to_vec()).await.unwrap();
    }

    /// The next line without its end; [`CLOSED`] at the end of the stream.
    pub(crate) async fn line(&mut self) -> String {
        loop {
            if let Some(newline) = self.input.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.input.drain(..=newline).collect();
                return String::from_utf8(line).unwrap().trim_end().to_owned();
            }
            let received = self.stream.read().await.unwrap();
            if received.is_empty() {
                return CLOSED.to_owned();
            }
            self.input.extend_from_slice(&received);
        }
    }

    /// So many octets, whatever they are.
    pub(crate) async fn bytes(&mut self, count: usize) -> String {
        while self.input.len() < count {
            let received = self.stream.read().await.unwrap();
            assert!(!received.is_empty(), "the server closed");
            self.input.extend_from_slice(&received);
        }
        String::from_utf8(self.input.drain(..count).collect()).unwrap()
    }

    /// Sends an IMAP command and gathers lines up to its tagged response.
    pub(crate) async fn command(&mut self, command: &str) -> String {
        self.send(&format!("{command}\r\n")).await;
        let tag = command.split(' ').next().unwrap();
        self.until(&format!("{tag} ")).await
    }

    /// Gathers lines up to one that begins like this.
    pub(crate) async fn until(&mut self, start: &str) -> String {
        let mut lines = Vec::new();
        loop {
            let line = self.line().await;
            let last = line.starts_with(start) || line == CLOSED;
            lines.push(line);
            if last {
                return lines.join("\n");
            }
        }
    }
}

/// A message of `size` octets with lines of all sorts: dots in front, 8-bit, look-alikes of responses.
pub(crate) fn message(number: usize, size: usize, dots: bool) -> Vec<u8> {
    let mut bytes = format!("Subject: message {number}\r\nX-Number: {number}\r\n\r\n").into_bytes();
    let lines: [&[u8]; 6] = [
        b"plain text\r\n",
        b"* 1 FETCH (UID 1 BODY[] {3}\r\n",
        b"\xff\xfe 8-bit\r\n",
        b"\r\n",
        b")\r\n",
        b"+OK\r\n",
    ];
    let mut line = number;
    while bytes.len() < size {
        bytes.extend_from_slice(lines[line % lines.len()]);
        if dots && line.is_multiple_of(5) {
            bytes.extend_from_slice(b".\r\n..two\r\n");
        }
        line += 1;
    }
    bytes
}
