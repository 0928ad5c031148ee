//! Routers on a real shard, over a real resolver, against name servers that do what a test tells them.

mod crowds;
mod failover;
mod proof;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use chasqui_runtime::{available_cores, run, sleep_until, spawn, yield_now};
use hickory_resolver::proto::op::{Edns, Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, MX, NS, SOA};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};

use super::*;
use crate::config::NextHop;

/// What a name server says to a question.
#[derive(Clone)]
enum Said {
    Records(Vec<RData>),
    /// As records, with this TTL.
    Lasting(u32, Vec<RData>),
    /// No such record, with the SOA's minimum.
    NoData(u32),
    NoSuchName(u32),
    /// NXDOMAIN without SOA.
    NoSuchNameAtAll,
    Code(ResponseCode),
    /// Records under a code that is no success.
    CodeWith(ResponseCode, Vec<RData>),
    /// No records and no SOA: it proves nothing.
    Emptiness,
    /// No records but a name server for the root.
    Referral,
    /// What cannot be read, under the right id.
    Garbage,
    /// These records over TCP, and a truncated answer over UDP.
    OverTcp(Vec<RData>),
    /// Truncated over UDP and over TCP.
    Truncated,
    /// This code to questions with EDNS, else these records.
    WithoutEdns(ResponseCode, Vec<RData>),
    /// Nothing to questions with EDNS, else these records.
    SilentToEdns(Vec<RData>),
    /// After a while.
    Late(Duration, Box<Said>),
    Silence,
}

type Script = BTreeMap<(&'static str, RecordType), Said>;

/// A name server on threads of its own; what is not in the script it answers with `otherwise`.
struct NameServer {
    address: SocketAddr,
    conduct: Arc<Conduct>,
}

struct Conduct {
    asked: Mutex<Vec<String>>,
    script: Mutex<Script>,
    otherwise: Said,
}

impl NameServer {
    /// What is not in the script is NODATA.
    fn start(script: Script) -> NameServer {
        NameServer::start_with(script, Said::NoData(60))
    }

    fn start_with(script: Script, otherwise: Said) -> NameServer {
        let (socket, listener) = loop {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            // Somebody else may have the TCP port of that number.
            if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()) {
                break (socket, listener);
            }
        };
        let address = socket.local_addr().unwrap();
        let conduct = Arc::new(Conduct { asked: Mutex::default(), script: Mutex::new(script), otherwise });
        let (over_udp, over_tcp) = (conduct.clone(), conduct.clone());
        thread::Builder::new().spawn(move || over_udp.serve_udp(&socket)).unwrap();
        thread::Builder::new().spawn(move || over_tcp.serve_tcp(&listener)).unwrap();
        NameServer { address, conduct }
    }

    fn say(&self, name: &'static str, kind: RecordType, said: Said) {
        self.conduct.script.lock().unwrap().insert((name, kind), said);
    }

    /// How often a question was asked.
    fn count(&self, question: &str) -> usize {
        self.conduct.asked.lock().unwrap().iter().filter(|asked| *asked == question).count()
    }

    fn total(&self) -> usize {
        self.conduct.asked.lock().unwrap().len()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        // Anything that is no DNS message ends the threads.
        UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"end", self.address).unwrap();
        std::net::TcpStream::connect(self.address).unwrap().write_all(b"\0\x03end").unwrap();
    }
}

