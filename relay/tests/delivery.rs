//! The relay between a client and receivers, all on real sockets and a real spool.

mod notifications;
mod queueing;
mod serving;
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chasqui_testkit::client::Blocking;
use chasqui_testkit::receiver::Threads;
use chasqui_testkit::{Answer, PATIENCE, Stage, Transaction};
use support::{Relay, route_to, submit};

const MESSAGE: &[u8] = b"Subject: a\r\n\r\nbody\r\n";

/// Every octet after the trace field arrives as it was sent: nothing at all, dots, 8-bit, long lines, spool magic.
#[test]
fn messages_arrive_unchanged() {
    let sink = Threads::taking();
    let relay = Relay::start(&route_to(&sink));
    let mut large = Vec::new();
    while large.len() < 3 << 20 {
        large.extend_from_slice(format!("line {} of a large message\r\n.dot\r\n", large.len()).as_bytes());
    }
    let long_line = [&b"x".repeat(998)[..], b"\r\n"].concat();
    let messages: [&[u8]; 7] = [
        b"",
        b"\r\n",
        b".\r\n..\r\n.a\r\n",
        MESSAGE,
        "S: \u{e9}\r\n\r\n\u{e9}\r\n".as_bytes(),
        &long_line,
        &large,
    ];
    let mut sender = Blocking::connect(relay.address()).expect("a greeting");
    for message in messages {
        let replies = sender.send("a@x.test", &["b@y.test"], message);
        assert!(replies[0].starts_with("250 2.0.0 "), "{replies:?}");
        let arrival = sink.next();
        assert_eq!(
            (arrival.reverse_path.as_str(), arrival.recipients.as_slice()),
            ("a@x.test", &["b@y.test".to_owned()][..])
        );
        assert!(arrival.original() == message, "{} octets are changed", message.len());
        relay.await_empty();
    }
    assert_eq!(relay.stats()["delivered"], 7);
    assert_eq!(relay.stats()["connections_made"], 1, "the connection is used again");
}

/// Peers outside the configured networks get 550 5.7.1 and nothing is kept.
#[test]
fn foreign_peers_may_not_relay() {
    let relay = Relay::start("networks = [\"192.0.2.0/24\"]");
    let mut sender = Blocking::connect(relay.address()).expect("a greeting");
    assert_eq!(sender.send("a@x.test", &["b@y.test"], MESSAGE), ["550 5.7.1 Relaying denied"]);
    assert_eq!(relay.queue(), []);
}

/// The recipients of a message at one site go in one transaction, and at most as many as configured.
#[test]
fn recipients_share_transactions() {
    let sink = Threads::taking();
    let relay = Relay::start(&format!("delivery.recipients_per_transaction = 3\n{}", route_to(&sink)));
    let recipients = ["a@a.test", "b@b.test", "c@a.test", "d@b.test", "e@c.test"];
    submit(&relay, "s@x.test", &recipients, MESSAGE);
    let (first, second) = (sink.next(), sink.next());
    assert_eq!((first.recipients.len(), second.recipients.len()), (3, 2));
    let all: BTreeSet<_> = first.recipients.iter().chain(&second.recipients).map(String::as_str).collect();
    assert_eq!(all, BTreeSet::from(recipients));
}

/// A temporary refusal of one of two recipients defers that one, which is tried again and arrives.
#[test]
fn deferral_and_retry() {
    let mut refusals = 2;
    let sink = Threads::scripted(move |stage, it| match stage {
        Stage::Rcpt(_) if it.recipient == "late@y.test" && refusals > 0 => {
            refusals -= 1;
            Answer::say("450 4.2.0 Greylisted\r\n")
        }
        _ => Answer::Usual,
    });
    let relay = Relay::start(&format!("retry.first = \"20ms\"\n{}", route_to(&sink)));
    submit(&relay, "s@x.test", &["now@y.test", "late@y.test"], MESSAGE);
    assert_eq!(sink.next().recipients, ["now@y.test"]);
    assert_eq!(sink.next().recipients, ["late@y.test"]);
    relay.await_empty();
    assert_eq!((&relay.stats()["deferred"], &relay.stats()["delivered"]), (&2.into(), &2.into()));
}

