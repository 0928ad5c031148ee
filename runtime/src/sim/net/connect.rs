//! Connecting and accepting.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::endpoint::Endpoint;
use super::{Address, Net, PacketKind, Route, Socket, SocketId, State, source_for};
use crate::sim::driver::COMPLETION_NS;
use crate::sim::event::{Done, Event, Op, Payload};
use crate::sim::world::World;

/// How often the first packet of a connection is sent again (tcp_syn_retries of Linux).
const SYN_RETRIES: u32 = 6;
const SECOND_NS: u64 = 1_000_000_000;

/// The first packet of a connection.
#[derive(Debug)]
pub(crate) struct Syn {
    pub(in crate::sim) op: Op,
    pub(in crate::sim) socket: SocketId,
    pub(in crate::sim) target: Address,
    pub(in crate::sim) attempts: u32,
}

/// What becomes of a first packet.
enum Answer {
    Connected(SocketId),
    /// By an error number.
    Refused(i32),
    Silence,
}

impl World {
    pub(in crate::sim) fn net_connect(&self, syn: Syn) {
        let mut net = self.net.borrow_mut();
        if let Some(Socket { state: State::Fresh { connecting, .. }, .. }) = net.sockets.get_mut(&syn.socket)
        {
            *connecting = Some(syn.op);
            net.waiting.insert(syn.op, syn.socket);
            let delay = self.latency(matches!(syn.target, Address::Unix(_)));
            self.schedule(delay, Event::Syn(syn));
        }
    }

    pub(in crate::sim) fn net_syn(&self, syn: Syn) {
        let mut net = self.net.borrow_mut();
        // The socket is gone, or its connect was cancelled.
        if !net.waiting.contains_key(&syn.op) || !net.sockets.contains_key(&syn.socket) {
            return;
        }
        let latency = self.latency(matches!(syn.target, Address::Unix(_)));
        match net.answer(self, &syn, latency) {
            Answer::Connected(listener) => {
                net.waiting.remove(&syn.op);
                self.schedule(latency, Done::once(syn.op, 0));
                net.serve_accept(self, listener);
            }
            Answer::Refused(error) => {
                net.waiting.remove(&syn.op);
                self.schedule(latency, Done::once(syn.op, -error));
            }
            Answer::Silence if syn.attempts == SYN_RETRIES => {
                net.waiting.remove(&syn.op);
                self.schedule(SECOND_NS << syn.attempts, Done::once(syn.op, -libc::ETIMEDOUT));
            }
            Answer::Silence => {
                let wait = SECOND_NS << syn.attempts;
                self.schedule(wait, Event::Syn(Syn { attempts: syn.attempts + 1, ..syn }));
            }
        }
    }

    pub(in crate::sim) fn net_arm_accept(&self, op: Op, socket: SocketId) {
        let mut net = self.net.borrow_mut();
        if let Some(listening) = net.listening(socket) {
            listening.accept = Some(op);
            net.waiting.insert(op, socket);
            net.serve_accept(self, socket);
        }
    }
}

impl Net {
    /// Finds who listens, and connects both sides.
    fn answer(&mut self, world: &World, syn: &Syn, latency: u64) -> Answer {
        let Some(client) = self.sockets.get(&syn.socket) else { return Answer::Silence };
        let from = client.node;
        let State::Fresh { local, .. } = client.state else { return Answer::Silence };
        let candidates = self.listeners_at(&syn.target);
        if candidates.is_empty() {
            return match (&syn.target, self.owners.get(&syn.target)) {
                (Address::Unix(_), None) => Answer::Refused(libc::ENOENT),
                (Address::Tcp(_), Some(node)) if !world.is_powered(*node) || self.is_cut(from, *node) => {
                    Answer::Silence
                }
                _ => Answer::Refused(libc::ECONNREFUSED),
            };
        }
        let listener = candidates[world.below(candidates.len() as u64) as usize];
        let (to, process) = match self.sockets.get(&listener) {
            Some(socket) => (socket.node, socket.process),
            None => return Answer::Silence,
        };
        let route = Route { from, to, local: matches!(syn.target, Address::Unix(_)) };
        if !route.local && self.is_cut(from, to) {
            return Answer::Silence;
        }
        if self.listening(listener).is_none_or(|listening| listening.pending.len() >= listening.backlog) {
            return if route.local { Answer::Refused(libc::EAGAIN) } else { Answer::Silence };
        }
        let remote = match syn.target {
            Address::Tcp(address) => address,
            Address::Unix(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        };
        let own = SocketAddr::new(local.unwrap_or(source_for(remote)), self.ephemeral_port());
        let server = world.number();
        let endpoint = Endpoint::new(world, server, route, (own, remote), latency);
        if let Some(client) = self.sockets.get_mut(&syn.socket) {
            client.state = State::Connected(Box::new(endpoint));
        }
        let endpoint = Endpoint::new(world, syn.socket, route.back(), (remote, own), latency);
        let state = State::Connected(Box::new(endpoint));
        self.sockets.insert(server, Socket { process, node: to, state });
        if let Some(listening) = self.listening(listener) {
            listening.pending.push_back(server);
        }
        Answer::Connected(listener)
    }

    fn listeners_at(&self, target: &Address) -> Vec<SocketId> {
        if let Some(found) = self.listeners.get(target) {
            return found.clone();
        }
        let Address::Tcp(address) = target else { return Vec::new() };
        let any = match address {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port())),
        };
        self.listeners.get(&Address::Tcp(any)).cloned().unwrap_or_default()
    }

    /// Hands connections to the accept that waits for them.
    fn serve_accept(&mut self, world: &World, listener: SocketId) {
        let Some(listening) = self.listening(listener) else { return };
        while let Some(op) = listening.accept {
            let Some(server) = listening.pending.pop_front() else { return };
            // A multishot ends now and then, as the kernel's does.
            let more = world.below(16) > 0;
            if !more {
                listening.accept = None;
            }
            let payload = Payload::Accepted(server);
            // Completions of one operation keep their order: all of them take no time.
            world.schedule(0, Event::Done(Done { op, result: 1, more, payload }));
            if !more {
                self.waiting.remove(&op);
                return;
            }
        }
    }

    /// Stops listening; connections that nobody has accepted are reset.
    pub(super) fn stop_listening(&mut self, world: &World, listener: SocketId) {
        let Some(Socket { state: State::Listening(listening), .. }) = self.sockets.remove(&listener) else {
            return;
        };
        if let Some(all) = self.listeners.get_mut(&listening.address) {
            all.retain(|other| *other != listener);
            if all.is_empty() {
                self.listeners.remove(&listening.address);
            }
        }
        for server in listening.pending {
            self.part_with(world, server, PacketKind::Reset);
        }
    }

    /// Cancels a connect or an accept.
    pub(super) fn cancel_waiting(&mut self, world: &World, op: Op, socket: SocketId) {
        match self.sockets.get_mut(&socket).map(|socket| &mut socket.state) {
            Some(State::Fresh { connecting, .. }) if *connecting == Some(op) => {
                *connecting = None;
                world.schedule(world.between(&COMPLETION_NS), Done::once(op, -libc::ECANCELED));
            }
            Some(State::Listening(listening)) if listening.accept == Some(op) => {
                listening.accept = None;
                world.schedule(0, Done::once(op, -libc::ECANCELED));
            }
            _ => {}
        }
    }
}
