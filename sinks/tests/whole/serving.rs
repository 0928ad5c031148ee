//! What the sinks' sockets bear, and where they may be.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use chasqui_runtime::now;
use chasqui_sinks::{Config, Limits, StartError, start};
use chasqui_testkit::client::Blocking;

use super::support::config;

/// Proves that an SMTP client that drips the octets of a command is ended within the time of a whole one.
#[test]
fn a_dripping_client_is_ended() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { idle_timeout: Duration::from_millis(500), ..Limits::default() };
    let running = start(Config { limits, ..config(directory.path()) }).unwrap();
    let mut client = TcpStream::connect(running.ready().smtp[0]).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let begun = now();
    let mut buffer = [0; 200];
    // Before the greeting it would be an early talker.
    while client.read(&mut buffer).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it is not greeted");
    }
    loop {
        let _ended = client.write_all(b"N");
        match client.read(&mut buffer) {
            Ok(0) => break,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            _ => assert!(begun.elapsed() < Duration::from_secs(10), "it is held for ever"),
        }
    }
    assert!(begun.elapsed() >= Duration::from_millis(400));
    running.shutdown();
    running.join().unwrap();
}

/// Proves that a port that others listen on is refused though all would share it, and so is one address for two services.
#[test]
fn ports_are_not_shared() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(config(directory.path())).unwrap();
    let taken = running.ready().clone();
    let other = || Config { arrivals: None, ..config(directory.path()) };
    for config in [
        Config { smtp_port: taken.smtp[0].port(), ..other() },
        Config { pop3: taken.pop3, ..other() },
        Config { imap: taken.imap, ..other() },
    ] {
        let error = start(config).err().expect("refused");
        assert!(matches!(error, StartError::Listen { .. }), "{error}");
    }
    running.shutdown();
    running.join().unwrap();
    let both = taken.pop3.unwrap();
    let error = start(Config { pop3: Some(both), imap: Some(both), ..other() }).err().expect("refused");
    assert!(matches!(error, StartError::Config(_)), "{error}");
    let again = start(Config { pop3: Some(both), ..other() }).expect("it is free again");
    again.shutdown();
    again.join().unwrap();
}

/// Proves that stale sockets of arrivals are replaced, by ones that are their owner's alone, and other files are not.
#[test]
fn arrivals_take_the_place_of_stale_sockets_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("arrivals.0");
    drop(UnixListener::bind(&path).unwrap());
    let running = start(config(directory.path())).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    running.shutdown();
    running.join().unwrap();
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    let error = start(config(directory.path())).err().expect("refused").to_string();
    assert!(error.contains("no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

/// Proves that a client that does not wait for the reply to EHLO is sent away, or served where that is allowed.
#[test]
fn early_talkers_are_refused_unless_allowed() {
    let directory = tempfile::tempdir().unwrap();
    for (allow_early_talkers, expected) in [(false, "554 5.5.0"), (true, "221 ")] {
        let running = start(Config { allow_early_talkers, ..config(directory.path()) }).unwrap();
        let mut client = Blocking::open(running.ready().smtp[0]);
        assert!(client.line().starts_with("220 "));
        client.write(b"EHLO a.test\r\nNOOP\r\nQUIT\r\n");
        let replies = client.rest();
        assert!(replies.lines().last().unwrap().starts_with(expected), "{replies}");
        running.shutdown();
        running.join().unwrap();
    }
}

/// Proves that POP3 and IMAP clients beyond the limit are told so, and that a shutdown says BYE to those of IMAP, idle or not.
#[test]
fn sessions_are_closed_with_a_word() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { connections_max: 2, ..Limits::default() };
    let running = start(Config { limits, ..config(directory.path()) }).unwrap();
    let connect = |address| BufReader::new(TcpStream::connect(address).unwrap());
    let line = |client: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        line
    };
    let (imap, pop3) = (running.ready().imap.unwrap(), running.ready().pop3.unwrap());
    let mut clients = [connect(imap), connect(imap)];
    clients.iter_mut().for_each(|client| assert!(line(client).starts_with("* OK")));
    assert_eq!(line(&mut connect(imap)), "* BYE too many connections\r\n");
    let mut readers = [connect(pop3), connect(pop3)];
    readers.iter_mut().for_each(|client| assert!(line(client).starts_with("+OK")));
    assert!(line(&mut connect(pop3)).starts_with("-ERR [SYS/TEMP]"));
    let idle = b"a LOGIN u@d1.chasqui.test chasqui\r\nb SELECT INBOX\r\nc IDLE\r\n";
    clients[0].get_mut().write_all(idle).unwrap();
    while !line(&mut clients[0]).starts_with('+') {}
    let begun = now();
    running.shutdown();
    for client in &mut clients {
        assert_eq!(line(client), "* BYE shutting down\r\n");
        assert_eq!(line(client), "");
    }
    drop(clients);
    running.join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3));
}

/// Proves that UIDVALIDITY ascends over starts one right after the other, with a state and without one, and so do POP3's unique ids.
#[test]
fn each_start_has_mailboxes_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let (mut last, begun) = (0, now());
    for number in 0..6 {
        let state = Some(state.clone()).filter(|_| number >= 3);
        let running = start(Config { state, ..config(directory.path()) }).unwrap();
        let mut client = TcpStream::connect(running.ready().imap.unwrap()).unwrap();
        let commands = b"a LOGIN u@d1.chasqui.test chasqui\r\nb STATUS INBOX (UIDVALIDITY)\r\nc LOGOUT\r\n";
        client.write_all(commands).unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        let (_, after) = said.split_once("(UIDVALIDITY ").unwrap();
        let uid_validity: u32 = after.split(')').next().unwrap().parse().unwrap();
        assert!(uid_validity > last, "{uid_validity} after {last}");
        last = uid_validity;
        running.shutdown();
        running.join().unwrap();
    }
    // A client that has said LOGOUT and does not close is not waited for.
    assert!(begun.elapsed() < Duration::from_secs(5));
}
