//! What the receivers take, refuse and keep.

use std::net::IpAddr;

use chasqui_protocol::arrival::Kind;
use chasqui_protocol::stamp::{Verdict, recipient_hash};
use chasqui_sinks::{Config, Limits, Storage, start};
use chasqui_testkit::client::{Blocking, Client};

use super::support::{Subscriber, config, connect, deliver, fetch, on_a_shard, send, stamped, with_sinks};

/// Proves that a message goes through SMTP into the mailbox of every recipient, unchanged behind the two
/// trace fields, and that its arrivals are told with the right verdict.
#[test]
fn mail_arrives_unchanged() {
    let directory = tempfile::tempdir().unwrap();
    let addresses = vec![IpAddr::from([127, 0, 1, 1]), IpAddr::from([127, 0, 1, 2])];
    let config = Config { smtp_addresses: addresses, ..config(directory.path()) };
    let summary = with_sinks(config, async |ready| {
        assert_eq!(ready.smtp.len(), 2);
        assert_eq!(ready.smtp[0].port(), ready.smtp[1].port());
        let mut arrivals = Subscriber::connect(&ready.arrivals[0]).await;
        let message = stamped(7, 42, b".dots\r\n..\r\n\xff8 bit\r\n.\r\nend\r\n");
        let recipients = ["U1@d1.Chasqui.test", "u2@d2.chasqui.test"];
        deliver(&mut connect(ready.smtp[1]).await, "x@y.test", &recipients, &message).await;
        let records = arrivals.until_barrier(1).await;
        assert_eq!(records.len(), 2);
        for (record, recipient) in records.iter().zip(recipients) {
            assert_eq!((record.run, record.sequence, record.kind), (7, 42, Kind::Delivery));
            assert_eq!((record.verdict, record.size as usize), (Verdict::Intact, message.len()));
            assert_eq!(record.recipient, recipient_hash(recipient));
        }
        for user in ["u1@d1.chasqui.test", "u2@d2.chasqui.test"] {
            let messages = fetch(ready.pop3.unwrap(), user).await;
            assert_eq!(messages.len(), 1);
            let text = &messages[0][..messages[0].len() - message.len()];
            let trace = String::from_utf8_lossy(text);
            assert!(
                trace.starts_with("Return-Path: <x@y.test>\r\nReceived: from client.test ([127.0.0.1])"),
                "{trace}"
            );
            assert!(trace.ends_with("+0000\r\n"), "{trace}");
            assert!(messages[0].ends_with(&message));
        }
    });
    assert_eq!((summary.smtp.messages, summary.smtp.recipients, summary.smtp.not_intact), (1, 2, 0));
}

/// Proves that only the zone's domains are accepted, and the reply that others get.
#[test]
fn foreign_recipients_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let summary = with_sinks(config(directory.path()), async |ready| {
        let mut smtp = connect(ready.smtp[0]).await;
        let recipients = [
            "u@d0.chasqui.test",
            "u@d10.chasqui.test",
            "u@example.org",
            "x@bounce.chasqui.test",
            "postmaster@sink.chasqui.test",
        ];
        let replies = send(&mut smtp, "", &recipients, b"Subject: x\r\n\r\n").await;
        let told: Vec<&str> = replies.iter().map(|reply| &reply[..10]).collect();
        assert_eq!(told[1..4], ["550 5.1.2 ", "550 5.7.1 ", "550 5.1.1 "]);
        assert!(told[0].starts_with("250 ") && told[4].starts_with("250 "), "{replies:?}");
    });
    assert_eq!(summary.smtp.refused_recipients, 3);
}

/// Proves that a changed body, a changed header and a missing stamp are told apart.
#[test]
fn verdicts_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let summary = with_sinks(config(directory.path()), async |ready| {
        let mut arrivals = Subscriber::connect(&ready.arrivals[0]).await;
        let mut smtp = connect(ready.smtp[0]).await;
        let good = stamped(1, 1, b"some text\r\n");
        let changed =
            |from: &str, to: &str| String::from_utf8(good.clone()).unwrap().replace(from, to).into_bytes();
        for message in [changed("some", "same"), changed("test", "tent"), b"\r\n".to_vec(), Vec::new()] {
            deliver(&mut smtp, "", &["u@d0.chasqui.test"], &message).await;
        }
        deliver(&mut smtp, "00000000000000ff.12@bounce.chasqui.test", &["u@d0.chasqui.test"], b"\r\n").await;
        let told = arrivals.until_barrier(1).await;
        let verdicts: Vec<_> = told.iter().map(|record| record.verdict).collect();
        let lost = Verdict::NoStamp;
        assert_eq!(verdicts, [Verdict::BodyChanged, Verdict::HeaderChanged, lost, lost, lost]);
        // Without a stamp the envelope says which message it was.
        assert_eq!((told[3].run, told[4].run, told[4].sequence), (0, 0xff, 12));
    });
    assert_eq!(summary.smtp.not_intact, 5);
}

