//! Bytes on their way: sends, packets, receives, and the end of a connection.

use std::collections::VecDeque;

use super::endpoint::{Endpoint, Send};
use super::{Net, Packet, PacketKind, Socket, SocketId, State};
use crate::sim::driver::{COMPLETION_NS, Outgoing, Source};
use crate::sim::event::{Done, Event, Op, Payload};
use crate::sim::world::World;

/// Bytes of one piece that a receive takes at most: a buffer of the real engine's pool.
const PIECE_BYTES: usize = 8 * 1024;

impl World {
    pub(in crate::sim) fn net_send(&self, op: Op, socket: SocketId, parts: Vec<Outgoing>) {
        let mut net = self.net.borrow_mut();
        match net.endpoint(socket) {
            Some(endpoint) => {
                endpoint.sends.push_back(Send { op, parts: parts.into(), sent: 0 });
                net.waiting.insert(op, socket);
                net.pump(self, socket);
            }
            None => self.schedule(self.between(&COMPLETION_NS), Done::once(op, -libc::ENOTCONN)),
        }
    }

    pub(in crate::sim) fn net_arm_receive(&self, op: Op, socket: SocketId) {
        let mut net = self.net.borrow_mut();
        match net.endpoint(socket) {
            Some(endpoint) => {
                endpoint.receive = Some(op);
                net.waiting.insert(op, socket);
                net.announce(self, socket);
            }
            None => self.schedule(0, Done::once(op, -libc::ENOTCONN)),
        }
    }

    /// The receive of a socket takes what there is.
    pub(in crate::sim) fn net_receive(&self, socket: SocketId) {
        let mut net = self.net.borrow_mut();
        let Some(endpoint) = net.endpoint(socket) else { return };
        endpoint.receive_scheduled = false;
        let Some(op) = endpoint.receive else { return };
        if !endpoint.has_news() {
            return;
        }
        let (done, goes_on) = endpoint.take_piece(self, op);
        let (peer, route, latency) = (endpoint.peer, endpoint.route, endpoint.latency);
        if let Payload::Received(bytes) = &done.payload {
            let packet = Packet { from: socket, to: peer, route, kind: PacketKind::Taken(bytes.len()) };
            self.schedule(latency, Event::Arrive(packet));
        }
        if !goes_on {
            endpoint.receive = None;
            net.waiting.remove(&op);
        }
        net.announce(self, socket);
        self.schedule(0, Event::Done(done));
    }

    pub(in crate::sim) fn net_shut_down(&self, socket: SocketId) {
        let mut net = self.net.borrow_mut();
        if !net.sockets.get(&socket).is_some_and(|socket| self.is_alive(socket.process)) {
            return;
        }
        if let Some(endpoint) = net.endpoint(socket) {
            endpoint.fin_wanted = true;
            net.pump(self, socket);
        }
    }

    /// The last handle is gone.
    pub(in crate::sim) fn net_close(&self, socket: SocketId) {
        let mut net = self.net.borrow_mut();
        let Some(Socket { process, state, .. }) = net.sockets.get(&socket) else { return };
        if !self.is_alive(*process) {
            return; // the end of the process closes it
        }
        match state {
            State::Fresh { .. } => drop(net.sockets.remove(&socket)),
            State::Listening(_) => net.stop_listening(self, socket),
            State::Connected(endpoint) => {
                let kind = if endpoint.inbox.is_empty() { PacketKind::Fin } else { PacketKind::Reset };
                net.part_with(self, socket, kind);
            }
        }
    }

    pub(in crate::sim) fn net_cancel(&self, op: Op) {
        let mut net = self.net.borrow_mut();
        let Some(socket) = net.waiting.remove(&op) else { return };
        let Some(endpoint) = net.endpoint(socket) else {
            net.cancel_waiting(self, op, socket);
            return;
        };
        if endpoint.receive == Some(op) {
            endpoint.receive = None;
            self.schedule(0, Done::once(op, -libc::ECANCELED));
        } else if let Some(index) = endpoint.sends.iter().position(|send| send.op == op) {
            let sent = endpoint.sends.remove(index).map_or(0, |send| send.sent);
            let result = if sent > 0 { sent as i32 } else { -libc::ECANCELED };
            self.schedule(self.between(&COMPLETION_NS), Done::once(op, result));
        }
    }

