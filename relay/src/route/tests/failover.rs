//! Several name servers, of which one is of no use.

use std::time::Duration;

use chasqui_runtime::{Instant, now, sleep};
use hickory_resolver::proto::rr::rdata::CNAME;

use super::*;

/// A name server that knows `n.test` for every n of `NAMES`, whose host has an address.
const NAMES: [&str; 4] = ["one.test", "two.test", "three.test", "four.test"];

fn good() -> NameServer {
    let mut lines = vec![("host.test", RecordType::A, a(&["192.0.2.1"]))];
    lines.extend(NAMES.map(|name| (name, RecordType::MX, mx(&[(1, "host.test")]))));
    NameServer::start(script(&lines))
}

fn bad(said: Said) -> NameServer {
    NameServer::start_with(Script::new(), said)
}

/// Runs `test` with a router that asks these name servers in this order.
fn with<const N: usize, F>(
    servers: [NameServer; N],
    attempts: usize,
    test: impl Fn(Router, Arc<[NameServer; N]>) -> F + Send + Sync + 'static,
) where
    F: Future<Output = ()> + 'static,
{
    let servers = Arc::new(servers);
    let addresses = servers.iter().map(|server| server.address).collect();
    routed_by(asking(addresses, attempts), RouteConfig::default(), move |router| {
        test(router, servers.clone())
    });
}

