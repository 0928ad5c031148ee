//! Values that a person writes in the configuration: durations, sizes, addresses, networks.
//!
//! Each is parsed once, here, into a type that cannot be wrong afterwards. A bad value becomes one line that
//! says what was expected, with an example.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use chasqui_protocol::smtp::address::Mailbox;
use ipnet::{IpNet, Ipv4Net};
use serde::Deserializer;
use serde::de::{Deserialize, Error, Visitor};

/// A value written as a string.
pub(super) trait Written: Sized {
    /// What a reader of the error needs: the kind of value and an example.
    const EXPECTED: &'static str;
    /// `None`: the text is no such value.
    fn parse(text: &str) -> Option<Self>;
}

/// Serde's view of a [`Written`] value.
pub(super) struct AsWritten<T>(pub(super) T);

impl<'de, T: Written> Deserialize<'de> for AsWritten<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(PhantomData<T>);
        impl<T: Written> Visitor<'_> for Text<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
                T::parse(text).ok_or_else(|| E::custom(format!("`{text}` is not {}", T::EXPECTED)))
            }
        }
        deserializer.deserialize_str(Text(PhantomData)).map(AsWritten)
    }
}

/// `deserialize_with` of one value.
pub(super) fn one<'de, D: Deserializer<'de>, T: Written>(deserializer: D) -> Result<T, D::Error> {
    AsWritten::<T>::deserialize(deserializer).map(|value| value.0)
}

/// `deserialize_with` of a value that may be left out.
pub(super) fn optional<'de, D: Deserializer<'de>, T: Written>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    one(deserializer).map(Some)
}

/// `deserialize_with` of a list of values.
pub(super) fn list<'de, D: Deserializer<'de>, T: Written>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Vec::<AsWritten<T>>::deserialize(deserializer)
        .map(|values| values.into_iter().map(|value| value.0).collect())
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

impl Written for Duration {
    const EXPECTED: &'static str = "a duration such as \"250ms\", \"30s\", \"5m\", \"4h\" or \"5d\"";
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = number_and_unit(text)?;
        let seconds = match unit {
            "ms" => return Some(Duration::from_millis(number)),
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        // 100 years: whatever is longer is a slip of the finger and would overflow sums of times.
        number.checked_mul(seconds).filter(|&s| s <= 100 * 365 * 86_400).map(Duration::from_secs)
    }
}

/// A size in octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        let whole =
            units.into_iter().find(|(_, shift)| self.0 >> shift != 0 && self.0.is_multiple_of(1 << shift));
        match whole {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Written for Size {
    const EXPECTED: &'static str = "a size such as \"512B\", \"64KiB\", \"25MiB\" or \"4GiB\"";
    fn parse(text: &str) -> Option<Self> {
        let (number, unit) = number_and_unit(text)?;
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => return None,
        };
        number.checked_mul(1 << shift).filter(|&size| size <= 1 << 50).map(Size)
    }
}

impl Written for SocketAddr {
    const EXPECTED: &'static str =
        "an address with a port such as \"127.0.0.1:25\", \"[::1]:25\" or \"localhost:25\"";
    /// A name is looked up with the system's means; of its addresses the first.
    fn parse(text: &str) -> Option<Self> {
        let named = || {
            let (host, port) = text.rsplit_once(':')?;
            let host = HostName::parse(host)?;
            (host.as_str(), port.parse::<u16>().ok()?).to_socket_addrs().ok()?.next()
        };
        text.parse().ok().or_else(named).map(canonical)
    }
}

/// An IPv4 address that is written as a mapped IPv6 one (RFC 4291 section 2.5.5.2) means the IPv4 address, here and below.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
        IpAddr::V6(_) => address,
    }
}

/// A DNS server: the port may be left out.
pub(super) struct DnsServer(pub(super) SocketAddr);

impl Written for DnsServer {
    const EXPECTED: &'static str = "an IP address such as \"192.0.2.53\" or \"127.0.0.1:5300\"";
    fn parse(text: &str) -> Option<Self> {
        let with_port = text.parse().ok();
        let address = with_port.or_else(|| Some(SocketAddr::new(text.parse().ok()?, 53)));
        address.map(canonical).map(DnsServer)
    }
}

pub(super) fn dns_servers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SocketAddr>, D::Error> {
    list::<D, DnsServer>(deserializer).map(|servers| servers.into_iter().map(|server| server.0).collect())
}

impl Written for IpAddr {
    const EXPECTED: &'static str = "an IP address such as \"192.0.2.1\"";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(|address: IpAddr| address.to_canonical())
    }
}

/// Bits before the IPv4 address in a mapped one.
const MAPPED_PREFIX: u8 = 96;

impl Written for IpNet {
    const EXPECTED: &'static str = "a network such as \"192.0.2.0/24\", \"2001:db8::/32\" or \"192.0.2.1\"";
    fn parse(text: &str) -> Option<Self> {
        let network = text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
        let IpNet::V6(v6) = network else { return Some(network) };
        match v6.addr().to_ipv4_mapped() {
            // With less than the prefix of all mapped addresses it is neither IPv4's nor anybody's.
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len().checked_sub(MAPPED_PREFIX)?).ok().map(IpNet::V4),
            None => Some(network),
        }
    }
}

impl Written for PathBuf {
    const EXPECTED: &'static str = "a path such as \"/var/spool/chasqui\"";
    fn parse(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| PathBuf::from(text))
    }
}

/// A host name: letters, digits, hyphens and dots.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// As written, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Written for HostName {
    const EXPECTED: &'static str = "a host name such as \"relay.example.org\"";
    fn parse(text: &str) -> Option<Self> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let fine = text.len() <= 253 && text.split('.').all(label);
        fine.then(|| HostName(text.to_ascii_lowercase()))
    }
}

