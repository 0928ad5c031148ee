//! Choosing ports before the shards start, since every shard binds a socket of its own to the same ones.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use chasqui_runtime::sim;

/// Ports tried until one is free on every address.
const TRIES_MAX: usize = 64;

/// A port that was free on every address. It is held until this is dropped, so that the next choice is
/// another one.
pub(crate) struct Chosen {
    pub(crate) port: u16,
    _held: Vec<TcpListener>,
}

/// `port` itself, or when it is 0 one that is free on all `addresses`. Whether the other one is free is told by the claim
/// ([`chasqui_runtime::net::PortClaims`]) that is needed for both. Simulated ports are nobody else's.
pub(crate) fn choose(addresses: &[IpAddr], port: u16) -> Result<Chosen, (SocketAddr, io::Error)> {
    if sim::is_running() || port != 0 {
        return Ok(Chosen { port, _held: Vec::new() });
    }
    let mut tries = 1;
    loop {
        match try_all(addresses) {
            Err(_) if tries < TRIES_MAX => tries += 1,
            outcome => return outcome,
        }
    }
}

fn try_all(addresses: &[IpAddr]) -> Result<Chosen, (SocketAddr, io::Error)> {
    let mut port = 0;
    let mut held = Vec::with_capacity(addresses.len());
    for &address in addresses {
        let address = SocketAddr::new(address, port);
        let listener = TcpListener::bind(address).map_err(|error| (address, error))?;
        port = listener.local_addr().map_err(|error| (address, error))?.port();
        held.push(listener);
    }
    Ok(Chosen { port, _held: held })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that one free port is found for several addresses, and that the next choice is another one.
    #[test]
    fn ports_are_free_on_every_address() {
        let addresses: Vec<IpAddr> = (1..=4).map(|i| IpAddr::from([127, 0, 2, i])).collect();
        let chosen = choose(&addresses, 0).unwrap();
        let port = chosen.port;
        assert_ne!(choose(&addresses, 0).unwrap().port, port, "it is held");
    }
}
