//! Delivery when the disk fails or receivers misbehave, in the simulator.

mod hosts;
mod receiver;
mod refusals;
mod slow;
mod world;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::net::{ListenOptions, TcpListener};
use chasqui_runtime::sim::{self, DiskOperation, Options, Simulation};
use chasqui_runtime::{sleep, spawn};

use crate::route::SimulatedAnswer;
use crate::tests::simulated::{ask, relay, relay_with, submit};

const HOST: [u8; 4] = [127, 0, 2, 1];
/// In this the host is probed several times, if it is to be.
const WHILE: Duration = Duration::from_secs(300);

/// Greets everyone and counts; knows no mail.
async fn host(connections: Rc<Cell<u64>>) {
    let listener = TcpListener::bind(SocketAddr::from((HOST, 25)), &ListenOptions::default()).unwrap();
    while let Ok((stream, _)) = listener.accept().await {
        connections.set(connections.get() + 1);
        spawn(async move {
            let mut answer = "220 here\r\n";
            while stream.write_all(answer.into()).await.is_ok() {
                answer = "250 so it is\r\n";
                if stream.read().await.is_ok_and(|command| command.is_empty()) {
                    return;
                }
            }
        });
    }
}

/// A relay whose spool has sealed itself leaves the hosts alone to which mail waits: what they took could not be recorded.
#[test]
fn a_sealed_spool_opens_no_connection() {
    let outcome = Simulation::new(1, Options::default()).run(|| async {
        let node = sim::node("relay");
        drop(node.start(|| {
            relay(|| SimulatedAnswer::Hosts {
                hosts: vec![(10, "mx.test".into(), vec![HOST.into()])],
                ttl: WHILE,
            })
        }));
        sleep(Duration::from_secs(1)).await;
        submit().await.unwrap();
        sleep(Duration::from_secs(1)).await;
        node.fail_disk(DiskOperation::Write, 1);
        assert!(submit().await.unwrap_err().starts_with("451"));
        let connections = Rc::new(Cell::new(0));
        spawn(host(connections.clone()));
        sleep(WHILE).await;
        assert_eq!(connections.get(), 0);
    });
    outcome.unwrap();
}

const MESSAGE: &str = "Subject: a\r\n\r\na\r\n";

/// A retry schedule that a test sees the end of, and short time limits.
const TABLES: &str = r#"
[retry]
first = "1h"
max = "1h"
max_age = "2h"
[delivery]
greeting_timeout = "20s"
command_timeout = "20s"
block_timeout = "30s"
final_timeout = "20s"
idle = "10s"
"#;

/// Runs a test beside a relay that finds these hosts, in order of preference, for every domain.
fn with_relay<F: Future<Output = ()> + 'static>(
    tables: &'static str,
    hosts: &'static [[u8; 4]],
    test: impl FnOnce() -> F + 'static,
) {
    let outcome = Simulation::new(1, Options::default()).run(move || async move {
        let answer = move |_: &str| {
            let host = |(place, host): (usize, &[u8; 4])| {
                (10 * (place as u16 + 1), format!("mx{}.test", place + 1), vec![(*host).into()])
            };
            SimulatedAnswer::Hosts { hosts: hosts.iter().enumerate().map(host).collect(), ttl: WHILE * 100 }
        };
        drop(sim::node("relay").start(move || relay_with(tables, answer)));
        sleep(Duration::from_secs(1)).await;
        test().await;
    });
    outcome.unwrap();
}

/// A figure of the relay's stats.
async fn stat(name: &str) -> u64 {
    ask("stats").await[0][name].as_u64().expect("a number")
}
