//! The queue as its operator meets it: suspension, limits, what is told of sites, deferral by recipient.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chasqui_testkit::client::Blocking;
use chasqui_testkit::receiver::Threads;
use chasqui_testkit::{Answer, PATIENCE, Stage};
use serde_json::{Value, json};

use crate::MESSAGE;
use crate::support::{Relay, route_to, submit};

fn sites(relay: &Relay) -> Vec<Value> {
    let mut lines = relay.tell(json!({"command": "sites"}));
    let end = lines.pop().expect("the end");
    assert_eq!((&end["end"], &end["entries"]), (&json!(true), &json!(lines.len())));
    lines
}

fn until(relay: &Relay, what: &str, mut is_so: impl FnMut(&Relay) -> bool) {
    let since = chasqui_runtime::now();
    while !is_so(relay) {
        assert!(since.elapsed() < PATIENCE, "{what}: {:?} {}", sites(relay), relay.stats());
    }
}

fn change(command: &str, kind: &str, name: &str) -> Value {
    json!({"command": command, kind: name})
}

fn done(changed: bool) -> Vec<Value> {
    vec![json!({"done": true, "changed": changed})]
}

/// Mail for a suspended domain is taken and waits, over a restart too, while other domains of the same site and the
/// same message get theirs; when it is resumed, it flows.
#[test]
fn a_suspended_domain_waits() {
    let sink = Threads::taking();
    let mut relay = Relay::on_shards(2, &route_to(&sink));
    assert_eq!(relay.tell(change("suspend", "domain", "Held.Test")), done(true));
    assert_eq!(relay.tell(change("suspend", "domain", "held.test")), done(false));
    submit(&relay, "s@x.test", &["a@held.test", "b@free.test"], MESSAGE);
    submit(&relay, "s@x.test", &["c@HELD.test"], MESSAGE);
    assert_eq!(sink.next().recipients, ["b@free.test"]);
    until(&relay, "two wait", |relay| {
        let line = sites(relay).pop().expect("the domain");
        (&line["domain"], &line["queued"]) == (&json!("held.test"), &json!(2))
    });
    relay.stop();
    relay.restart(1, |_| {});
    submit(&relay, "s@x.test", &["d@free.test"], MESSAGE);
    assert_eq!(sink.next().recipients, ["d@free.test"]);
    until(&relay, "two are left", |relay| relay.queue().len() == 2);
    assert_eq!(relay.tell(change("resume", "domain", "held.test")), done(true));
    let arrived: BTreeSet<_> = (0..2).map(|_| sink.next().recipients.remove(0)).collect();
    assert_eq!(arrived, BTreeSet::from(["a@held.test".to_owned(), "c@HELD.test".to_owned()]));
    relay.await_empty();
    assert_eq!((&relay.stats()["deferred"], relay.stats()["overdue"].as_u64()), (&0.into(), Some(0)));
}

/// Jobs that wait at a site when their domain is suspended are found when their turn comes.
#[test]
fn a_domain_is_suspended_while_its_mail_waits() {
    let (sink, open) = (Threads::taking(), Arc::new(AtomicUsize::new(0)));
    let is_open = open.clone();
    let gate = Threads::scripted(move |_, _| match is_open.load(Ordering::SeqCst) {
        0 => Answer::close("421 4.3.2 Closed\r\n"),
        _ => Answer::Usual,
    });
    let gated = format!("routes.\"*\" = [\"{}\"]\nroutes.\"x.test\" = [\"{}\"]", gate.address, sink.address);
    let relay = Relay::start(&format!("retry.first = \"20ms\"\nretry.max = \"50ms\"\n{gated}"));
    for number in 0..10 {
        submit(&relay, "s@x.test", &[&format!("u{number}@a.test"), &format!("u{number}@b.test")], MESSAGE);
    }
    assert_eq!(relay.tell(change("suspend", "domain", "a.test")), done(true));
    open.store(1, Ordering::SeqCst);
    for _ in 0..10 {
        assert!(gate.next().recipients[0].ends_with("@b.test"));
    }
    until(&relay, "ten are held", |relay| sites(relay).pop().is_some_and(|line| line["queued"] == 10));
    assert_eq!(gate.rest(), []);
    assert_eq!(relay.tell(change("resume", "domain", "a.test")), done(true));
    for _ in 0..10 {
        assert_eq!(gate.next().recipients.len(), 1);
    }
    relay.await_empty();
}

