//! The ledger's way of a message: sent, accepted, arrived, read. `cargo bench -p chasqui-benches --bench loadgen`.

use std::hint::black_box;
use std::sync::Arc;

use chasqui_loadgen::ledger::{Integrity, Ledger, LedgerConfig, Sighting, Submission};
use chasqui_loadgen::{Directory, Scenario};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

/// Messages of one ledger, more than one piece of its table.
const MESSAGES: u64 = 10_000;

fn ledger(criterion: &mut Criterion) {
    let directory = Arc::new(Directory::new(&Scenario::default()));
    let config = LedgerConfig {
        shard: 0,
        shards: 1,
        recipients: Some(1),
        arrival_verifies: false,
        late_after_ns: u64::MAX,
        window_end_ns: u64::MAX,
    };
    let mut group = criterion.benchmark_group("ledger");
    group.throughput(Throughput::Elements(MESSAGES));
    group.bench_function("10,000 messages sent, accepted, arrived and read", |bencher| {
        bencher.iter_batched_ref(
            || Ledger::new(&config, directory.clone()),
            |ledger| {
                for number in 0..MESSAGES {
                    let mailbox = (number % directory.count() as u64) as u32;
                    let recipient = directory.hash(mailbox);
                    let sequence = ledger.send(black_box(number), &[mailbox]);
                    ledger.submitted(sequence, 0, Submission::Accepted, number);
                    ledger.arrived(sequence, recipient, Integrity::Intact, number);
                    let read = ledger.read(sequence, recipient, true);
                    assert_eq!(read, Sighting::First { intended_ns: number });
                }
                assert_eq!(ledger.tallies().verified, MESSAGES);
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, ledger);
criterion_main!(benches);
