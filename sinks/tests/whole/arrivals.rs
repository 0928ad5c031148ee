//! The streams of arrivals: order, barriers, and subscribers who do not read.

use chasqui_protocol::arrival::{Kind, RECORD_SIZE};
use chasqui_runtime::{spawn, yield_now};
use chasqui_sinks::{Config, Limits};

use super::support::{Subscriber, config, connect, deliver, stamped, with_sinks};

const TO: [&str; 1] = ["u@d0.chasqui.test"];

/// Proves that a barrier comes after the arrival of every message answered 250 before its token was sent,
/// whoever delivered it, that nothing is told twice, and that each subscriber is told everything.
#[test]
fn barriers_come_after_what_was_before() {
    let directory = tempfile::tempdir().unwrap();
    with_sinks(config(directory.path()), async |ready| {
        let mut first = Subscriber::connect(&ready.arrivals[0]).await;
        let mut second = Subscriber::connect(&ready.arrivals[0]).await;
        let smtp = ready.smtp[0];
        let clients: Vec<_> = (0..8_u64)
            .map(|client| {
                spawn(async move {
                    let mut smtp = connect(smtp).await;
                    for message in 0..50 {
                        let sequence = client * 50 + message;
                        deliver(&mut smtp, "", &TO, &stamped(1, sequence, b"x\r\n")).await;
                    }
                })
            })
            .collect();
        let mut early = first.until_barrier(1).await;
        for client in clients {
            client.await;
        }
        early.extend(first.until_barrier(2).await);
        let mut sequences: Vec<_> = early.iter().map(|record| record.sequence).collect();
        assert!(early.iter().map(|record| record.time_ns).is_sorted());
        sequences.sort_unstable();
        assert_eq!(sequences, (0..400).collect::<Vec<_>>());
        assert_eq!(second.until_barrier(3).await, early);
        let mut late = Subscriber::connect(&ready.arrivals[0]).await;
        assert!(late.until_barrier(4).await.is_empty(), "what was before the connection is not told");
    });
}

/// Proves that a token may come in pieces, and several at once.
#[test]
fn tokens_are_read_as_they_come() {
    let directory = tempfile::tempdir().unwrap();
    with_sinks(config(directory.path()), async |ready| {
        let mut subscriber = Subscriber::connect(&ready.arrivals[0]).await;
        let tokens: Vec<u8> = [5_u64, 6, 7].iter().flat_map(|token| token.to_le_bytes()).collect();
        for piece in tokens.chunks(5) {
            subscriber.stream.write_all(piece.to_vec()).await.unwrap();
            yield_now().await;
        }
        for token in [5, 6, 7] {
            let record = subscriber.next().await.unwrap();
            assert_eq!((record.kind, record.sequence), (Kind::Barrier, token));
        }
    });
}

/// Proves that a subscriber who does not read is disconnected, and that deliveries go on without it.
#[test]
fn who_does_not_read_is_disconnected() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { arrival_backlog_bytes_max: 100 * RECORD_SIZE, ..Limits::default() };
    let config = Config { limits, ..config(directory.path()) };
    with_sinks(config, async |ready| {
        let mut asleep = Subscriber::connect(&ready.arrivals[0]).await;
        let mut smtp = connect(ready.smtp[0]).await;
        // One message with 1000 recipients at a time: more than the socket's buffer and the backlog hold.
        let recipients: Vec<_> = (0..1000).map(|user| format!("u{user}@d0.chasqui.test")).collect();
        let recipients: Vec<_> = recipients.iter().map(String::as_str).collect();
        for sequence in 0..3 {
            deliver(&mut smtp, "", &recipients, &stamped(1, sequence, b"x\r\n")).await;
        }
        let mut records = 0;
        while asleep.next().await.is_some() {
            records += 1;
        }
        assert!(records < 3000, "{records} records were told, and then the end");
        let mut awake = Subscriber::connect(&ready.arrivals[0]).await;
        deliver(&mut smtp, "", &TO, &stamped(1, 9, b"x\r\n")).await;
        assert_eq!(awake.until_barrier(1).await.len(), 1);
    });
}

/// Proves that every shard takes mail and tells of it on its own socket, and that together they tell all.
#[test]
fn every_shard_tells_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let core = chasqui_runtime::available_cores()[0];
    let config = Config { cores: vec![core, core], ..config(directory.path()) };
    let summary = with_sinks(config, async |ready| {
        assert_eq!(ready.arrivals.len(), 2);
        let mut first = Subscriber::connect(&ready.arrivals[0]).await;
        let mut second = Subscriber::connect(&ready.arrivals[1]).await;
        // The kernel spreads connections over the shards by their ports.
        for sequence in 0..64 {
            deliver(&mut connect(ready.smtp[0]).await, "", &TO, &stamped(1, sequence, b"x\r\n")).await;
        }
        let (first, second) = (first.until_barrier(1).await, second.until_barrier(1).await);
        assert!(!first.is_empty() && !second.is_empty());
        let mut sequences: Vec<_> = first.iter().chain(&second).map(|record| record.sequence).collect();
        sequences.sort_unstable();
        assert_eq!(sequences, (0..64).collect::<Vec<_>>());
    });
    assert_eq!(summary.smtp.connections, 64);
}