/// A suspended site is listed with what waits there, gets no connection, and goes on when it is resumed; a site that
/// nobody knows can be suspended ahead. What is no such command is answered with an error.
#[test]
fn a_suspended_site_waits() {
    let sink = Threads::taking();
    let relay = Relay::on_shards(2, &route_to(&sink));
    submit(&relay, "s@x.test", &["first@y.test"], MESSAGE);
    sink.next();
    relay.await_empty();
    let site = sites(&relay)[0]["site"].as_str().expect("a name").to_owned();
    assert_eq!(relay.tell(change("suspend", "site", &site)), done(true));
    assert_eq!(relay.tell(change("suspend", "site", "10 mx.elsewhere.test:25")), done(true));
    let made = relay.stats()["connections_made"].clone();
    for number in 0..20 {
        submit(&relay, "s@x.test", &[&format!("u{number}@y.test")], MESSAGE);
    }
    until(&relay, "all wait", |relay| sites(relay).iter().any(|line| line["queued"] == 20));
    let lines = sites(&relay);
    assert_eq!(
        (lines.len(), &lines[0]["suspended"], &lines[1]["suspended"]),
        (2, &json!(true), &json!(true))
    );
    assert_eq!((&relay.stats()["connections_made"], sink.rest()), (&made, vec![]));
    assert_eq!(relay.tell(change("resume", "site", &site)), done(true));
    (0..20).for_each(|_| drop(sink.next()));
    relay.await_empty();
    for wrong in
        [json!({"command": "suspend"}), change("resume", "domain", "a b"), change("suspend", "pope", "x")]
    {
        assert!(relay.tell(wrong.clone())[0]["error"].is_string(), "{wrong}");
    }
}

/// Mail that waits for a suspended domain or at a suspended site goes back when it is too old.
#[test]
fn old_messages_go_back_while_suspended() {
    let (sink, other) = (Threads::taking(), Threads::taking());
    let routes = format!("routes.\"other.test\" = [\"{}\"]\n{}", other.address, route_to(&sink));
    let relay = Relay::start(&format!("retry.max_age = \"300ms\"\n{routes}"));
    submit(&relay, "s@x.test", &["first@other.test"], MESSAGE);
    other.next();
    relay.await_empty();
    let site = sites(&relay).iter().find_map(|line| {
        let name = line["site"].as_str().expect("a name");
        name.contains(&other.address.port().to_string()).then(|| name.to_owned())
    });
    assert_eq!(relay.tell(change("suspend", "site", &site.expect("it is listed"))), done(true));
    assert_eq!(relay.tell(change("suspend", "domain", "held.test")), done(true));
    for recipient in ["u@held.test", "u@other.test"] {
        submit(&relay, "s@x.test", &[recipient], MESSAGE);
        let text = String::from_utf8(sink.next().message).expect("7-bit");
        let failed = format!("rfc822; {recipient}\r\nAction: failed\r\nStatus: 4.4.7\r\n");
        assert!(text.contains(&failed) && text.contains("suspended by the operator"), "{text}");
    }
    relay.await_empty();
    assert_eq!((&relay.stats()["expired"], other.rest()), (&2.into(), vec![]));
}

/// Mail that waits only because another site has all connections goes back when it is too old.
#[test]
fn old_messages_go_back_without_a_connection() {
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let sink = Threads::taking();
    let routes = format!(
        "routes.\"hangs.test\" = [\"{}\"]\n{}",
        hanging.local_addr().expect("bound"),
        route_to(&sink)
    );
    let relay = Relay::start(&format!(
        "delivery.connections = 1\nretry.max_age = \"300ms\"\nlimits.drain = \"0s\"\nbounce.enabled = false\n{routes}"
    ));
    submit(&relay, "s@x.test", &["u@hangs.test"], MESSAGE);
    // Its greeting is waited for, and it has the only connection.
    let _silent = hanging.accept().expect("a connection");
    submit(&relay, "s@x.test", &["u@y.test"], MESSAGE);
    until(&relay, "both expire", |relay| relay.stats()["expired"] == 2);
    assert_eq!((relay.queue(), sink.rest()), (vec![], vec![]));
}

