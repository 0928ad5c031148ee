//! The DNS questions behind a route. Runs on the resolver's control thread; knows nothing of caches.

use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::task::JoinSet;

/// MX hosts of one domain that we look up and try; those behind are left out.
const HOSTS_MAX: usize = 32;
/// Addresses of one host that we try.
const ADDRESSES_MAX: usize = 16;
/// How long a negative answer without SOA is believed (RFC 2308, section 5, would not cache it at all).
const UNPROVEN_TTL: Duration = Duration::from_secs(30);
/// A route of which a part could not be resolved is asked for again after this time at the latest.
const PARTIAL_TTL: Duration = Duration::from_secs(60);

/// What a shard wants to know.
#[derive(Debug)]
pub(super) enum Question {
    /// The mail exchangers of a domain.
    Domain(String),
    /// The addresses of the hosts of a static route, in order of preference.
    Hosts(Vec<String>),
}

/// What the DNS says.
pub(super) type Outcome = Result<Found, Failure>;

/// Hosts that take the mail.
#[derive(Debug)]
pub(super) struct Found {
    /// By preference; a host whose addresses could not be found is there without any.
    pub(super) hosts: Vec<FoundHost>,
    /// The least of all that was read.
    pub(super) ttl: Duration,
}

#[derive(Debug)]
pub(super) struct FoundHost {
    pub(super) name: String,
    pub(super) preference: u16,
    pub(super) addresses: Vec<IpAddr>,
}

/// Why there are no hosts.
#[derive(Debug)]
pub(super) enum Failure {
    NullMx { ttl: Duration },
    NoSuchDomain { reason: String, ttl: Duration },
    Temporary { reason: String },
}

/// Asks the DNS.
pub(super) async fn answer(resolver: &TokioResolver, question: Question) -> Outcome {
    match question {
        Question::Domain(domain) => domain_hosts(resolver, &domain).await,
        Question::Hosts(names) => {
            let hosts = names.into_iter().zip(0..).map(|(name, preference)| (preference, name)).collect();
            addresses_of(resolver, hosts, Duration::MAX, "the static route").await.map_err(|failure| {
                // A wrong line in our configuration is no reason to give mail back.
                match failure {
                    Failure::NoSuchDomain { reason, .. } => Failure::Temporary { reason },
                    other => other,
                }
            })
        }
    }
}