fn no_such_user(stage: Stage, it: &Transaction) -> Answer {
    match stage {
        Stage::Rcpt(_) if it.recipient == "nobody@y.test" => Answer::say("550 5.1.1 No such user\r\n"),
        _ => Answer::Usual,
    }
}

/// A permanent refusal sends one notification with the null reverse-path to the sender, about that recipient alone.
#[test]
fn permanent_failures_bounce() {
    let sink = Threads::scripted(no_such_user);
    let relay = Relay::start(&route_to(&sink));
    submit(&relay, "s@x.test", &["nobody@y.test", "somebody@y.test"], MESSAGE);
    let mut arrivals = [sink.next(), sink.next()];
    arrivals.sort_by_key(|arrival| arrival.recipients.clone());
    let [notification, delivery] = arrivals;
    assert_eq!(delivery.recipients, ["somebody@y.test"]);
    assert_eq!(
        (notification.reverse_path.as_str(), notification.recipients),
        ("", vec!["s@x.test".to_owned()])
    );
    let text = String::from_utf8(notification.message).expect("7-bit");
    for part in [
        "Content-Type: multipart/report; report-type=delivery-status;",
        "\r\nFinal-Recipient: rfc822; nobody@y.test\r\nAction: failed\r\nStatus: 5.1.1\r\n",
        "\r\nDiagnostic-Code: smtp; 550 5.1.1 No such user\r\n",
        "\r\nSubject: a\r\n",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("rfc822; somebody"));
    relay.await_empty();
    assert_eq!((&relay.stats()["bounced"], &relay.stats()["delivered"]), (&1.into(), &2.into()));
}

/// What fails and came from the null reverse-path is dropped: no notification about a notification.
#[test]
fn no_bounce_for_a_bounce() {
    let sink = Threads::scripted(no_such_user);
    let relay = Relay::start(&route_to(&sink));
    submit(&relay, "", &["nobody@y.test"], MESSAGE);
    relay.await_empty();
    assert_eq!((&relay.stats()["bounced"], &relay.stats()["notifications"]), (&1.into(), &0.into()));
    assert_eq!(sink.rest(), []);
}

/// A message that is never taken goes back when it is too old, whether its site refuses it or cannot be reached.
#[test]
fn old_messages_go_back() {
    let sink = Threads::scripted(|stage, it| match stage {
        Stage::Rcpt(_) if it.recipient.ends_with("@y.test") => Answer::say("450 4.2.0 Later\r\n"),
        _ => Answer::Usual,
    });
    let dead = "routes.\"dead.test\" = [\"127.0.0.1:1\"]";
    let relay = Relay::start(&format!(
        "retry.first = \"20ms\"\nretry.max_age = \"300ms\"\n{dead}\n{}",
        route_to(&sink)
    ));
    submit(&relay, "s@x.test", &["u@y.test"], MESSAGE);
    let text = String::from_utf8(sink.next().message).expect("7-bit");
    assert!(text.contains("rfc822; u@y.test\r\nAction: failed\r\nStatus: 4.4.7\r\n"), "{text}");
    submit(&relay, "s@x.test", &["u@dead.test"], MESSAGE);
    let text = String::from_utf8(sink.next().message).expect("7-bit");
    assert!(text.contains("rfc822; u@dead.test\r\nAction: failed\r\nStatus: 4.4.7\r\n"), "{text}");
    relay.await_empty();
    assert_eq!(relay.stats()["expired"], 2);
}

/// The next host is tried when the first does not answer, and when it answers 421.
#[test]
fn next_host_is_tried() {
    let busy = Threads::scripted(|_, _| Answer::close("421 4.3.2 Busy\r\n"));
    let sink = Threads::taking();
    let relay = Relay::start(&format!(
        "routes.\"*\" = [\"127.0.0.1:1\", \"{}\", \"{}\"]",
        busy.address, sink.address
    ));
    submit(&relay, "s@x.test", &["u@y.test"], MESSAGE);
    assert_eq!(sink.next().recipients, ["u@y.test"]);
    relay.await_empty();
    assert_eq!(relay.stats()["deferred"], 0);
}

