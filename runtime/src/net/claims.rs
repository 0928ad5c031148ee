//! Ports before the shards bind them: every shard has a socket of its own on the same address, by SO_REUSEPORT, which would
//! also let another process of the same user in without a word.

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};

use socket2::{Domain, Socket, Type};

use super::FREE_WITHIN;
use super::unix::LOOK_PAUSE;
use crate::sim;
use crate::time::now;

/// Addresses that nobody else listened on when they were claimed. Hold it until every shard has bound them: meanwhile other
/// processes of this program that start are told that the ports are taken, and afterwards they find the sockets.
#[derive(Debug)]
pub struct PortClaims {
    /// A name for each port, in the network namespace as the ports are, gone with the process.
    _names: Vec<UnixListener>,
}

impl PortClaims {
    /// Claims addresses; those with port 0 need no claim. Blocks for up to 2 s where one is taken, because a relay that was
    /// killed holds its sockets for a moment. Ports of the simulator are nobody else's.
    ///
    /// Errors: the address, with [`io::ErrorKind::AddrInUse`] when somebody listens there.
    pub fn take(addresses: &[SocketAddr]) -> Result<PortClaims, (SocketAddr, io::Error)> {
        if sim::is_running() {
            return Ok(PortClaims { _names: Vec::new() });
        }
        again_while(|(_, error): &(SocketAddr, io::Error)| error, || PortClaims::try_take(addresses))
    }

    fn try_take(addresses: &[SocketAddr]) -> Result<PortClaims, (SocketAddr, io::Error)> {
        let mut named = Vec::new();
        let mut names = Vec::new();
        for &address in addresses.iter().filter(|address| address.port() != 0) {
            if !named.contains(&address.port()) {
                let name = UnixAddress::from_abstract_name(format!("chasqui-port-{}", address.port()));
                let listener = name.and_then(|name| UnixListener::bind_addr(&name));
                names.push(listener.map_err(|error| (address, error))?);
                named.push(address.port());
            }
            probe(address).map_err(|error| (address, error))?;
        }
        Ok(PortClaims { _names: names })
    }
}

/// Binds a socket that may be held by a process that was killed just now: blocks for up to 2 s while the address is in use.
pub fn when_free<T>(bind: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    again_while(|error| error, bind)
}

fn again_while<T, E>(
    error: impl Fn(&E) -> &io::Error,
    mut bind: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let until = now() + FREE_WITHIN;
    loop {
        match bind() {
            Err(why) if error(&why).kind() == io::ErrorKind::AddrInUse && now() < until => {
                std::thread::sleep(LOOK_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// Whether a socket that shares with nobody could be bound. Connections of earlier sockets do not matter.
fn probe(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn listen(address: SocketAddr) -> Socket {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(16).unwrap();
        socket
    }

    fn kind_of_refusal(address: SocketAddr) -> io::ErrorKind {
        let (refused, error) = PortClaims::try_take(&[address]).expect_err("it is taken");
        assert_eq!(refused, address);
        error.kind()
    }

    /// A port that is shared by SO_REUSEPORT counts as taken, also under another address of its own; a claim keeps others
    /// away until it is dropped; connections that outlive their listener do not.
    #[test]
    fn ports_are_claimed() {
        let free = TcpListener::bind("127.0.3.1:0").unwrap().local_addr().unwrap();
        let claim = PortClaims::take(&[free, free]).unwrap();
        assert_eq!(kind_of_refusal(free), io::ErrorKind::AddrInUse);
        let shards = [listen(free), listen(free)];
        drop(claim);
        assert_eq!(kind_of_refusal(free), io::ErrorKind::AddrInUse);
        let anywhere = SocketAddr::from(([0, 0, 0, 0], free.port()));
        assert_eq!(kind_of_refusal(anywhere), io::ErrorKind::AddrInUse);
        let client = TcpStream::connect(free).unwrap();
        let accepted = shards.each_ref().map(|shard| {
            shard.set_nonblocking(true).unwrap();
            shard.accept().ok()
        });
        drop(shards);
        PortClaims::take(&[free]).expect("nobody listens");
        drop((client, accepted));
        PortClaims::take(&[free]).expect("what is in TIME_WAIT does not count");
    }
}
