//! The limit on memory, in a process of its own: what is counted is the process's.

#[expect(dead_code, reason = "it is for other tests too")]
mod support;

use std::time::Duration;

use chasqui_relay::config::{EarlyTalkers, Size};
use chasqui_runtime::{now, process};
use chasqui_testkit::client::Blocking;
use chasqui_testkit::receiver::Threads;
use support::{Relay, route_to};

const CLIENTS: usize = 300;
/// Recipients that a client names in one breath, and how often it does.
const BREATH: usize = 100;
const BREATHS: usize = 10;

/// Sends lines and gives the first letters of their replies.
fn say(client: &mut Blocking, lines: &str) -> Vec<String> {
    client.write(lines.as_bytes());
    lines.lines().map(|_| client.line()).collect()
}

fn memory() -> u64 {
    process::anonymous_rss_bytes(process::id()).unwrap()
}

/// 300 clients with 1,000 recipients each, of 250 octets and 500 for notifications, stay under the limit on memory; when they are gone mail is taken again.
#[test]
fn recipients_stay_under_the_limit() {
    let sink = Threads::taking();
    let mut relay = Relay::start(&route_to(&sink));
    let recipients: String = (0..BREATH)
        .map(|number| {
            format!("RCPT TO:<{number:03}{}@y.test> ORCPT=rfc822;{}\r\n", "x".repeat(240), "x".repeat(490))
        })
        .collect();
    relay.stop();
    let limit = memory() + (32 << 20);
    relay.restart(1, |config| {
        config.limits.memory = Size(limit);
        config.compat.early_talkers = EarlyTalkers::Allow;
    });
    let mut clients: Vec<Blocking> = (0..CLIENTS).map(|_| Blocking::open(relay.address())).collect();
    for client in &mut clients {
        assert!(client.line().starts_with("220 "));
        assert!(say(client, "HELO a\r\nMAIL FROM:<a@x.test>\r\n")[1].starts_with("250 "));
    }
    let (mut taken, mut refused, mut peak) = (0, 0, 0);
    for _ in 0..BREATHS {
        for client in &mut clients {
            for reply in say(client, &recipients) {
                match reply.starts_with("250 ") {
                    true => taken += 1,
                    false => {
                        assert!(reply.starts_with("452 4.3.1 Insufficient memory"), "{reply}");
                        refused += 1;
                    }
                }
            }
            peak = peak.max(memory());
        }
    }
    assert!(taken > 20_000 && refused > 0, "{taken} {refused}");
    assert!(peak < limit + (2 << 20), "{} KiB over the limit", (peak - limit) >> 10);
    assert!(say(&mut clients[0], "DATA\r\n")[0].starts_with("452 4.3.1 Insufficient memory"));

    drop(clients);
    let begun = now();
    while {
        let mut client = Blocking::open(relay.address());
        !client.line().starts_with("220 ")
            || !say(&mut client, "HELO a\r\nMAIL FROM:<a@x.test>\r\n")[1].starts_with("250 ")
    } {
        assert!(begun.elapsed() < Duration::from_secs(10), "refused for good");
        std::thread::park_timeout(Duration::from_millis(100));
    }
}