async fn domain_hosts(resolver: &TokioResolver, domain: &str) -> Outcome {
    let Some(name) = absolute(domain) else {
        return Err(Failure::NoSuchDomain {
            reason: format!("{domain} is not a domain name"),
            ttl: UNPROVEN_TTL,
        });
    };
    let (mut hosts, ttl) = match resolver.lookup(name, RecordType::MX).await {
        Ok(lookup) => (mail_exchangers(&lookup), ttl_of(&lookup)),
        Err(error) => match negative(error) {
            Negative::NoSuchName { ttl } => {
                return Err(Failure::NoSuchDomain { reason: format!("domain {domain} does not exist"), ttl });
            }
            Negative::NoData { ttl, .. } => (Vec::new(), ttl),
            Negative::Temporary { reason } => {
                return Err(Failure::Temporary { reason: format!("MX lookup of {domain}: {reason}") });
            }
        },
    };
    if let [(_, only)] = &hosts[..]
        && only.is_empty()
    {
        return Err(Failure::NullMx { ttl });
    }
    // A "." beside real hosts is against RFC 7505, section 3, and no host.
    hosts.retain(|(_, host)| !host.is_empty());
    if hosts.is_empty() {
        hosts.push((0, domain.to_owned()));
    }
    hosts.sort();
    hosts.truncate(HOSTS_MAX);
    // A host that is named twice counts at its better preference.
    let mut named = Vec::with_capacity(hosts.len());
    hosts.retain(|(_, host)| {
        !named.contains(host) && {
            named.push(host.clone());
            true
        }
    });
    addresses_of(resolver, hosts, ttl, domain).await
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

async fn addresses_of(
    resolver: &TokioResolver,
    hosts: Vec<(u16, String)>,
    ttl: Duration,
    whose: &str,
) -> Outcome {
    let mut lookups = JoinSet::new();
    for (index, (_, host)) in hosts.iter().enumerate() {
        let (resolver, host) = (resolver.clone(), host.clone());
        lookups.spawn(async move { (index, host_addresses(&resolver, &host).await) });
    }
    let mut found: Vec<FoundHost> = hosts
        .into_iter()
        .map(|(preference, name)| FoundHost { name, preference, addresses: Vec::new() })
        .collect();
    let (mut ttl, mut failed, mut proven) = (ttl, None, true);
    while let Some(joined) = lookups.join_next().await {
        let Ok((index, addresses)) = joined else {
            failed = Some("the lookup was cut short".to_owned());
            continue;
        };
        match addresses {
            HostAddresses::Found { addresses, ttl: host_ttl } => {
                found[index].addresses = addresses;
                ttl = ttl.min(host_ttl);
            }
            HostAddresses::None { ttl: host_ttl, proven: host_proven } => {
                ttl = ttl.min(host_ttl);
                proven &= host_proven;
            }
            HostAddresses::Failed { reason } => {
                ttl = ttl.min(PARTIAL_TTL);
                failed = Some(reason);
            }
        }
    }
    if found.iter().any(|host| !host.addresses.is_empty()) {
        return Ok(Found { hosts: found, ttl });
    }
    Err(match failed {
        Some(reason) => Failure::Temporary { reason },
        None if !proven => {
            Failure::Temporary { reason: format!("{whose}: the name servers' empty answers prove nothing") }
        }
        None => Failure::NoSuchDomain { reason: format!("{whose} has no host with an address"), ttl },
    })
}

enum HostAddresses {
    Found { addresses: Vec<IpAddr>, ttl: Duration },
    None { ttl: Duration, proven: bool },
    Failed { reason: String },
}

async fn host_addresses(resolver: &TokioResolver, host: &str) -> HostAddresses {
    if let Ok(address) = host.parse::<IpAddr>() {
        return HostAddresses::Found { addresses: vec![address], ttl: Duration::MAX };
    }
    let Some(name) = absolute(host) else {
        return HostAddresses::None { ttl: UNPROVEN_TTL, proven: true };
    };
    let (v4, v6) = tokio::join!(
        resolver.lookup(name.clone(), RecordType::A),
        resolver.lookup(name.clone(), RecordType::AAAA)
    );
    let (mut addresses, mut ttl, mut proven, mut failed) = (Vec::new(), Duration::MAX, false, None);
    for (kind, result) in [("A", v4), ("AAAA", v6)] {
        match result.map_err(negative) {
            Ok(lookup) => {
                ttl = ttl.min(ttl_of(&lookup));
                addresses.extend(lookup.answers().iter().filter_map(|record| match &record.data {
                    RData::A(v4) => Some(IpAddr::V4(v4.0)),
                    RData::AAAA(v6) => Some(IpAddr::V6(v6.0)),
                    _ => None,
                }));
            }
            Err(Negative::NoSuchName { ttl: negative_ttl }) => {
                ttl = ttl.min(negative_ttl);
                proven = true;
            }
            Err(Negative::NoData { ttl: negative_ttl, proven: by_soa }) => {
                ttl = ttl.min(negative_ttl);
                proven |= by_soa;
            }
            Err(Negative::Temporary { reason }) => {
                ttl = ttl.min(PARTIAL_TTL);
                failed = Some(format!("{kind} lookup of {host}: {reason}"));
            }
        }
    }
    addresses.truncate(ADDRESSES_MAX);
    match failed {
        _ if !addresses.is_empty() => HostAddresses::Found { addresses, ttl },
        Some(reason) => HostAddresses::Failed { reason },
        None => HostAddresses::None { ttl, proven },
    }
}

/// An error of hickory's, read as what it says about the name.
enum Negative {
    NoSuchName { ttl: Duration },
    NoData { ttl: Duration, proven: bool },
    Temporary { reason: String },
}

fn negative(error: NetError) -> Negative {
    let no_records = match error {
        NetError::Dns(DnsError::NoRecordsFound(no_records)) => no_records,
        NetError::Dns(DnsError::ResponseCode(code)) => {
            return Negative::Temporary { reason: format!("the name server answered {code}") };
        }
        other => return Negative::Temporary { reason: other.to_string() },
    };
    let by_soa = no_records.negative_ttl.map(|ttl_s| Duration::from_secs(u64::from(ttl_s)));
    let ttl = by_soa.unwrap_or(UNPROVEN_TTL);
    match no_records.response_code {
        ResponseCode::NXDomain => Negative::NoSuchName { ttl },
        ResponseCode::NoError if by_soa.is_none() && no_records.ns.is_some() => {
            Negative::Temporary { reason: "the name server answered with a referral".to_owned() }
        }
        ResponseCode::NoError => Negative::NoData { ttl, proven: by_soa.is_some() },
        code => Negative::Temporary { reason: format!("the name server answered {code}") },
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
