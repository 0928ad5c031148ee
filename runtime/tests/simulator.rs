//! The simulator itself: that it repeats, and that its machines and disks fail as real ones do.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::fs::{self, File, OpenOptions, Segment};
use chasqui_runtime::net::{ConnectOptions, ListenOptions, TcpListener, TcpStream};
use chasqui_runtime::sim::{
    self, DiskOperation, Failure, Kill, NetworkOptions, Node, Options, Outcome, Simulation,
};
use chasqui_runtime::{
    Config, HashMap, Shards, mailbox, now, offload, rng, sleep, spawn, timeout, wall_clock,
};

const SERVER: &str = "10.0.0.1:25";

fn simulate<Fut: Future<Output = T> + 'static, T: Send + 'static>(
    seed: u64,
    control: fn() -> Fut,
) -> Outcome<T> {
    let network = NetworkOptions { tiny_window: 0.0, slow_reader: 0.0, ..NetworkOptions::default() };
    Simulation::new(seed, Options { network, ..Options::default() })
        .run(control)
        .unwrap_or_else(|failure| panic!("{failure}"))
}

/// Starts a server that echoes, and waits until it listens.
async fn echo_server() -> Node {
    let node = sim::node("server");
    restart_echo(&node).await;
    node
}

async fn restart_echo(node: &Node) {
    let (ready, listening) = mailbox::oneshot();
    drop(node.start(move || async move {
        let listener = TcpListener::bind(SERVER.parse().unwrap(), &ListenOptions::default()).unwrap();
        ready.send(()).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            spawn(async move {
                while let Ok(piece) = stream.read().await {
                    if piece.is_empty() || stream.write_all(piece.to_vec()).await.is_err() {
                        break;
                    }
                }
            });
        }
    }));
    listening.await.unwrap();
}

async fn connect() -> io::Result<TcpStream> {
    TcpStream::connect(SERVER.parse().unwrap(), &ConnectOptions::default()).await
}

/// Sends `bytes` and waits until as many have come back.
async fn ask(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes.to_vec()).await?;
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        let piece = stream.read().await?;
        if piece.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        got.extend_from_slice(&piece);
    }
    assert_eq!(got, bytes);
    Ok(())
}

// ---- Repetition -------------------------------------------------------------------------------------------

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
            offload(move || order).await
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
            .args(["--exact", "one_seed_one_trace_in_two_processes", "--nocapture"])
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

/// Planted faults exist where they are switched on, and nowhere outside of the simulator.
#[test]
fn bugs_are_switched_on_by_name() {
    let options = Options { bugs: vec!["some-bug".into()], ..Options::default() };
    let seen =
        Simulation::new(1, options).run(|| async { (sim::bug("some-bug"), sim::bug("other")) }).unwrap();
    assert_eq!(seen.value, (true, false));
    assert!(!sim::bug("some-bug"));
}

// ---- Nodes ------------------------------------------------------------------------------------------------

