//! The sink: answers commands and messages, which it counts and does not keep.

use std::io;
use std::os::fd::RawFd;

use crate::arguments::Options;
use crate::counts::Count;
use crate::dialogue::{COMMANDS, DELIVERED, DOT, RECEIVED, REPLIES};
use crate::process;
use crate::ring::{Ring, Token};
use crate::shards::{self, set_no_delay};

#[derive(Clone, Copy)]
struct Connection {
    socket: RawFd,
    /// Octets of the message, after those of its commands, that have come.
    received: usize,
    is_in_message: bool,
}

/// Runs the sink's process.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    process::serve("sink", &options.sink_cores, {
        let octets = RECEIVED.len() + options.size + DOT.len();
        move |shard, listener, board| serve(Ring::new(board, shard)?, listener, octets)
    })
}

fn serve(mut ring: Ring, listener: RawFd, octets: usize) -> io::Result<()> {
    ring.accept(listener);
    let mut connections: Vec<Connection> = Vec::new();
    let mut completions = Vec::new();
    loop {
        ring.wait(&mut completions);
        for completion in completions.drain(..) {
            match completion.token {
                Token::Accept => {
                    let socket = shards::accepted(completion.result)?;
                    set_no_delay(socket);
                    ring.receive(socket, connections.len() as u32);
                    connections.push(Connection { socket, received: 0, is_in_message: false });
                }
                Token::Receive(index) => {
                    let connection = &mut connections[index as usize];
                    let count = ring.received(&completion, connection.socket, <[u8]>::len)?;
                    connection.received += count.unwrap_or(0);
                    if !connection.is_in_message && connection.received == COMMANDS.len() {
                        (connection.is_in_message, connection.received) = (true, 0);
                        ring.send(connection.socket, REPLIES.into());
                    } else if connection.is_in_message && connection.received == octets {
                        (connection.is_in_message, connection.received) = (false, 0);
                        ring.counts.add(Count::Messages, 1);
                        ring.send(connection.socket, DELIVERED.into());
                    }
                }
                Token::Send | Token::Sync => return Err(shards::failed("send", completion.result)),
            }
        }
    }
}
