//! The authority, asked over the loopback by hickory's resolver.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use hickory_proto::op::Message;

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
    let authority = Authority::start(address, Zone::new(ZONE, 3), &receivers, None, 77).unwrap();
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

/// A question as it stands on the wire, with an OPT record of this version.
fn question(name: &str, kind: u16, edns_version: Option<u8>) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns_version.is_some())];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    if let Some(version) = edns_version {
        bytes.extend_from_slice(&[0, 0, 41, 4, 208, 0, version, 0x80, 0, 0, 0]);
    }
    bytes
}

fn authority(address: &str, receivers: &[&str]) -> Authority {
    let receivers: Vec<IpAddr> = receivers.iter().map(|receiver| receiver.parse().unwrap()).collect();
    Authority::start(address.parse().unwrap(), Zone::new(ZONE, 3), &receivers, None, 77).unwrap()
}

/// Asks by UDP; the answer must come from where it was asked.
fn ask(address: SocketAddr, question: &[u8]) -> Message {
    let here = if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(here).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(question, address).unwrap();
    let mut buffer = [0; 4096];
    let (length, source) = socket.recv_from(&mut buffer).unwrap();
    assert_eq!(source, address);
    Message::from_vec(&buffer[..length]).unwrap()
}

fn ask_by_tcp(address: SocketAddr, question: &[u8]) -> Message {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&(question.len() as u16).to_be_bytes()).unwrap();
    stream.write_all(question).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

fn said(message: &Message) -> (ResponseCode, Vec<RecordType>, usize) {
    let types = message.answers.iter().map(|record| record.record_type()).collect();
    (message.metadata.response_code, types, message.authorities.len())
}

/// Proves that an authority for every address answers from the one that was asked, and names none that stands for all.
#[test]
fn wildcards_answer_from_where_they_are_asked() {
    let authority = authority("0.0.0.0:0", &["0.0.0.0", "127.0.1.2"]);
    for asked in ["127.0.0.1", "127.0.0.77", "127.9.9.9"] {
        let address = SocketAddr::new(asked.parse().unwrap(), authority.address().port());
        for host in ["ns", "mx.d0", "mx.d1"] {
            let answer = ask(address, &question(&format!("{host}.{ZONE}"), 1, None));
            assert_eq!(answer.answers.len(), 1, "{host}");
            assert_eq!(answer.answers[0].data.to_string(), "127.0.1.2", "{host}");
        }
    }
    let nothing = Authority::start(
        "0.0.0.0:0".parse().unwrap(),
        Zone::new(ZONE, 3),
        &["::".parse().unwrap()],
        None,
        77,
    );
    assert!(nothing.err().unwrap().to_string().contains("--publish"));
}

/// Proves the same of an authority for every IPv6 address, which is asked over both families.
#[test]
fn ipv6_wildcards_answer_from_where_they_are_asked() {
    // Left out only on a machine that has no ::1.
    if UdpSocket::bind("[::1]:0").is_err() {
        return;
    }
    let authority = authority("[::]:0", &["::1"]);
    for asked in ["::1", "127.0.0.1", "127.0.0.77"] {
        let address = SocketAddr::new(asked.parse().unwrap(), authority.address().port());
        let answer = ask(address, &question(&format!("mx.d0.{ZONE}"), 28, None));
        assert_eq!(answer.answers.len(), 1, "{asked} answers; the machine has ::1");
        assert_eq!(answer.answers[0].data.to_string(), "::1", "{asked}");
    }
}

/// Proves that ANY, aliases, zone transfers and later versions of EDNS are answered as their RFCs say.
#[test]
fn questions_of_all_sorts() {
    const ANY: u16 = 255;
    const AXFR: u16 = 252;
    let authority = authority("127.0.0.1:0", &["127.0.1.1"]);
    let ask =
        |name: &str, kind| said(&ask(authority.address(), &question(&format!("{name}{ZONE}"), kind, None)));
    let (ok, cname, mx) = (ResponseCode::NoError, RecordType::CNAME, RecordType::MX);
    assert_eq!(ask("d0.", ANY), (ok, vec![mx], 0));
    assert_eq!(ask("mx.d0.", ANY), (ok, vec![RecordType::A], 0));
    assert_eq!(ask("manymx.", ANY), (ok, vec![RecordType::HINFO], 0));
    assert_eq!(ask("", ANY), (ok, vec![RecordType::SOA], 0));
    assert_eq!(ask("none.", ANY), (ResponseCode::NXDomain, vec![], 1));
    assert_eq!(ask("alias.", ANY), (ok, vec![cname], 0));
    assert_eq!(ask("alias.", 5), (ok, vec![cname], 0));
    assert_eq!(ask("alias.", 15), (ok, vec![cname, mx], 0));
    assert_eq!(ask("alias.", 1), (ok, vec![cname], 1), "the target has no address");
    assert_eq!(ask("", AXFR).0, ResponseCode::FormErr);
    let by_tcp = |name: &str| said(&ask_by_tcp(authority.address(), &question(name, AXFR, None)));
    assert_eq!(by_tcp(ZONE), (ResponseCode::Refused, vec![], 0));
    assert_eq!(by_tcp("d0.chasqui.test"), (ResponseCode::NotAuth, vec![], 0));
    assert_eq!(by_tcp("example.org"), (ResponseCode::NotAuth, vec![], 0));
    for version in [0, 1, 255] {
        let question = question(&format!("d0.{ZONE}"), 15, Some(version));
        let address = authority.address();
        for answer in [super::tests::ask(address, &question), ask_by_tcp(address, &question)] {
            let edns = answer.edns.as_ref().expect("an OPT record");
            assert_eq!((edns.version(), edns.flags().dnssec_ok), (0, true));
            let code = u16::from(edns.rcode_high()) << 4 | u16::from(answer.metadata.response_code.low());
            assert_eq!((code, answer.answers.len()), if version == 0 { (0, 1) } else { (16, 0) });
        }
    }
}

/// Proves that a port that is free again after a moment is waited for.
#[test]
fn a_port_is_tried_again() {
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap();
    let (before, releasing) = (chasqui_runtime::now(), Duration::from_millis(500));
    let waiting = thread::Builder::new().spawn(move || {
        while before.elapsed() < releasing {
            thread::yield_now();
        }
        drop(holder);
    });
    let authority = Authority::start(address, Zone::new(ZONE, 3), &["127.0.1.1".parse().unwrap()], None, 77);
    assert_eq!(authority.unwrap().address(), address);
    assert!(before.elapsed() >= releasing);
    waiting.unwrap().join().unwrap();
}
