//! The client and the receiver talk to each other, as tasks and as threads.

use std::net::SocketAddr;
use std::time::Duration;

use chasqui_runtime::sim::{self, Options, Simulation};
use chasqui_runtime::{now, sleep};

use crate::client::Blocking;
use crate::receiver::Threads;
use crate::{Answer, Client, Receiver, Stage, Transaction};

const MESSAGE: &[u8] = b"Subject: a\r\n\r\n.dots\r\n\xe9\r\n";

/// Refuses one recipient, and takes everything else.
fn script(stage: Stage, it: &Transaction) -> Answer {
    match stage {
        Stage::Rcpt(1) => Answer::say("550 5.1.1 nobody\r\n"),
        Stage::Rcpt(_) if it.recipient == "late@b.test" && it.waited.is_zero() => {
            Answer::Wait(Duration::from_millis(50))
        }
        _ => Answer::Usual,
    }
}

/// Of threads and of tasks in the simulator: a message arrives as it was sent, for those who were not refused, and each
/// recipient has the reply that decided over it.
#[test]
fn messages_arrive_and_replies_decide() {
    let to = ["a@b.test", "no@b.test", "late@b.test"];
    let decided = ["250 2.0.0 Ok", "550 5.1.1 nobody", "250 2.0.0 Ok"];
    let check = |taken: &Transaction| {
        assert_eq!((taken.reverse_path.as_str(), taken.message.as_slice()), ("s@a.test", MESSAGE));
        assert_eq!(
            (&taken.recipients[..], taken.asked_for),
            (&["a@b.test".into(), "late@b.test".into()][..], 3)
        );
    };
    let receiver = Threads::scripted(script);
    let mut client = Blocking::connect(receiver.address).expect("a greeting");
    assert_eq!(client.send("s@a.test", &to, MESSAGE), decided);
    check(&receiver.next());
    client.expect("QUIT", "221");
    assert_eq!(client.rest(), "");

    let outcome = Simulation::new(1, Options::default()).run(move || async move {
        let address = SocketAddr::from(([127, 0, 2, 1], 25));
        let receiver = Receiver::start(address, script);
        let mut client = Client::connect(address).await.expect("a greeting");
        assert_eq!(client.send("s@a.test", &to, MESSAGE).await.expect("an answer"), decided);
        let log = receiver.log.borrow();
        assert_eq!((log.connections, log.bodies.len()), (1, 1));
        check(&log.taken[0]);
    });
    outcome.unwrap();
}

/// Every deviation reaches the client: odd replies, the end of the connection, silence, drops that take their time.
#[test]
fn deviations_are_seen() {
    let deviations = [
        (Answer::say("2x0 what\r\n"), "2x0 what\r\n", 0),
        (Answer::close("421 bye\r\n"), "421 bye\r\n", 0),
        (Answer::Drip("250 ok\r\n"), "250 ok\r\n", 8),
        (Answer::Drop, "", 0),
    ];
    for (answer, expected, seconds) in deviations {
        let outcome = Simulation::new(1, Options::default()).run(move || async move {
            let address = SocketAddr::from(([127, 0, 2, 1], 25));
            let node = sim::node("receiver");
            drop(node.start(move || async move {
                Receiver::start(address, move |stage, _| match stage {
                    Stage::Mail => answer.clone(),
                    _ => Answer::Usual,
                });
                std::future::pending::<()>().await
            }));
            sleep(Duration::from_secs(1)).await;
            let mut client = Client::connect(address).await.expect("a greeting");
            let begun = now();
            assert_eq!(client.command("MAIL FROM:<s@a.test>").await, expected);
            assert_eq!((now() - begun).as_secs(), seconds);
            if expected.starts_with("250") {
                assert!(client.command("RCPT TO:<a@b.test>").await.starts_with("250"), "it was taken");
            }
        });
        outcome.unwrap();
    }
}
