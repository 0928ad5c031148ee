//! Values on the command line that no library below parses.

use chasqui_loadgen::Target;
use chasqui_protocol::sasl::mechanism::{Mechanism, Mechanisms};
use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

/// Units of time on the command line.
const UNITS: &[(&str, f64)] = &[("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
/// The longest time that an option takes: a year.
const LONGEST_S: f64 = 365.0 * 86_400.0;

/// A value that cannot be read. One line: what was written, and how to write it. The user mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ValueError(pub(crate) String);

impl Display for ValueError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for ValueError {}

/// Parses a length of time such as `500ms`, `20s`, `1.5m` or `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, ValueError> {
    let wrong = || ValueError(format!("`{text}` is not a length of time: write 500ms, 20s, 5m or 1h"));
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = text.split_at(digits);
    let (_, unit_s) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let seconds = number.parse::<f64>().map_err(|_| wrong())? * unit_s;
    if seconds > LONGEST_S {
        return Err(ValueError(format!("`{text}` is over a year: write less")));
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Parses a count of at least one.
pub(crate) fn count(text: &str) -> Result<usize, ValueError> {
    match text.parse() {
        Ok(0) | Err(_) => Err(ValueError(format!("`{text}` is not a count: write a whole number from 1 up"))),
        Ok(count) => Ok(count),
    }
}

/// The integers that options take, each with its largest.
pub(crate) trait Whole: FromStr + Display {
    const MAX: Self;
}

macro_rules! whole {
    ($($kind:ident)*) => { $(impl Whole for $kind { const MAX: Self = $kind::MAX; })* };
}

whole!(u16 u32 u64 usize);

/// Parses a whole number from 0 to the largest of its kind.
pub(crate) fn number<T: Whole>(text: &str) -> Result<T, ValueError> {
    text.parse().map_err(|_| {
        ValueError(format!("`{text}` is no such number: write a whole number from 0 to {}", T::MAX))
    })
}

/// Parses an address with its port, `192.0.2.1:25` or `mail.example.org:25`; of a name's addresses the first.
pub(crate) fn address(text: &str) -> Result<SocketAddr, ValueError> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (name, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if name.is_empty() || name.contains(':') || port.parse::<u16>().is_err() {
        let how = "write IP:PORT or NAME:PORT, such as 127.0.0.1:25";
        return Err(ValueError(format!("`{text}` is no address: {how}")));
    }
    first_of(name, text)
}

/// Parses an address as [`address`] does, and keeps the name that was written: a certificate must have it.
pub(crate) fn target(text: &str) -> Result<Target, ValueError> {
    let address = address(text)?;
    match text.parse::<SocketAddr>() {
        Ok(_) => Ok(Target::from(address)),
        Err(_) => {
            let name = text.rsplit_once(':').map_or(text, |(name, _port)| name).to_owned();
            Ok(Target { address, name })
        }
    }
}

/// Parses the name of a mechanism of SASL.
pub(crate) fn mechanism(text: &str) -> Result<Mechanism, ValueError> {
    Mechanism::from_name(text.as_bytes())
        .ok_or_else(|| ValueError(format!("`{text}` is not spoken here: write one of {}", Mechanisms::ALL)))
}

/// Parses an address without a port, `192.0.2.1` or `mail.example.org`; of a name's addresses the first.
pub(crate) fn ip(text: &str) -> Result<IpAddr, ValueError> {
    if let Ok(ip) = text.parse() {
        return Ok(ip);
    }
    if text.is_empty() || text.contains(':') {
        let how = "write an IP address or a host name, such as 127.0.1.1";
        return Err(ValueError(format!("`{text}` is no address: {how}")));
    }
    first_of(text, (text, 0)).map(|address| address.ip())
}

/// The first address that the system finds for a name.
fn first_of(name: &str, place: impl ToSocketAddrs) -> Result<SocketAddr, ValueError> {
    let mut addresses =
        place.to_socket_addrs().map_err(|error| ValueError(format!("`{name}` has no address: {error}")))?;
    addresses.next().ok_or_else(|| ValueError(format!("`{name}` has no address")))
}

/// Parses a share such as `0.02` or `2%`.
pub(crate) fn share(text: &str) -> Result<f64, ValueError> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number.trim_end(), 0.01));
    match number.parse::<f64>() {
        Ok(number) if (0.0..=1.0).contains(&(number * unit)) => Ok(number * unit),
        _ => Err(ValueError(format!("`{text}` is not a share: write a number from 0 to 1, or 2%"))),
    }
}

