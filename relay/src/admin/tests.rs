//! The control socket in the simulator, where disks fail at will.

use std::path::Path;
use std::time::Duration;

use chasqui_protocol::control::{QueueLine, Request, answer};
use chasqui_runtime::net::UnixStream;
use chasqui_runtime::sim::{self, DiskFaults, Options, Simulation};
use chasqui_runtime::sleep;

use crate::route::SimulatedAnswer;
use crate::tests::simulated::{relay, submit};

const MESSAGES: u64 = 3;
/// Whatever the relay does by itself has happened within this.
const WHILE: Duration = Duration::from_secs(90);

/// The numbers of the listing's last line: entries, and messages that could not be read.
async fn queue() -> (u64, u64) {
    let stream = UnixStream::connect(Path::new("/control")).await.unwrap();
    stream.write_all(Request::Queue.encode()).await.unwrap();
    let mut text = String::new();
    loop {
        text.push_str(std::str::from_utf8(&stream.read().await.unwrap()).unwrap());
        let last = text.ends_with('\n').then(|| text.lines().last().unwrap());
        if let Some(QueueLine::End(end)) = last.map(|line| answer::decode(line.as_bytes()).unwrap()) {
            assert_eq!(end.entries, text.lines().count() as u64 - 1, "{text}");
            return (end.entries, end.unread.unwrap());
        }
    }
}

/// A queued message whose envelope the disk does not give is counted, and listed when the disk has got over it.
#[test]
fn what_the_disk_does_not_give_is_counted() {
    let outcome = Simulation::new(1, Options::default()).run(|| async {
        let node = sim::node("relay");
        // All mail stays.
        drop(node.start(|| relay(|| SimulatedAnswer::Temporary("SERVFAIL"))));
        sleep(Duration::from_secs(1)).await;
        for _ in 0..MESSAGES {
            submit().await.unwrap();
        }
        sleep(WHILE).await;
        assert_eq!(queue().await, (MESSAGES, 0));
        node.set_disk_faults(DiskFaults { read: 1.0, ..DiskFaults::default() });
        assert_eq!(queue().await, (0, MESSAGES));
        node.heal_disk();
        assert_eq!(queue().await, (MESSAGES, 0));
    });
    outcome.unwrap();
}