/// `sites` tells how many jobs of a site wait for their time, on all shards together, and forgets no site of which some
/// do.
#[test]
fn deferred_jobs_are_listed() {
    let is_late = Arc::new(AtomicUsize::new(1));
    let late = is_late.clone();
    let sink = Threads::scripted(move |stage, _| match stage {
        Stage::Rcpt(_) if late.load(Ordering::SeqCst) == 1 => Answer::say("450 4.2.0 Later\r\n"),
        _ => Answer::Usual,
    });
    let settings = "retry.first = \"1s\"\nretry.jitter = 0.0\ndelivery.idle = \"1ms\"";
    let relay = Relay::on_shards(2, &format!("{settings}\n{}", route_to(&sink)));
    for number in 0..10 {
        submit(&relay, "s@x.test", &[&format!("u{number}@y.test")], MESSAGE);
    }
    until(&relay, "all wait, and no connection is left", |relay| {
        let lines = sites(relay);
        let [line] = &lines[..] else { return false };
        (&line["deferred"], &line["queued"], &line["connections"]) == (&json!(10), &json!(0), &json!(0))
    });
    is_late.store(0, Ordering::SeqCst);
    (0..10).for_each(|_| drop(sink.next()));
    relay.await_empty();
    until(&relay, "the site is forgotten", |relay| sites(relay).is_empty());
}

/// Of many recipients one is deferred: the others have theirs at once, the one is tried again alone, also after a
/// restart, and gets the message once.
#[test]
fn one_of_many_recipients_is_deferred() {
    let open = Arc::new(AtomicUsize::new(0));
    let is_open = open.clone();
    let sink = Threads::scripted(move |stage, it| match stage {
        Stage::Rcpt(_) if it.recipient == "late@y.test" && is_open.load(Ordering::SeqCst) == 0 => {
            Answer::say("450 4.2.0 Greylisted\r\n")
        }
        _ => Answer::Usual,
    });
    let mut relay =
        Relay::start(&format!("retry.first = \"50ms\"\nretry.max = \"100ms\"\n{}", route_to(&sink)));
    let mut recipients: Vec<String> = (0..90).map(|number| format!("u{number}@y.test")).collect();
    recipients.insert(70, "late@y.test".into());
    let all: Vec<&str> = recipients.iter().map(String::as_str).collect();
    submit(&relay, "s@x.test", &all, MESSAGE);
    assert_eq!(sink.next().recipients.len(), 90);
    let late = vec![("s@x.test".to_owned(), "late@y.test".to_owned())];
    until(&relay, "one is left", |relay| {
        relay.queue() == late && relay.stats()["deferred"].as_u64() >= Some(2)
    });
    relay.stop();
    relay.restart(1, |_| {});
    assert_eq!(relay.queue(), late);
    open.store(1, Ordering::SeqCst);
    assert_eq!(sink.next().recipients, ["late@y.test"]);
    relay.await_empty();
    assert_eq!(sink.rest(), []);
}

/// The limit on queued messages answers MAIL with 452 4.3.1, and mail is taken again when the queue is shorter.
#[test]
fn a_full_queue_refuses() {
    let sink = Threads::taking();
    let relay = Relay::start(&format!("limits.queued = 3\n{}", route_to(&sink)));
    assert_eq!(relay.tell(change("suspend", "domain", "y.test")), done(true));
    let mut sender = Blocking::connect(relay.address()).expect("a greeting");
    for _ in 0..3 {
        assert!(sender.send("s@x.test", &["u@y.test"], MESSAGE)[0].starts_with("250 "));
    }
    assert!(sender.send("s@x.test", &["u@y.test"], MESSAGE)[0].starts_with("452 4.3.1 Too many messages"));
    assert_eq!(relay.tell(change("resume", "domain", "y.test")), done(true));
    (0..3).for_each(|_| drop(sink.next()));
    relay.await_empty();
    assert!(sender.send("s@x.test", &["u@y.test"], MESSAGE)[0].starts_with("250 "));
}