impl Conduct {
    fn serve_udp(self: Arc<Self>, socket: &UdpSocket) {
        let mut buffer = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let Ok(request) = Message::from_vec(&buffer[..length]) else { return };
            let said = self.said(&request);
            let (socket, conduct) = (socket.try_clone().unwrap(), self.clone());
            let reply = move || {
                if let Some(reply) = conduct.reply(&request, said, false) {
                    // The test may be over.
                    let _ = socket.send_to(&reply, client);
                }
            };
            thread::Builder::new().spawn(reply).unwrap();
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        while let Ok((mut client, _)) = listener.accept() {
            let mut length = [0; 2];
            while client.read_exact(&mut length).is_ok() {
                let mut request = vec![0; usize::from(u16::from_be_bytes(length))];
                client.read_exact(&mut request).unwrap();
                let Ok(request) = Message::from_vec(&request) else { return };
                let said = self.said(&request);
                let Some(reply) = self.reply(&request, said, true) else { break };
                client.write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes()).unwrap();
                client.write_all(&reply).unwrap();
            }
        }
    }

    fn said(&self, request: &Message) -> Said {
        let query = &request.queries[0];
        self.asked.lock().unwrap().push(format!("{} {}", query.query_type(), query.name()));
        let script = self.script.lock().unwrap();
        let said = script.iter().find_map(|((name, kind), said)| {
            (query.name().to_ascii() == format!("{name}.") && query.query_type() == *kind)
                .then(|| said.clone())
        });
        said.unwrap_or_else(|| self.otherwise.clone())
    }

    fn reply(&self, request: &Message, said: Said, over_tcp: bool) -> Option<Vec<u8>> {
        let said = match said {
            Said::Late(after, said) => {
                let (_never, pause) = std::sync::mpsc::channel::<()>();
                let _elapsed = pause.recv_timeout(after);
                *said
            }
            said => said,
        };
        if let Said::Garbage = said {
            let id = request.metadata.id.to_be_bytes();
            return Some(vec![id[0], id[1], 0x80, 0, 0, 1, 0xff, 0xff]);
        }
        Some(answer(request, said, over_tcp)?.to_vec().unwrap())
    }
}

fn answer(request: &Message, said: Said, over_tcp: bool) -> Option<Message> {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    let name = request.queries[0].name().clone();
    response.add_query(request.queries[0].clone());
    let mut absent = |minimum| {
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
        response.add_authority(Record::from_rdata(Name::root(), 3600, RData::SOA(soa)));
    };
    let (mut ttl, mut answers) = (1, Vec::new());
    match said {
        Said::Silence | Said::Garbage | Said::Late(..) => return None,
        Said::SilentToEdns(_) if request.edns.is_some() => return None,
        Said::Emptiness => {}
        Said::Referral => {
            response.add_authority(Record::from_rdata(Name::root(), 3600, RData::NS(NS(Name::root()))));
        }
        Said::NoData(minimum) => absent(minimum),
        Said::NoSuchName(minimum) => {
            absent(minimum);
            response.metadata.response_code = ResponseCode::NXDomain;
        }
        Said::NoSuchNameAtAll => response.metadata.response_code = ResponseCode::NXDomain,
        Said::WithoutEdns(code, _) if request.edns.is_some() => {
            response.metadata.response_code = code;
            // A server that knows EDNS enough to say BADVERS, whose code has its high bits there.
            response.edns = (u16::from(code) > 15).then(Edns::new);
        }
        Said::Code(code) => response.metadata.response_code = code,
        Said::CodeWith(code, records) => {
            response.metadata.response_code = code;
            answers = records;
        }
        Said::Truncated => response.metadata.truncation = true,
        Said::OverTcp(_) if !over_tcp => response.metadata.truncation = true,
        Said::Lasting(seconds, records) => (ttl, answers) = (seconds, records),
        Said::Records(records)
        | Said::OverTcp(records)
        | Said::WithoutEdns(_, records)
        | Said::SilentToEdns(records) => answers = records,
    }
    response.add_answers(answers.into_iter().map(|data| Record::from_rdata(name.clone(), ttl, data)));
    Some(response)
}

fn mx(hosts: &[(u16, &str)]) -> Said {
    Said::Records(mx_records(hosts))
}

fn mx_records(hosts: &[(u16, &str)]) -> Vec<RData> {
    let exchange =
        |host: &str| if host == "." { Name::root() } else { Name::from_ascii(format!("{host}.")).unwrap() };
    hosts.iter().map(|(preference, host)| RData::MX(MX::new(*preference, exchange(host)))).collect()
}

fn a(addresses: &[&str]) -> Said {
    Said::Records(addresses.iter().map(|address| RData::A(A(address.parse().unwrap()))).collect())
}

