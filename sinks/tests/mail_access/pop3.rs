//! POP3 over sockets.

use chasqui_protocol::pop3::client::{Client, Event};
use chasqui_runtime::net::TcpStream;

use crate::support::{CLOSED, Lines, PASSWORD, Site, USER, connect, message, with_site};

/// Reads and deletes everything with the client state machine; returns the messages.
async fn read_all(stream: &TcpStream, delete: bool) -> Vec<Vec<u8>> {
    let mut client = Client::new(USER, PASSWORD).unwrap();
    let mut messages: Vec<Vec<u8>> = Vec::new();
    let (mut asked, mut total) = (0, 0);
    loop {
        let received = stream.read().await.unwrap();
        assert!(!received.is_empty(), "the server closed");
        let mut input: &[u8] = &received;
        loop {
            let (used, event) = client.handle_input(input).unwrap();
            input = &input[used..];
            match event {
                Event::NeedInput => break,
                Event::Ready { pipelining } => {
                    assert!(pipelining);
                    client.stat();
                }
                Event::Stat { messages, .. } => {
                    total = messages;
                    if total == 0 {
                        client.quit();
                    }
                }
                Event::MessageStart { .. } => messages.push(Vec::new()),
                Event::Body(bytes) => messages.last_mut().unwrap().extend_from_slice(bytes),
                Event::MessageEnd { number } if number == total => client.quit(),
                Event::Goodbye { committed } => {
                    assert!(committed);
                    return messages;
                }
                Event::LoginRefused { .. } | Event::Refused { .. } => panic!("{event:?}"),
                _ => {}
            }
            while asked < total && client.outstanding() < 32 {
                asked += 1;
                if delete {
                    client.dele(asked);
                    client.rset();
                }
                client.retr(asked);
                if delete {
                    client.dele(asked);
                }
            }
        }
        drop(received);
        let output = std::mem::take(client.output());
        if !output.is_empty() {
            stream.write_all(output).await.unwrap();
        }
    }
}

/// Messages of all sorts and sizes come back byte for byte, pipelined, and stay until they are deleted.
#[test]
fn messages_come_back() {
    with_site(|site| async move {
        let mut expected: Vec<Vec<u8>> = (0..200).map(|n| message(n, n * 40, n % 3 == 0)).collect();
        expected.push(Vec::new());
        expected.push(b".\r\n".to_vec());
        expected.push(message(1, 3 << 20, false));
        expected.push(message(2, 3 << 20, true));
        for message in &expected {
            site.deliver(message);
        }
        let read = read_all(&connect(site.pop3).await, false).await;
        assert!(read == expected);
    });
}

/// DELE takes effect at QUIT alone: a connection that is lost deletes nothing.
#[test]
fn deletion_waits_for_quit() {
    with_site(|site| async move {
        for number in 0..3 {
            site.deliver(&message(number, 100, false));
        }
        let mut lines = Lines::connect(site.pop3).await;
        lines.send(&format!("USER {USER}\r\nPASS {PASSWORD}\r\nDELE 1\r\nDELE 3\r\nSTAT\r\n")).await;
        lines.until("+OK 1 ").await;
        drop(lines);
        let mut lines = login_when_free(&site).await;
        lines.send("STAT\r\nDELE 2\r\nQUIT\r\n").await;
        assert!(lines.line().await.starts_with("+OK 3 "));
        assert_eq!(lines.line().await, "+OK deleted");
        assert_eq!(lines.line().await, "+OK bye");
        assert_eq!(lines.line().await, CLOSED);
        let mut lines = login_when_free(&site).await;
        lines.send("UIDL\r\n").await;
        let uidl = lines.until(".").await;
        assert!(uidl.contains(".00000001\n") && uidl.contains(".00000003\n") && !uidl.contains(".00000002"));
    });
}

/// The lock of a session that was cut off goes when the server has noticed, which the client cannot see.
async fn login_when_free(site: &Site) -> Lines {
    loop {
        let mut lines = Lines::connect(site.pop3).await;
        lines.send(&format!("USER {USER}\r\nPASS {PASSWORD}\r\n")).await;
        lines.until("+OK send PASS").await;
        let answer = lines.line().await;
        if answer.starts_with("+OK") {
            return lines;
        }
        assert!(answer.starts_with("-ERR [IN-USE]"), "{answer}");
    }
}

/// A second session is told that the maildrop is in use; other users and passwords are refused.
#[test]
fn maildrop_is_locked() {
    with_site(|site| async move {
        let first = login_when_free(&site).await;
        let mut lines = Lines::connect(site.pop3).await;
        for (user, password, answer) in [
            (USER, PASSWORD, "-ERR [IN-USE]"),
            (USER, "wrong", "-ERR invalid"),
            ("u1@example.org", PASSWORD, "-ERR invalid"),
            ("U9@D2.CHASQUI.TEST", PASSWORD, "+OK"),
        ] {
            lines.send(&format!("USER {user}\r\nPASS {password}\r\n")).await;
            lines.until("+OK send PASS").await;
            let line = lines.line().await;
            assert!(line.starts_with(answer), "{user}: {line}");
        }
        drop(first);
    });
}

/// TOP gives the header section, the empty line and the lines asked for, byte-stuffed.
#[test]
fn top_counts_lines() {
    with_site(|site| async move {
        site.deliver(b"A: 1\r\nB: 2\r\n\r\none\r\n.two\r\nthree\r\n");
        let mut lines = login_when_free(&site).await;
        for (command, answer) in [
            ("TOP 1 0", "+OK 32 octets|A: 1|B: 2||.|"),
            ("TOP 1 2", "+OK 32 octets|A: 1|B: 2||one|..two|.|"),
            ("TOP 1 99", "+OK 32 octets|A: 1|B: 2||one|..two|three|.|"),
        ] {
            lines.send(&format!("{command}\r\n")).await;
            let answer = answer.replace('|', "\r\n");
            assert_eq!(lines.bytes(answer.len()).await, answer);
        }
    });
}
