//! One side of a connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;

use super::byte_queue::ByteQueue;
use super::{Route, SocketId};
use crate::sim::driver::Outgoing;
use crate::sim::event::Op;
use crate::sim::world::World;

/// Bytes after which a connection that is to be reset is reset at the latest.
const RESET_WITHIN: u64 = 64 * 1024;
/// A tiny window, in bytes, and how many are sent through it.
const TINY_WINDOW: Range<u64> = 8..65;
/// Bytes that go through a tiny window before it opens: some 450 sends, which a run can bear.
const TINY_BYTES: usize = 16 * 1024;

pub(super) struct Endpoint {
    pub(super) peer: SocketId,
    pub(super) route: Route,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) latency: u64,
    // ---- Sending
    /// Bytes that may still leave before the peer's program has taken some.
    pub(super) room: usize,
    /// Bytes that are to be sent before a tiny window becomes an ordinary one.
    pub(super) tiny_left: Option<usize>,
    pub(super) sends: VecDeque<Send>,
    /// What was sent and waits for room.
    pub(super) outbox: ByteQueue,
    /// Bytes of it at most.
    pub(super) outbox_max: usize,
    pub(super) fin_wanted: bool,
    pub(super) fin_sent: bool,
    /// No packet arrives before this one.
    pub(super) last_arrival: u64,
    /// The connection breaks when this many more bytes have left.
    pub(super) reset_after: Option<u64>,
    /// Since when packets have found nobody.
    pub(super) unanswered_since: Option<u64>,
    // ---- Receiving
    pub(super) inbox: ByteQueue,
    pub(super) fin_received: bool,
    pub(super) error: Option<i32>,
    pub(super) receive: Option<Op>,
    /// An event for the receive is under way.
    pub(super) receive_scheduled: bool,
    /// Pause before a slow reader takes more, in nanoseconds.
    pub(super) slow: bool,
}

/// A send that is not wholly in the outbox.
pub(super) struct Send {
    pub(super) op: Op,
    pub(super) parts: VecDeque<Outgoing>,
    pub(super) sent: usize,
}

impl Endpoint {
    pub(super) fn new(
        world: &World,
        peer: SocketId,
        route: Route,
        addresses: (SocketAddr, SocketAddr),
        latency: u64,
    ) -> Self {
        let network = &world.options.network;
        let troubled = !route.local && !world.calm.get();
        let tiny = troubled && world.chance(network.tiny_window);
        let window = if tiny { world.between(&TINY_WINDOW) } else { world.window() };
        let buffer = network.buffer_bytes.start as u64..network.buffer_bytes.end as u64;
        let reset = troubled && world.chance(network.reset);
        Self {
            peer,
            route,
            local: addresses.0,
            remote: addresses.1,
            latency,
            room: window as usize,
            tiny_left: tiny.then_some(TINY_BYTES),
            sends: VecDeque::new(),
            outbox: ByteQueue::default(),
            outbox_max: world.between(&buffer) as usize,
            fin_wanted: false,
            fin_sent: false,
            last_arrival: 0,
            reset_after: reset.then(|| world.below(RESET_WITHIN)),
            unanswered_since: None,
            inbox: ByteQueue::default(),
            fin_received: false,
            error: None,
            receive: None,
            receive_scheduled: false,
            slow: troubled && world.chance(network.slow_reader),
        }
    }

    /// Whether a receive would give something.
    pub(super) fn has_news(&self) -> bool {
        !self.inbox.is_empty() || self.fin_received || self.error.is_some()
    }
}