/// With more memory in use than allowed, MAIL is answered 452 4.3.1 and a new connection 421 4.3.2; what is queued is
/// still delivered.
#[test]
fn short_memory_refuses() {
    let sink = Threads::taking();
    let mut relay = Relay::start(&route_to(&sink));
    let memory = relay.stats()["memory"].as_u64().expect("the system tells");
    assert!(memory > 1 << 20, "{memory}");
    assert_eq!(relay.tell(change("suspend", "domain", "y.test")), done(true));
    submit(&relay, "s@x.test", &["u@y.test"], MESSAGE);
    relay.stop();
    relay.restart(1, |config| config.limits.memory = chasqui_relay::config::Size(1 << 20));
    // The first figure is read when the first client is there, or when the statistics are asked for.
    let mut early = Blocking::connect(relay.address()).expect("nothing is known yet");
    relay.stats();
    assert!(early.send("s@x.test", &["u@y.test"], MESSAGE)[0].starts_with("452 4.3.1 Insufficient memory"));
    let refusal = Blocking::connect(relay.address()).err().expect("no connection");
    assert!(refusal.starts_with("421 4.3.2 "), "{refusal}");
    assert_eq!(relay.tell(change("resume", "domain", "y.test")), done(true));
    assert_eq!(sink.next().recipients, ["u@y.test"]);
    relay.await_empty();
}

/// A site's limit of one connection holds over both shards, and the mail of both arrives, whichever has the
/// connection.
#[test]
fn connections_are_limited_across_shards() {
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(0)));
    let (opened, seen) = (open.clone(), most.clone());
    let sink = Threads::scripted(move |stage, _| {
        match stage {
            Stage::Greeting => {
                let now = opened.fetch_add(1, Ordering::SeqCst) + 1;
                let mut most = seen.lock().expect("no test panicked");
                *most = now.max(*most);
            }
            // Before it is answered: the client may open its next connection at once.
            Stage::Quit => drop(opened.fetch_sub(1, Ordering::SeqCst)),
            _ => {}
        }
        Answer::Usual
    });
    let relay = Relay::on_shards(2, &format!("delivery.connections_per_site = 1\n{}", route_to(&sink)));
    let mut senders: Vec<_> =
        (0..8).map(|_| Blocking::connect(relay.address()).expect("a greeting")).collect();
    for number in 0..400 {
        let sender = &mut senders[number % 8];
        assert!(sender.send("s@x.test", &[&format!("u{number}@y.test")], MESSAGE)[0].starts_with("250 "));
    }
    let arrived: BTreeSet<_> = (0..400).map(|_| sink.next().recipients.remove(0)).collect();
    assert_eq!(arrived.len(), 400);
    relay.await_empty();
    assert_eq!(*most.lock().expect("no test panicked"), 1);
}

/// A site's rate holds over both shards: messages beyond the burst take their time, and all arrive.
#[test]
fn rates_are_limited_across_shards() {
    let sink = Threads::taking();
    let relay = Relay::on_shards(2, &format!("delivery.rate_per_site = 100\n{}", route_to(&sink)));
    let mut senders: Vec<_> =
        (0..4).map(|_| Blocking::connect(relay.address()).expect("a greeting")).collect();
    let since = chasqui_runtime::now();
    for number in 0..60 {
        senders[number % 4].send("s@x.test", &["u@y.test"], MESSAGE);
    }
    (0..60).for_each(|_| drop(sink.next()));
    // A tenth of a second's messages may come at once.
    assert!(since.elapsed() >= Duration::from_millis((60 - 10 - 1) * 10), "{:?}", since.elapsed());
    relay.await_empty();
}
