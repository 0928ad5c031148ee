//! The two ends of SMTP against each other, in the simulator.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::smtp::client::{ClientError, Event as Said, Transaction};
use chasqui_protocol::smtp::reply::Reply;
use chasqui_protocol::smtp::server::{self, Event};
use chasqui_runtime::net::{ListenOptions, Parts, TcpListener};
use chasqui_runtime::sim::{Options, Simulation};
use chasqui_runtime::{now, sleep, spawn, timeout, turn_time};
use chasqui_transport::smtp_client::{Broken, ClientConnection, WaitLimit};
use chasqui_transport::smtp_server::{ServerConnection, TimeLimits};
use chasqui_transport::{Drain, Stream};

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: WaitLimit = WaitLimit::PerReply(Duration::from_secs(600));

/// Runs `client` against a server with this drain, which takes what it is given; gives the bodies that it took.
fn run<F: Future<Output = ()> + 'static>(
    client: impl FnOnce(Stream, Drain) -> F + 'static,
) -> (Vec<Vec<u8>>, io::Result<()>) {
    let simulation = Simulation::new(1, Options::default());
    let outcome = simulation.run(|| async move {
        let (client_end, server_end) = pair().await;
        let drain = Drain::default();
        let limits =
            TimeLimits { idle: SECOND * 60, message: SECOND * 300, without_mail: Some(SECOND * 200) };
        let options = Rc::new(server::Options { hostname: "server.test".to_owned(), ..Default::default() });
        let connection = ServerConnection::new(server_end, options, Rc::new(limits), drain.clone());
        let serving = spawn(serve(connection));
        client(client_end, drain).await;
        serving.await
    });
    outcome.unwrap().value
}

async fn pair() -> (Stream, Stream) {
    let address = SocketAddr::from(([127, 0, 0, 1], 25));
    let listener = TcpListener::bind(address, &ListenOptions::default()).unwrap();
    let client = Stream::connect(address, None).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (client, server.into())
}

async fn serve(mut connection: ServerConnection) -> (Vec<Vec<u8>>, io::Result<()>) {
    let (mut bodies, mut body) = (Vec::new(), Vec::new());
    loop {
        match connection.next_event().await {
            Err(error) => return (bodies, Err(error)),
            Ok(Event::Mail(_) | Event::Data) => connection.accept(),
            Ok(Event::Rcpt(request)) if request.mailbox.as_str().starts_with("no") => {
                connection.reject(&Reply::new(550, "5.1.1", "Nobody"));
            }
            Ok(Event::Rcpt(_)) => connection.accept(),
            Ok(Event::Body(piece)) => body.extend_from_slice(piece),
            Ok(Event::BodyEnd(_)) => {
                bodies.push(std::mem::take(&mut body));
                connection.release_input();
                connection.accept_message("Ok");
            }
            Ok(Event::Quit | Event::TooManyErrors) => {
                let closed = connection.close().await;
                return (bodies, closed);
            }
            Ok(_) => {}
        }
    }
}

fn transaction(recipients: &[&str]) -> Transaction {
    Transaction {
        reverse_path: "a@a.test".to_owned(),
        recipients: recipients.iter().map(|&recipient| recipient.to_owned()).collect(),
        size: None,
        eight_bit: false,
        form: Default::default(),
        dsn: None,
    }
}

async fn greeted(stream: Stream) -> ClientConnection {
    let mut client = ClientConnection::new(stream, "client.test");
    assert_eq!(client.next_event(LIMIT).await.unwrap(), Said::Ready);
    client
}

/// Messages, posted and sent in parts, come through on one connection, recipients are told apart, and QUIT ends both sides.
#[test]
fn messages_come_through() {
    let (bodies, closed) = run(|stream, _| async {
        let mut client = greeted(stream).await;
        for number in 0..3 {
            client.start(transaction(&["b@b.test", "no@b.test"])).unwrap();
            assert_eq!(client.next_event(LIMIT).await.unwrap(), Said::SendBody);
            let mut wire = format!("Subject: {number}\r\n\r\ntext\r\n.\r\n").into_bytes();
            if number == 2 {
                let sent = client.send_body(SECOND, Parts::new().bytes(wire.clone()), &|| false).await;
                assert_eq!(sent.unwrap(), wire.len());
            } else {
                client.post_body(&mut wire, SECOND).await.unwrap();
            }
            client.body_sent();
            let Said::Finished(outcome) = client.next_event(LIMIT).await.unwrap() else {
                panic!("no outcome")
            };
            assert!(outcome.is_accepted(0) && !outcome.is_accepted(1));
        }
        client.quit(SECOND).await;
        assert!(client.is_closed());
    });
    closed.unwrap();
    let expected = (0..3).map(|number| format!("Subject: {number}\r\n\r\ntext\r\n").into_bytes());
    assert_eq!(bodies, expected.collect::<Vec<_>>());
}

