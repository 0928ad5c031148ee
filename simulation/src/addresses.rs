//! Where the parts of the chain are: addresses, paths and domains.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use chasqui_loadgen::Scenario;

/// Where the relay listens.
pub(crate) const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1)), 25);
/// Where the sinks do.
pub(crate) const SINK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1)), 25);
/// The sinks' POP3 and IMAP.
pub(crate) const POP3: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1)), 110);
pub(crate) const IMAP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1)), 143);
/// The relay's control socket.
pub(crate) const CONTROL: &str = "/control";
/// The sockets of the arrivals, with the shard's number behind.
pub(crate) const ARRIVALS: &str = "/arrivals";
/// The zone.
pub(crate) const ZONE: &str = "chasqui.test";
/// What anything may take beyond what was drawn for it.
pub(crate) const SLACK: Duration = Duration::from_secs(60);

/// A scenario with the addresses of the chain.
pub(crate) fn endpoints() -> Scenario {
    Scenario {
        zone: ZONE.into(),
        targets: vec![RELAY.into()],
        pop3: Some(POP3.into()),
        imap: Some(IMAP.into()),
        relay_control: Some(CONTROL.into()),
        ..Scenario::default()
    }
}

/// The domain of an address of the zone: a number, or `None` for bounces and strangers.
pub(crate) fn domain_of(address: &str) -> Option<usize> {
    let (_, domain) = address.rsplit_once('@')?;
    domain_number(domain)
}

pub(crate) fn domain_number(domain: &str) -> Option<usize> {
    domain.strip_suffix(ZONE)?.strip_suffix('.')?.strip_prefix('d')?.parse().ok()
}

/// Where the receiver of a domain is; the bounce domain's is the one behind the last.
pub(crate) fn receiver(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, 1 + number as u8)
}

/// Where the second host of a domain is.
pub(crate) fn second_receiver(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, 101 + number as u8)
}

/// A host of receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// `None` is the bounce domain.
    pub(crate) domain: Option<usize>,
    /// It is the preferred one of two.
    pub(crate) is_preferred: bool,
}