/// A killed node's futures are dropped, with calls that lead to nothing; the others live on, and the node starts
/// anew.
#[test]
fn a_killed_node_falls_silent() {
    struct Farewell(TcpStream, mailbox::Sender<&'static str>);
    impl Drop for Farewell {
        fn drop(&mut self) {
            let stream = self.0.clone();
            drop(spawn(async move { stream.write_all(b"farewell".to_vec()).await }));
            self.0.shutdown();
            drop(futures_lite::future::block_on(futures_lite::future::poll_once(
                self.0.write_all(b"farewell".to_vec()),
            )));
            drop(TcpListener::bind(SERVER.parse().unwrap(), &ListenOptions::default()));
            let _ = self.1.send("dropped");
        }
    }
    for seed in 0..20 {
        simulate(seed, || async {
            let server = echo_server().await;
            let (sender, mut receiver) = mailbox::channel(10);
            let client = sim::node("client");
            let running = client.start(move || async move {
                let stream = connect().await.unwrap();
                ask(&stream, b"hello").await.unwrap();
                let farewell = Farewell(stream, sender.clone());
                sender.send("connected").unwrap();
                spawn(async move {
                    let _farewell = farewell;
                    std::future::pending::<()>().await;
                });
                std::future::pending::<()>().await;
            });
            assert_eq!(receiver.recv().await, Some("connected"));
            client.kill(Kill::Process);
            assert_eq!(running.await, Err(sim::Killed));
            assert!(!client.is_running());
            assert_eq!(receiver.recv().await, Some("dropped"));
            assert_eq!(receiver.recv().await, None);
            ask(&connect().await.unwrap(), b"still there").await.unwrap();
            let again = client.start(|| async { connect().await.is_ok() });
            assert_eq!(again.await, Ok(true));
            assert!(server.is_running());
        });
    }
}

/// A process that ends closes its sockets; at a power cut the peer is told nothing until it asks the node that is
/// back.
#[test]
fn peers_learn_of_an_end_as_they_would() {
    for seed in 0..20 {
        simulate(seed, || async {
            let server = echo_server().await;
            let stream = connect().await.unwrap();
            ask(&stream, b"hello").await.unwrap();
            server.kill(Kill::Process);
            let end = timeout(Duration::from_secs(1), stream.read()).await.unwrap();
            assert!(end.is_err() || end.is_ok_and(|piece| piece.is_empty()));
            assert_eq!(connect().await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);

            restart_echo(&server).await;
            let stream = connect().await.unwrap();
            ask(&stream, b"hello").await.unwrap();
            server.kill(Kill::PowerCut);
            assert!(timeout(Duration::from_secs(60), stream.read()).await.is_err(), "half open");
            assert!(timeout(Duration::from_secs(5), connect()).await.is_err(), "nobody answers");
            stream.write_all(b"anybody?".to_vec()).await.unwrap();
            assert!(timeout(Duration::from_secs(5), stream.read()).await.is_err());
            restart_echo(&server).await;
            stream.write_all(b"anybody now?".to_vec()).await.unwrap();
            let end = timeout(Duration::from_secs(5), stream.read()).await.unwrap();
            assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        });
    }
}

/// A process ends with its main future, and its other shards and tasks with it.
#[test]
fn a_process_ends_with_its_main_future() {
    simulate(3, || async {
        let (sender, mut receiver) = mailbox::channel::<()>(1);
        let node = sim::node("node");
        let value = node.start(move || async move {
            let shards = Shards::start(Config { cores: vec![0, 1], ..Config::default() }, move || {
                let sender = sender.clone();
                async move {
                    let _sender = sender;
                    std::future::pending::<()>().await;
                }
            });
            sleep(Duration::from_millis(1)).await;
            drop(shards.unwrap());
            7
        });
        assert_eq!(value.await, Ok(7));
        assert_eq!(receiver.recv().await, None);
        assert!(!node.is_running());
    });
}

/// A partition holds packets back and new connections off; after it the connection goes on whole, or is reset.
#[test]
fn partitions_heal() {
    let fates = Rc::new(Cell::new((0, 0)));
    for seed in 0..40 {
        let seen = simulate(seed, || async {
            let server = echo_server().await;
            let client = sim::node("client");
            let (sender, mut receiver) = mailbox::channel(10);
            let running = client.start(move || async move {
                let stream = connect().await.unwrap();
                ask(&stream, b"before").await.unwrap();
                sender.send(()).unwrap();
                sleep(Duration::from_secs(1)).await;
                assert!(
                    timeout(Duration::from_secs(2), connect()).await.is_err(),
                    "no connection through it"
                );
                let late = timeout(Duration::from_secs(60), ask(&stream, &[9; 5000])).await.unwrap();
                late.is_ok()
            });
            receiver.recv().await.unwrap();
            sim::partition(&server, &client);
            sleep(Duration::from_secs(10)).await;
            sim::heal(&server, &client);
            running.await.unwrap()
        });
        let (whole, reset) = fates.get();
        fates.set(if seen.value { (whole + 1, reset) } else { (whole, reset + 1) });
    }
    let (whole, reset) = fates.get();
    assert!(whole > 5 && reset > 2, "both happen: {whole} and {reset}");
}

/// Random resets hit some connections, which then fail on both sides.
#[test]
fn connections_are_reset_at_random() {
    let mut failed = 0;
    for seed in 0..30 {
        let network = NetworkOptions { reset: 0.5, ..NetworkOptions::default() };
        let outcome = Simulation::new(seed, Options { network, ..Options::default() }).run(|| async {
            echo_server().await;
            let stream = connect().await.unwrap();
            for _ in 0..10 {
                if ask(&stream, &[5; 2000]).await.is_err() {
                    return true;
                }
            }
            false
        });
        failed += u32::from(outcome.unwrap().value);
    }
    assert!((5..28).contains(&failed), "{failed} of 30");
}

// ---- Disks ------------------------------------------------------------------------------------------------

const ALL: OpenOptions =
    OpenOptions { read: true, write: true, create: true, create_new: false, truncate: false };

/// Writes a synced and an unsynced part, is killed by `how`, and tells what the disk holds of both then.
fn after_a_kill(seed: u64, how: Kill) -> (Vec<u8>, Vec<u8>) {
    let network = NetworkOptions::default();
    let run = Simulation::new(seed, Options { network, ..Options::default() }).run(move || async move {
        let node = sim::node("disk");
        let (sender, mut receiver) = mailbox::channel(1);
        let writing = node.start(move || async move {
            fs::create_dir_all(Path::new("/spool")).await.unwrap();
            let segment = Segment::create(Path::new("/spool/segment"), 64 * 1024).await.unwrap();
            fs::sync_dir(Path::new("/")).await.unwrap();
            fs::sync_dir(Path::new("/spool")).await.unwrap();
            segment.append_at(0, &[&[1; 8192]]).unwrap();
            segment.sync().await.unwrap();
            segment.append_at(8192, &[&[2; 8192]]).unwrap();
            let _ = sender.send(());
            std::future::pending::<()>().await;
        });
        receiver.recv().await.unwrap();
        node.kill(how);
        assert!(writing.await.is_err());
        let reading = node.start(|| async {
            let segment = Segment::open(Path::new("/spool/segment")).await.unwrap();
            (segment.read(0, 8192).unwrap(), segment.read(8192, 8192).unwrap())
        });
        reading.await.unwrap()
    });
    run.unwrap().value
}

/// What was synced survives a power cut; what was not is kept, lost, or torn between its sectors, never inside
/// one. The death of a process alone loses nothing that was written.
#[test]
fn unsynced_writes_may_be_lost_and_torn() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..100 {
        let (synced, unsynced) = after_a_kill(seed, Kill::PowerCut);
        assert!(synced == [1; 8192]);
        let sectors: Vec<&[u8]> = unsynced.chunks(512).collect();
        assert!(sectors.iter().all(|sector| **sector == [0; 512] || **sector == [2; 512]));
        match sectors.iter().filter(|sector| sector[0] == 2).count() {
            0 => lost += 1,
            16 => kept += 1,
            _ => torn += 1,
        }
        let (synced, unsynced) = after_a_kill(seed, Kill::Process);
        assert!(synced == [1; 8192] && unsynced == [2; 8192]);
    }
    assert!(kept > 10 && lost > 10 && torn > 20, "{kept} kept, {lost} lost, {torn} torn");
}

