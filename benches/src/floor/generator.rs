//! The generator: a closed loop, one message after the other on each connection.

use std::io;
use std::os::fd::RawFd;

use crate::counts::{Board, Count};
use crate::dialogue::{ACCEPTED, COMMANDS, REPLIES, message};
use crate::ring::{Ring, Span, Token};
use crate::shards;

struct Connection {
    socket: RawFd,
    /// Octets of the replies awaited that have come.
    received: usize,
    is_in_message: bool,
}

/// Sends messages of `size` octets for as long as the process lives.
pub(crate) fn drive(sockets: Vec<RawFd>, size: usize, board: Board, shard: usize) -> io::Result<()> {
    let mut ring = Ring::new(board, shard)?;
    // Never freed: sends read it until the process ends.
    let message: Span = (&*message(size).leak()).into();
    let mut connections = Vec::with_capacity(sockets.len());
    for socket in sockets {
        ring.receive(socket, connections.len() as u32);
        ring.send(socket, COMMANDS.into());
        connections.push(Connection { socket, received: 0, is_in_message: false });
    }
    let mut completions = Vec::new();
    loop {
        ring.wait(&mut completions);
        for completion in completions.drain(..) {
            let Token::Receive(index) = completion.token else {
                return Err(shards::failed("send", completion.result));
            };
            let connection = &mut connections[index as usize];
            let count = ring.received(&completion, connection.socket, <[u8]>::len)?;
            connection.received += count.unwrap_or(0);
            if !connection.is_in_message && connection.received == REPLIES.len() {
                (connection.is_in_message, connection.received) = (true, 0);
                ring.send(connection.socket, message);
            } else if connection.is_in_message && connection.received == ACCEPTED.len() {
                (connection.is_in_message, connection.received) = (false, 0);
                ring.counts.add(Count::Messages, 1);
                ring.send(connection.socket, COMMANDS.into());
            }
        }
    }
}
