//! One seed, one course of events; and how a simulation ends.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use chasqui_runtime::fs::{self, Segment};
use chasqui_runtime::sim::{self, Failure, Kill, Options, Outcome, PlantedFault, Simulation};
use chasqui_runtime::{Config, HashMap, Shards, now, rng, sleep, spawn_blocking, wall_clock};

use crate::{ask, connect, echo_server, restart_echo, simulate};

/// A scenario with a bit of everything: shards, sockets, files, maps, work off the shard, a kill and a partition.
async fn everything() -> u64 {
    let server = echo_server().await;
    let worker = sim::node("worker");
    let work = worker.start(|| async {
        let path = Path::new("/data");
        fs::create_dir_all(path).await.unwrap();
        let shards = Shards::start(Config { cores: vec![0, 1, 2], ..Config::default() }, || async {
            let map: HashMap<u64, u64> = (0..50).map(|_| (rng().next_u64(), rng().below(9))).collect();
            let order = map.iter().fold(0, |sum: u64, (key, value)| sum.rotate_left(3) ^ key ^ value);
            sleep(Duration::from_micros(order % 1000)).await;
            spawn_blocking(move || order).await
        });
        let sums = shards.unwrap().ended().await;
        let sum = sums.into_iter().fold(0, |sum, part| sum ^ part.unwrap());
        let segment = Segment::create(&path.join("segment"), 64 * 1024).await.unwrap();
        segment.append_at(0, &[&sum.to_le_bytes()]).unwrap();
        segment.sync().await.unwrap();
        sum ^ wall_clock().as_nanos() as u64
    });
    for _ in 0..3 {
        let stream = connect().await.unwrap();
        ask(&stream, &vec![3; 20_000]).await.unwrap();
    }
    let sum = work.await.unwrap();
    sim::partition(&server, &worker);
    server.kill(Kill::PowerCut);
    restart_echo(&server).await;
    ask(&connect().await.unwrap(), b"again").await.unwrap();
    sum ^ now().as_nanos()
}

/// One seed gives one trace and one result, another seed others.
#[test]
fn one_seed_one_trace() {
    let first = simulate(1, everything);
    let second = simulate(1, everything);
    assert_eq!((first.value, first.trace, first.events), (second.value, second.trace, second.events));
    assert_ne!(first.trace, simulate(2, everything).trace);
}

/// Two processes with one seed take the same steps. The test runs itself in two more processes.
#[test]
fn one_seed_one_trace_in_two_processes() {
    const CHILD: &str = "CHASQUI_SIMULATE_CHILD";
    if std::env::var_os(CHILD).is_some() {
        let outcome = simulate(77, everything);
        println!("\ntrace={:016x} value={:016x}", outcome.trace, outcome.value);
        return;
    }
    let child = || {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "repetition::one_seed_one_trace_in_two_processes", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        printed
            .lines()
            .find(|line| line.starts_with("trace="))
            .expect("the child prints its trace")
            .to_owned()
    };
    assert_eq!(child(), child());
}

/// What runs for ever counts as stuck, and what waits for nothing as idle; both name the seed.
#[test]
fn endless_simulations_end() {
    let options = Options { events_max: 10_000, ..Options::default() };
    let stuck = Simulation::new(5, options).run(|| async {
        loop {
            sleep(Duration::from_secs(1)).await;
        }
    });
    let stuck: Failure = stuck.map(|outcome: Outcome<()>| outcome.value).unwrap_err();
    assert!(matches!(stuck, Failure::Stuck { seed: 5, events: 10_000.., .. }), "{stuck}");
    let idle = Simulation::new(6, Options::default()).run(std::future::pending::<()>).unwrap_err();
    assert!(matches!(idle, Failure::Idle { seed: 6, .. }), "{idle}");
}

/// A panic in a node reaches the caller, and the next simulation is not troubled by it.
#[test]
fn panics_come_through() {
    let panicked = std::panic::catch_unwind(|| {
        simulate(1, || async { sim::node("bad").start(|| async { panic!("on purpose") }).await.unwrap() })
    });
    assert!(panicked.is_err());
    assert_eq!(simulate(1, || async { 5 }).value, 5);
}

/// A fault exists where it is planted, and nowhere outside of the simulator.
#[test]
fn faults_exist_where_they_are_planted() {
    let options = Options { planted: Some(PlantedFault::NoReserve), ..Options::default() };
    let is_planted = || [PlantedFault::NoReserve, PlantedFault::StallOn421].map(PlantedFault::is_planted);
    let seen = Simulation::new(1, options).run(move || async move { is_planted() }).unwrap();
    assert_eq!((seen.value, is_planted()), ([true, false], [false, false]));
}

/// Marks are counted by name, for all nodes of one simulation.
#[test]
fn passages_are_counted() {
    for _ in 0..2 {
        let outcome = simulate(1, || async {
            sim::mark("here");
            sim::node("node").start(|| async { sim::mark("here") }).await.unwrap();
            (sim::marks("here"), sim::marks("there"))
        });
        assert_eq!(outcome.value, (2, 0));
    }
    sim::mark("outside, where nobody counts");
}