/// A drain waits for the transaction that is under way, then ends the session with 421.
#[test]
fn a_drain_waits_for_the_transaction() {
    let (bodies, closed) = run(|stream, drain| async move {
        let mut client = greeted(stream).await;
        client.start(transaction(&["b@b.test"])).unwrap();
        assert_eq!(client.next_event(LIMIT).await.unwrap(), Said::SendBody);
        drain.begin();
        sleep(SECOND).await;
        client.post_body(&mut b"\r\n.\r\n".to_vec(), SECOND).await.unwrap();
        client.body_sent();
        let Said::Finished(outcome) = client.next_event(LIMIT).await.unwrap() else { panic!("no outcome") };
        assert!(outcome.is_accepted(0));
        let event = client.next_event(LIMIT).await.unwrap();
        assert!(
            matches!(&event, Said::Closing(reply) if reply.to_string() == "421 4.3.2 Shutting down"),
            "{event:?}"
        );
    });
    closed.unwrap();
    assert_eq!(bodies.len(), 1);
}

/// A drain ends an idle session at once.
#[test]
fn a_drain_ends_an_idle_session() {
    let (_, closed) = run(|stream, drain| async move {
        let mut client = greeted(stream).await;
        let begun = now();
        drain.begin();
        client.unasked().await.unwrap();
        assert!(matches!(client.poll_event(), Some(Said::Closing(reply)) if reply.code == 421));
        assert!(now() - begun < SECOND);
    });
    closed.unwrap();
}

/// Silence is ended by its limit, and lines without mail by theirs; the last words say which.
#[test]
fn slow_clients_are_ended() {
    for (pause, expected) in [(61, "421 4.4.2 Idle for too long"), (45, "421 4.4.2 No mail for too long")] {
        let (_, closed) = run(move |stream, _| async move {
            let mut heard = String::new();
            while !heard.contains("421") {
                match timeout(SECOND * pause, stream.read()).await {
                    Ok(piece) => heard.push_str(std::str::from_utf8(&piece.unwrap()).unwrap()),
                    Err(_) => drop(stream.write_all(b"HELO client.test\r\n".to_vec()).await.unwrap()),
                }
            }
            assert!(heard.contains(expected), "{heard}");
        });
        closed.unwrap();
    }
}

/// Who speaks before the greeting is told so, and has the time to hear it.
#[test]
fn early_talkers_are_refused() {
    let (_, closed) = run(|stream, _| async move {
        let mut heard = Vec::new();
        stream.write_all(b"HELO a\r\nMAIL FROM:<a@a.test>\r\n".to_vec()).await.unwrap();
        while let Ok(piece) = stream.read().await {
            if piece.is_empty() {
                break;
            }
            heard.extend_from_slice(&piece);
        }
        let heard = String::from_utf8(heard).unwrap();
        assert!(heard.contains("\r\n554 5.5.0") || heard.contains("250 "), "{heard}");
    });
    closed.unwrap();
}

/// A client without PIPELINING whose replies are not taken blocks nobody: the answers wait, and everything is answered in the end.
#[test]
fn output_that_is_full_is_flushed() {
    let (_, closed) = run(|stream, _| async move {
        let mut client = greeted(stream.clone()).await;
        client.give_up();
        let commands = b"RSET\r\n".repeat(90);
        stream.write_all(commands).await.unwrap();
        stream.write_all(b"QUIT\r\n".to_vec()).await.unwrap();
        let mut heard = Vec::new();
        while let Ok(piece) = stream.read().await {
            if piece.is_empty() {
                break;
            }
            heard.extend_from_slice(&piece);
        }
        let lines = heard.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"250 2.0.0")).count();
        assert_eq!(lines, 90);
        assert!(heard.ends_with(b"221 2.0.0 Bye\r\n"));
    });
    closed.unwrap();
}

/// A reply has its limit from when it is awaited, and an event has one as a whole; what is no SMTP is told.
#[test]
fn servers_that_are_slow_or_strange() {
    Simulation::new(1, Options::default())
        .run(|| async {
            let (client, server) = pair().await;
            let mut client = ClientConnection::new(client, "client.test");
            let begun = turn_time();
            let dripping = spawn({
                let server = server.clone();
                async move {
                    for octet in b"220 slow" {
                        sleep(SECOND).await;
                        server.write_all(vec![*octet]).await.unwrap();
                    }
                }
            });
            let late = client.next_event(WaitLimit::PerReply(SECOND * 5)).await;
            assert!(matches!(late, Err(Broken::TimedOut)), "{late:?}");
            assert!((5..6).contains(&(now() - begun).as_secs()) && client.is_closed());
            dripping.await;
        })
        .unwrap();
    Simulation::new(2, Options::default())
        .run(|| async {
            let (client, server) = pair().await;
            let mut client = ClientConnection::new(client, "client.test");
            server.write_all(b"HTTP/1.1 400 Bad Request\r\n".to_vec()).await.unwrap();
            let strange = client.next_event(WaitLimit::Until(turn_time() + SECOND)).await;
            assert!(matches!(strange, Err(Broken::Protocol(ClientError::Malformed))), "{strange:?}");
        })
        .unwrap();
}

/// What a server says before it breaks off is heard, also when nothing more can be sent.
#[test]
fn last_words_are_heard() {
    Simulation::new(1, Options::default())
        .run(|| async {
            let (client, server) = pair().await;
            let mut client = ClientConnection::new(client, "client.test");
            server.write_all(b"421 4.3.2 Too busy\r\n".to_vec()).await.unwrap();
            drop(server);
            sleep(SECOND).await;
            client.last_words().await;
            assert!(client.is_closed());
            assert_eq!(client.refusal_before_end().map(|reply| reply.code), Some(421));
        })
        .unwrap();
}
