//! Choosing ports before the shards start, since every shard binds a socket of its own to the same ones.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use chasqui_runtime::sim;

use crate::config::Config;
use crate::error::StartError;

/// Ports tried until one is free on every address.
const TRIES_MAX: usize = 64;

/// Where everything listens, with the ports that were chosen.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    pub(crate) smtp: Vec<SocketAddr>,
    /// The same in TLS.
    pub(crate) smtps: Vec<SocketAddr>,
    /// As [`Config::mailbox_services`].
    pub(crate) mailboxes: [Option<SocketAddr>; 4],
}

impl Places {
    pub(crate) fn choose(config: &Config) -> Result<Places, StartError> {
        // Until all are chosen. The shards bind these ports again, each for itself.
        let mut held = Vec::new();
        let mut receivers = |port| -> Result<Vec<SocketAddr>, StartError> {
            let chosen = choose(&config.smtp_addresses, port).map_err(unfree)?;
            let at = |&address: &IpAddr| SocketAddr::new(address, chosen.port);
            let listened = config.smtp_addresses.iter().map(at).collect();
            held.push(chosen);
            Ok(listened)
        };
        let smtp = receivers(config.smtp_port)?;
        let smtps = config.smtps_port.map(receivers).transpose()?.unwrap_or_default();
        let mut mailboxes = config.mailbox_services();
        for address in mailboxes.iter_mut().flatten() {
            let chosen = choose(&[address.ip()], address.port()).map_err(unfree)?;
            address.set_port(chosen.port);
            held.push(chosen);
        }
        let places = Places { smtp, smtps, mailboxes };
        let all = places.all();
        match all.iter().enumerate().find(|(at, address)| all[..*at].contains(address)) {
            Some((_, twice)) => Err(StartError::Config(format!(
                "{twice} is to be listened on twice; give each service its own"
            ))),
            None => Ok(places),
        }
    }

    pub(crate) fn all(&self) -> Vec<SocketAddr> {
        let mailboxes = self.mailboxes.iter().flatten();
        self.smtp.iter().chain(&self.smtps).chain(mailboxes).copied().collect()
    }
}

fn unfree((address, error): (SocketAddr, io::Error)) -> StartError {
    StartError::Listen { address, error }
}

/// A port that was free on every address. It is held until this is dropped, so that the next choice is
/// another one.
struct Chosen {
    port: u16,
    _held: Vec<TcpListener>,
}

/// `port` itself, or when it is 0 one that is free on all `addresses`. Whether the other one is free is told by the claim
/// ([`chasqui_runtime::net::PortClaims`]) that is needed for both. Simulated ports are nobody else's.
fn choose(addresses: &[IpAddr], port: u16) -> Result<Chosen, (SocketAddr, io::Error)> {
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
