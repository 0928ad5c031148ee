//! Whom a client's connection is counted for.

use std::net::{IpAddr, Ipv6Addr};

/// Whom an address is counted for: an IPv4 address for itself, an IPv6 one for its /64, of which a customer has one at least and
/// so 2^64 addresses.
pub fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Addresses of one /64 are one peer, those of another are not, and a mapped IPv4 address is that IPv4 address.
    #[test]
    fn peers() {
        let peer = |address: &str| peer_of(address.parse::<IpAddr>().unwrap()).to_string();
        assert_eq!(peer("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(peer("2001:db8:1:2::1"), peer("2001:db8:1:2:ffff::"));
        assert_ne!(peer("2001:db8:1:2::1"), peer("2001:db8:1:3::1"));
        assert_eq!((peer("192.0.2.1"), peer("::ffff:192.0.2.1")), ("192.0.2.1".into(), "192.0.2.1".into()));
    }
}