/// Proves that a bounce is told per failed recipient under the run and sequence of its envelope, and that
/// one that cannot be read is told once.
#[test]
fn bounces_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let summary = with_sinks(config(directory.path()), async |ready| {
        let mut arrivals = Subscriber::connect(&ready.arrivals[0]).await;
        let mut smtp = connect(ready.smtp[0]).await;
        let bounce_to = ["00000000000000ff.12@bounce.chasqui.test"];
        let dsn = b"MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\
            \r\n--b\r\nContent-Type: text/plain\r\n\r\nSorry.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n\
            Reporting-MTA: dns; relay.test\r\n\r\nFinal-Recipient: rfc822; u1@d1.chasqui.test\r\nAction: failed\r\n\r\n\
            Final-Recipient: rfc822; u2@d1.chasqui.test\r\nAction: failed\r\n--b--\r\n";
        deliver(&mut smtp, "", &bounce_to, dsn).await;
        deliver(&mut smtp, "", &bounce_to, b"Subject: I am away\r\n\r\n").await;
        let records = arrivals.until_barrier(1).await;
        let hashes = [recipient_hash("u1@d1.chasqui.test"), recipient_hash("u2@d1.chasqui.test"), 0];
        assert_eq!(records.iter().map(|record| record.recipient).collect::<Vec<_>>(), hashes);
        for record in records {
            assert_eq!((record.run, record.sequence, record.kind), (0xff, 12, Kind::Bounce));
        }
    });
    assert_eq!((summary.smtp.bounces, summary.smtp.messages, summary.smtp.not_intact), (2, 2, 0));
}

/// Proves that a message over the size limit gets 552, one that finds no memory 452, and that both leave the
/// connection and the memory usable.
#[test]
fn sizes_have_limits() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { message_bytes_max: 8 << 20, buffered_bytes_max: 3 << 20, ..Limits::default() };
    let config = Config { limits, ..config(directory.path()) };
    with_sinks(config, async |ready| {
        let mut smtp = connect(ready.smtp[0]).await;
        let line = [b'x'; 72].iter().copied().chain(*b"\r\n").collect::<Vec<u8>>();
        let large = |bytes: usize| line.repeat(bytes / line.len());
        let to = ["u@d0.chasqui.test"];
        for (bytes, code) in
            [(17 << 19, "552 "), (7 << 20, "452 "), (2 << 20, "250 "), (7 << 20, "452 "), (2 << 20, "250 ")]
        {
            let replies = send(&mut smtp, "", &to, &stamped(1, 1, &large(bytes))).await;
            assert!(replies[0].starts_with(code), "{bytes}: {replies:?}");
        }
        smtp.expect(&format!("MAIL FROM:<> SIZE={}", 9 << 20), "552 ").await;
        // Two announced messages that do not fit together: the second waits for the first.
        let (mut first, mut second) = (connect(ready.smtp[0]).await, connect(ready.smtp[0]).await);
        let announced = format!("MAIL FROM:<> SIZE={}\r\nRCPT TO:<{}>\r\nDATA\r\n", 2 << 20, to[0]);
        first.write(announced.as_bytes()).await.unwrap();
        wanted(&mut first).await;
        second.write(announced.as_bytes()).await.unwrap();
        deliver(&mut smtp, "", &to, b"\r\n").await;
        first.body(b"small after all\r\n").await.unwrap();
        assert!(first.reply().await.starts_with("250 "));
        wanted(&mut second).await;
    });
}

/// Reads the replies to MAIL, one RCPT and DATA: the message is wanted.
async fn wanted(client: &mut Client) {
    for reply in ["250 ", "250 ", "354 "] {
        let got = client.reply().await;
        assert!(got.starts_with(reply), "{got}");
    }
}

/// Proves that discarded messages are still verified and told, and that nothing is served to readers.
#[test]
fn bodies_can_be_discarded() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { storage: Storage::Discard, pop3: None, imap: None, ..config(directory.path()) };
    let summary = with_sinks(config, async |ready| {
        assert_eq!((ready.pop3, ready.imap), (None, None));
        let mut arrivals = Subscriber::connect(&ready.arrivals[0]).await;
        let mut smtp = connect(ready.smtp[0]).await;
        let message = stamped(1, 5, &b".x\r\n".repeat(100_000));
        deliver(&mut smtp, "", &["u@d0.chasqui.test"], &message).await;
        let records = arrivals.until_barrier(1).await;
        assert_eq!((records[0].verdict, records[0].size as usize), (Verdict::Intact, message.len()));
    });
    assert_eq!(summary.smtp.messages, 1);
}

/// Proves that a shutdown sends idle clients away with 421, and lets a transaction under way finish.
#[test]
fn shutdown_finishes_what_is_under_way() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(config(directory.path())).unwrap();
    let stopper = running.stopper();
    on_a_shard(&running, move |ready| {
        let stopper = stopper.clone();
        async move {
            let mut idle = connect(ready.smtp[0]).await;
            let mut busy = connect(ready.smtp[0]).await;
            busy.write(b"MAIL FROM:<>\r\nRCPT TO:<u@d0.chasqui.test>\r\nDATA\r\n").await.unwrap();
            wanted(&mut busy).await;
            stopper.shutdown();
            assert!(idle.reply().await.starts_with("421 "));
            busy.body(b"\r\n").await.unwrap();
            assert!(busy.reply().await.starts_with("250 "));
            assert!(busy.reply().await.starts_with("421 "));
        }
    });
    assert_eq!(running.join().unwrap().smtp.messages, 1);
}

