//! Slow hosts hold a bounded part of the connections, and a message no longer than its age limit.

use std::time::Duration;

use chasqui_runtime::sim::{self, Options, Simulation};
use chasqui_runtime::{now, sleep, timeout};

use super::receiver::{Answer, Receiver, Stage};
use super::{HOST, MESSAGE, TABLES, WHILE, stat, with_relay};
use crate::route::SimulatedAnswer;
use crate::tests::simulated::{relay_with, submit_as};

const SLOW_SITES: u8 = 20;

/// Each domain has a host: those of `slow<n>.test` and `good<n>.test` are these.
fn slow_host(number: u8) -> [u8; 4] {
    [127, 0, 3, number]
}

fn good_host(number: u8) -> [u8; 4] {
    [127, 0, 4, number]
}

fn answer(domain: &str) -> SimulatedAnswer {
    let number = |kind: &str| domain.strip_prefix(kind)?.strip_suffix(".test")?.parse().ok();
    let host = number("slow").map(slow_host).or_else(|| number("good").map(good_host)).unwrap_or(HOST);
    SimulatedAnswer::Hosts { hosts: vec![(10, format!("mx.{domain}"), vec![host.into()])], ttl: WHILE * 100 }
}

/// 32 connections, and the time limits of RFC 5321.
const LIMITS: &str = r#"
[retry]
first = "1h"
max = "1h"
max_age = "1d"
[delivery]
connections = 32
"#;

/// Waits until a receiver has so many messages; how long that took.
async fn arrival(receiver: &Receiver, count: usize, limit: Duration) -> Duration {
    let begun = now();
    let arrived = async {
        while receiver.log.borrow().taken.len() < count {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(limit, arrived).await.unwrap_or_else(|_| panic!("mail of number {count} to a good host is late"));
    now() - begun
}

/// Proves that with more mail to slow hosts than connections, whatever they are slow with, mail to a host that takes mail leaves at
/// once, and mail to a new host as soon as it is clear that the others are slow.
#[test]
fn slow_hosts_leave_the_others_their_connections() {
    let cases = [
        (Stage::Greeting, Answer::Silence, 12),
        (Stage::Greeting, Answer::Drip("220-hello hello hello hello hello hello hello\r\n"), 12),
        (Stage::Ehlo, Answer::Silence, 12),
        (Stage::Mail, Answer::Silence, 22),
        (Stage::Rcpt(0), Answer::Drip("250 hello hello hello hello hello hello hello\r\n"), 22),
        (Stage::Data, Answer::Silence, 22),
        (Stage::Body, Answer::Silence, 22),
        (Stage::Dot, Answer::Silence, 130),
    ];
    for (stage, slowness, new_s) in cases {
        let what = format!("{stage:?} {slowness:?}");
        let outcome = Simulation::new(1, Options::default()).run(move || async move {
            drop(sim::node("relay").start(|| relay_with(LIMITS, answer)));
            sleep(Duration::from_secs(1)).await;
            for number in 1..=SLOW_SITES {
                let answer = slowness.clone();
                Receiver::start(slow_host(number), move |asked, _| match asked {
                    asked if asked == stage => answer.clone(),
                    _ => Answer::Usual,
                });
            }
            let good = [1, 2].map(|number| Receiver::start(good_host(number), |_, _| Answer::Usual));
            submit_as("s@a.test", &["u@good1.test"], MESSAGE).await.unwrap();
            arrival(&good[0], 1, Duration::from_secs(1)).await;
            // More than the buffers between the two take.
            let message = format!("Subject: a\r\n\r\n{}", format!("{}\r\n", "z".repeat(70)).repeat(8_000));
            let message = if stage == Stage::Body { message.as_str() } else { MESSAGE };
            for _ in 0..4 {
                for number in 1..=SLOW_SITES {
                    let recipient = format!("u@slow{number}.test");
                    submit_as("s@a.test", &[&recipient], message).await.unwrap();
                }
            }
            for count in 2..12 {
                submit_as("s@a.test", &["u@good1.test"], MESSAGE).await.unwrap();
                arrival(&good[0], count, Duration::from_secs(1)).await;
            }
            submit_as("s@a.test", &["u@good2.test"], MESSAGE).await.unwrap();
            arrival(&good[1], 1, Duration::from_secs(new_s)).await;
            assert!(stat("connections").await <= 32);
        });
        outcome.unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
    }
}

/// Proves that a slow host without whom nobody waits is waited for: its mail arrives.
#[test]
fn slow_hosts_are_waited_for_while_nobody_else_waits() {
    with_relay(LIMITS, &[HOST], || async {
        let drip = Answer::Drip("250 2.1.0 at last, a reply of some length\r\n");
        Receiver::start(HOST, move |asked, _| match asked {
            Stage::Mail | Stage::Dot => drip.clone(),
            _ => Answer::Usual,
        });
        submit_as("s@a.test", &["b@b.test"], MESSAGE).await.unwrap();
        sleep(Duration::from_secs(120)).await;
        assert_eq!((stat("delivered").await, stat("deferred").await), (1, 0));
    });
}

/// Proves that greeting and reply to EHLO have one time limit together.
#[test]
fn greeting_and_ehlo_have_one_limit() {
    with_relay(TABLES, &[HOST], || async {
        Receiver::start(HOST, |asked, _| match asked {
            // Takes 14 of the 20 seconds.
            Stage::Greeting => Answer::Drip("220 mx.test.\r\n"),
            Stage::Ehlo => Answer::Silence,
            _ => Answer::Usual,
        });
        submit_as("s@a.test", &["b@b.test"], MESSAGE).await.unwrap();
        sleep(Duration::from_secs(18)).await;
        assert_eq!(stat("deferred").await, 0);
        sleep(Duration::from_secs(6)).await;
        assert_eq!(stat("deferred").await, 1);
    });
}

/// As [`TABLES`], with mail that lives for a minute.
const SHORT_LIFE: &str = r#"
[retry]
first = "50s"
max = "50s"
max_age = "60s"
[delivery]
greeting_timeout = "20s"
command_timeout = "20s"
block_timeout = "20s"
final_timeout = "20s"
"#;

/// Proves that a message in hand ends one time limit after its age limit at the latest, however many replies there are still to
/// wait for, and that what was decided until then holds.
#[test]
fn a_message_in_hand_does_not_outlive_its_age_limit() {
    with_relay(SHORT_LIFE, &[HOST, [127, 0, 2, 2]], || async {
        for host in [HOST, [127, 0, 2, 2]] {
            Receiver::start(host, |asked, _| match asked {
                Stage::Rcpt(0) => Answer::Say("550 5.1.1 nobody\r\n"),
                Stage::Rcpt(_) => Answer::Drip("250 2.1.5 ok\r\n"),
                _ => Answer::Usual,
            });
        }
        let recipients: Vec<String> = (0..20).map(|number| format!("u{number}@b.test")).collect();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        submit_as("", &recipients, MESSAGE).await.unwrap();
        sleep(Duration::from_secs(55)).await;
        assert_eq!((stat("bounced").await, stat("queued").await), (0, 1));
        sleep(Duration::from_secs(25)).await;
        assert_eq!((stat("bounced").await, stat("expired").await, stat("queued").await), (20, 19, 0));
    });
}
