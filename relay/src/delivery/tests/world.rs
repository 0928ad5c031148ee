//! Clocks that jump, disks that are full at a start, and a spool that is taken away under the relay.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::sim::{self, Kill, Node, Options, Simulation};
use chasqui_runtime::sleep;

use super::receiver::{Answer, Receiver, Stage};
use super::{HOST, WHILE, stat};
use crate::route::SimulatedAnswer;
use crate::tests::simulated::{ask, relay_with, submit};

const DAY: i64 = 86_400;

const TABLES: &str = r#"
[retry]
first = "10m"
max = "1h"
max_age = "5h"
"#;

fn start(node: Node) {
    let answer = |_: &str| SimulatedAnswer::Hosts {
        hosts: vec![(10, "mx.test".into(), vec![HOST.into()])],
        ttl: WHILE * 100,
    };
    drop(node.start(move || relay_with(TABLES, answer)));
}

async fn restart(node: Node) {
    node.kill(Kill::Process);
    sleep(Duration::from_secs(3)).await;
    start(node);
    sleep(Duration::from_secs(1)).await;
}

/// A receiver that puts everything off while this is set.
fn receiver(busy: Rc<Cell<bool>>) -> Receiver {
    Receiver::start(HOST, move |stage, _| match stage {
        Stage::Rcpt(_) if busy.get() => Answer::Say("451 4.3.0 not now\r\n"),
        _ => Answer::Usual,
    })
}

fn simulate<F: Future<Output = ()> + 'static>(test: impl FnOnce(Node) -> F + 'static) {
    let outcome = Simulation::new(1, Options::default()).run(move || async move {
        let node = sim::node("relay");
        start(node);
        sleep(Duration::from_secs(1)).await;
        test(node).await;
    });
    outcome.unwrap();
}

async fn hours(hours: u64) {
    sleep(Duration::from_secs(hours * 3600)).await;
}

/// Whatever the clock says, while the relay runs and at a start, mail that could not be tried for its age limit stays; it is
/// tried again within `retry.max` when the clock is right; and what could be tried for so long goes back.
#[test]
fn jumps_of_the_clock_neither_bounce_nor_delay() {
    for restarts in [false, true] {
        for (wrong_s, right_s) in [(400 * DAY, 0), (0, 400 * DAY), (-400 * DAY, 0), (20_000, 0), (0, -20_000)]
        {
            simulate(move |node| async move {
                let busy = Rc::new(Cell::new(true));
                let receiver = receiver(busy.clone());
                submit().await.unwrap();
                sleep(Duration::from_secs(60)).await;
                for ahead_s in [wrong_s, right_s] {
                    node.set_clock(ahead_s);
                    if restarts {
                        restart(node).await;
                    }
                    submit().await.unwrap();
                    hours(1).await;
                    assert_eq!(stat("bounced").await, 0, "{wrong_s} {right_s} {restarts}");
                }
                busy.set(false);
                sleep(Duration::from_secs(4500)).await;
                assert_eq!(receiver.log.borrow().taken.len(), 3, "{wrong_s} {right_s} {restarts}");
                busy.set(true);
                submit().await.unwrap();
                hours(6).await;
                assert_eq!(stat("bounced").await, 1, "{wrong_s} {right_s} {restarts}");
            });
        }
    }
}

/// Mail that came by a wrong clock, just before the relay died, ages by the relay's time: it is tried for all of its age limit
/// when the clock is right again, and no longer.
#[test]
fn mail_of_a_wrong_clock_ages_rightly() {
    for wrong_s in [-400 * DAY, 400 * DAY, -7200, 7200] {
        simulate(move |node| async move {
            let _receiver = receiver(Rc::new(Cell::new(true)));
            sleep(Duration::from_secs(60)).await;
            node.set_clock(wrong_s);
            submit().await.unwrap();
            node.kill(Kill::Process);
            node.set_clock(0);
            restart(node).await;
            hours(4).await;
            assert_eq!(stat("bounced").await, 0, "{wrong_s}");
            hours(2).await;
            assert_eq!(stat("bounced").await, 1, "{wrong_s}");
        });
    }
}

/// A relay that starts on a disk without any room answers 452, delivers nothing that it could not record, and delivers and
/// takes mail within seconds of the disk having room.
#[test]
fn a_start_on_a_full_disk() {
    simulate(|node| async move {
        let busy = Rc::new(Cell::new(true));
        let receiver = receiver(busy.clone());
        submit().await.unwrap();
        sleep(Duration::from_secs(60)).await;
        node.kill(Kill::Process);
        sleep(Duration::from_secs(1)).await;
        for file in node.list(Path::new("/spool/shard-0")) {
            let is_unused = node
                .peek(&file)
                .unwrap()
                .get(4096..)
                .is_some_and(|rest| rest.iter().all(|octet| *octet == 0));
            if is_unused {
                node.remove_all(&file);
            }
        }
        node.set_disk_capacity(node.disk_used());
        busy.set(false);
        start(node);
        sleep(Duration::from_secs(700)).await;
        assert!(submit().await.unwrap_err().starts_with("452 4.3.1"));
        assert_eq!(receiver.log.borrow().taken.len(), 0);
        node.set_disk_capacity(1 << 30);
        sleep(Duration::from_secs(5)).await;
        assert_eq!(receiver.log.borrow().taken.len(), 1, "what was put off meanwhile is tried at once");
        submit().await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(receiver.log.borrow().taken.len(), 2);
    });
}

/// When the spool's directory is gone no 250 is given any more and nothing is delivered, and `stats` says why.
#[test]
fn a_spool_that_is_taken_away() {
    simulate(|node| async move {
        let busy = Rc::new(Cell::new(true));
        let receiver = receiver(busy.clone());
        submit().await.unwrap();
        sleep(Duration::from_secs(5)).await;
        assert!(ask("stats").await[0]["sealed"].is_null());
        node.remove_all(Path::new("/spool"));
        sleep(Duration::from_millis(1100)).await;
        let answer = submit().await.unwrap_err();
        assert!(answer.starts_with("451 4.3.0"), "{answer}");
        let sealed = ask("stats").await[0]["sealed"].as_str().expect("it is said").to_owned();
        assert!(sealed.contains("removed or replaced"), "{sealed}");
        busy.set(false);
        hours(2).await;
        assert_eq!(receiver.log.borrow().taken.len(), 0);
    });
}