/// A dead site keeps nobody else's mail waiting, and its mail flows when it comes back.
#[test]
fn a_dead_site_delays_no_other() {
    let sink = Threads::taking();
    let revived = Arc::new(AtomicBool::new(false));
    let lives = revived.clone();
    let dead = Threads::scripted(move |_, _| match lives.load(Ordering::Relaxed) {
        true => Answer::Usual,
        false => Answer::close("421 4.3.2 Down\r\n"),
    });
    let routes = format!("routes.\"dead.test\" = [\"{}\"]\n{}", dead.address, route_to(&sink));
    let relay = Relay::start(&format!("retry.first = \"50ms\"\nretry.max = \"100ms\"\n{routes}"));
    let mut sender = Blocking::connect(relay.address()).expect("a greeting");
    for number in 0..200 {
        let site = if number % 2 == 0 { "dead" } else { "alive" };
        sender.send("s@x.test", &[&format!("u{number}@{site}.test")], MESSAGE);
    }
    for _ in 0..100 {
        assert!(sink.next().recipients[0].ends_with("@alive.test"));
    }
    let dead_entries =
        relay.queue().into_iter().filter(|(_, recipient)| recipient.ends_with("@dead.test")).count();
    assert_eq!(dead_entries, 100);
    revived.store(true, Ordering::Relaxed);
    for _ in 0..100 {
        assert!(dead.next().recipients[0].ends_with("@dead.test"));
    }
    relay.await_empty();
}

/// The control socket lists every open recipient by reverse-path and recipient.
#[test]
fn the_queue_is_listed() {
    let relay = Relay::start("routes.\"*\" = [\"127.0.0.1:1\"]");
    submit(&relay, "s@x.test", &["a@a.test", "b@b.test"], MESSAGE);
    submit(&relay, "", &["c@c.test"], MESSAGE);
    let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert_eq!(
        relay.queue(),
        [pair("", "c@c.test"), pair("s@x.test", "a@a.test"), pair("s@x.test", "b@b.test")]
    );
    assert_eq!((&relay.stats()["queued"], &relay.stats()["queued_recipients"]), (&2.into(), &3.into()));
}

/// A message with 100 Received fields loops: 554 5.4.6. One less is taken; fields of the body do not count.
#[test]
fn loops_end() {
    let sink = Threads::taking();
    let relay = Relay::start(&route_to(&sink));
    let message = |hops: usize| [b"Received: x\r\n".repeat(hops).as_slice(), b"\r\nReceived: y\r\n"].concat();
    let mut sender = Blocking::connect(relay.address()).expect("a greeting");
    let refused = sender.send("a@x.test", &["b@y.test"], &message(100));
    assert!(refused[0].starts_with("554 5.4.6 "), "{refused:?}");
    let taken = sender.send("a@x.test", &["b@y.test"], &message(99));
    assert!(taken[0].starts_with("250 "), "{taken:?}");
    assert_eq!(sink.next().original(), message(99));
}

/// A silent client is closed with 421 4.4.2, one connection too many is refused with 421.
#[test]
fn clients_are_limited() {
    let relay = Relay::start("limits.idle = \"100ms\"\nlimits.connections_per_peer = 1");
    let mut sender = Blocking::connect(relay.address()).expect("a greeting");
    let refusal = Blocking::connect(relay.address()).err().expect("one too many");
    assert!(refusal.starts_with("421 "), "{refusal}");
    assert_eq!(sender.reply(), "421 4.4.2 Idle for too long\r\n");
    assert_eq!(sender.reply(), "", "it is closed");
}

/// What is queued survives a restart, with another number of shards too and in every class, and arrives once.
#[test]
fn the_queue_survives_a_restart() {
    for (before, after, class) in
        [(1, 1, "synced"), (2, 1, "synced"), (1, 2, "buffered"), (1, 1, "memory"), (2, 1, "memory")]
    {
        let settings =
            format!("retry.first = \"100ms\"\nroutes.\"*\" = [\"127.0.0.1:1\"]\nspool.class = \"{class}\"");
        let mut relay = Relay::on_shards(before, &settings);
        for number in 0..20 {
            submit(
                &relay,
                "s@x.test",
                &[&format!("u{number}@y.test")],
                format!("N: {number}\r\n\r\n").as_bytes(),
            );
        }
        let queued = relay.queue();
        assert_eq!(queued.len(), 20);
        relay.stop();
        let sink = Threads::taking();
        let hop =
            chasqui_relay::config::NextHop { host: "127.0.0.1".into(), port: Some(sink.address.port()) };
        relay.restart(after, |config| {
            config.routes.insert("*".into(), vec![hop]);
        });
        let arrived: BTreeSet<_> = (0..20).map(|_| sink.next().recipients.remove(0)).collect();
        assert_eq!(arrived, queued.into_iter().map(|(_, recipient)| recipient).collect());
        relay.await_empty();
        assert_eq!(sink.rest(), []);
    }
}

