//! What a killed relay has answered 250 for.

use crate::support::{Chain, alone, ask, chasqui, column, record, wait_for};

/// How often the relay is killed within one run.
const KILLS: usize = 3;
/// What each incarnation of the relay must have answered 250 for before it is killed.
const ACCEPTED_BEFORE_KILL: u64 = 100;

#[test]
fn a_killed_relay_delivers_what_it_answered_250_for() {
    // Proves: SIGKILL of the relay in the middle of a run, then a restart on the same spool: every message that was
    // answered 250 arrives unchanged, in both durability classes.
    let _alone = alone();
    for class in ["synced", "buffered"] {
        let more = format!("spool.class = \"{class}\"");
        let mut chain = Chain::start(&more);
        let mut load = chasqui();
        load.args("load --rate 400 --duration 4s --warmup 0s --connections 10 --json".split(' '))
            .arg(format!("--target={}", chain.relay.address("listen")))
            .arg(format!("--pop3={}", chain.sink.address("pop3")))
            .arg(format!("--imap={}", chain.sink.address("imap")))
            .arg(format!("--control={}", chain.control().display()))
            .arg(format!("--out={}", chain.folder.path().join("run").display()));
        for stream in chain.sink.ready["arrivals"].as_array().expect("arrival streams") {
            load.arg("--arrivals-from").arg(stream.as_str().expect("a path"));
        }
        let load = std::thread::Builder::new().spawn(move || record(load)).expect("a thread");
        for _ in 0..KILLS {
            wait_for("accepted mail", || {
                let accepted = ask(&chain.control(), "stats")?["accepted"].as_u64();
                accepted.filter(|accepted| *accepted >= ACCEPTED_BEFORE_KILL)
            });
            chain = chain.kill_and_restart_relay(&more);
        }
        let (record, _, _) = load.join().expect("a record");
        assert!(column(&record, "accepted") >= KILLS as u64 * ACCEPTED_BEFORE_KILL, "{class}: {record}");
        for name in ["lost", "pending", "corrupted", "phantom", "bounced"] {
            assert_eq!(column(&record, name), 0, "{class}: {name}: {record}");
        }
        assert_eq!(column(&record, "accepted"), column(&record, "verified"), "{class}: {record}");
        assert!(chain.relay.stop().success(), "{class}: the restarted relay drains");
    }
}
