//! Delivery when the disk fails, in the simulator.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::net::{ListenOptions, TcpListener};
use chasqui_runtime::sim::{self, DiskOperation, Options, Simulation};
use chasqui_runtime::{sleep, spawn};

use crate::route::SimulatedAnswer;
use crate::simulated::{relay, submit};

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
