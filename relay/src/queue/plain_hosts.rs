//! Hosts whose TLS does not work, to which mail goes in plaintext for a while where that is allowed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use chasqui_runtime::Instant;

/// How long a host is spoken to in plaintext after a failed handshake: its operator mends it in hours, and a try costs every
/// connection a second one.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// Hosts that are remembered; beyond them the one that failed first is forgotten. 64 octets each.
const HOSTS_MAX: usize = 10_000;

/// Hosts whose handshakes failed, by address.
#[derive(Debug, Default)]
pub(crate) struct PlainHosts(BTreeMap<SocketAddr, Instant>);

impl PlainHosts {
    /// A handshake has failed.
    pub(crate) fn add(&mut self, host: SocketAddr, now: Instant) {
        self.0.insert(host, now + REMEMBERED);
        if self.0.len() > HOSTS_MAX {
            self.0.retain(|_, until| *until > now);
            while self.0.len() > HOSTS_MAX
                && let Some(first) = self.0.iter().min_by_key(|(_, until)| **until).map(|(host, _)| *host)
            {
                self.0.remove(&first);
            }
        }
    }

    /// Whether one has failed not long ago.
    pub(crate) fn contains(&mut self, host: SocketAddr, now: Instant) -> bool {
        match self.0.get(&host) {
            Some(until) if *until > now => true,
            Some(_) => {
                self.0.remove(&host);
                false
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(number: u32) -> SocketAddr {
        SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + number), 25))
    }

    /// A host is remembered for an hour, and of too many the first are forgotten.
    #[test]
    fn hosts_are_remembered_for_a_while() {
        let (mut hosts, begun) = (PlainHosts::default(), Instant::from_nanos(0));
        for number in 0..=HOSTS_MAX as u32 {
            hosts.add(host(number), begun + Duration::from_millis(number.into()));
        }
        let soon = begun + Duration::from_secs(60);
        assert!(!hosts.contains(host(0), soon));
        assert!(hosts.contains(host(1), soon));
        assert!(hosts.contains(host(HOSTS_MAX as u32), soon));
        assert!(!hosts.contains(host(1), begun + REMEMBERED + Duration::from_millis(1)));
    }
}
