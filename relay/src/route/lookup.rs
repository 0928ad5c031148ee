//! The DNS questions behind a route. Runs on the resolver's control thread; knows nothing of caches.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::lookup::Lookup;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::budget::Budget;
use super::question::{Failure, Found, FoundHost, Outcome, Question};
use super::servers::{Answer, Servers, Unanswered};

/// MX hosts of one domain that we look up and try; those behind are left out.
const HOSTS_MAX: usize = 32;
/// Addresses of one host that we try.
const ADDRESSES_MAX: usize = 16;
/// Hosts of one domain whose addresses are looked up at the same time, so that nobody's MX records make a flood.
const HOSTS_AT_ONCE: usize = 8;
/// How long a negative answer without SOA is believed (RFC 2308, section 5, would not cache it at all).
const UNPROVEN_TTL: Duration = Duration::from_secs(30);
/// A route of which a part could not be resolved is asked for again after this time at the latest.
const PARTIAL_TTL: Duration = Duration::from_secs(60);

/// Asks the DNS.
pub(super) async fn answer(servers: &Arc<Servers>, budget: &Arc<Budget>, question: &Question) -> Outcome {
    let asking = Asking { servers: servers.clone(), budget: budget.clone() };
    match question {
        Question::Domain(domain) => domain_hosts(&asking, domain).await,
        Question::Hosts(names) => {
            let hosts = names.iter().zip(0..).map(|(name, preference)| (preference, name.clone())).collect();
            // A wrong line in our configuration is no reason to give mail back.
            addresses_of(&asking, hosts, Duration::MAX, "the static route").await.map_err(no_proof)
        }
    }
}

/// Who is asked, and how much at a time.
#[derive(Clone)]
struct Asking {
    servers: Arc<Servers>,
    budget: Arc<Budget>,
}

impl Asking {
    async fn lookup(&self, name: Name, kind: RecordType) -> Result<Answer, Unanswered> {
        self.servers.lookup(name, kind, &self.budget).await
    }
}

/// What proves nothing sends no mail back.
fn no_proof(failure: Failure) -> Failure {
    match failure {
        Failure::NoSuchDomain { reason, .. } => Failure::Temporary { reason },
        other => other,
    }
}

async fn domain_hosts(asking: &Asking, domain: &str) -> Outcome {
    let Some(name) = absolute(domain) else {
        return Err(Failure::NoSuchDomain {
            reason: format!("{domain} is not a domain name"),
            ttl: UNPROVEN_TTL,
        });
    };
    let implicit = || vec![(0, domain.to_owned())];
    match asking.lookup(name, RecordType::MX).await {
        Ok(Answer::Records(lookup)) => {
            let (hosts, ttl) = (mail_exchangers(&lookup), ttl_of(&lookup));
            if let [(_, only)] = &hosts[..]
                && only.is_empty()
            {
                return Err(Failure::NullMx { ttl });
            }
            let hosts = best_hosts(hosts);
            let hosts = if hosts.is_empty() { implicit() } else { hosts };
            addresses_of(asking, hosts, ttl, domain).await
        }
        Ok(Answer::NoData { ttl }) => addresses_of(asking, implicit(), ttl, domain).await,
        // Not cached (RFC 2308, section 5), and whatever its addresses are: that there is no MX is not known for sure.
        Ok(Answer::Unproven) => {
            addresses_of(asking, implicit(), Duration::ZERO, domain).await.map_err(no_proof)
        }
        Ok(Answer::NoSuchName { ttl }) => Err(Failure::NoSuchDomain {
            reason: format!("domain {domain} does not exist"),
            ttl: ttl.unwrap_or(UNPROVEN_TTL),
        }),
        Err(unanswered) => Err(unanswered.of(&format!("MX lookup of {domain}"))),
    }
}

/// By preference, each host once, at its better preference.
fn best_hosts(mut hosts: Vec<(u16, String)>) -> Vec<(u16, String)> {
    // A "." beside real hosts is against RFC 7505, section 3, and no host.
    hosts.retain(|(_, host)| !host.is_empty());
    hosts.sort();
    hosts.truncate(HOSTS_MAX);
    let mut named = Vec::with_capacity(hosts.len());
    hosts.retain(|(_, host)| {
        !named.contains(host) && {
            named.push(host.clone());
            true
        }
    });
    hosts
}

/// Preference and name, lower case and without the last dot, so that the root is the empty name.
fn mail_exchangers(lookup: &Lookup) -> Vec<(u16, String)> {
    let records = lookup.answers().iter();
    let exchangers = records.filter_map(|record| match &record.data {
        RData::MX(mx) => {
            let mut host = mx.exchange.to_lowercase().to_ascii();
            if host.ends_with('.') {
                host.pop();
            }
            Some((mx.preference, host))
        }
        _ => None,
    });
    exchangers.collect()
}

