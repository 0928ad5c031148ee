//! Timers of a shard: a time limit around a wait that ends before it, which is what nearly every timer is for.
//! CPU of the shard's thread. `cargo bench -p chasqui-benches --bench runtime`.

mod on_shard;

use std::time::Duration;

use chasqui_runtime::{sleep, spawn, timeout, yield_now};
use criterion::{Criterion, criterion_group, criterion_main};
use on_shard::OnShard;

/// Timers that stand meanwhile: connections that wait for their peers.
const STANDING: u64 = 10_000;

fn timers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("timer wheel with 10,000 timers");
    let bare = OnShard::start(|rounds| {
        rounds.serve(async |rounds| {
            for _ in 0..rounds {
                yield_now().await;
            }
        })
    });
    group.bench_function("a turn of the executor, for comparison", |bencher| {
        bencher.iter_custom(|rounds| bare.time(rounds));
    });
    let limited = OnShard::start(|rounds| async move {
        let standing: Vec<_> =
            (0..STANDING).map(|number| spawn(sleep(Duration::from_secs(3600 + number)))).collect();
        let make = async |rounds| {
            for _ in 0..rounds {
                timeout(Duration::from_secs(300), yield_now()).await.expect("it ends at once");
            }
        };
        rounds.serve(make).await;
        drop(standing);
    });
    group.bench_function("the same within a time limit: set and taken back", |bencher| {
        bencher.iter_custom(|rounds| limited.time(rounds));
    });
    group.finish();
}

criterion_group!(benches, timers);
criterion_main!(benches);
