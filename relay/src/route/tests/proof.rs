//! What the DNS proves, and what it only seems to say.

use std::time::Duration;

use chasqui_runtime::now;

use super::*;

async fn asserted_temporary(router: &Router, domain: &str) {
    let error = router.route(domain).await.unwrap_err();
    assert!(!error.is_permanent(), "{domain}: {error:?}");
}

/// Proves that a host without addresses is permanent only when both types are proven absent or its name is, whatever the
/// other type's answer is.
#[test]
fn absence_is_proven_by_type() {
    let script = [
        // NODATA with a SOA for what is not told here.
        ("half.test", RecordType::A, Said::Emptiness),
        ("other.half.test", RecordType::AAAA, Said::Emptiness),
        ("mx.test", RecordType::MX, mx(&[(1, "half.test")])),
        ("sick.test", RecordType::A, Said::Code(ResponseCode::ServFail)),
        ("named.test", RecordType::A, Said::Emptiness),
        ("named.test", RecordType::AAAA, Said::NoSuchNameAtAll),
        ("several.test", RecordType::MX, mx(&[(1, "nothing.test"), (2, "half.test")])),
    ];
    routed(&script, RouteConfig::default(), async |router, _| {
        for domain in ["half.test", "other.half.test", "mx.test", "sick.test", "several.test"] {
            asserted_temporary(&router, domain).await;
        }
        for domain in ["both.test", "named.test"] {
            assert!(router.route(domain).await.unwrap_err().is_permanent(), "{domain}");
        }
    });
}

/// Proves that an empty MX answer without SOA or NS leads to the domain's own host for a second, and never to a bounce.
#[test]
fn an_unproven_absence_of_mx_is_an_implicit_mx() {
    let script = [
        ("stripped.test", RecordType::MX, Said::Emptiness),
        (
            "stripped.test",
            RecordType::A,
            Said::Lasting(3600, vec![RData::A(A("192.0.2.1".parse().unwrap()))]),
        ),
        ("nodata.test", RecordType::MX, Said::Emptiness),
        ("gone.test", RecordType::MX, Said::Emptiness),
        ("gone.test", RecordType::A, Said::NoSuchName(60)),
        ("gone.test", RecordType::AAAA, Said::NoSuchName(60)),
        ("lame.test", RecordType::MX, Said::Referral),
        ("lame.test", RecordType::A, a(&["192.0.2.1"])),
    ];
    routed(&script, RouteConfig::default(), async |router, server| {
        let begin = now();
        let (first, second) = (router.route("stripped.test").await, router.route("stripped.test").await);
        assert_eq!(described(&first.unwrap()), ["0 stripped.test [192.0.2.1:25]"]);
        assert_eq!(server.count("MX stripped.test."), 1, "not one lookup a message");
        let holds = second.unwrap().expires - begin;
        assert!(holds < Duration::from_millis(1500), "{holds:?}");
        for domain in ["nodata.test", "gone.test", "lame.test"] {
            asserted_temporary(&router, domain).await;
        }
    });
}

/// Proves that an empty MX answer is believed only when no server knows better, and each one says it.
#[test]
fn every_server_must_say_that_there_is_no_mx() {
    let stripping = || {
        let lines = [
            ("a.test", RecordType::MX, Said::Emptiness),
            ("b.test", RecordType::MX, Said::Emptiness),
            ("c.test", RecordType::MX, Said::Emptiness),
            ("a.test", RecordType::A, a(&["192.0.2.99"])),
            ("b.test", RecordType::A, a(&["192.0.2.99"])),
            ("c.test", RecordType::A, a(&["192.0.2.99"])),
            ("host.test", RecordType::A, a(&["192.0.2.1"])),
        ];
        NameServer::start(script(&lines))
    };
    let other = stripping();
    other.say("a.test", RecordType::MX, mx(&[(1, "host.test")]));
    other.say("b.test", RecordType::MX, Said::Code(ResponseCode::ServFail));
    let servers = Arc::new([stripping(), other]);
    let addresses = servers.iter().map(|server| server.address).collect();
    routed_by(asking(addresses, 0), RouteConfig::default(), move |router| {
        let _servers = servers.clone();
        async move {
            let a = router.route("a.test").await.unwrap();
            assert_eq!(described(&a), ["1 host.test [192.0.2.1:25]"]);
            asserted_temporary(&router, "b.test").await;
            let c = router.route("c.test").await.unwrap();
            assert_eq!(described(&c), ["0 c.test [192.0.2.99:25]"]);
        }
    });
}
