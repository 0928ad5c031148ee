//! Clients that come by a proxy, and what is said of them: on the way of their mail, and when they fail.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::time::Duration;

use chasqui_protocol::sasl::prepare::Password;
use chasqui_protocol::sasl::stored::Stored;
use chasqui_runtime::now;
use chasqui_testkit::client::Blocking;
use chasqui_testkit::receiver::{Threads, on_thread};
use chasqui_transport::Stream;
use chasqui_transport::tls::{ClientTls, Trust};

use crate::support::{MESSAGE, Relay, route_to};

/// A header for a client.
fn header(client: &str) -> String {
    format!("PROXY TCP4 {client} 127.0.0.1 40000 25\r\n")
}

/// A client that has come by the proxy, and was greeted.
fn proxied(address: SocketAddr, client: &str) -> Blocking {
    let mut connection = Blocking::open(address);
    connection.write(header(client).as_bytes());
    let greeting = connection.line();
    assert!(greeting.starts_with("220 "), "{greeting}");
    connection
}

fn say(client: &mut Blocking, command: &str) -> String {
    client.write(format!("{command}\r\n").as_bytes());
    loop {
        let line = client.line();
        if line.as_bytes().get(3) != Some(&b'-') {
            return line;
        }
    }
}

/// The address of the first `[[listener]]`.
fn listener(relay: &Relay) -> SocketAddr {
    relay.addresses()[1]
}

/// A listener with these keys, to which proxies on this machine connect.
fn listening(keys: &str) -> String {
    format!("[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_from = [\"127.0.0.1/32\"]\n{keys}\n")
}

/// A certificate for relay.test and its key in `folder`, as `[tls]` has them.
fn certificates(folder: &std::path::Path) -> String {
    let certified = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).unwrap();
    let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
    std::fs::write(&chain, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    format!("tls.certificates = [{{ chain = {chain:?}, key = {key:?} }}]\n")
}

/// One user, with whom SCRAM can be tried.
fn users(folder: &std::path::Path) -> String {
    let password = Password::prepare(b"right").unwrap();
    let users = folder.join("users");
    std::fs::write(&users, format!("ann {}\n", Stored::scram(&password, 4096, [7; 16]))).unwrap();
    format!("auth.users = {users:?}\n")
}

/// The Received field names the client of the proxy, and that for whom it speaks by XCLIENT, with its name.
#[test]
fn the_trace_names_the_client() {
    let sink = Threads::taking();
    let settings = format!(
        "networks = [\"192.0.2.0/24\"]\n{}\n{}",
        route_to(&sink),
        listening("xclient_from = [\"198.51.100.7/32\"]")
    );
    let relay = Relay::start(&settings);
    let mut client = proxied(listener(&relay), "192.0.2.7");
    let mut filter = proxied(listener(&relay), "198.51.100.7");
    assert!(say(&mut filter, "XCLIENT ADDR=192.0.2.8 NAME=mx.a.test").starts_with("220 "));
    for (client, named) in
        [(&mut client, "from a.test ([192.0.2.7])"), (&mut filter, "from a.test (mx.a.test [192.0.2.8])")]
    {
        for command in ["EHLO a.test", "MAIL FROM:<a@a.test>", "RCPT TO:<b@b.test>"] {
            assert!(say(client, command).starts_with("250 "), "{command}");
        }
        assert!(say(client, "DATA").starts_with("354 "));
        client.write(MESSAGE);
        assert!(say(client, ".").starts_with("250 "));
        let text = sink.next().text();
        assert!(text.contains(named), "{text}");
    }
}

/// Failures of AUTH count against the client, not against its proxy, whose other clients may go on to try.
#[test]
fn failures_count_against_the_client() {
    let folder = tempfile::tempdir().unwrap();
    let settings = format!(
        "{}auth.failures_per_minute = 2\nauth.user_failures_per_minute = 1000\n{}",
        users(folder.path()),
        listening("xclient_from = [\"192.0.2.0/24\"]")
    );
    let relay = Relay::start(&settings);
    let try_once = |client: &mut Blocking| say(client, "AUTH SCRAM-SHA-256 eA==");
    let minute = Duration::from_secs(60).as_nanos();
    let passed = now().as_nanos() as u128 % minute;
    if minute - passed < Duration::from_secs(10).as_nanos() {
        // What follows is counted in one minute of the relay's.
        let (_open, never) = channel::<()>();
        let _passed = never.recv_timeout(Duration::from_nanos((minute - passed) as u64));
    }
    for (address, replies) in [
        ("192.0.2.7", ["501", "501", "454"]),
        ("192.0.2.8", ["501", "501", "454"]),
        ("192.0.2.7", ["454"; 3]),
    ] {
        let mut client = proxied(listener(&relay), address);
        say(&mut client, "EHLO a.test");
        for reply in replies {
            let said = try_once(&mut client);
            assert!(said.starts_with(reply), "{address}: {said}");
        }
        // Nor does who is spoken for begin with another's failures.
        let mut client = proxied(listener(&relay), address);
        let other = format!("198.51.100.{}", address.rsplit('.').next().unwrap());
        if replies[0] == "501" {
            assert!(say(&mut client, &format!("XCLIENT ADDR={other}")).starts_with("220 "));
            say(&mut client, "EHLO a.test");
            assert!(try_once(&mut client).starts_with("501"));
        }
    }
}

/// Passes one connection on to `relay`, a header and the first that its client says in one segment before all the rest.
fn pass_on(relay: SocketAddr, header: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    on_thread(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut first = vec![0; 16 << 10];
        let length = client.read(&mut first).unwrap();
        let mut server = TcpStream::connect(relay).unwrap();
        server.write_all(&[&header, &first[..length]].concat()).unwrap();
        let (mut back, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        on_thread(move || {
            let _ended = std::io::copy(&mut back, &mut to);
            let _gone = to.shutdown(Shutdown::Write);
        });
        let _ended = std::io::copy(&mut client, &mut server);
        let _gone = server.shutdown(Shutdown::Write);
    });
    address
}

/// Where TLS comes first the header comes before it, and the ClientHello behind it in the same segment is whole.
#[test]
fn a_header_before_tls() {
    let folder = tempfile::tempdir().unwrap();
    let settings = certificates(folder.path()) + &users(folder.path()) + &listening("kind = \"submissions\"");
    let relay = Relay::start(&settings);
    let v2 = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".as_slice(), &[192, 0, 2, 7, 127, 0, 0, 1, 1, 0, 1, 0xd1]]
        .concat();
    for header in [header("192.0.2.7").into_bytes(), v2] {
        let address = pass_on(listener(&relay), header);
        chasqui_runtime::run(chasqui_runtime::Config::default(), move || async move {
            let tls = ClientTls::new(None, false).unwrap();
            let mut stream = Stream::connect(address, None).await.unwrap();
            stream.connect_tls(&tls, Trust::Any, "relay.test").await.unwrap();
            let greeting = stream.read().await.unwrap();
            assert!(greeting.starts_with(b"220 relay.test"), "{greeting:?}");
            stream.write_last(b"QUIT\r\n".to_vec()).await.unwrap();
        })
        .unwrap();
    }
    // Without one there is no handshake.
    let mut client = Blocking::open(listener(&relay));
    client.write(b"\x16\x03\x01\0\x05\x01\0\0\x01\0");
    assert_eq!(client.rest(), "");
}