/// A message that was damaged in a segment which a start does not read is not sent: it waits, and at its end its sender
/// is told, with nothing of it. The others arrive.
#[test]
fn a_damaged_message_is_not_sent() {
    let mut relay = Relay::start("retry.first = \"100ms\"\nroutes.\"*\" = [\"127.0.0.1:1\"]");
    let message = |number: u32| {
        let line = format!("this is line of message {number}, as it was written.\r\n");
        format!("N: {number}\r\n\r\n{}", line.repeat(1600))
    };
    // More than one segment.
    for number in 0..60 {
        submit(&relay, "s@x.test", &[&format!("u{number}@y.test")], message(number).as_bytes());
    }
    let mark = b"line of message 3, as";
    let shard = relay.spool().join("shard-0");
    // Its segment, once that has an index: then a start does not read the rest.
    let find = || {
        std::fs::read_dir(&shard).unwrap().find_map(|entry| {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).ok()?;
            let is_indexed = bytes.len() >= 64 && bytes[bytes.len() - 64..].starts_with(b"CHASQIDX");
            let at = bytes.windows(mark.len()).rposition(|window| window == mark).filter(|_| is_indexed)?;
            Some((path, bytes, at))
        })
    };
    let since = chasqui_runtime::now();
    while find().is_none() {
        assert!(since.elapsed() < PATIENCE, "no index is written");
        // Each question goes through the shard, so that asking lets it work.
        relay.stats();
    }
    relay.stop();
    let (path, mut bytes, at) = find().expect("the index stays");
    bytes[at] = b'L';
    std::fs::write(path, bytes).unwrap();

    let sink = Threads::taking();
    let hop = chasqui_relay::config::NextHop { host: "127.0.0.1".into(), port: Some(sink.address.port()) };
    relay.restart(1, |config| {
        config.routes.insert("*".into(), vec![hop]);
        config.retry.max_age = Duration::from_secs(5);
    });
    let arrived: Vec<_> = (0..60).map(|_| sink.next()).collect();
    let (told, sound): (Vec<_>, Vec<_>) =
        arrived.iter().partition(|arrival| arrival.recipients == ["s@x.test"]);
    assert_eq!((told.len(), sound.len()), (1, 59));
    let text = std::str::from_utf8(&told[0].message).unwrap();
    assert!(text.contains("u3@y.test\r\nAction: failed") && text.contains("damaged in the spool"), "{text}");
    assert!(!text.contains("N: 3"), "{text}");
    for arrival in sound {
        let number = arrival.recipients[0][1..].split('@').next().unwrap().parse().unwrap();
        assert!(number != 3 && arrival.original() == message(number).as_bytes());
    }
    relay.await_empty();
}

