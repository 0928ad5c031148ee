//! The simulated network: one address space, connections of packets in order through small windows.

mod byte_queue;
mod connect;
mod endpoint;
mod faults;
mod transfer;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub(super) use self::byte_queue::ByteQueue;
use self::endpoint::Endpoint;
use super::event::Op;
use super::world::{NodeId, ProcessId, World};

pub(super) use self::connect::Syn;

/// Numbers a socket.
pub(super) type SocketId = u64;

/// Where a listener can be found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Sockets, listeners and what is between them.
#[derive(Default)]
pub(super) struct Net {
    sockets: BTreeMap<SocketId, Socket>,
    listeners: BTreeMap<Address, Vec<SocketId>>,
    /// Who listened last on an address, also when nobody does any more.
    owners: BTreeMap<Address, NodeId>,
    /// Which socket an operation waits for.
    waiting: BTreeMap<Op, SocketId>,
    partitions: BTreeSet<(NodeId, NodeId)>,
    /// Packets that wait for the end of a partition.
    held: Vec<Packet>,
    /// Sockets that went with their node's power.
    lost: BTreeMap<SocketId, NodeId>,
    next_port: u16,
}

struct Socket {
    process: ProcessId,
    node: NodeId,
    state: State,
}

enum State {
    Fresh { local: Option<IpAddr>, connecting: Option<Op> },
    Listening(Listening),
    Connected(Box<Endpoint>),
}

struct Listening {
    address: Address,
    backlog: usize,
    reuse: bool,
    /// Connections that nobody has accepted yet.
    pending: VecDeque<SocketId>,
    accept: Option<Op>,
}

/// What travels between two sockets.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) from: SocketId,
    pub(super) to: SocketId,
    route: Route,
    kind: PacketKind,
}

/// The nodes at both ends of a connection.
#[derive(Clone, Copy, Debug)]
struct Route {
    from: NodeId,
    to: NodeId,
    /// A Unix socket: nothing between its ends can fail.
    local: bool,
}

impl Route {
    fn back(self) -> Self {
        Self { from: self.to, to: self.from, local: self.local }
    }
}

#[derive(Debug)]
enum PacketKind {
    Data(Vec<u8>),
    /// The peer's program has taken this many bytes.
    Taken(usize),
    Fin,
    Reset,
}

impl Packet {
    /// For the trace.
    pub(super) fn weight(&self) -> u64 {
        match &self.kind {
            PacketKind::Data(bytes) => bytes
                .iter()
                .fold(bytes.len() as u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3)),
            PacketKind::Taken(count) => *count as u64,
            PacketKind::Fin => 1 << 32,
            PacketKind::Reset => 1 << 33,
        }
    }
}

impl Net {
    fn endpoint(&mut self, socket: SocketId) -> Option<&mut Endpoint> {
        match &mut self.sockets.get_mut(&socket)?.state {
            State::Connected(endpoint) => Some(endpoint),
            _ => None,
        }
    }

    fn listening(&mut self, socket: SocketId) -> Option<&mut Listening> {
        match &mut self.sockets.get_mut(&socket)?.state {
            State::Listening(listening) => Some(listening),
            _ => None,
        }
    }

    fn ephemeral_port(&mut self) -> u16 {
        self.next_port =
            if self.next_port < 32_768 || self.next_port == 60_999 { 32_768 } else { self.next_port + 1 };
        self.next_port
    }

    fn listen(
        &mut self,
        world: &World,
        process: ProcessId,
        address: Address,
        backlog: usize,
        reuse: bool,
    ) -> SocketId {
        let (id, node) = (world.number(), world.node_of(process));
        self.listeners.entry(address.clone()).or_default().push(id);
        self.owners.insert(address.clone(), node);
        let state =
            State::Listening(Listening { address, backlog, reuse, pending: VecDeque::new(), accept: None });
        self.sockets.insert(id, Socket { process, node, state });
        id
    }
}

impl World {
    pub(super) fn net_new_socket(&self, process: ProcessId, local: Option<IpAddr>) -> SocketId {
        let (id, node) = (self.number(), self.node_of(process));
        let state = State::Fresh { local, connecting: None };
        self.net.borrow_mut().sockets.insert(id, Socket { process, node, state });
        id
    }

    pub(super) fn net_listen_tcp(
        &self,
        process: ProcessId,
        address: SocketAddr,
        options: &crate::net::ListenOptions,
    ) -> io::Result<(SocketId, SocketAddr)> {
        let mut net = self.net.borrow_mut();
        let mut address = address;
        if address.port() == 0 {
            loop {
                address.set_port(net.ephemeral_port());
                if !net.listeners.contains_key(&Address::Tcp(address)) {
                    break;
                }
            }
        }
        let others = net.listeners.get(&Address::Tcp(address)).cloned().unwrap_or_default();
        for other in others {
            let shared = net.listening(other).is_some_and(|listening| listening.reuse);
            let same_process = net.sockets.get(&other).is_some_and(|socket| socket.process == process);
            if !(shared && options.reuse_port && same_process) {
                return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
            }
        }
        let backlog = (options.backlog as usize).max(1);
        let id = net.listen(self, process, Address::Tcp(address), backlog, options.reuse_port);
        Ok((id, address))
    }

    pub(super) fn net_listen_unix(&self, process: ProcessId, path: &Path) -> io::Result<SocketId> {
        let mut net = self.net.borrow_mut();
        let address = Address::Unix(path.to_owned());
        if net.listeners.contains_key(&address) {
            return Err(io::Error::from_raw_os_error(libc::EADDRINUSE));
        }
        Ok(net.listen(self, process, address, 1024, false))
    }

    /// Removes the socket file that belongs to this listener.
    pub(super) fn net_unlink(&self, socket: SocketId, path: &Path) {
        let mut net = self.net.borrow_mut();
        let alive = net.sockets.get(&socket).is_some_and(|socket| self.is_alive(socket.process));
        if alive {
            net.owners.remove(&Address::Unix(path.to_owned()));
        }
    }

    pub(super) fn net_addresses(
        &self,
        socket: SocketId,
        peer: Option<SocketAddr>,
    ) -> io::Result<(SocketAddr, SocketAddr)> {
        match self.net.borrow_mut().endpoint(socket) {
            Some(endpoint) => Ok((endpoint.local, peer.unwrap_or(endpoint.remote))),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    pub(super) fn net_has_unread(&self, socket: SocketId) -> bool {
        self.net.borrow_mut().endpoint(socket).is_some_and(|endpoint| !endpoint.inbox.is_empty())
    }

    /// Time of a packet from one node to another.
    fn latency(&self, local: bool) -> u64 {
        if local { self.between(&(1_000..20_000)) } else { self.micros(&self.options.network.latency_us) }
    }
}

/// The address that a connection to `target` comes from when its socket is not bound.
fn source_for(target: SocketAddr) -> IpAddr {
    match target {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        SocketAddr::V6(_) => target.ip(),
    }
}
