//! Many names whose servers are silent or slow, beside those of others.

use chasqui_runtime::{JoinHandle, now, sleep};

use super::*;

/// Longest that a healthy name may take beside a crowd of others; it takes some milliseconds alone.
const SOON: Duration = Duration::from_secs(1);

/// Knows `healthy.test`, `beside.test` and `late.test`, whose server takes longer than a first try; is silent on the rest.
fn server() -> Arc<NameServer> {
    let mx = || mx(&[(1, "host.test")]);
    let lines = [
        ("healthy.test", RecordType::MX, mx()),
        ("beside.test", RecordType::MX, mx()),
        ("late.test", RecordType::MX, Said::Late(Duration::from_millis(1200), Box::new(mx()))),
        ("host.test", RecordType::A, a(&["192.0.2.1"])),
        ("host.test", RecordType::AAAA, Said::NoData(60)),
    ];
    Arc::new(NameServer::start_with(script(&lines), Said::Silence))
}

/// Runs `test` with a router that has so many places and no reason to give up a silent server soon.
fn beside<F>(places: usize, test: impl Fn(Router, Arc<NameServer>) -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + 'static,
{
    let server = server();
    let timeout = Duration::from_secs(20);
    let config = ResolverConfig { timeout, in_flight_max: places, ..asking(vec![server.address], 0) };
    routed_by(config, RouteConfig::default(), move |router| test(router, server.clone()));
}

fn look_up(router: &Router, name: String) -> JoinHandle<crate::route::Answer> {
    let router = router.clone();
    spawn(async move { router.route(&name).await })
}

async fn is_found_soon(router: &Router, name: &str) {
    let begin = now();
    let route = router.route(name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(described(&route), ["1 host.test [192.0.2.1:25]"], "{name}");
    assert!(now() - begin < SOON, "{name} took {:?}", now() - begin);
}

/// Proves that a new domain is found soon beside thousands whose name servers are silent, of many zones and of one, at once
/// and while those go on among the slow.
#[test]
fn a_crowd_of_silent_names_holds_up_nobody() {
    beside(64, async |router, _server| {
        let names = (0..2000).map(|i| format!("q{i}.silent{i}.test"));
        let zone = (0..1000).map(|i| format!("q{i}.flood.test"));
        let _crowd: Vec<_> = names.chain(zone).map(|name| look_up(&router, name)).collect();
        yield_now().await;
        is_found_soon(&router, "healthy.test").await;
        sleep(Duration::from_secs(3)).await;
        is_found_soon(&router, "beside.test").await;
    });
}

/// Proves that a name which takes longer than a first try is found when there are places for slow ones, and that slow ones
/// give theirs to those that wait, which is no permanent failure.
#[test]
fn slow_names_have_places_of_their_own() {
    beside(8, async |router, _server| {
        let begin = now();
        let found = look_up(&router, "late.test".to_owned());
        let silent: Vec<_> = (0..6).map(|i| look_up(&router, format!("silent{i}.test"))).collect();
        assert!(found.await.is_ok());
        for lookup in silent.into_iter().take(2) {
            let error = lookup.await.unwrap_err();
            assert!(!error.is_permanent(), "{error}");
        }
        assert!(now() - begin < Duration::from_secs(8), "{:?}", now() - begin);
    });
}

/// Proves that a domain of many silent hosts has only so many questions under way: two of its own, and those that are left.
#[test]
fn one_lookup_takes_few_sockets() {
    const HOSTS: [&str; 6] = ["h0.test", "h1.test", "h2.test", "h3.test", "h4.test", "h5.test"];
    beside(2, async |router, server| {
        server.say("wide.test", RecordType::MX, mx(&HOSTS.map(|host| (1, host))));
        let _lookup = look_up(&router, "wide.test".to_owned());
        // Before any question is sent again.
        sleep(Duration::from_millis(250)).await;
        assert_eq!(server.total(), 1 + 3);
        is_found_soon(&router, "healthy.test").await;
    });
}
