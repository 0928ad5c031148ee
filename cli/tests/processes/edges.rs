//! Messages at the edge of what mail may be, and what lies beyond it, through the whole chain.

use crate::support::{Chain, alone, ask, bench, envelope, record};
use chasqui_testkit::client::Blocking;
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;

const HEADER: &[u8] = b"From: <sender@client.test>\r\nSubject: edge\r\n\r\n";
const MIB: usize = 1 << 20;

/// Dot-stuffs a message in CRLF lines (RFC 5321 4.5.2).
fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + 64);
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire
}

/// A message of `size` octets whose lines all differ.
fn sized(size: usize) -> Vec<u8> {
    let mut message = HEADER.to_vec();
    let mut line = 0usize;
    while message.len() < size {
        message.extend_from_slice(
            format!("{line:016x} {}\r\n", "abcdefghijklmnopqrstuvwxyz".repeat(2)).as_bytes(),
        );
        line += 1;
    }
    message.truncate(size - 2);
    message.extend_from_slice(b"\r\n");
    message
}

fn with_body(body: &[u8]) -> Vec<u8> {
    [HEADER, body].concat()
}

/// Bodies that look like what the spool and the harness write themselves.
fn impostors() -> Vec<Vec<u8>> {
    let stamp =
        b"X-Chasqui-Stamp: v=1; run=0123456789abcdef; seq=7; hdr=00000000; hlen=0; body=00000000; blen=0\r\n";
    let header_stamp = [b"X-Chasqui-Stamp: v=1; run=x\r\n".as_slice(), HEADER, stamp, stamp].concat();
    // The magics of the spool's segments, groups and records (relay/src/spool/format.rs), at every alignment of a block.
    let magics: Vec<u8> = (0..64)
        .flat_map(|pad| format!("{:pad$}CHASQSEG{:pad$}CHASQGRP{:pad$}CREC\r\n", "", "", "").into_bytes())
        .collect();
    vec![header_stamp, with_body(&magics), with_body(&magics.repeat(40))]
}

/// The messages at the edge of what is allowed.
fn edge_messages() -> Vec<Vec<u8>> {
    let every_byte = (1..=255u8).filter(|byte| !matches!(byte, b'\r' | b'\n'));
    let mut messages = vec![
        Vec::new(),
        b"\r\n".to_vec(),
        HEADER.to_vec(),
        with_body(b".\r\n..\r\n.x\r\n...\r\nx.\r\n.\r\n"),
        with_body(&[vec![b'y'; 998], b"\r\n".to_vec(), vec![b'.'; 998], b"\r\n".to_vec()].concat()),
        with_body(&every_byte.chain(*b"\r\n").collect::<Vec<u8>>()),
        sized(256 * 1024),
        sized(256 * 1024 + 1),
        sized(25 * MIB),
    ];
    messages.extend(impostors());
    messages
}

/// Sends each message to a mailbox of its own.
fn send_each(chain: &Chain, messages: &[Vec<u8>]) {
    for (number, message) in messages.iter().enumerate() {
        chain.send(&format!("u{number}@d1.chasqui.test"), &stuffed(message));
    }
}

/// Each mailbox holds its message, once and unchanged.
fn assert_each_arrived(chain: &Chain, messages: &[Vec<u8>]) {
    for (number, message) in messages.iter().enumerate() {
        let arrived = chain.read(&format!("u{number}@d1.chasqui.test"), 1);
        assert_eq!(arrived.len(), 1, "message {number}");
        let (sent, got) = (message.len(), arrived[0].len());
        assert!(arrived[0] == *message, "message {number} of {sent} octets changed: {got} arrived");
    }
}

#[test]
fn edge_messages_arrive_unchanged() {
    // Proves: no bytes, dots, longest lines, 8-bit bytes, impostors of stamp and spool, and 25 MiB all arrive as sent.
    let _alone = alone();
    let mut chain = Chain::start("");
    let messages = edge_messages();
    send_each(&chain, &messages);
    assert_each_arrived(&chain, &messages);
    assert!(chain.relay.is_alive() && chain.sink.is_alive());
}

#[test]
fn edge_messages_survive_a_kill_while_they_are_queued() {
    // Proves: what looks like the spool's own records, or fills many of them, is recovered as the mail that it is when
    // the relay is killed with all of it in the queue.
    let _alone = alone();
    // A receiver that refuses connections: everything stays queued.
    let chain = Chain::start("routes.\"*\" = [\"127.0.0.1:1\"]");
    let messages = edge_messages();
    send_each(&chain, &messages);
    let queued = ask(&chain.control(), "stats").map(|stats| stats["queued"].clone());
    assert_eq!(queued, Some(messages.len().into()));
    let mut chain = chain.kill_and_restart_relay("");
    assert_each_arrived(&chain, &messages);
    assert!(chain.relay.is_alive());
}

