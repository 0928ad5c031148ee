//! Hot parts of the relay: a message into the spool and out of it, and a route that the cache has.
//! CPU of the shard's thread. `cargo bench -p chasqui-benches --bench relay`.

mod on_shard;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::smtp::data::BodyForm;
use chasqui_relay::route::{Resolver, RouteConfig, Router, SimulatedAnswer};
use chasqui_relay::spool::{Durability, Envelope, Spool, SpoolConfig, State, StateChange};
use chasqui_runtime::spawn;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use on_shard::OnShard;

const BODY: [u8; 2048] = [b'x'; 2048];
/// Sessions that commit at the same time: what shares a group.
const WRITERS: u64 = 64;
const DOMAINS: usize = 1000;

fn envelope() -> Envelope {
    Envelope {
        reverse_path: "0123456789abcdef.12345@bounce.chasqui.test".into(),
        recipients: vec!["u12@d7.chasqui.test".into()],
        arrived_ms: 1_700_000_000_000,
        lead_ms: 0,
        size: BODY.len() as u64,
        eight_bit: false,
        form: BodyForm::default(),
        dsn: None,
    }
}

/// Appends a message, waits for its commit, and records that it was delivered.
async fn keep(spool: Rc<Spool>, messages: u64) {
    for _ in 0..messages {
        let mut writer = spool.begin(None);
        writer.write(&BODY).await.expect("there is room");
        let id = writer.commit(&envelope()).await.expect("the disk is well");
        let delivered = StateChange { id, recipients: &[0], state: State::Delivered };
        spool.states(&[delivered]).expect("the disk is well");
    }
}

fn spool(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("spool: 2 KiB appended, committed, delivered");
    group.throughput(Throughput::Elements(WRITERS));
    for class in [Durability::Synced, Durability::Buffered] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let dir: PathBuf = folder.path().into();
        let shard = OnShard::start(move |rounds| {
            let config = SpoolConfig { class, ..SpoolConfig::new(dir.clone(), 0, 1) };
            async move {
                let (spool, _) = Spool::open(config).await.expect("the folder is empty");
                let make = async |rounds| {
                    let writers: Vec<_> = (0..WRITERS).map(|_| spawn(keep(spool.clone(), rounds))).collect();
                    for writer in writers {
                        writer.await;
                    }
                };
                rounds.serve(make).await;
            }
        });
        group.bench_function(format!("{class}, {WRITERS} at a time"), |bencher| {
            bencher.iter_custom(|rounds| shard.time(rounds));
        });
    }
    group.finish();
}

fn routes(criterion: &mut Criterion) {
    let shard = OnShard::start(|rounds| async move {
        let resolver = Resolver::simulated(|domain| {
            let hosts = vec![(10, format!("mx.{domain}"), vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])];
            (Duration::ZERO, SimulatedAnswer::Hosts { hosts, ttl: Duration::from_secs(86_400) })
        });
        let router = Router::new(RouteConfig::default(), resolver);
        let domains: Vec<String> = (0..DOMAINS).map(|number| format!("d{number}.chasqui.test")).collect();
        for domain in &domains {
            router.route(domain).await.expect("every domain has a host");
        }
        let make = async |rounds| {
            for domain in domains.iter().cycle().take(rounds as usize) {
                let answer = router.route_cached(black_box(domain)).expect("it was asked for before");
                assert!(black_box(answer).is_ok());
            }
        };
        rounds.serve(make).await;
    });
    criterion.bench_function("route cache: a hit among 1000 domains", |bencher| {
        bencher.iter_custom(|rounds| shard.time(rounds));
    });
}

criterion_group!(benches, spool, routes);
criterion_main!(benches);
