//! TLS under a fuzzer: `relay/fuzz` feeds it, and a test replays what it has found.
//!
//! In the simulator a client and a server of ours talk through somebody who does to what passes what the input says, before the
//! handshake, within it and after it; or the input itself is one of the two ends. Sockets, records and streams are those of the relay.
//! What must hold:
//! - either end comes to an end, without a panic;
//! - what an end reads is what the other has sent, as far as it goes: nothing is made up, changed, repeated or left out;
//! - when nobody meddles, all of it arrives, however the records are cut on their way.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::net::{ListenOptions, TcpListener};
use chasqui_runtime::sim::{NetworkOptions, Options, Simulation};
use chasqui_runtime::{spawn, timeout};

use super::{ClientTls, ServerTls, Trust};
use crate::{Drain, Stream};

const LIMIT: Duration = Duration::from_secs(10);
/// Octets that an end sends: some records of 16 KiB.
const SENT_MAX: usize = 40_000;
/// Octets of the input itself, when it is an end.
const RAW_MAX: usize = 4096;

/// What is done to what passes.
struct Program {
    input: Vec<u8>,
    at: usize,
    /// Something was changed.
    has_meddled: bool,
}

impl Program {
    fn byte(&mut self) -> u8 {
        self.at += 1;
        self.input.get(self.at - 1).copied().unwrap_or(0)
    }

    /// The pieces that arrive of one; `None`: nothing does any more. Beyond the end of the input all passes.
    fn pass(&mut self, piece: &[u8]) -> Option<Vec<Vec<u8>>> {
        let operation = self.byte();
        let mut piece = piece.to_vec();
        let at = usize::from(u16::from_be_bytes([self.byte(), self.byte()])) % piece.len().max(1);
        self.has_meddled |= !matches!(operation % 8, 0 | 1);
        match operation % 8 {
            0 => {}
            // However it is cut.
            1 => return Some(piece.chunks(at.max(16)).map(<[u8]>::to_vec).collect()),
            2 => piece[at] ^= self.byte().max(1),
            3 => piece.truncate(at),
            4 => drop(piece.drain(..at.max(1))),
            5 => {
                let count = usize::from(self.byte());
                let more: Vec<u8> = (0..count).map(|_| self.byte()).collect();
                piece.splice(at..at, more);
            }
            6 => piece.extend_from_within(..),
            _ => return None,
        }
        Some(vec![piece])
    }
}

/// Runs both ends on an input: the first byte says who is there, the next two how much each sends.
pub fn hostile_records(server: &ServerTls, client: &ClientTls, input: &[u8]) {
    let [choice, length, more, input @ ..] = input else { return };
    let (choice, length) = (*choice, usize::from(u16::from_be_bytes([*length, *more])) % SENT_MAX);
    let (server, client, input) = (server.clone(), client.clone(), input.to_vec());
    let network =
        NetworkOptions { reset: 0.0, tiny_window: 0.0, slow_reader: 0.0, ..NetworkOptions::default() };
    let outcome = Simulation::new(1, Options { network, ..Options::default() }).run(move || async move {
        match choice % 4 {
            0 => raw_client(server, &input).await,
            1 => raw_server(client, &input).await,
            _ => between(server, client, length, input).await,
        }
    });
    outcome.expect("the simulation ends");
}

fn listen(port: u16) -> (TcpListener, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let options = ListenOptions { reuse_port: false, backlog: 16 };
    (TcpListener::bind(address, &options).expect("bound"), address)
}

/// A pair of connected streams.
async fn connected(port: u16) -> (Stream, Stream) {
    let (listener, address) = listen(port);
    let near = Stream::connect(address, None).await.expect("connected");
    (near, listener.accept().await.expect("accepted").0.into())
}

/// What is sent, in which no part is like another.
fn sent(length: usize) -> Vec<u8> {
    (0..length as u32)
        .flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes())
        .take(length)
        .collect()
}

