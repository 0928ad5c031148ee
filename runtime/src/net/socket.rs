//! Making and asking sockets: calls that answer at once. Of the kernel, or of the simulator inside one.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::socket::SockaddrStorage;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use super::ListenOptions;
use super::unix::{self, FileId};
use crate::descriptor::Descriptor;
use crate::sim;

/// A socket for a connection to `address`, bound to the source address `local`.
pub(super) fn new_tcp(address: SocketAddr, local: Option<IpAddr>) -> io::Result<Descriptor> {
    if let Some(here) = sim::here() {
        return here.new_socket(local);
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(local) = local {
        bind_address_no_port(&socket)?;
        socket.bind(&SocketAddr::new(local, 0).into())?;
    }
    Ok(Descriptor::real(socket))
}

/// A socket for a connection to a Unix socket.
pub(super) fn new_unix() -> io::Result<Descriptor> {
    match sim::here() {
        Some(here) => here.new_socket(None),
        None => Ok(Descriptor::real(Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?)),
    }
}

/// A listening socket, with the address it is bound to.
pub(super) fn listen_tcp(
    address: SocketAddr,
    options: &ListenOptions,
) -> io::Result<(Descriptor, SocketAddr)> {
    if let Some(here) = sim::here() {
        return here.listen_tcp(address, options);
    }
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(options.reuse_port)?;
    socket.set_tcp_nodelay(true)?; // accepted connections inherit it
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
    Ok((Descriptor::real(socket), address))
}

/// A listening Unix socket, with its file where it has one.
pub(super) fn listen_unix(path: &Path) -> io::Result<(Descriptor, Option<FileId>)> {
    if let Some(here) = sim::here() {
        return Ok((here.listen_unix(path)?, None));
    }
    let (socket, id) = unix::listen(path)?;
    Ok((Descriptor::real(socket), Some(id)))
}

/// The addresses of this machine's interfaces, up or down, in the kernel's order. None in the simulator, where the nodes
/// have addresses that they bind and no interfaces.
pub fn interface_addresses() -> io::Result<Vec<IpAddr>> {
    if sim::here().is_some() {
        return Ok(Vec::new());
    }
    let ip = |address: SockaddrStorage| match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
        (None, Some(v6)) => Some(IpAddr::V6(v6.ip())),
        (None, None) => None,
    };
    Ok(nix::ifaddrs::getifaddrs()?.filter_map(|interface| ip(interface.address?)).collect())
}

/// Removes the file of a listening Unix socket.
pub(super) fn unlink_unix(socket: &Descriptor, path: &Path, id: Option<FileId>) {
    match (socket, id) {
        (Descriptor::Sim(handle), _) => sim::unlink_unix(handle, path),
        (Descriptor::Real(_), Some(id)) => unix::unlink(path, id),
        (Descriptor::Real(_), None) => {}
    }
}

/// Our address and the peer's. The peer's is gone when the connection is, unless it is known.
pub(super) fn addresses(
    socket: &Descriptor,
    peer: Option<SocketAddr>,
) -> io::Result<(SocketAddr, SocketAddr)> {
    let socket = match socket {
        Descriptor::Real(socket) => SockRef::from(&**socket),
        Descriptor::Sim(handle) => return sim::addresses(handle, peer),
    };
    let ip = |address: SockAddr| address.as_socket().ok_or(io::Error::from(io::ErrorKind::InvalidInput));
    let local = ip(socket.local_addr()?)?;
    let peer = match peer {
        Some(peer) => peer,
        None => ip(socket.peer_addr()?)?,
    };
    Ok((local, peer))
}

/// Whether bytes have come that a receive would give.
pub(super) fn has_unread(socket: &Descriptor) -> bool {
    match socket {
        Descriptor::Real(socket) => {
            let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
            let mut octet = [MaybeUninit::uninit()];
            SockRef::from(&**socket).recv_with_flags(&mut octet, flags).is_ok_and(|count| count > 0)
        }
        Descriptor::Sim(handle) => sim::has_unread(handle),
    }
}

/// Says that nothing more will be sent. No harm on a socket that is not connected.
pub(super) fn shut_down(socket: &Descriptor) {
    match socket {
        Descriptor::Real(socket) => {
            let _not_connected = SockRef::from(&**socket).shutdown(std::net::Shutdown::Write);
        }
        Descriptor::Sim(handle) => sim::shut_down(handle),
    }
}

/// Lets bound sources share ports as long as their peers differ (IP_BIND_ADDRESS_NO_PORT, ip(7)): without it
/// every bound socket takes a port of the source address for itself.
fn bind_address_no_port(socket: &Socket) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is a local int, which the call only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether a call failed because we lack something: descriptors, memory, local ports, or a page of a mapped segment that our
/// disk does not give. Nothing is known of the peer then.
pub fn is_shortage(error: &io::Error) -> bool {
    use libc::{EADDRINUSE, EADDRNOTAVAIL, EAGAIN, EFAULT, EMFILE, ENFILE, ENOBUFS, ENOMEM};
    let code = error.raw_os_error();
    matches!(code, Some(EADDRINUSE | EADDRNOTAVAIL | EAGAIN | EFAULT | EMFILE | ENFILE | ENOBUFS | ENOMEM))
}
