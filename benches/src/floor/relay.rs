//! The relay: gathers what comes into a group, writes and syncs one group after the other, answers 250, and sends on from
//! the mapping.

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use crate::arguments::Options;
use crate::counts::{Board, Count};
use crate::dialogue::{ACCEPTED, COMMANDS, DELIVERED, DOT, RECEIVED, REPLIES};
use crate::process;
use crate::ring::{Completion, Ring, Span, Token};
use crate::segments::{Place, Segments};
use crate::shards::{self, set_no_delay};

/// What the spool's format takes for a group, and for a message with the envelope that the commands name.
const GROUP_HEADER: [u8; 64] = [1; 64];
const RECORD_HEADER: [u8; 152] = [2; 152];
/// A delivered state.
const STATE: [u8; 64] = [3; 64];
/// Messages that may wait to be sent on, for each connection, as at `--rate max`.
const OUTSTANDING: usize = 16;

/// From the generator.
struct Inbound {
    socket: RawFd,
    received: usize,
    is_in_message: bool,
    /// The message's beginning, when it came in pieces.
    gathered: Vec<u8>,
}

/// To the sink.
struct Outbound {
    socket: RawFd,
    received: usize,
    /// What is sent when the commands are answered, and what is under way then.
    message: Option<Outgoing>,
    is_sent: bool,
}

#[derive(Clone, Copy)]
struct Outgoing {
    span: Span,
    segment: usize,
}

/// A message in a group: who waits for it, and where it begins.
struct Waiting {
    inbound: usize,
    at: usize,
}

struct Relay {
    ring: Ring,
    segments: Segments,
    size: usize,
    /// Outgoing connections have the places before this in the tokens of receives, incoming ones those behind.
    outbound: Vec<Outbound>,
    inbound: Vec<Inbound>,
    idle: Vec<usize>,
    /// Durable and not yet under way.
    backlog: VecDeque<Outgoing>,
    /// Connections whose 354 waits for the backlog.
    held: VecDeque<usize>,
    group: Vec<u8>,
    entered: Vec<Waiting>,
    syncing: Option<Place>,
    synced: Vec<Waiting>,
}

/// Runs the relay's process.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    let shards = options.relay_cores.len();
    process::serve("relay", &options.relay_cores, {
        let options = options.clone();
        move |shard, listener, board| {
            let sockets = shards::connect(options.connections, shard, shards, &options.ports)?;
            let mut relay = Relay::new(&options, sockets, board, shard)?;
            relay.ring.accept(listener);
            relay.serve()
        }
    })
}

impl Relay {
    fn new(options: &Options, sockets: Vec<RawFd>, board: Board, shard: usize) -> io::Result<Relay> {
        let mut ring = Ring::new(board, shard)?;
        for (index, socket) in sockets.iter().enumerate() {
            ring.receive(*socket, index as u32);
        }
        Ok(Relay {
            ring,
            segments: Segments::prepare(&options.spool, shard)?,
            size: options.size + DOT.len(),
            idle: (0..sockets.len()).collect(),
            outbound: sockets
                .into_iter()
                .map(|socket| Outbound { socket, received: 0, message: None, is_sent: false })
                .collect(),
            inbound: Vec::new(),
            backlog: VecDeque::new(),
            held: VecDeque::new(),
            group: Vec::new(),
            entered: Vec::new(),
            syncing: None,
            synced: Vec::new(),
        })
    }

    fn serve(&mut self) -> io::Result<()> {
        let mut completions = Vec::new();
        loop {
            self.ring.wait(&mut completions);
            for completion in completions.drain(..) {
                match completion.token {
                    Token::Receive(index) if (index as usize) < self.outbound.len() => {
                        self.hear_sink(index as usize, &completion)?;
                    }
                    Token::Receive(index) => {
                        self.hear_generator(index as usize - self.outbound.len(), &completion)?
                    }
                    Token::Accept => self.accept(shards::accepted(completion.result)?),
                    Token::Sync if completion.result == 0 => self.settle(),
                    Token::Sync => return Err(shards::failed("fdatasync", completion.result)),
                    Token::Send => return Err(shards::failed("send", completion.result)),
                }
            }
            self.commit()?;
        }
    }