/// Parses a list of cores such as `0`, `0,2` or `0-3,6`.
pub(crate) fn cores(text: &str) -> Result<Cores, ValueError> {
    let wrong = || ValueError(format!("`{text}` is not a list of cores: write 0,2 or 0-3"));
    let mut list = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) =
            (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
        if first > last || last >= Cores::MAX {
            return Err(wrong());
        }
        list.extend(first..=last);
    }
    Ok(Cores(list))
}

/// Cores that shards run on, one shard each; a core may stand twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cores(pub(crate) Vec<usize>);

impl Cores {
    /// More than any machine has: Linux on x86-64 counts no more than 8,192 (CONFIG_NR_CPUS), and few builds that many.
    const MAX: usize = 4096;
}

impl Display for Cores {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list: Vec<String> = self.0.iter().map(usize::to_string).collect();
        formatter.write_str(&list.join(","))
    }
}

#[cfg(test)]
mod tests {
    //! Prove: what the help shows parses, and everything else is refused with a fix.
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "20", "s", "-1s", "1d", "1e9s", "1.2.3s", "9999999h", "20 s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers() {
        assert_eq!(number::<u16>("65535"), Ok(65535));
        for wrong in ["", "-1", "65536", "1.5", "x"] {
            let refusal = number::<u16>(wrong).expect_err("refused");
            assert!(refusal.0.ends_with("write a whole number from 0 to 65535"), "{refusal}");
        }
    }

    #[test]
    fn addresses() {
        assert!(ip("localhost").is_ok_and(|ip| ip.is_loopback()));
        assert_eq!(
            (ip("127.0.1.1"), ip("::1")),
            (Ok([127, 0, 1, 1].into()), Ok(std::net::Ipv6Addr::LOCALHOST.into()))
        );
        for bad in ["", "127.0.0.1:25", "name.invalid", "no such"] {
            assert!(ip(bad).is_err_and(|error| error.0.contains("address")), "{bad}");
        }
        assert_eq!(address("127.0.0.1:25"), Ok(SocketAddr::from(([127, 0, 0, 1], 25))));
        assert!(address("localhost:110").is_ok_and(|found| found.ip().is_loopback() && found.port() == 110));
        let name = |text: &str| target(text).expect("an address").name;
        assert_eq!(
            ["localhost:25", "127.0.0.1:25", "[::1]:25"].map(name),
            ["localhost", "127.0.0.1", "::1"].map(String::from)
        );
        for wrong in ["", "localhost", ":25", "127.0.0.1", "localhost:x", "localhost:99999", "::1:25"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mechanisms() {
        assert_eq!(mechanism("scram-sha-256"), Ok(Mechanism::ScramSha256));
        assert!(mechanism("CRAM-MD5").is_err_and(|error| error.0.contains("SCRAM-SHA-256 PLAIN LOGIN")));
    }

    #[test]
    fn shares() {
        assert_eq!(
            (share("0"), share("0.5"), share("1"), share("2%")),
            (Ok(0.0), Ok(0.5), Ok(1.0), Ok(0.02))
        );
        for wrong in ["", "%", "1.1", "101%", "-0.1", "NaN", "few"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn core_lists() {
        assert_eq!(cores("0-2,5").map(|cores| cores.0), Ok(vec![0, 1, 2, 5]));
        assert_eq!(cores("1,1").map(|cores| cores.0), Ok(vec![1, 1]));
        for wrong in ["", "a", "2-1", "0-99999", "1,"] {
            assert!(cores(wrong).is_err(), "{wrong}");
        }
    }
}