fn script(lines: &[(&'static str, RecordType, Said)]) -> Script {
    lines.iter().map(|(name, kind, said)| ((*name, *kind), said.clone())).collect()
}

/// Runs `test` on a shard, with a router that asks a name server with this script.
fn routed<F>(
    lines: &[(&'static str, RecordType, Said)],
    config: RouteConfig,
    test: impl Fn(Router, Arc<NameServer>) -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + 'static,
{
    let server = Arc::new(NameServer::start(script(lines)));
    let servers = vec![server.address];
    routed_by(asking(servers, 0), config, move |router| test(router, server.clone()));
}

/// Silence of a name server: when the next one is asked too, and when it is given up.
const HEDGE: Duration = Duration::from_millis(200);
const TIMEOUT: Duration = Duration::from_millis(800);

/// Asks these name servers.
fn asking(servers: Vec<SocketAddr>, attempts: usize) -> ResolverConfig {
    ResolverConfig { servers, timeout: TIMEOUT, hedge: HEDGE, attempts, ..ResolverConfig::default() }
}

/// Runs `test` on a shard, with a router over a resolver.
fn routed_by<F>(
    resolver: ResolverConfig,
    config: RouteConfig,
    test: impl Fn(Router) -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + 'static,
{
    let resolver = Resolver::start(resolver).unwrap();
    let shards = chasqui_runtime::Config {
        name: "route".to_owned(),
        cores: vec![available_cores()[0]],
        ..chasqui_runtime::Config::default()
    };
    run(shards, move || test(Router::new(config.clone(), resolver.clone()))).unwrap();
}

fn described(route: &Route) -> Vec<String> {
    route.hosts.iter().map(|host| format!("{} {} {:?}", host.preference, host.name, host.addresses)).collect()
}

/// Proves that hosts come by preference with their addresses and the port, and that the cache answers the
/// second question without a query, and counts.
#[test]
fn routes_are_found_and_cached() {
    let script = [
        ("two.test", RecordType::MX, mx(&[(20, "b.test"), (10, "a.test")])),
        ("a.test", RecordType::A, a(&["192.0.2.1"])),
        ("b.test", RecordType::A, a(&["192.0.2.2"])),
    ];
    routed(&script, RouteConfig { port: 2600, ..RouteConfig::default() }, async |router, server| {
        assert!(router.route_cached("two.test").is_none());
        let route = router.route("two.test").await.unwrap();
        assert_eq!(described(&route), ["10 a.test [192.0.2.1:2600]", "20 b.test [192.0.2.2:2600]"]);
        let queries = server.total();
        assert_eq!(queries, 5, "one MX, two A, two AAAA");
        assert!(std::rc::Rc::ptr_eq(&router.route_cached("two.test").unwrap().unwrap(), &route));
        assert!(router.route("two.test").await.is_ok());
        assert_eq!(server.total(), queries);
        let stats = router.stats();
        assert_eq!((stats.hits, stats.misses, stats.lookups, stats.entries), (2, 1, 1, 1));
        // Its records have a TTL of 1 s.
        sleep_until(route.expires).await;
        assert!(router.route_cached("two.test").is_none());
        assert!(router.route("two.test").await.is_ok());
        assert_eq!((router.stats().stale, router.stats().lookups), (1, 2));
        assert_eq!(server.count("MX two.test."), 2);
    });
}

/// Proves what is permanent: the null MX, NXDOMAIN, and hosts of which none has an address.
#[test]
fn permanent_answers() {
    let script = [
        ("null.test", RecordType::MX, mx(&[(0, ".")])),
        ("gone.test", RecordType::MX, Said::NoSuchName(60)),
        ("dangling.test", RecordType::MX, mx(&[(10, "no.host.test")])),
        ("no.host.test", RecordType::A, Said::NoSuchName(60)),
        ("no.host.test", RecordType::AAAA, Said::NoSuchName(60)),
    ];
    routed(&script, RouteConfig::default(), async |router, server| {
        assert_eq!(router.route("null.test").await.unwrap_err(), RouteError::NullMx);
        for domain in ["gone.test", "dangling.test", "empty.test", "not..a.domain", "[nonsense]"] {
            let error = router.route(domain).await.unwrap_err();
            assert!(matches!(error, RouteError::NoSuchDomain(_)), "{domain}: {error:?}");
            assert!(error.to_string().contains(domain), "{error}");
        }
        let queries = server.total();
        assert_eq!(router.route_cached("null.test").unwrap().unwrap_err(), RouteError::NullMx);
        assert!(router.route("gone.test").await.is_err());
        assert_eq!(server.total(), queries);
        assert_eq!((router.stats().negative_hits, router.stats().failures), (2, 0));
    });
}

/// Proves that a domain without MX is its own host, and that one dead host of several is left out.
#[test]
fn implicit_and_partial_routes() {
    let script = [
        ("implicit.test", RecordType::A, a(&["192.0.2.7"])),
        ("partial.test", RecordType::MX, mx(&[(10, "dead.test"), (20, "alive.test"), (30, ".")])),
        ("dead.test", RecordType::A, Said::Code(ResponseCode::ServFail)),
        ("alive.test", RecordType::A, a(&["192.0.2.8"])),
        ("alive.test", RecordType::AAAA, Said::Code(ResponseCode::ServFail)),
    ];
    routed(&script, RouteConfig::default(), async |router, _| {
        let implicit = router.route("implicit.test").await.unwrap();
        assert_eq!(described(&implicit), ["0 implicit.test [192.0.2.7:25]"]);
        let partial = router.route("partial.test").await.unwrap();
        assert_eq!(described(&partial), ["20 alive.test [192.0.2.8:25]"]);
    });
}

/// Proves that SERVFAIL, REFUSED, silence and answers without proof are temporary, are remembered, and are
/// asked again later.
#[test]
fn failures_are_temporary_and_cached() {
    let script = [
        ("servfail.test", RecordType::MX, Said::Code(ResponseCode::ServFail)),
        ("refused.test", RecordType::MX, Said::Code(ResponseCode::Refused)),
        ("silent.test", RecordType::MX, Said::Silence),
        ("hosts.test", RecordType::MX, mx(&[(1, "silent.host.test")])),
        ("silent.host.test", RecordType::A, Said::Silence),
        ("lame.test", RecordType::MX, Said::Emptiness),
        ("lame.test", RecordType::A, Said::Emptiness),
        ("lame.test", RecordType::AAAA, Said::Emptiness),
    ];
    routed(&script, RouteConfig::default(), async |router, server| {
        for domain in ["refused.test", "silent.test", "hosts.test", "lame.test", "servfail.test"] {
            let error = router.route(domain).await.unwrap_err();
            assert!(!error.is_permanent() && error.enhanced() == "4.4.3", "{domain}: {error:?}");
        }
        assert_eq!(router.stats().failures, 5);
        let asked = server.count("MX servfail.test.");
        assert!(router.route_cached("servfail.test").unwrap().is_err());
        assert_eq!(server.count("MX servfail.test."), asked);
        server.say("servfail.test", RecordType::MX, mx(&[(1, "a.test")]));
        server.say("a.test", RecordType::A, a(&["192.0.2.1"]));
        // The first failure is remembered for 1 s.
        sleep_until(chasqui_runtime::now() + Duration::from_secs(1)).await;
        assert!(router.route("servfail.test").await.is_ok());
        assert_eq!(router.stats().stale, 1);
    });
}

/// Proves that any number of callers cause one lookup, and that a caller who leaves does not end it.
#[test]
fn one_lookup_in_flight_per_name() {
    let script =
        [("x.test", RecordType::MX, mx(&[(1, "h.test")])), ("h.test", RecordType::A, a(&["192.0.2.1"]))];
    routed(&script, RouteConfig::default(), async |router, server| {
        let impatient = router.clone();
        let first = spawn(async move { impatient.route("x.test").await });
        yield_now().await;
        assert_eq!(router.stats().lookups_in_flight, 1);
        first.cancel().await;
        let waiters: Vec<_> = (0..10)
            .map(|_| {
                let router = router.clone();
                spawn(async move { router.route("x.test").await })
            })
            .collect();
        for waiter in waiters {
            assert!(waiter.await.is_ok());
        }
        assert_eq!((server.count("MX x.test."), server.count("A h.test.")), (1, 1));
        let stats = router.stats();
        assert_eq!((stats.lookups, stats.misses, stats.lookups_in_flight), (1, 11, 0));
    });
}

/// Proves that static routes come before the DNS, with their own ports and one cache entry for `*`; that
/// literals need no DNS; and that we are recognised by address.
#[test]
fn static_routes_literals_and_ourselves() {
    let hop = |host: &str, port| NextHop { host: host.to_owned(), port };
    let config = RouteConfig {
        static_routes: BTreeMap::from([
            ("direct.test".to_owned(), vec![hop("192.0.2.1", Some(26)), hop("2001:db8::1", None)]),
            ("named.test".to_owned(), vec![hop("hub.test", None), hop("hub2.test", Some(27))]),
            ("lost.test".to_owned(), vec![hop("nowhere.test", None)]),
            ("*".to_owned(), vec![hop("192.0.2.3", None)]),
        ]),
        own_addresses: vec!["192.0.2.9:25".parse().unwrap()],
        ..RouteConfig::default()
    };
    let script = [
        ("hub.test", RecordType::A, a(&["192.0.2.4"])),
        ("hub2.test", RecordType::A, a(&["192.0.2.5"])),
        ("nowhere.test", RecordType::A, Said::NoSuchName(60)),
    ];
    routed(&script, config, async |router, server| {
        let direct = router.route("direct.test").await.unwrap();
        assert_eq!(described(&direct), ["0 192.0.2.1 [192.0.2.1:26]", "1 2001:db8::1 [[2001:db8::1]:25]"]);
        assert_eq!(described(&router.route("any.test").await.unwrap()), ["0 192.0.2.3 [192.0.2.3:25]"]);
        assert!(router.route_cached("other.test").is_some(), "the default route is one entry");
        assert_eq!(described(&router.route("[192.0.2.8]").await.unwrap()), ["0 192.0.2.8 [192.0.2.8:25]"]);
        assert_eq!(router.route("[192.0.2.9]").await.unwrap_err(), RouteError::LoopsBackToUs);
        assert_eq!(server.total(), 0);
        let named = router.route("named.test").await.unwrap();
        assert_eq!(described(&named), ["0 hub.test [192.0.2.4:25]", "1 hub2.test [192.0.2.5:27]"]);
        assert!(!router.route("lost.test").await.unwrap_err().is_permanent());
    });
}

/// Proves that under a wildcard listener mail for a host at any address of this machine is not sent, and that a static route
/// goes where it says, but is told of.
#[test]
fn under_a_wildcard_every_address_of_ours_is_ourselves() {
    let hop = |host: &str, port| NextHop { host: host.to_owned(), port };
    let config = RouteConfig {
        static_routes: BTreeMap::from([
            ("static.test".to_owned(), vec![hop("127.0.0.1", None)]),
            ("beside.test".to_owned(), vec![hop("127.0.0.1", Some(26)), hop("hub.test", None)]),
        ]),
        own_addresses: vec!["0.0.0.0:25".parse().unwrap()],
        interfaces: || Ok(vec!["192.0.2.1".parse().unwrap()]),
        ..RouteConfig::default()
    };
    let script = [
        ("localhost.test", RecordType::MX, mx(&[(0, "localhost")])),
        ("loop.test", RecordType::A, a(&["127.9.9.9"])),
        ("zero.test", RecordType::A, a(&["0.0.0.0"])),
        ("interface.test", RecordType::MX, mx(&[(10, "backup.test"), (10, "h.test"), (5, "better.test")])),
        ("h.test", RecordType::A, a(&["192.0.2.1"])),
        ("backup.test", RecordType::A, a(&["192.0.2.2"])),
        ("better.test", RecordType::A, a(&["192.0.2.3"])),
    ];
    routed(&script, config, async |router, _| {
        let literals = ["[127.0.0.1]", "[0.0.0.0]", "[192.0.2.1]", "[ipv6:::1]", "[ipv6:::ffff:127.0.0.1]"];
        for domain in ["localhost", "localhost.test", "loop.test", "zero.test"].into_iter().chain(literals) {
            let error = router.route(domain).await.unwrap_err();
            assert_eq!(error, RouteError::LoopsBackToUs, "{domain}");
        }
        let interface = router.route("interface.test").await.unwrap();
        assert_eq!(described(&interface), ["5 better.test [192.0.2.3:25]"]);
        assert_eq!(described(&router.route("static.test").await.unwrap()), ["0 127.0.0.1 [127.0.0.1:25]"]);
        assert_eq!(router.static_loops(), [("static.test", "127.0.0.1:25".parse().unwrap())]);
    });
}