async fn addresses_of(asking: &Asking, hosts: Vec<(u16, String)>, ttl: Duration, whose: &str) -> Outcome {
    let mut found: Vec<FoundHost> = hosts
        .into_iter()
        .map(|(preference, name)| FoundHost { name, preference, addresses: Vec::new() })
        .collect();
    let deadline = Instant::now() + asking.servers.limit() * 2;
    let (mut ttl, mut failed, mut proven) = (ttl, None, true);
    let (mut lookups, mut next) = (JoinSet::new(), 0);
    loop {
        while lookups.len() < HOSTS_AT_ONCE && next < found.len() {
            let (asking, host, index) = (asking.clone(), found[next].name.clone(), next);
            lookups.spawn(async move { (index, host_addresses(&asking, &host).await) });
            next += 1;
        }
        let (index, addresses) = match timeout_at(deadline, lookups.join_next()).await {
            Ok(Some(Ok(joined))) => joined,
            Ok(None) => break,
            Ok(Some(Err(_))) => {
                failed = Some(Failure::Temporary { reason: "the lookup was cut short".to_owned() });
                continue;
            }
            Err(_) => {
                ttl = ttl.min(PARTIAL_TTL);
                failed =
                    Some(Failure::Temporary { reason: format!("{whose}: the name servers took too long") });
                break;
            }
        };
        match addresses {
            HostAddresses::Found { addresses, ttl: host_ttl } => {
                found[index].addresses = addresses;
                ttl = ttl.min(host_ttl);
            }
            HostAddresses::None { ttl: host_ttl } => ttl = ttl.min(host_ttl),
            HostAddresses::Unproven => {
                ttl = ttl.min(PARTIAL_TTL);
                proven = false;
            }
            HostAddresses::Failed(failure) => {
                ttl = ttl.min(PARTIAL_TTL);
                failed = Some(failure);
            }
        }
    }
    if found.iter().any(|host| !host.addresses.is_empty()) {
        return Ok(Found { hosts: found, ttl });
    }
    Err(match failed {
        Some(failure) => failure,
        None if !proven => {
            Failure::Temporary { reason: format!("{whose}: the name servers' empty answers prove nothing") }
        }
        None => Failure::NoSuchDomain { reason: format!("{whose} has no host with an address"), ttl },
    })
}

enum HostAddresses {
    Found {
        addresses: Vec<IpAddr>,
        ttl: Duration,
    },
    /// Proven: by NXDOMAIN, or by a SOA for each type.
    None {
        ttl: Duration,
    },
    Unproven,
    Failed(Failure),
}

async fn host_addresses(asking: &Asking, host: &str) -> HostAddresses {
    if let Ok(address) = host.parse::<IpAddr>() {
        return HostAddresses::Found { addresses: vec![address], ttl: Duration::MAX };
    }
    let Some(name) = absolute(host) else {
        return HostAddresses::None { ttl: UNPROVEN_TTL };
    };
    let (v4, v6) =
        tokio::join!(asking.lookup(name.clone(), RecordType::A), asking.lookup(name, RecordType::AAAA));
    let (mut addresses, mut ttl, mut failed) = (Vec::new(), Duration::MAX, None);
    let (mut no_such_name, mut absent) = (false, 0);
    for (kind, result) in [("A", v4), ("AAAA", v6)] {
        match result {
            Ok(Answer::Records(lookup)) => {
                ttl = ttl.min(ttl_of(&lookup));
                addresses.extend(lookup.answers().iter().filter_map(|record| match &record.data {
                    RData::A(v4) => Some(IpAddr::V4(v4.0)),
                    RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
                    _ => None,
                }));
            }
            Ok(Answer::NoSuchName { ttl: negative }) => {
                ttl = ttl.min(negative.unwrap_or(UNPROVEN_TTL));
                no_such_name = true;
            }
            Ok(Answer::NoData { ttl: negative }) => {
                ttl = ttl.min(negative);
                absent += 1;
            }
            Ok(Answer::Unproven) => ttl = ttl.min(UNPROVEN_TTL),
            Err(unanswered) => {
                ttl = ttl.min(PARTIAL_TTL);
                failed = Some(unanswered.of(&format!("{kind} lookup of {host}")));
            }
        }
    }
    addresses.truncate(ADDRESSES_MAX);
    match failed {
        _ if !addresses.is_empty() => HostAddresses::Found { addresses, ttl },
        Some(failure) => HostAddresses::Failed(failure),
        None if no_such_name || absent == 2 => HostAddresses::None { ttl },
        None => HostAddresses::Unproven,
    }
}

fn ttl_of(lookup: &Lookup) -> Duration {
    let least = lookup.answers().iter().map(|record| record.ttl).min();
    Duration::from_secs(u64::from(least.unwrap_or(0)))
}

/// The name with the dot that keeps search lists away; `None` if it is no domain name.
fn absolute(name: &str) -> Option<Name> {
    let mut name = Name::from_ascii(name).ok()?;
    name.set_fqdn(true);
    (name.num_labels() > 0).then_some(name)
}