/// Ending in the middle of traffic loses nothing: what was answered 250 has arrived or is in the spool.
#[test]
fn shutdown_loses_nothing() {
    let sink = Threads::taking();
    let mut relay = Relay::on_shards(2, &route_to(&sink));
    let (address, accepted) = (relay.address(), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let accepted = accepted.clone();
            let send = move || {
                let mut taken = Vec::new();
                let Ok(mut sender) = Blocking::connect(address) else { return taken };
                for number in 0.. {
                    let recipient = format!("u{client}.{number}@y.test");
                    match sender.try_send("s@x.test", &[&recipient], MESSAGE) {
                        Some(replies) if replies[0].starts_with("250 ") => taken.push(recipient),
                        _ => break,
                    }
                    accepted.fetch_add(1, Ordering::Relaxed);
                }
                taken
            };
            std::thread::Builder::new().spawn(send).unwrap()
        })
        .collect();
    let mut arrived: BTreeSet<String> = (0..500).map(|_| sink.next().recipients.remove(0)).collect();
    relay.stop();
    let taken: BTreeSet<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert!(taken.len() >= 500);
    relay.restart(2, |_| {});
    relay.await_empty();
    arrived.extend(sink.rest().into_iter().map(|mut arrival| arrival.recipients.remove(0)));
    assert_eq!(taken.difference(&arrived).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// A spool that is in use, or an address that is taken, is one line that says so.
#[test]
fn starts_that_fail_are_explained() {
    let relay = Relay::start("");
    let config = |spool: &std::path::Path, listen: std::net::SocketAddr| {
        let text = format!("hostname = \"b.test\"\nspool.directory = {spool:?}\nlisten = [\"{listen}\"]\n");
        chasqui_relay::Config::parse(&text, "b.toml".as_ref()).expect("accepted")
    };
    let placement = || chasqui_relay::Placement {
        engine: chasqui_runtime::EngineKind::Uring,
        cores: vec![chasqui_runtime::available_cores()[0]],
    };
    let other = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let free = "127.0.0.1:0".parse().unwrap();
    let error =
        chasqui_relay::start(config(&relay.spool(), free), placement()).expect_err("locked").to_string();
    assert!(!error.contains('\n') && error.contains("spool"), "{error}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let error =
        chasqui_relay::start(config(other.path(), address), placement()).expect_err("taken").to_string();
    assert!(!error.contains('\n') && error.contains(&address.to_string()), "{error}");
}

/// A receiver that answers 421 after each message still gets all mail, without delay.
#[test]
fn one_message_per_connection() {
    let mut taken = 0;
    let sink = Threads::scripted(move |stage, _| {
        taken += usize::from(stage == Stage::Mail);
        match stage {
            Stage::Mail if taken % 2 == 0 => Answer::close("421 4.7.0 One message per connection\r\n"),
            _ => Answer::Usual,
        }
    });
    let relay = Relay::start(&format!("delivery.connections_per_site = 1\n{}", route_to(&sink)));
    for number in 0..10 {
        submit(&relay, "s@x.test", &[&format!("u{number}@y.test")], MESSAGE);
    }
    let arrived: BTreeSet<_> = (0..10).map(|_| sink.next().recipients.remove(0)).collect();
    assert_eq!(arrived.len(), 10);
    relay.await_empty();
    assert_eq!(relay.stats()["deferred"], 0);
}

/// A full spool answers 452 4.3.1, keeps what it has, and takes mail again when there is room.
#[test]
fn a_full_spool_refuses_and_recovers() {
    let open = Arc::new(AtomicBool::new(false));
    let takes = open.clone();
    let sink = Threads::scripted(move |_, _| match takes.load(Ordering::Relaxed) {
        true => Answer::Usual,
        false => Answer::close("421 4.3.2 Closed\r\n"),
    });
    let often = "retry.first = \"20ms\"\nretry.max = \"100ms\"";
    let mut relay = Relay::start(&format!("{often}\n{}", route_to(&sink)));
    relay.stop();
    relay.restart(1, |config| {
        config.spool.directory = config.spool.directory.with_extension("small");
        config.spool.segment_size = chasqui_relay::config::Size(64 << 10);
        config.spool.space = chasqui_relay::config::Size(512 << 10);
    });
    let message = [&b"Subject: a\r\n\r\n"[..], &b"0123456789\r\n".repeat(1000)].concat();
    let mut sender = Blocking::connect(relay.address()).expect("a greeting");
    let mut taken = BTreeSet::new();
    let refusal = loop {
        let recipient = format!("u{}@y.test", taken.len());
        let reply = sender.send("s@x.test", &[&recipient], &message).remove(0);
        if !reply.starts_with("250 ") {
            break reply;
        }
        taken.insert(recipient);
        assert!(taken.len() < 100, "512 KiB hold no more than that");
    };
    assert!(refusal.starts_with("452 4.3.1 "), "{refusal}");
    assert!(taken.len() >= 10, "{taken:?}");
    assert_eq!(relay.queue().len(), taken.len());
    open.store(true, Ordering::Relaxed);
    let arrived: BTreeSet<_> = taken.iter().map(|_| sink.next().recipients.remove(0)).collect();
    assert_eq!(arrived, taken);
    relay.await_empty();
    // Segments are free again once that is durable.
    let since = chasqui_runtime::now();
    while !sender.send("s@x.test", &["again@y.test"], &message)[0].starts_with("250 ") {
        assert!(since.elapsed() < PATIENCE, "segments are used again: {}", relay.stats());
    }
}
