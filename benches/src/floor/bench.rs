//! The measurement: starts sink and relay, generates, and reads clocks and counts at both edges of the window.

use std::io;
use std::sync::mpsc::channel;
use std::time::Duration;

use chasqui_runtime::now;
use chasqui_runtime::process::{cpu_time, raise_open_files};
use serde_json::{Map, Value, json};

use crate::arguments::{Options, joined};
use crate::counts::{Board, Count, Counts, NAMES};
use crate::process::Child;
use crate::{generator, shards};

/// Clocks and counts of the three processes at one moment.
struct Sample {
    at: Duration,
    relay: (Duration, Counts),
    sinks: (Duration, Counts),
    loadgen: (Duration, Counts),
}

/// Measures and prints one line of JSON.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    raise_open_files()?;
    let mut sink = Child::start(&options.for_child("sink", &[]))?;
    let mut relay = Child::start(&options.for_child("relay", &sink.ports))?;
    let board = Board::new(options.generator_cores.len());
    let (ports, connections, size) = (relay.ports.clone(), options.connections, options.size);
    let (for_shards, generators) = (board.clone(), options.generator_cores.len());
    shards::start("generator", &options.generator_cores, move |shard| {
        let sockets = shards::connect(connections, shard, generators, &ports)?;
        generator::drive(sockets, size, for_shards.clone(), shard)
    })?;
    // The relay prepares its segments first.
    while relay.usage()?.1.of(Count::Messages) == 0 {
        wait(Duration::from_millis(10));
    }
    wait(options.warmup);
    let mut sample = || {
        Ok::<_, io::Error>(Sample {
            at: Duration::from_nanos(now().as_nanos()),
            loadgen: (cpu_time(std::process::id())?, board.sum()),
            relay: relay.usage()?,
            sinks: sink.usage()?,
        })
    };
    let start = sample()?;
    wait(options.window);
    let end = sample()?;
    shards::end();
    relay.announce_end()?;
    sink.announce_end()?;
    println!("{}", report(options, &start, &end));
    Ok(())
}

/// Waits; no shard of the runtime is here to sleep on.
fn wait(time: Duration) {
    let (_keep, never) = channel::<()>();
    let _timed_out = never.recv_timeout(time);
}

fn report(options: &Options, start: &Sample, end: &Sample) -> Value {
    let window = (end.at - start.at).as_secs_f64();
    let part = |cores: &[usize], start: &(Duration, Counts), end: &(Duration, Counts)| {
        let counts = end.1.since(&start.1);
        let messages = counts.of(Count::Messages) as f64;
        let mut part: Map<String, Value> = NAMES
            .iter()
            .zip(counts.values())
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        part.insert("cpu_us_per_message".into(), json!((end.0 - start.0).as_secs_f64() * 1e6 / messages));
        part.insert("cores".into(), json!(joined(cores)));
        part
    };
    let (relay, sinks) = (end.relay.1.since(&start.relay.1), end.sinks.1.since(&start.sinks.1));
    json!({
        "messages_per_s": sinks.of(Count::Messages) as f64 / window,
        "messages_per_sync": relay.of(Count::SyncedMessages) as f64 / relay.of(Count::Syncs) as f64,
        "relay": part(&options.relay_cores, &start.relay, &end.relay),
        "loadgen": part(&options.generator_cores, &start.loadgen, &end.loadgen),
        "sinks": part(&options.sink_cores, &start.sinks, &end.sinks),
    })
}