async fn is_found(router: &Router, name: &str) {
    let route = router.route(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(described(&route), ["1 host.test [192.0.2.1:25]"], "{name}");
}

async fn found_within(router: &Router, name: &str, limit: Duration) {
    let begin = now();
    is_found(router, name).await;
    assert!(since(begin) < limit, "{name} took {:?}", since(begin));
}

fn since(begin: Instant) -> Duration {
    now() - begin
}

/// Proves that whatever is neither NOERROR nor NXDOMAIN, and what proves nothing, goes to the next server at once, and that
/// the server which says it is asked last from then on.
#[test]
fn an_error_goes_to_the_next_server() {
    let web = || vec![RData::A(A("192.0.2.99".parse().unwrap()))];
    for (what, said) in [
        ("REFUSED", Said::Code(ResponseCode::Refused)),
        ("SERVFAIL", Said::Code(ResponseCode::ServFail)),
        ("FORMERR", Said::Code(ResponseCode::FormErr)),
        ("NOTIMP", Said::Code(ResponseCode::NotImp)),
        ("NOTAUTH", Said::Code(ResponseCode::NotAuth)),
        ("an unknown code", Said::Code(ResponseCode::Unknown(13))),
        (
            "records under an unknown code",
            Said::CodeWith(ResponseCode::Unknown(13), mx_records(&[(1, "x.test")])),
        ),
        ("records of another type", Said::Records(web())),
        ("a referral", Said::Referral),
        ("an empty answer", Said::Emptiness),
        ("garbage", Said::Garbage),
    ] {
        with([bad(said), good()], 2, move |router, servers| async move {
            let begin = now();
            is_found(&router, NAMES[0]).await;
            let asked = servers[0].total();
            for name in &NAMES[1..] {
                is_found(&router, name).await;
            }
            assert!(since(begin) < HEDGE, "{what}: {:?}", since(begin));
            // With EDNS and without it.
            assert!((1..=2).contains(&asked) && servers[0].total() == asked, "{what}: asked {asked} times");
        });
    }
}

/// Proves that a silent server delays the first lookup by the hedge alone and the next ones not at all, that a server which is
/// not there does the same, and that after its rest one question tries it again.
#[test]
fn a_silent_server_costs_one_hedge() {
    let gone = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for is_gone in [false, true] {
        let servers = Arc::new([bad(Said::Silence), good()]);
        let first = if is_gone { gone } else { servers[0].address };
        let addresses = vec![first, servers[1].address];
        routed_by(asking(addresses, 2), RouteConfig::default(), move |router| {
            let servers = servers.clone();
            async move {
                found_within(&router, NAMES[0], TIMEOUT).await;
                found_within(&router, NAMES[1], HEDGE).await;
                let asked = servers[0].total();
                sleep(Duration::from_millis(1100)).await;
                found_within(&router, NAMES[2], TIMEOUT).await;
                found_within(&router, NAMES[3], HEDGE).await;
                assert!(is_gone || servers[0].total() > asked);
            }
        });
    }
}

/// Proves that a server which is only slow is still waited for after the next one was asked, and that it is believed.
#[test]
fn a_hedge_takes_nothing_away() {
    let slow = good();
    slow.say(NAMES[0], RecordType::MX, Said::Late(HEDGE * 2, Box::new(mx(&[(1, "host.test")]))));
    with([slow, bad(Said::Silence)], 0, async |router, servers| {
        found_within(&router, NAMES[0], TIMEOUT).await;
        assert!(servers[1].total() > 0);
        let asked = servers[1].total();
        found_within(&router, NAMES[1], HEDGE).await;
        assert_eq!(servers[1].total(), asked, "the first still comes first");
    });
}

/// Proves that a name for which every server fails puts none of them to rest, and that what each did is told in one line.
#[test]
fn a_name_that_fails_everywhere_blames_no_server() {
    let (first, second) = (good(), good());
    first.say("sick.test", RecordType::MX, Said::Code(ResponseCode::ServFail));
    second.say("sick.test", RecordType::MX, Said::Code(ResponseCode::Refused));
    with([first, second], 1, async |router, servers| {
        let error = router.route("sick.test").await.unwrap_err();
        assert!(!error.is_permanent());
        let error = error.to_string();
        assert!(error.contains("Server Failure") && error.contains("Query Refused"), "{error}");
        assert_eq!(servers[0].count("MX sick.test."), 2, "SERVFAIL may pass");
        assert_eq!(servers[1].count("MX sick.test."), 1, "REFUSED does not");
        is_found(&router, NAMES[0]).await;
        assert_eq!(servers[1].total(), 1);
    });
}

/// Proves that servers which all rest are asked all the same.
#[test]
fn servers_at_rest_are_better_than_none() {
    let (first, second) = (good(), good());
    first.say(NAMES[0], RecordType::MX, Said::Code(ResponseCode::Refused));
    second.say(NAMES[1], RecordType::MX, Said::Code(ResponseCode::Refused));
    with([first, second], 0, async |router, servers| {
        is_found(&router, NAMES[0]).await;
        servers[0].say("host.test", RecordType::AAAA, Said::Code(ResponseCode::Refused));
        is_found(&router, NAMES[1]).await;
        is_found(&router, NAMES[2]).await;
        is_found(&router, NAMES[3]).await;
    });
}

/// Proves that a server which does not understand EDNS is asked again without, and first without from then on, whether it
/// says so or keeps silent.
#[test]
fn edns_is_left_out_for_those_who_do_not_know_it() {
    let mx = || mx_records(&[(1, "host.test")]);
    for code in [ResponseCode::FormErr, ResponseCode::NotImp, ResponseCode::BADVERS] {
        let server = good();
        server.say(NAMES[0], RecordType::MX, Said::WithoutEdns(code, mx()));
        server.say(NAMES[1], RecordType::MX, Said::WithoutEdns(code, mx()));
        with([server], 0, async |router, servers| {
            is_found(&router, NAMES[0]).await;
            is_found(&router, NAMES[1]).await;
            assert_eq!(servers[0].count("MX one.test."), 2);
            assert_eq!(servers[0].count("MX two.test."), 1, "remembered");
        });
    }
    let server = good();
    server.say(NAMES[0], RecordType::MX, Said::SilentToEdns(mx()));
    server.say(NAMES[1], RecordType::MX, Said::SilentToEdns(mx()));
    with([server], 1, async |router, _| {
        is_found(&router, NAMES[0]).await;
        found_within(&router, NAMES[1], HEDGE).await;
    });
}

/// Proves that a truncated answer is asked for over TCP, and that a server which cannot do that is passed by.
#[test]
fn truncation_goes_over_tcp() {
    let server = good();
    server.say(NAMES[0], RecordType::MX, Said::OverTcp(mx_records(&[(1, "host.test")])));
    with([server], 0, async |router, servers| {
        is_found(&router, NAMES[0]).await;
        assert_eq!(servers[0].count("MX one.test."), 2);
    });
    let server = good();
    server.say(NAMES[0], RecordType::MX, Said::Truncated);
    with([server, good()], 0, async |router, _| is_found(&router, NAMES[0]).await);
}

/// Proves that chains of CNAMEs are followed, over several servers' answers too, and that the least TTL counts.
#[test]
fn chains_of_cnames_are_followed() {
    let to = |name: &str| vec![RData::CNAME(CNAME(Name::from_ascii(format!("{name}.")).unwrap()))];
    let server = good();
    server.say("www.test", RecordType::MX, Said::Lasting(3, to("alias.test")));
    server.say("alias.test", RecordType::MX, Said::Lasting(7, to("real.test")));
    server.say("real.test", RecordType::MX, Said::Lasting(60, mx_records(&[(1, "lasting.test")])));
    let address = RData::A(A("192.0.2.1".parse().unwrap()));
    server.say("lasting.test", RecordType::A, Said::Lasting(60, vec![address]));
    with([bad(Said::Code(ResponseCode::Refused)), server], 0, async |router, _| {
        let begin = now();
        let route = router.route("www.test").await.unwrap();
        assert_eq!(described(&route), ["1 lasting.test [192.0.2.1:25]"]);
        let holds = route.expires - begin;
        assert!(Duration::from_secs(3) <= holds && holds < Duration::from_secs(4), "{holds:?}");
    });
}

/// Proves that a lookup ends in bounded time when every server is silent.
#[test]
fn silence_everywhere_ends() {
    with([bad(Said::Silence), bad(Said::Silence)], 1, async |router, _| {
        let begin = now();
        let error = router.route(NAMES[0]).await.unwrap_err();
        assert!(!error.is_permanent(), "{error}");
        assert!(since(begin) < TIMEOUT * 2 + HEDGE * 4, "{:?}", since(begin));
    });
}