    pub(in crate::sim) fn net_arrive(&self, packet: Packet) {
        let mut net = self.net.borrow_mut();
        let Some(packet) = net.hold_when_cut(self, packet) else { return };
        let Packet { from, to, route, kind } = packet;
        net.answered(from);
        let Some(endpoint) = net.endpoint(to) else {
            net.nobody_there(self, Packet { from, to, route, kind });
            return;
        };
        match kind {
            PacketKind::Data(bytes) => endpoint.inbox.push(&bytes),
            PacketKind::Fin => endpoint.fin_received = true,
            PacketKind::Taken(count) => {
                endpoint.room += count;
                net.pump(self, to);
                return;
            }
            PacketKind::Reset => {
                endpoint.error = endpoint.error.or(Some(libc::ECONNRESET));
                if self.below(2) == 0 {
                    endpoint.inbox.clear();
                }
                net.pump(self, to);
            }
        }
        net.announce(self, to);
    }
}

impl Endpoint {
    /// What a receive gives now, and whether it stands after it. Called when there is news.
    fn take_piece(&mut self, world: &World, op: Op) -> (Done, bool) {
        let end = |result| Done { op, result, more: false, payload: Payload::None };
        if self.inbox.is_empty() {
            return (end(self.error.map_or(0, |error| -error)), false);
        }
        if world.below(256) == 0 {
            return (end(-libc::ENOBUFS), false); // the pool is dry
        }
        let most = self.inbox.len().min(PIECE_BYTES);
        let count = if world.below(4) == 0 { 1 + world.below(most as u64) as usize } else { most };
        let bytes = self.inbox.take(count).to_vec();
        let more = world.below(32) > 0;
        (Done { op, result: count as i32, more, payload: Payload::Received(bytes) }, more)
    }

    /// Moves up to `most` bytes of the first send to the outbox.
    fn take_outgoing(&mut self, world: &World, most: usize) {
        let Some(send) = self.sends.front_mut() else { return };
        let mut taken = 0;
        while taken < most {
            let Some(Outgoing(source)) = send.parts.front_mut() else { break };
            let left = most - taken;
            let finished = match source {
                Source::Bytes(bytes) => {
                    let count = left.min(bytes.len());
                    self.outbox.push(bytes.take(count));
                    taken += count;
                    bytes.is_empty()
                }
                Source::File { node, file, offset, length } => {
                    let count = left.min(*length);
                    self.outbox.push(&world.disks.borrow()[*node].mapped(*file, *offset, count));
                    taken += count;
                    (*offset, *length) = (*offset + count as u64, *length - count);
                    *length == 0
                }
            };
            if finished {
                send.parts.pop_front();
            }
        }
        send.sent += taken;
    }
}

impl Net {
    /// Takes what the outbox has room for, and sends what the window has room for.
    pub(super) fn pump(&mut self, world: &World, socket: SocketId) {
        self.fill_outbox(world, socket);
        while let Some(endpoint) = self.endpoint(socket) {
            if endpoint.error.is_some() {
                endpoint.outbox.clear();
                break;
            }
            if endpoint.outbox.is_empty() {
                if endpoint.fin_wanted && !endpoint.fin_sent && endpoint.sends.is_empty() {
                    endpoint.fin_sent = true;
                    self.emit(world, socket, PacketKind::Fin);
                }
                return;
            }
            if endpoint.room == 0 {
                return;
            }
            let most = endpoint.outbox.len().min(endpoint.room);
            let count = most.min(1 + world.below(32 * 1024) as usize);
            if endpoint.reset_after.is_some_and(|left| left < count as u64) {
                self.break_connection(world, socket);
                return;
            }
            let bytes = endpoint.outbox.take(count).to_vec();
            endpoint.room -= count;
            if let Some(left) = endpoint.tiny_left {
                endpoint.tiny_left = left.checked_sub(count).filter(|left| *left > 0);
                if endpoint.tiny_left.is_none() {
                    endpoint.room += world.window() as usize;
                }
            }
            endpoint.reset_after = endpoint.reset_after.map(|left| left - count as u64);
            self.emit(world, socket, PacketKind::Data(bytes));
            self.fill_outbox(world, socket);
        }
        self.fill_outbox(world, socket);
    }