/// A sync covers what was written before it began, and not what was written while it ran.
#[test]
fn a_sync_covers_what_came_before_it() {
    let mut lost = 0;
    for seed in 0..60 {
        let outcome = simulate(seed, || async {
            let node = sim::node("disk");
            let writing = node.start(|| async {
                let file = File::open(Path::new("/file"), &ALL).await.unwrap();
                file.allocate(0, 8192).await.unwrap();
                file.sync_data().await.unwrap();
                fs::sync_dir(Path::new("/")).await.unwrap();
                let segment = Segment::open(Path::new("/file")).await.unwrap();
                segment.append_at(0, &[&[1; 4096]]).unwrap();
                let mut sync = Box::pin(segment.sync());
                assert!(futures_lite::future::poll_once(&mut sync).await.is_none());
                segment.append_at(4096, &[&[2; 4096]]).unwrap();
                sync.await.unwrap();
            });
            writing.await.unwrap();
            node.kill(Kill::PowerCut);
            let bytes = node.peek(Path::new("/file")).unwrap();
            assert!(bytes[..4096] == [1; 4096]);
            bytes[4096..] != [2; 4096]
        });
        lost += u32::from(outcome.value);
    }
    assert!(lost > 10, "{lost} of 60 lost");
}

/// After a failed sync a second one that succeeds has not written what the first one dropped.
#[test]
fn a_failed_sync_is_not_mended_by_another() {
    let mut lost = 0;
    for seed in 0..60 {
        let outcome = simulate(seed, || async {
            let node = sim::node("disk");
            let writing = node.start(move || async move {
                let segment = Segment::create(Path::new("/segment"), 8192).await.unwrap();
                fs::sync_dir(Path::new("/")).await.unwrap();
                segment.append_at(0, &[&[1; 4096]]).unwrap();
                node.fail_disk(DiskOperation::Sync, 1);
                assert!(segment.sync().await.is_err());
                segment.sync().await.unwrap();
                assert!(segment.read(0, 4096).unwrap() == [1; 4096], "the page cache still has it");
            });
            writing.await.unwrap();
            node.kill(Kill::PowerCut);
            node.peek(Path::new("/segment")).unwrap()[..4096] != [1; 4096]
        });
        lost += u32::from(outcome.value);
    }
    assert!(lost > 30, "{lost} of 60 lost");
}

