//! Whom a client's connection is counted for, and what each such peer may take: connections, messages and recipients a
//! minute, space in the spool.

pub(crate) mod connections;
pub(crate) mod rates;
pub(crate) mod space;

use std::net::{IpAddr, Ipv6Addr};

/// Whom an address is counted for: an IPv4 address for itself, an IPv6 one for its /64, of which a customer has one at least and
/// so 2^64 addresses.
pub(crate) fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests;