    fn fill_outbox(&mut self, world: &World, socket: SocketId) {
        while let Some(endpoint) = self.endpoint(socket) {
            let Some(send) = endpoint.sends.front() else { return };
            let (op, sent) = (send.op, send.sent);
            let error = endpoint.error.or(endpoint.fin_sent.then_some(libc::EPIPE));
            let space = endpoint.outbox_max.saturating_sub(endpoint.outbox.len());
            // Waiting for all, as MSG_WAITALL has it; now and then less, as the kernel may.
            let enough = send.parts.is_empty() || (sent > 0 && space > 0 && world.below(16) == 0);
            if error.is_none() && !enough {
                if space == 0 {
                    return;
                }
                endpoint.take_outgoing(world, space);
                continue;
            }
            endpoint.sends.pop_front();
            let result = match error {
                Some(error) if sent == 0 => -error,
                _ => sent as i32,
            };
            self.waiting.remove(&op);
            world.schedule(world.between(&COMPLETION_NS), Done::once(op, result));
        }
    }

    /// Puts a packet on its way, behind those before it.
    pub(super) fn emit(&mut self, world: &World, socket: SocketId, kind: PacketKind) {
        let Some(endpoint) = self.endpoint(socket) else { return };
        let jitter = if endpoint.route.local { 0 } else { world.micros(&world.options.network.jitter_us) };
        let at = (world.now() + endpoint.latency + jitter).max(endpoint.last_arrival);
        endpoint.last_arrival = at;
        let packet = Packet { from: socket, to: endpoint.peer, route: endpoint.route, kind };
        world.schedule_at(at, Event::Arrive(packet));
    }

    /// Tells the receive of a socket that there may be news.
    pub(super) fn announce(&mut self, world: &World, socket: SocketId) {
        let Some(endpoint) = self.endpoint(socket) else { return };
        if endpoint.receive.is_some() && endpoint.has_news() && !endpoint.receive_scheduled {
            endpoint.receive_scheduled = true;
            let delay = if endpoint.slow {
                world.micros(&world.options.network.slow_reader_us)
            } else {
                world.between(&COMPLETION_NS)
            };
            world.schedule(delay, Event::Receive(socket));
        }
    }

    /// Closes our side of a connection with a last packet, unless the peer has been told or is gone.
    pub(super) fn part_with(&mut self, world: &World, socket: SocketId, last: PacketKind) {
        let Some(endpoint) = self.endpoint(socket) else { return };
        let told = endpoint.error.is_some() || (endpoint.fin_sent && matches!(last, PacketKind::Fin));
        let sends: VecDeque<Send> = std::mem::take(&mut endpoint.sends);
        let receive = endpoint.receive;
        // The kernel goes on sending what it has taken; its window is of no interest any more.
        let rest = endpoint.outbox.take(endpoint.outbox.len()).to_vec();
        if !rest.is_empty() && endpoint.error.is_none() && matches!(last, PacketKind::Fin) {
            self.emit(world, socket, PacketKind::Data(rest));
        }
        if !told {
            self.emit(world, socket, last);
        }
        self.sockets.remove(&socket);
        for op in sends.iter().map(|send| send.op).chain(receive) {
            self.waiting.remove(&op);
        }
    }
}