    fn accept(&mut self, socket: RawFd) {
        set_no_delay(socket);
        self.ring.receive(socket, (self.outbound.len() + self.inbound.len()) as u32);
        self.inbound.push(Inbound { socket, received: 0, is_in_message: false, gathered: Vec::new() });
    }

    fn hear_generator(&mut self, index: usize, completion: &Completion) -> io::Result<()> {
        let inbound = &mut self.inbound[index];
        if !inbound.is_in_message {
            inbound.received += self.ring.received(completion, inbound.socket, <[u8]>::len)?.unwrap_or(0);
            if inbound.received == COMMANDS.len() {
                (inbound.is_in_message, inbound.received) = (true, 0);
                if self.backlog.len() < OUTSTANDING * self.outbound.len() {
                    self.ring.send(inbound.socket, REPLIES.into());
                } else {
                    self.held.push_back(index);
                }
            }
            return Ok(());
        }
        let (size, group, gathered) = (self.size, &mut self.group, &mut inbound.gathered);
        let whole = self.ring.received(completion, inbound.socket, |bytes| {
            if gathered.len() + bytes.len() < size {
                gathered.extend_from_slice(bytes);
                return None;
            }
            if group.is_empty() {
                group.extend_from_slice(&GROUP_HEADER);
            }
            group.extend_from_slice(&RECORD_HEADER);
            let at = group.len();
            group.extend_from_slice(RECEIVED);
            group.extend_from_slice(gathered);
            group.extend_from_slice(bytes);
            gathered.clear();
            Some(at)
        })?;
        if let Some(at) = whole.flatten() {
            inbound.is_in_message = false;
            self.entered.push(Waiting { inbound: index, at });
        }
        Ok(())
    }

    /// Writes and syncs what has gathered, unless a sync is under way. States go with the next message.
    fn commit(&mut self) -> io::Result<()> {
        if self.syncing.is_some() || self.entered.is_empty() {
            return Ok(());
        }
        self.syncing = Some(self.segments.append(&mut self.group, self.entered.len())?);
        self.ring.counts.add(Count::Appended, self.group.len() as u64);
        self.ring.sync(self.segments.active_file());
        self.group.clear();
        std::mem::swap(&mut self.entered, &mut self.synced);
        Ok(())
    }

    /// The group that was being synced is durable.
    fn settle(&mut self) {
        let place = self.syncing.take().expect("one sync at a time");
        self.ring.counts.add(Count::Syncs, 1);
        self.ring.counts.add(Count::SyncedMessages, self.synced.len() as u64);
        self.ring.counts.add(Count::Messages, self.synced.len() as u64);
        for Waiting { inbound, at } in self.synced.drain(..) {
            self.ring.send(self.inbound[inbound].socket, ACCEPTED.into());
            let span = self.segments.span(place, at, RECEIVED.len() + self.size);
            self.backlog.push_back(Outgoing { span, segment: place.segment });
        }
        while let Some(outbound) = self.idle.pop_if(|_| !self.backlog.is_empty()) {
            self.send_next(outbound);
        }
    }

    /// Begins with the next message on a connection that has none under way.
    fn send_next(&mut self, index: usize) {
        let Some(message) = self.backlog.pop_front() else {
            return self.idle.push(index);
        };
        let outbound = &mut self.outbound[index];
        outbound.message = Some(message);
        self.ring.send(outbound.socket, COMMANDS.into());
        if let Some(held) = self.held.pop_front() {
            self.ring.send(self.inbound[held].socket, REPLIES.into());
        }
    }

    fn hear_sink(&mut self, index: usize, completion: &Completion) -> io::Result<()> {
        let outbound = &mut self.outbound[index];
        outbound.received += self.ring.received(completion, outbound.socket, <[u8]>::len)?.unwrap_or(0);
        let message = outbound.message.expect("the sink speaks when spoken to");
        if !outbound.is_sent && outbound.received == REPLIES.len() {
            (outbound.is_sent, outbound.received) = (true, 0);
            self.ring.send(outbound.socket, message.span);
        } else if outbound.is_sent && outbound.received == DELIVERED.len() {
            (outbound.is_sent, outbound.received) = (false, 0);
            self.segments.delivered(message.segment);
            if self.group.is_empty() {
                self.group.extend_from_slice(&GROUP_HEADER);
            }
            self.group.extend_from_slice(&STATE);
            self.send_next(index);
        }
        Ok(())
    }
}