/// Proves that a client may send byte by byte, or in as few writes as RFC 2920 allows, and that one which does not wait for
/// the replies it must wait for hears 554 5.5.0 and sends nothing.
#[test]
fn any_pace_will_do_that_waits() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(config(directory.path())).unwrap();
    let steps: [(&[u8], usize); 4] = [
        (b"", 1),
        (b"EHLO me\r\n", 5),
        (b"MAIL FROM:<>\r\nRCPT TO:<u@d0.chasqui.test>\r\nDATA\r\n", 3),
        (b"Subject: x\r\n\r\n..\r\n.\r\nQUIT\r\n", 2),
    ];
    for size in [1, 1000] {
        let mut client = Blocking::open(running.ready().smtp[0]);
        let mut replies = String::new();
        for (step, lines) in steps {
            for piece in step.chunks(size) {
                client.write(piece);
            }
            for _ in 0..lines {
                replies += &client.line();
            }
        }
        let codes: Vec<_> =
            replies.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
        assert_eq!(codes, ["220", "250", "250", "250", "354", "250", "221"], "{replies}");
    }
    let mut client = Blocking::open(running.ready().smtp[0]);
    client.write(&steps.map(|step| step.0).concat());
    let replies = client.rest();
    assert!(replies.ends_with("\r\n554 5.5.0 SMTP protocol synchronization error\r\n"), "{replies}");
    running.shutdown();
    assert_eq!(running.join().unwrap().smtp.messages, 2);
}

/// Proves that what cannot work is refused at the start with one line that names it.
#[test]
fn mistakes_are_named_at_the_start() {
    let running = start(Config { dns: None, ..Config::default() }).unwrap();
    let taken = running.ready().smtp[0];
    let directory = tempfile::tempdir().unwrap();
    let unwritable = directory.path().join("missing/arrivals");
    for (config, expected) in [
        (Config { smtp_port: taken.port(), ..Config::default() }, taken.to_string()),
        (Config { zone: "a..b".to_owned(), ..Config::default() }, "zone \"a..b\"".to_owned()),
        (Config { storage: Storage::Discard, ..Config::default() }, "discarded".to_owned()),
        (Config { arrivals: Some(unwritable), ..Config::default() }, "missing/arrivals.0".to_owned()),
        (Config { cores: vec![9999], ..Config::default() }, "9999".to_owned()),
    ] {
        let line = start(config).err().expect("it must be refused").to_string();
        assert!(line.contains(&expected) && !line.contains('\n'), "{line}");
    }
    running.shutdown();
    running.join().unwrap();
}

/// Proves that with these options every recipient is taken and can log in, and long lines are.
#[test]
fn everything_is_caught_where_that_is_wanted() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { catch_all: true, allow_long_lines: true, ..config(directory.path()) };
    with_sinks(config, async |ready| {
        let message = [b"Subject: long\r\n\r\n", [b'x'; 5000].as_slice(), b"\r\n"].concat();
        let recipients = ["u@example.org", "x@bounce.chasqui.test", "v@[192.0.2.1]", "w@d99.chasqui.test"];
        deliver(&mut connect(ready.smtp[0]).await, "x@y.test", &recipients, &message).await;
        for recipient in recipients {
            let messages = fetch(ready.pop3.unwrap(), recipient).await;
            assert!(messages.len() == 1 && messages[0].ends_with(&message), "{recipient}");
        }
    });
}

/// Proves that a sink which keeps few messages drops the oldest, tells of those that nobody had read, and counts them.
#[test]
fn dropped_mail_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { mailbox_messages_max: Some(3), ..Limits::default() };
    let summary = with_sinks(Config { limits, ..config(directory.path()) }, async |ready| {
        let mut arrivals = Subscriber::connect(&ready.arrivals[0]).await;
        let mut smtp = connect(ready.smtp[0]).await;
        for sequence in 0..6 {
            if sequence == 4 {
                assert_eq!(fetch(ready.pop3.unwrap(), "u@d1.chasqui.test").await.len(), 3);
            }
            deliver(&mut smtp, "x@y.test", &["u@d1.chasqui.test"], &stamped(9, sequence, b"x\r\n")).await;
        }
        let records = arrivals.until_barrier(1).await;
        let dropped: Vec<_> = records.iter().filter(|record| record.kind == Kind::Dropped).collect();
        assert_eq!(records.len() - dropped.len(), 6);
        assert_eq!(dropped.len(), 1, "the others were read");
        let hash = recipient_hash("u@d1.chasqui.test");
        assert_eq!((dropped[0].run, dropped[0].sequence, dropped[0].recipient), (9, 0, hash));
        assert_eq!(fetch(ready.pop3.unwrap(), "u@d1.chasqui.test").await.len(), 3);
    });
    assert_eq!((summary.smtp.messages, summary.smtp.dropped_unread), (6, 1));
}
