//! From what the DNS found to a [`Route`]: loop removal, shuffling, ports and the site's name.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use chasqui_runtime::Instant;

use crate::config::TlsPolicy;

use super::ourselves::Ourselves;
use super::question::Found;
use super::{Host, Route, RouteError, SiteKey};

/// Shortest and longest time that an answer is used.
const TTL_MIN: Duration = Duration::from_secs(1);
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);

/// What stays the same for every route of a router.
pub(super) struct Rules<'a> {
    pub(super) port: u16,
    /// Per host, by index: overrides the port (static routes).
    pub(super) ports: &'a [Option<u16>],
    /// Absent for static routes, which go where they say.
    pub(super) ourselves: Option<&'a Ourselves>,
    pub(super) tls: TlsPolicy,
    /// Sites with this policy do not have it in their names.
    pub(super) usual_tls: TlsPolicy,
}

/// Makes the route; `below(n)` gives a random number under `n`.
pub(super) fn route(
    found: Found,
    rules: Rules<'_>,
    now: Instant,
    mut below: impl FnMut(u64) -> u64,
) -> Result<Route, RouteError> {
    let expires = now + clamp(found.ttl);
    let mut hosts: Vec<Host> = Vec::with_capacity(found.hosts.len());
    for (index, host) in found.hosts.into_iter().enumerate() {
        let port = rules.ports.get(index).copied().flatten().unwrap_or(rules.port);
        let addresses = host.addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        hosts.push(Host { name: host.name, preference: host.preference, addresses });
    }
    if let Some(ourselves) = rules.ourselves {
        remove_loops(&mut hosts, ourselves, now)?;
    }
    let site = site_key(&hosts, &rules);
    hosts.retain(|host| !host.addresses.is_empty());
    if hosts.is_empty() {
        // We stand behind hosts that have no address now.
        return Err(RouteError::Temporary("no better mail exchanger than ourselves has an address".into()));
    }
    for host in &mut hosts {
        host.addresses.sort_by_key(SocketAddr::is_ipv6);
        let v4 = host.addresses.iter().filter(|address| address.is_ipv4()).count();
        let (v4, v6) = host.addresses.split_at_mut(v4);
        shuffle(v4, &mut below);
        shuffle(v6, &mut below);
    }
    for equal in hosts.chunk_by_mut(|one, next| one.preference == next.preference) {
        shuffle(equal, &mut below);
    }
    Ok(Route { hosts, site, tls: rules.tls, expires })
}

/// Reads `[192.0.2.1]` and `[ipv6:2001:db8::1]` (RFC 5321, section 4.1.3).
pub(super) fn parse_literal(domain_lower: &str) -> Option<IpAddr> {
    let inside = domain_lower.strip_prefix('[')?.strip_suffix(']')?;
    match inside.strip_prefix("ipv6:") {
        Some(v6) => v6.parse().ok().map(IpAddr::V6),
        None => inside.parse().ok().map(IpAddr::V4),
    }
}

/// How long an answer is used, whatever its records say.
pub(super) fn clamp(ttl: Duration) -> Duration {
    ttl.clamp(TTL_MIN, TTL_MAX)
}

/// RFC 5321, section 5.1: when we are among the hosts, those at our preference or behind it are out.
fn remove_loops(hosts: &mut Vec<Host>, ourselves: &Ourselves, now: Instant) -> Result<(), RouteError> {
    let own = hosts.iter().filter(|host| ourselves.is_host(host, now)).map(|host| host.preference).min();
    let Some(own) = own else { return Ok(()) };
    hosts.retain(|host| host.preference < own);
    if hosts.is_empty() { Err(RouteError::LoopsBackToUs) } else { Ok(()) }
}

/// The MX set as it is published, in an order that does not depend on the answer's.
fn site_key(hosts: &[Host], rules: &Rules<'_>) -> SiteKey {
    let port = rules.port;
    let mut names: Vec<_> = hosts
        .iter()
        .map(|host| (host.preference, &host.name, host.addresses.first().map_or(port, SocketAddr::port)))
        .collect();
    names.sort_unstable();
    let parts: Vec<_> =
        names.iter().map(|(preference, name, port)| format!("{preference} {name}:{port}")).collect();
    let mut name = parts.join(",");
    if rules.tls != rules.usual_tls {
        name.extend([" tls ", rules.tls.name()]);
    }
    SiteKey(Arc::from(name))
}