/// A mail address, checked for what a header field needs: one `@`, a host name after it, no white space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Written for Address {
    const EXPECTED: &'static str = "a mail address such as \"postmaster@example.org\"";
    fn parse(text: &str) -> Option<Self> {
        let (local, domain) = text.split_once('@')?;
        HostName::parse(domain)?;
        Mailbox::parse(text.as_bytes()).ok()?;
        let atom = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b);
        local.bytes().all(atom).then(|| Address(text.to_owned()))
    }
}

/// A next hop of a static route: a host name or an address, with an optional port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextHop {
    /// Host name in lower case, or an address without brackets.
    pub host: String,
    /// `None`: `delivery.port`.
    pub port: Option<u16>,
}

impl Written for NextHop {
    const EXPECTED: &'static str =
        "a next hop such as \"mx.example.org\", \"192.0.2.1:2525\" or \"[2001:db8::1]:25\"";
    fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            let host = address.ip().to_canonical().to_string();
            return Some(NextHop { host, port: Some(address.port()) });
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return Some(NextHop { host: ip.to_canonical().to_string(), port: None });
        }
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port.parse().ok().filter(|&port| port != 0)?)),
            None => (text, None),
        };
        let host = HostName::parse(host)?.0;
        // Not the DNS's to know (RFC 6761 section 6.3).
        let is_here = host == "localhost" || host.ends_with(".localhost");
        Some(NextHop { host: if is_here { Ipv4Addr::LOCALHOST.to_string() } else { host }, port })
    }
}

/// A key of the static routes: a domain or `*`, in lower case.
pub(super) fn route_domain(text: &str) -> Option<String> {
    if text == "*" { Some(text.to_owned()) } else { HostName::parse(text).map(|name| name.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Durations and sizes are read with every unit, and nonsense is refused.
    #[test]
    fn durations_and_sizes() {
        assert_eq!(Duration::parse("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(Duration::parse("5m"), Some(Duration::from_secs(300)));
        assert_eq!(Duration::parse("5d"), Some(Duration::from_secs(432_000)));
        for bad in ["", "5", "m", "-5m", "5 weeks", "1.5h", "99999999999999999999s", "99999999d"] {
            assert_eq!(Duration::parse(bad), None, "{bad}");
        }
        assert_eq!(Size::parse("25MiB"), Some(Size(25 << 20)));
        assert_eq!(Size::parse("64 KiB"), Some(Size(64 << 10)));
        for bad in ["", "25", "25MB", "MiB", "99999999TiB"] {
            assert_eq!(Size::parse(bad), None, "{bad}");
        }
    }

    /// Next hops are hosts or addresses, with or without a port.
    #[test]
    fn next_hops() {
        let hop = |host: &str, port| Some(NextHop { host: host.to_owned(), port });
        assert_eq!(NextHop::parse("MX.example.org"), hop("mx.example.org", None));
        assert_eq!(NextHop::parse("mx.example.org:2525"), hop("mx.example.org", Some(2525)));
        assert_eq!(NextHop::parse("Localhost:2525"), hop("127.0.0.1", Some(2525)));
        assert_eq!(NextHop::parse("mail.localhost"), hop("127.0.0.1", None));
        assert_eq!(NextHop::parse("192.0.2.1:25"), hop("192.0.2.1", Some(25)));
        assert_eq!(NextHop::parse("[2001:db8::1]:25"), hop("2001:db8::1", Some(25)));
        assert_eq!(NextHop::parse("[2001:db8::1]"), hop("2001:db8::1", None));
        assert_eq!(NextHop::parse("[::ffff:192.0.2.1]:25"), hop("192.0.2.1", Some(25)));
        assert_eq!(NextHop::parse("::ffff:192.0.2.1"), hop("192.0.2.1", None));
        for bad in ["", "mx example", "mx:0", "mx:port", "-mx"] {
            assert_eq!(NextHop::parse(bad), None, "{bad}");
        }
    }

    /// IPv4 written as mapped IPv6 means the IPv4, in networks and in addresses.
    #[test]
    fn mapped_addresses() {
        for (written, meant) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("::ffff:c000:201/128", "192.0.2.1/32"),
            ("::/0", "::/0"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(IpNet::parse(written), meant.parse().ok(), "{written}");
        }
        assert_eq!(IpNet::parse("::ffff:10.0.0.0/90"), None, "neither IPv4 nor IPv6");
        let address = |text: &str| text.parse::<SocketAddr>().ok();
        assert_eq!(SocketAddr::parse("[::ffff:127.0.0.1]:25"), address("127.0.0.1:25"));
        assert_eq!(SocketAddr::parse("[fe80::1%3]:25"), address("[fe80::1%3]:25"));
        assert_eq!(DnsServer::parse("::ffff:192.0.2.53").map(|server| server.0), address("192.0.2.53:53"));
        assert_eq!(IpAddr::parse("::ffff:192.0.2.1"), "192.0.2.1".parse().ok());
    }

    /// A listener may be named; where an IP address alone will do, a name is refused.
    #[test]
    fn host_names() {
        let named = SocketAddr::parse("localhost:25").expect("every machine has this name");
        assert!(named.ip().is_loopback() && named.port() == 25);
        for bad in ["localhost", "localhost:", "localhost:99999", ":25", "no such:25", "name.invalid:25"] {
            assert_eq!(SocketAddr::parse(bad), None, "{bad}");
        }
        assert!(DnsServer::parse("localhost").is_none() && IpAddr::parse("localhost").is_none());
    }
}
