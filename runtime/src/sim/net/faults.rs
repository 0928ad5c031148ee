//! What goes wrong between nodes: resets, partitions, processes and machines that end.

use super::{Net, Packet, PacketKind, SocketId, State};
use crate::sim::event::Event;
use crate::sim::nodes::Kill;
use crate::sim::world::{NodeId, ProcessId, World};

/// What windows grow by when the network becomes calm.
const CALM_WINDOW: usize = 4096;

impl World {
    pub(in crate::sim) fn net_partition(&self, a: NodeId, b: NodeId) {
        self.net.borrow_mut().partitions.insert((a.min(b), a.max(b)));
    }

    /// Ends a partition: what waited arrives in its order, or the connection is reset.
    pub(in crate::sim) fn net_heal(&self, a: NodeId, b: NodeId) {
        let mut net = self.net.borrow_mut();
        net.partitions.remove(&(a.min(b), a.max(b)));
        let held = std::mem::take(&mut net.held);
        let (back, still): (Vec<_>, Vec<_>) = held.into_iter().partition(|packet| {
            let (from, to) = (packet.route.from, packet.route.to);
            (from.min(to), from.max(to)) == (a.min(b), a.max(b))
        });
        net.held = still;
        let at = self.now() + self.micros(&self.options.network.latency_us);
        let mut asked = std::collections::BTreeMap::new();
        for packet in back {
            let connection = (packet.from.min(packet.to), packet.from.max(packet.to));
            let broken =
                *asked.entry(connection).or_insert_with(|| self.chance(self.options.network.reset_at_heal));
            net.answered(packet.from);
            if broken {
                net.break_connection(self, packet.from);
            } else {
                if let Some(endpoint) = net.endpoint(packet.from) {
                    endpoint.last_arrival = endpoint.last_arrival.max(at);
                }
                self.schedule_at(at, Event::Arrive(packet));
            }
        }
    }

    /// From now on connections break for a reason alone.
    pub(in crate::sim) fn net_calm(&self) {
        self.calm.set(true);
        for socket in self.net.borrow_mut().sockets.values_mut() {
            if let State::Connected(endpoint) = &mut socket.state {
                endpoint.reset_after = None;
                endpoint.room += CALM_WINDOW;
            }
        }
    }

    /// Closes the sockets of a process that has ended, as the kernel does; at a power cut nobody is told.
    pub(in crate::sim) fn net_process_ended(&self, process: ProcessId, how: Kill) {
        let mut net = self.net.borrow_mut();
        let own: Vec<SocketId> =
            net.sockets.iter().filter(|(_, socket)| socket.process == process).map(|(id, _)| *id).collect();
        let node = self.node_of(process);
        for id in own {
            match net.sockets.get(&id).map(|socket| &socket.state) {
                Some(State::Listening(_)) if how == Kill::PowerCut => net.forget_listener(id),
                Some(State::Listening(_)) => net.stop_listening(self, id),
                Some(State::Connected(endpoint)) => {
                    if how == Kill::PowerCut && !endpoint.route.local {
                        net.sockets.remove(&id);
                        net.lost.insert(id, node);
                    } else {
                        let abrupt = !endpoint.inbox.is_empty() || self.below(4) == 0;
                        let last = if abrupt { PacketKind::Reset } else { PacketKind::Fin };
                        net.part_with(self, id, last);
                    }
                }
                Some(State::Fresh { .. }) => drop(net.sockets.remove(&id)),
                None => {}
            }
        }
        let Net { sockets, waiting, .. } = &mut *net;
        waiting.retain(|_, socket| sockets.contains_key(socket));
    }

    /// The packets of a socket have found nobody for too long.
    pub(in crate::sim) fn net_give_up(&self, socket: SocketId) {
        let mut net = self.net.borrow_mut();
        let limit = self.options.network.give_up_s * 1_000_000_000;
        let Some(endpoint) = net.endpoint(socket) else { return };
        if endpoint.unanswered_since.is_some_and(|since| self.now() >= since + limit) {
            endpoint.error = Some(libc::ETIMEDOUT);
            net.held.retain(|packet| packet.from != socket);
            net.pump(self, socket);
            net.announce(self, socket);
        }
    }
}

impl Net {
    pub(super) fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.partitions.contains(&(a.min(b), a.max(b)))
    }

    /// Keeps a packet that a partition stops.
    pub(super) fn hold_when_cut(&mut self, world: &World, packet: Packet) -> Option<Packet> {
        if packet.route.local || !self.is_cut(packet.route.from, packet.route.to) {
            return Some(packet);
        }
        self.unanswered(world, packet.from);
        self.held.push(packet);
        None
    }

    pub(super) fn answered(&mut self, socket: SocketId) {
        if let Some(endpoint) = self.endpoint(socket) {
            endpoint.unanswered_since = None;
        }
    }

    fn unanswered(&mut self, world: &World, socket: SocketId) {
        if let Some(endpoint) = self.endpoint(socket)
            && endpoint.unanswered_since.is_none()
        {
            endpoint.unanswered_since = Some(world.now());
            world.schedule(world.options.network.give_up_s * 1_000_000_000, Event::GiveUp(socket));
        }
    }

    /// A packet finds no socket: it was closed, or went with its node's power.
    pub(super) fn nobody_there(&mut self, world: &World, packet: Packet) {
        match self.lost.get(&packet.to) {
            Some(node) if !world.is_powered(*node) => self.unanswered(world, packet.from),
            // The machine is back and knows nothing of the connection; or the program has closed it.
            _ if matches!(packet.kind, PacketKind::Data(_)) => {
                let reset = Packet {
                    from: packet.to,
                    to: packet.from,
                    route: packet.route.back(),
                    kind: PacketKind::Reset,
                };
                world.schedule(world.latency(packet.route.local), Event::Arrive(reset));
            }
            _ => {}
        }
    }

    /// Something between the nodes breaks the connection: both sides are reset, and what was to be sent is not.
    pub(super) fn break_connection(&mut self, world: &World, socket: SocketId) {
        let Some(endpoint) = self.endpoint(socket) else { return };
        endpoint.error = Some(libc::ECONNRESET);
        endpoint.reset_after = None;
        self.emit(world, socket, PacketKind::Reset);
        self.pump(world, socket);
        self.announce(world, socket);
    }

    /// Takes a listener away without telling anybody.
    fn forget_listener(&mut self, listener: SocketId) {
        if let Some(listening) = self.listening(listener) {
            let address = listening.address.clone();
            if let Some(all) = self.listeners.get_mut(&address) {
                all.retain(|other| *other != listener);
                if all.is_empty() {
                    self.listeners.remove(&address);
                }
            }
        }
        self.sockets.remove(&listener);
    }
}