/// Fisher and Yates.
fn shuffle<T>(items: &mut [T], below: &mut impl FnMut(u64) -> u64) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(last as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::super::question::FoundHost;
    use super::*;

    const TTL: Duration = Duration::from_secs(300);

    fn plain_rules() -> Rules<'static> {
        let tls = TlsPolicy::default();
        Rules { port: 25, ports: &[], ourselves: None, tls, usual_tls: tls }
    }

    /// Preference, name, addresses.
    type Published = (u16, &'static str, &'static [&'static str]);

    fn found(hosts: &[Published]) -> Found {
        let hosts = hosts.iter().map(|(preference, name, addresses)| FoundHost {
            name: (*name).to_owned(),
            preference: *preference,
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        });
        Found { hosts: hosts.collect(), ttl: TTL }
    }

    fn ourselves() -> Ourselves {
        Ourselves::new(vec!["us.test".to_owned()], &["192.0.2.9:25".parse().unwrap()], || Ok(Vec::new()))
    }

    fn build(found: Found, below: impl FnMut(u64) -> u64) -> Result<Route, RouteError> {
        let rules = Rules { port: 25, ports: &[], ourselves: Some(&ourselves()), ..plain_rules() };
        route(found, rules, Instant::from_nanos(0), below)
    }

    fn names(route: &Route) -> Vec<&str> {
        route.hosts.iter().map(|host| host.name.as_str()).collect()
    }

    /// Proves that every order within equal preference comes up, and that preferences are never mixed.
    #[test]
    fn equal_preferences_are_shuffled() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..64 {
            let mut random = chasqui_runtime::SeededRng::new(seed);
            let hosts: &[Published] = &[
                (5, "first", &["192.0.2.1"]),
                (10, "a", &["192.0.2.2"]),
                (10, "b", &["192.0.2.3"]),
                (10, "c", &["192.0.2.4"]),
                (20, "last", &["192.0.2.5"]),
            ];
            let route = build(found(hosts), |bound| random.below(bound)).unwrap();
            assert_eq!((names(&route)[0], names(&route)[4]), ("first", "last"));
            seen.insert(names(&route)[1..4].join(" "));
        }
        assert_eq!(seen.len(), 6);
    }

    /// Proves that we, by name or by address, and all hosts at our preference or behind it are left out.
    #[test]
    fn loops_are_removed() {
        for us in [(20, "us.test", &[][..]), (20, "alias.test", &["192.0.2.9"][..])] {
            let hosts = [
                (10, "better", &["192.0.2.1"][..]),
                us,
                (20, "equal", &["192.0.2.2"][..]),
                (30, "worse", &["192.0.2.3"][..]),
            ];
            assert_eq!(names(&build(found(&hosts), |_| 0).unwrap()), ["better"]);
            assert_eq!(build(found(&hosts[1..]), |_| 0).unwrap_err(), RouteError::LoopsBackToUs);
        }
        // Another port of our address is another server.
        let rules = Rules { port: 2525, ports: &[], ourselves: Some(&ourselves()), ..plain_rules() };
        assert!(route(found(&[(1, "x", &["192.0.2.9"])]), rules, Instant::from_nanos(0), |_| 0).is_ok());
        // Better hosts without addresses are no reason to loop, nor to give up.
        let hosts: &[Published] = &[(1, "better", &[]), (2, "us.test", &["192.0.2.9"])];
        assert!(matches!(build(found(hosts), |_| 0), Err(RouteError::Temporary(_))));
    }

    /// Proves that a site is its MX set, whatever the order of the answer, and that ports tell sites apart.
    #[test]
    fn same_mx_set_same_site() {
        let (a, b): (Published, Published) = ((10, "a", &["192.0.2.1"]), (10, "b", &["192.0.2.2"]));
        let site = |hosts: &[Published]| build(found(hosts), |_| 0).unwrap().site;
        assert_eq!(site(&[a, b]), site(&[b, a]));
        assert_ne!(site(&[a, b]), site(&[a]));
        assert_ne!(site(&[a]), site(&[(20, "a", &["192.0.2.1"])]));
        let rules = Rules { port: 25, ports: &[Some(26)], ..plain_rules() };
        assert_ne!(site(&[a]), route(found(&[a]), rules, Instant::from_nanos(0), |_| 0).unwrap().site);
    }

    /// Proves that IPv4 comes before IPv6, that the port is set, and that the TTL has bounds.
    #[test]
    fn addresses_ports_and_expiry() {
        let hosts: &[Published] = &[(10, "a", &["2001:db8::1", "192.0.2.1"])];
        let route = build(found(hosts), |_| 0).unwrap();
        let addresses: Vec<_> = route.hosts[0].addresses.iter().map(SocketAddr::to_string).collect();
        assert_eq!(addresses, ["192.0.2.1:25", "[2001:db8::1]:25"]);
        assert_eq!(route.expires, Instant::from_nanos(0) + TTL);
        assert_eq!(clamp(Duration::ZERO), TTL_MIN);
        assert_eq!(clamp(Duration::MAX), TTL_MAX);
    }

    /// Proves which address literals are understood.
    #[test]
    fn literals() {
        assert_eq!(parse_literal("[192.0.2.1]"), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(parse_literal("[ipv6:2001:db8::1]"), Some("2001:db8::1".parse().unwrap()));
        for other in ["192.0.2.1", "[192.0.2]", "[2001:db8::1]", "[tag:x]", "[]", "["] {
            assert_eq!(parse_literal(other), None, "{other}");
        }
    }
}