#[test]
fn bad_messages_are_refused_and_the_session_lives() {
    // Proves: what breaks the rules of DATA is read to its true end and refused with the design's reply, nothing of it
    // is delivered, and the same session then delivers a good message.
    let _alone = alone();
    let mut chain = Chain::start("limits.message_size = \"1MiB\"");
    let mailbox = "u0@d1.chasqui.test";
    let mut client = chain.client();
    let smuggled = b"\nMAIL FROM:<a@b.test>\r\nRCPT TO:<u0@d1.chasqui.test>\r\nDATA\r\nsmuggled\r\n";
    let bad: &[(&str, Vec<u8>, &str)] = &[
        ("a dot between bare LFs", with_body(&[b"one\n.".as_slice(), smuggled].concat()), "554 5.6.0"),
        ("a dot before a bare LF", with_body(&[b"one\r\n.".as_slice(), smuggled].concat()), "554 5.6.0"),
        ("a dot after a bare CR", with_body(b"one\r.\r\ntwo\r\n"), "554 5.6.0"),
        ("a bare CR", with_body(b"one\rtwo\r\n"), "554 5.6.0"),
        ("999 octets in a line", with_body(&[vec![b'z'; 999], b"\r\n".to_vec()].concat()), "554 5.6.0"),
        ("a message over SIZE", sized(MIB + 1), "552"),
    ];
    for (what, message, reply) in bad {
        envelope(&mut client, mailbox);
        client.write(message);
        client.write(b".\r\n");
        let got = client.reply();
        assert!(got.starts_with(reply), "{what}: expected {reply}, got {got:?}");
        client.expect("NOOP", "250");
    }
    let good = with_body(b"good\r\n");
    envelope(&mut client, mailbox);
    client.write(&good);
    client.expect(".", "250");
    assert_eq!(chain.read(mailbox, 1), [good]);
    assert!(chain.relay.is_alive());
}

#[test]
fn bad_commands_are_refused_and_the_session_lives() {
    // Proves: a wrong sequence, an announced size over the limit, and 100,000 bytes without a line end get their
    // replies, and the session goes on.
    let _alone = alone();
    let mut chain = Chain::start("limits.message_size = \"1MiB\"");
    let mut client = chain.client();
    client.expect("RCPT TO:<u0@d1.chasqui.test>", "503 5.5.1");
    client.expect("DATA", "503 5.5.1");
    client.expect("MAIL FROM:<a@b.test> SIZE=1048577", "552 5.3.4");
    client.expect("MAIL FROM:<a@b.test>", "250");
    client.expect("DATA", "554 5.5.1");
    client.expect("MAIL FROM:<a@b.test>", "503 5.5.1");
    client.expect("RSET", "250");
    client.expect("FLY", "500 5.5.1");
    client.write(&[b'x'; 100_000]);
    client.expect("", "500 5.5.2");
    client.expect("NOOP", "250");
    client.expect("QUIT", "221");
    assert!(chain.relay.is_alive());
}

#[test]
fn foreign_networks_may_not_relay() {
    // Proves: a client outside the configured networks gets 550 5.7.1 for its recipient, and nothing is accepted.
    let _alone = alone();
    let mut chain = Chain::start("");
    let address = chain.relay.address("listen");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).expect("127.0.0.2 is on the loopback");
    socket.connect(&address.into()).expect("the relay listens");
    let mut client = Blocking::new(socket.into());
    assert!(client.reply().starts_with("220"));
    client.expect("EHLO foreign.test", "250");
    client.expect("MAIL FROM:<a@b.test>", "250");
    client.expect("RCPT TO:<u0@d1.chasqui.test>", "550 5.7.1");
    client.expect("DATA", "554 5.5.1");
    client.expect("QUIT", "221");
    assert!(chain.relay.is_alive());
}

#[test]
fn fifty_messages_of_25_mib_at_once_stay_within_the_memory_cap() {
    // Proves: 50 messages of 25 MiB on 50 connections at once all arrive unchanged, and the relay's own memory stays
    // under the cap that README states: limits.in_flight (64 MiB) per shard and 64 MiB.
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = "--rate 1000 --duration 50ms --warmup 0s --connections 50 --size 25MiB --verify arrival --shards 1 \
                   --drain 60s";
    let (record, _, _) = record(bench(options, &folder.path().join("run")));
    assert_eq!(record["ledger"]["accepted"], 50, "{record}");
    assert_eq!(record["ledger"]["verified"], 50, "{record}");
    let peak = record["memory_bytes"]["relay_peak_anonymous"].as_u64().expect("the relay's memory is known");
    assert!(peak <= 128 * MIB as u64, "the relay took {peak} bytes of its own");
}
