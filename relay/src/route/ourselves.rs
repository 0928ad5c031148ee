//! Who we are, so that we do not send mail to ourselves (RFC 5321, section 5.1).

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use chasqui_runtime::Instant;

use super::Host;

/// Interfaces get and lose addresses while we run: after this time they are read again, when a route is made that needs them.
const INTERFACES_FOR: Duration = Duration::from_secs(60);

/// Gives the addresses of this machine's interfaces.
type ReadInterfaces = dyn Fn() -> io::Result<Vec<IpAddr>>;

/// Our names and the addresses at which we are reached.
pub(super) struct Ourselves {
    names: Vec<String>,
    listening: Vec<SocketAddr>,
    /// Ports at which we listen on every address.
    wildcard_ports: Vec<u16>,
    read_interfaces: Box<ReadInterfaces>,
    interfaces: RefCell<Interfaces>,
}

#[derive(Default)]
struct Interfaces {
    read_at: Option<Instant>,
    addresses: Vec<IpAddr>,
}

impl fmt::Debug for Ourselves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ourselves").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Ourselves {
    /// `names` in lower case.
    pub(super) fn new(
        names: Vec<String>,
        listening: &[SocketAddr],
        read_interfaces: impl Fn() -> io::Result<Vec<IpAddr>> + 'static,
    ) -> Ourselves {
        let wildcards = listening.iter().filter(|address| address.ip().to_canonical().is_unspecified());
        Ourselves {
            names,
            wildcard_ports: wildcards.map(SocketAddr::port).collect(),
            listening: listening.iter().map(|address| reached_at(*address)).collect(),
            read_interfaces: Box::new(read_interfaces),
            interfaces: RefCell::default(),
        }
    }

    /// Whether a host is ourselves, by its name or by one of its addresses.
    pub(super) fn is_host(&self, host: &Host, now: Instant) -> bool {
        self.names.contains(&host.name) || host.addresses.iter().any(|address| self.is_own(*address, now))
    }

    /// Whether a connection to `address` ends at one of our listeners.
    pub(super) fn is_own(&self, address: SocketAddr, now: Instant) -> bool {
        let address = reached_at(address);
        self.listening.contains(&address)
            || self.wildcard_ports.contains(&address.port())
                && (address.ip().is_loopback() || self.is_interface(address.ip(), now))
    }

    fn is_interface(&self, address: IpAddr, now: Instant) -> bool {
        let mut interfaces = self.interfaces.borrow_mut();
        if interfaces.read_at.is_none_or(|read_at| now >= read_at + INTERFACES_FOR) {
            interfaces.read_at = Some(now);
            match (self.read_interfaces)() {
                Ok(addresses) => {
                    interfaces.addresses = addresses.iter().map(|address| address.to_canonical()).collect();
                }
                Err(error) => log::warn!("cannot read the addresses of this machine's interfaces: {error}"),
            }
        }
        interfaces.addresses.contains(&address)
    }
}

/// Where a connection to `address` goes: an IPv4-mapped address is the IPv4 address, and a connection to the unspecified
/// address goes to the loopback. Scope and flow label do not tell addresses apart.
fn reached_at(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        other => other,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    fn at(second: u64) -> Instant {
        Instant::from_nanos(second * 1_000_000_000)
    }

    fn listening(addresses: &[&str]) -> Ourselves {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let interfaces = || Ok(vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
        Ourselves::new(vec!["us.test".to_owned()], &addresses, interfaces)
    }

    fn is_own(ourselves: &Ourselves, address: &str) -> bool {
        ourselves.is_own(address.parse().unwrap(), at(0))
    }

    /// Proves that with a wildcard listener every loopback, unspecified, mapped and interface address is ours, at its port
    /// alone.
    #[test]
    fn a_wildcard_listener_is_every_address_of_the_machine() {
        for listener in ["0.0.0.0:25", "[::]:25"] {
            let ourselves = listening(&[listener]);
            for ip in [
                "127.0.0.1",
                "127.9.9.9",
                "0.0.0.0",
                "192.0.2.1",
                "[::1]",
                "[::]",
                "[::ffff:127.0.0.1]",
                "[::ffff:127.0.0.9]",
                "[::ffff:0.0.0.0]",
                "[::ffff:192.0.2.1]",
                "[2001:db8::1]",
                "[2001:db8::1%2]",
            ] {
                assert!(is_own(&ourselves, &format!("{ip}:25")), "{ip} under {listener}");
                assert!(!is_own(&ourselves, &format!("{ip}:26")), "{ip} under {listener}, another port");
            }
            for ip in ["192.0.2.2", "[2001:db8::2]", "[::ffff:192.0.2.2]"] {
                assert!(!is_own(&ourselves, &format!("{ip}:25")), "{ip} under {listener}");
            }
        }
    }

    /// Proves that without a wildcard only that is ours on which we listen, in every form in which it is reached.
    #[test]
    fn a_listener_on_an_address_is_that_address() {
        let ourselves = listening(&["127.0.0.1:25", "[2001:db8::1]:25", "192.0.2.1:2525"]);
        for address in ["127.0.0.1:25", "0.0.0.0:25", "[::ffff:127.0.0.1]:25", "[2001:db8::1]:25"] {
            assert!(is_own(&ourselves, address), "{address}");
        }
        for address in ["127.0.0.2:25", "[::1]:25", "[::]:25", "192.0.2.1:25", "127.0.0.1:2525"] {
            assert!(!is_own(&ourselves, address), "{address}");
        }
    }

    /// Proves that interfaces are read when they matter, once a minute at most, and that an error keeps what was read.
    #[test]
    fn interfaces_are_read_again() {
        let reads = Rc::new(Cell::new(0));
        let counted = reads.clone();
        let ourselves = Ourselves::new(Vec::new(), &["[::]:25".parse().unwrap()], move || {
            counted.set(counted.get() + 1);
            match counted.get() {
                1 => Ok(Vec::new()),
                2 => Ok(vec!["192.0.2.1".parse().unwrap()]),
                _ => Err(io::ErrorKind::Other.into()),
            }
        });
        let own = |second| ourselves.is_own("192.0.2.1:25".parse().unwrap(), at(second));
        assert!(is_own(&ourselves, "127.0.0.1:25") && !is_own(&ourselves, "192.0.2.1:26"));
        assert_eq!(reads.get(), 0);
        assert!(!own(0) && !own(59));
        assert_eq!(reads.get(), 1);
        assert!(own(60) && own(120));
        assert_eq!(reads.get(), 3);
    }
}
