//! The authority, asked over the loopback by hickory's resolver.

use std::net::{Ipv4Addr, SocketAddr};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::*;
use crate::zone::MANY_MX;

const ZONE: &str = "chasqui.test";

/// An authority for three domains and two receivers, and a resolver that asks it.
fn asked<F: Future>(ask: impl FnOnce(TokioResolver) -> F) -> (F::Output, DnsStats) {
    let receivers = vec![IpAddr::from([127, 0, 1, 1]), IpAddr::from([127, 0, 1, 2])];
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let authority = Authority::start(address, Zone::new(ZONE, 3), receivers, 77).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let output = runtime.block_on(async {
        let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
        udp.port = authority.address().port();
        tcp.port = authority.address().port();
        let server = NameServerConfig::new(authority.address().ip(), true, vec![udp, tcp]);
        let config = ResolverConfig::from_name_servers(vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.attempts = 0;
        options.timeout = Duration::from_millis(300);
        ask(builder.build().unwrap()).await
    });
    (output, authority.stats())
}

/// The record data of an answer, written out, and the least TTL.
async fn look_up(
    resolver: &TokioResolver,
    name: &str,
    kind: RecordType,
) -> Result<(Vec<String>, u32), NetError> {
    let lookup = resolver.lookup(format!("{name}.{ZONE}."), kind).await?;
    let ttl_s = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
    let data = lookup.answers().iter().map(|record| match &record.data {
        RData::MX(mx) => format!("{} {}", mx.preference, mx.exchange),
        other => other.to_string(),
    });
    Ok((data.collect(), ttl_s))
}

/// Proves that domains have one MX each, whose address is one of the receivers', in turn.
#[test]
fn domains_lead_to_receivers() {
    let ((), stats) = asked(|resolver| async move {
        for (domain, receiver) in
            [("d0", "127.0.1.1"), ("d1", "127.0.1.2"), ("d2", "127.0.1.1"), ("bounce", "127.0.1.1")]
        {
            let mx = look_up(&resolver, domain, RecordType::MX).await.unwrap();
            assert_eq!(mx, (vec![format!("10 mx.{domain}.{ZONE}.")], 77));
            let address = look_up(&resolver, &format!("mx.{domain}"), RecordType::A).await.unwrap();
            assert_eq!(address, (vec![receiver.to_owned()], 77));
        }
    });
    assert_eq!((stats.udp, stats.tcp, stats.answered), (8, 0, 8));
}

/// Proves that the null MX, the implicit MX and the alias are what they are called.
#[test]
fn special_names() {
    let ((), _) = asked(|resolver| async move {
        assert_eq!(look_up(&resolver, "nullmx", RecordType::MX).await.unwrap().0, ["0 ."]);
        assert_eq!(look_up(&resolver, "implicit", RecordType::A).await.unwrap().0, ["127.0.1.1"]);
        let alias = look_up(&resolver, "alias", RecordType::MX).await.unwrap().0;
        assert_eq!(alias, [format!("d0.{ZONE}."), format!("10 mx.d0.{ZONE}.")]);
    });
}

/// Proves that absence is told with the zone's SOA, as NXDOMAIN or as NODATA.
#[test]
fn absence_carries_the_soa() {
    let ((), stats) = asked(|resolver| async move {
        for (name, kind, code) in [
            ("d3", RecordType::MX, ResponseCode::NXDomain),
            ("no.such.name", RecordType::A, ResponseCode::NXDomain),
            ("implicit", RecordType::MX, ResponseCode::NoError),
            ("d0", RecordType::A, ResponseCode::NoError),
            ("mx.d0", RecordType::AAAA, ResponseCode::NoError),
        ] {
            match look_up(&resolver, name, kind).await {
                Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                    assert_eq!((none.response_code, none.negative_ttl), (code, Some(77)), "{name}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    });
    assert_eq!((stats.no_such_name, stats.no_data), (2, 3));
}

/// Proves that an answer too large for UDP is truncated there and whole over TCP.
#[test]
fn large_answers_go_over_tcp() {
    let ((), stats) = asked(|resolver| async move {
        let (hosts, _) = look_up(&resolver, "manymx", RecordType::MX).await.unwrap();
        assert_eq!(hosts.len(), usize::from(MANY_MX));
        assert_eq!(look_up(&resolver, "mx127.manymx", RecordType::A).await.unwrap().0, ["127.0.1.2"]);
    });
    assert_eq!((stats.udp, stats.tcp), (2, 1));
}

/// Proves that the names for trouble make it: SERVFAIL, REFUSED, silence; and that other zones are refused.
#[test]
fn trouble_on_demand() {
    let ((), stats) = asked(|resolver| async move {
        for (name, wanted) in [("servfail", ResponseCode::ServFail), ("refused", ResponseCode::Refused)] {
            match look_up(&resolver, name, RecordType::MX).await {
                Err(NetError::Dns(DnsError::ResponseCode(code))) => assert_eq!(code, wanted),
                other => panic!("{name}: {other:?}"),
            }
        }
        assert!(matches!(look_up(&resolver, "timeout", RecordType::MX).await, Err(NetError::Timeout)));
        match resolver.lookup("example.org.", RecordType::MX).await {
            Err(NetError::Dns(DnsError::ResponseCode(code))) => assert_eq!(code, ResponseCode::Refused),
            other => panic!("{other:?}"),
        }
    });
    assert!(stats.unanswered >= 1);
    assert_eq!(stats.errors, 3);
}