/// Names are durable once their directory was synced; of later changes a prefix survives a power cut.
#[test]
fn names_survive_in_their_order() {
    let mut counts = [0; 5];
    for seed in 0..100 {
        let outcome = simulate(seed, || async {
            let node = sim::node("disk");
            let writing = node.start(|| async {
                let directory = Path::new("/names");
                fs::create_dir_all(directory).await.unwrap();
                File::open(&directory.join("durable"), &ALL).await.unwrap();
                fs::sync_dir(Path::new("/")).await.unwrap();
                fs::sync_dir(directory).await.unwrap();
                for name in ["0", "1", "2"] {
                    File::open(&directory.join(name), &ALL).await.unwrap();
                }
                fs::rename(&directory.join("durable"), &directory.join("renamed")).await.unwrap();
            });
            writing.await.unwrap();
            node.kill(Kill::PowerCut);
            node.start(|| async { fs::read_dir(Path::new("/names")).await.unwrap() }).await.unwrap()
        });
        let names: Vec<String> =
            outcome.value.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
        let states = [
            vec!["durable"],
            vec!["0", "durable"],
            vec!["0", "1", "durable"],
            vec!["0", "1", "2", "durable"],
            vec!["0", "1", "2", "renamed"],
        ];
        let state = states.iter().position(|state| *state == names);
        counts[state.unwrap_or_else(|| panic!("{names:?} is no prefix"))] += 1;
    }
    assert!(counts.iter().all(|count| *count > 3), "{counts:?}");
}

/// A full disk refuses writes with ENOSPC until there is room, and planned errors hit the operation they name.
#[test]
fn disks_fill_up_and_fail() {
    simulate(1, || async {
        let node = sim::node("disk");
        node.set_disk_capacity(40_960);
        let working = node.start(move || async move {
            let file = File::open(Path::new("/file"), &ALL).await.unwrap();
            file.write_at(vec![1; 40_960], 0).await.unwrap();
            assert_eq!(fs::available_bytes(Path::new("/")).await.unwrap(), 0);
            let full = file.write_at(vec![1; 1], 40_960).await.unwrap_err();
            assert_eq!(full.kind(), io::ErrorKind::StorageFull);
            file.write_at(vec![2; 100], 0).await.unwrap();
            assert!(Segment::create(Path::new("/segment"), 4096).await.is_err());
            fs::remove_file(Path::new("/segment")).await.unwrap();
            node.set_disk_capacity(81_920);
            let segment = Segment::create(Path::new("/segment"), 4096).await.unwrap();
            assert_eq!(node.disk_used(), 45_056);
            node.fail_disk(DiskOperation::Write, 1);
            assert_eq!(segment.append_at(0, &[b"x"]).unwrap_err().raw_os_error(), Some(5));
            segment.append_at(0, &[b"x"]).unwrap();
            node.fail_disk(DiskOperation::Read, 1);
            assert!(segment.read(0, 1).is_err());
            assert_eq!(segment.read(0, 1).unwrap(), b"x");
        });
        working.await.unwrap();
    });
}

/// A process can be ended at every single operation of its disk, and nothing it does afterwards counts.
#[test]
fn a_kill_at_each_disk_operation() {
    let run = |number: u64| {
        Simulation::new(9, Options::default()).run(move || async move {
            let node = sim::node("disk");
            node.kill_at_disk_operation(number, Kill::Process);
            let writing = node.start(|| async {
                let segment = Segment::create(Path::new("/segment"), 8192).await.unwrap();
                for index in 0..4 {
                    if segment.append_at(index, &[b"x"]).is_err() {
                        sleep(Duration::from_secs(1)).await;
                    }
                }
                segment.sync().await.unwrap();
            });
            let ended = writing.await;
            let written = node.peek(Path::new("/segment")).unwrap_or_default();
            (ended.is_ok(), written.iter().filter(|byte| **byte == b'x').count(), node.disk_operations())
        })
    };
    let (whole, written, operations) = run(u64::MAX).unwrap().value;
    assert!(whole && written == 4 && operations > 8);
    let mut last = 0;
    for number in 1..=operations {
        let (ended, written, counted) = run(number).unwrap().value;
        assert_eq!((ended, counted), (false, number));
        assert!(written >= last, "more is written the later the end comes");
        last = written;
    }
    assert_eq!(last, 4);
}