async fn server_end(tls: ServerTls, mut stream: Stream, length: usize) -> Vec<u8> {
    if stream.accept_tls(&tls, LIMIT, &Drain::default()).await.is_err() {
        return Vec::new();
    }
    converse(stream, length).await
}

async fn client_end(tls: ClientTls, mut stream: Stream, length: usize) -> Vec<u8> {
    match timeout(LIMIT, stream.connect_tls(&tls, Trust::Any, "server.test")).await {
        Ok(Ok(())) => converse(stream, length).await,
        _ => Vec::new(),
    }
}

/// Sends so much beside reading as much; what was read.
async fn converse(stream: Stream, length: usize) -> Vec<u8> {
    let sending = stream.clone();
    let sender = spawn(async move {
        let mut bytes = sent(length);
        let rest = bytes.split_off(length / 3);
        let _gone = timeout(LIMIT, sending.post(&mut bytes)).await;
        let _gone = timeout(LIMIT, sending.write_all(rest)).await;
    });
    let mut read = Vec::new();
    while let Ok(Ok(piece)) = timeout(LIMIT, stream.read()).await {
        if piece.is_empty() {
            break;
        }
        // The relay asks between two reads whether more is there.
        stream.has_received();
        read.extend_from_slice(&piece);
        if read.len() >= length {
            break;
        }
    }
    sender.await;
    // What comes behind is nobody's, as when a session was ended.
    let _gone = timeout(LIMIT, stream.write_last(Vec::new())).await;
    stream.linger().await;
    read
}

/// Sends the input in pieces, and hears what is said to it.
async fn say(stream: Stream, input: &[u8]) {
    let input = &input[..input.len().min(RAW_MAX)];
    for piece in input.chunks(usize::from(input.first().copied().unwrap_or(1)) * 8 + 1) {
        if stream.write_all(piece.to_vec()).await.is_err() {
            break;
        }
    }
    stream.shutdown();
    while let Ok(Ok(piece)) = timeout(LIMIT, stream.read()).await {
        if piece.is_empty() {
            break;
        }
    }
}

async fn raw_client(tls: ServerTls, input: &[u8]) {
    let (near, far) = connected(465).await;
    let end = spawn(server_end(tls, far, 100));
    say(near, input).await;
    assert_eq!(end.await, b"", "nobody has made a handshake");
}

async fn raw_server(tls: ClientTls, input: &[u8]) {
    let (near, far) = connected(465).await;
    let end = spawn(client_end(tls, near, 100));
    say(far, input).await;
    assert_eq!(end.await, b"", "nobody has made a handshake");
}

/// Passes on what `from` sends, as the program says.
async fn carry(from: Stream, to: Stream, program: Rc<RefCell<Program>>) {
    while let Ok(Ok(piece)) = timeout(4 * LIMIT, from.read()).await {
        let arrives = if piece.is_empty() { None } else { program.borrow_mut().pass(&piece) };
        let Some(arrives) = arrives else { break };
        for piece in arrives {
            if !piece.is_empty() && to.write_all(piece).await.is_err() {
                return;
            }
        }
    }
    to.shutdown();
}

async fn between(server: ServerTls, client: ClientTls, length: usize, input: Vec<u8>) {
    let (near, of_client) = connected(465).await;
    let (of_server, far) = connected(466).await;
    let program = Rc::new(RefCell::new(Program { input, at: 0, has_meddled: false }));
    let ends = (spawn(client_end(client, near, length)), spawn(server_end(server, far, length)));
    let there = spawn(carry(of_client.clone(), of_server.clone(), program.clone()));
    let back = spawn(carry(of_server, of_client, program.clone()));
    let (client_read, server_read) = (ends.0.await, ends.1.await);
    there.await;
    back.await;
    let sent = sent(length);
    for read in [&client_read, &server_read] {
        assert!(sent.starts_with(read), "{} octets were read that nobody sent", read.len());
    }
    if !program.borrow().has_meddled {
        assert_eq!((client_read.len(), server_read.len()), (length, length), "all of it arrives");
    }
}
