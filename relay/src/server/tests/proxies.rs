//! Clients that come by somebody who says who they are: by a PROXY header, or by XCLIENT.

use super::*;
use crate::tests::simulated::ask;

/// On port 26 a header is expected from 127.0.0.9, which is in the networks itself; 127.0.0.5 may say XCLIENT, on port 27 and by the proxy.
const LISTENERS: &str = "networks = [\"127.0.0.9/32\", \"192.0.2.0/24\", \"2001:db8:1::/48\"]\n\
    [[listener]]\naddress = \"127.0.1.1:26\"\nproxy_from = [\"127.0.0.8/31\"]\nxclient_from = [\"127.0.0.5/32\", \"127.0.0.9/32\"]\n\
    connections_per_peer = 2\n\
    [[listener]]\naddress = \"127.0.1.1:27\"\nxclient_from = [\"127.0.0.5/32\"]\nconnections_per_peer = 2\n";
const PROXY: u8 = 9;
const FILTER: u8 = 5;

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 for a client.
fn v2(client: &str) -> Vec<u8> {
    let mut header = [V2, b"\x21"].concat();
    match client.parse().unwrap() {
        std::net::IpAddr::V4(address) => {
            header.extend(b"\x11\0\x0c");
            header.extend(address.octets());
            header.extend([127, 0, 1, 1, 1, 0, 0, 25]);
        }
        std::net::IpAddr::V6(address) => {
            header.extend(b"\x21\0\x2b");
            header.extend(address.octets());
            header.extend([0; 16]);
            header.extend([1, 0, 0, 25]);
            header.extend(b"\x03\0\x04crcc");
        }
    }
    header
}

fn v1(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "6 2001:db8::1" } else { "4 127.0.1.1" };
    let (family, own) = family.split_once(' ').unwrap();
    format!("PROXY TCP{family} {client} {own} 40000 25\r\n").into_bytes()
}

/// A connection from 127.0.0.`from` that has sent these octets; nothing has been read.
async fn opened(port: u16, from: u8, octets: &[u8]) -> Client {
    let options = ConnectOptions { local: Some([127, 0, 0, from].into()) };
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 1, 1], port)), &options).await.unwrap();
    let mut client = Client(chasqui_testkit::Client::new(stream));
    client.0.write(octets).await.unwrap();
    client
}

/// As a client that has come by the proxy: what it is answered when it names somebody else's recipient.
async fn relays(header: &[u8]) -> String {
    let mut client = opened(26, PROXY, header).await;
    let greeting = client.reply().await;
    assert!(greeting.starts_with("220"), "{greeting}");
    assert!(client.say("EHLO a.test").await.starts_with("250"));
    client.begin(0, "b@b.test").await
}

/// What is said to a connection until it is closed, and after how long.
async fn last_words(mut client: Client) -> (String, Duration) {
    let begun = chasqui_runtime::now();
    let mut said = String::new();
    loop {
        match timeout(Duration::from_secs(60), client.0.line()).await.expect("an end") {
            line if line.is_empty() => return (said, begun.elapsed()),
            line => said += &line,
        }
    }
}

async fn refused() -> u64 {
    ask("stats").await[0]["proxy_refused"].as_u64().unwrap()
}

/// The address that a header says decides who may relay, in both versions and families; what the proxy's own address may is nobody's
/// by whose header no address is said.
#[test]
fn headers_say_who_relays() {
    with_relay(LISTENERS, || async {
        for (client, reply) in [
            ("192.0.2.7", "250"),
            ("198.51.100.7", "550"),
            ("2001:db8:1::7", "250"),
            ("2001:db8:2::7", "550"),
        ] {
            for header in [v1(client), v2(client)] {
                let said = relays(&header).await;
                assert!(said.starts_with(reply), "{client}: {said}");
            }
        }
        let local = [V2, b"\x20\0\0\0"].concat();
        let unspecified = [V2, b"\x21\0\0\0"].concat();
        for header in [b"PROXY UNKNOWN\r\n".as_slice(), &local, &unspecified] {
            assert!(relays(header).await.starts_with("550"));
        }
        assert_eq!(refused().await, 0);
    });
}

/// A header may come in any two pieces; what follows it in the same segment is the client's: a client that does not wait for the
/// greeting is refused as such.
#[test]
fn headers_in_pieces() {
    with_relay(LISTENERS, || async {
        for header in [v1("192.0.2.7"), v2("2001:db8:1::7")] {
            for split in 1..header.len() {
                let mut client = opened(26, PROXY, &header[..split]).await;
                sleep(Duration::from_millis(500)).await;
                client.0.write(&header[split..]).await.unwrap();
                assert!(client.reply().await.starts_with("220"), "split at {split}");
                assert!(client.say("EHLO a.test").await.starts_with("250"));
                assert!(client.begin(0, "b@b.test").await.starts_with("250"));
            }
            let early = [&header, b"EHLO a.test\r\n".as_slice()].concat();
            let (said, _) = last_words(opened(26, PROXY, &early).await).await;
            assert!(said.ends_with("554 5.5.0 SMTP protocol synchronization error\r\n"), "{said}");
        }
    });
}

/// A listed peer without a valid header is closed without a word, at once or when the limit has passed, and counted; not one that only
/// looks whether the port is open.
#[test]
fn what_is_no_header() {
    with_relay(LISTENERS, || async {
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200], b"\r\n"].concat();
        let at_once = Duration::from_secs(1);
        for octets in [b"EHLO a.test\r\n".as_slice(), b"PROXY TCP4 a b c d\r\n", &long, b"\x16\x03\x01"] {
            let (said, after) = last_words(opened(26, PROXY, octets).await).await;
            assert!(said.is_empty() && after < at_once, "{said} after {after:?}");
        }
        for octets in [b"".as_slice(), b"PROXY TCP4 192.0.2.7 ", V2] {
            let (said, after) = last_words(opened(26, PROXY, octets).await).await;
            assert!(said.is_empty() && after > 4 * at_once && after < 6 * at_once, "{said} after {after:?}");
        }
        assert_eq!(refused().await, 7);
        drop(opened(26, PROXY, b"").await);
        sleep(at_once).await;
        assert_eq!(refused().await, 7);
        drop(opened(26, PROXY, b"PROXY").await);
        sleep(at_once).await;
        assert_eq!(refused().await, 8);
    });
}

/// Nobody else is believed, nor anybody where no proxy is listed: the greeting does not wait for a header, which is no command.
#[test]
fn headers_of_others() {
    with_relay(LISTENERS, || async {
        for (port, from) in [(26, OURS), (25, PROXY), (27, PROXY)] {
            let (mut client, greeting) = Client::connect_to(port, from).await;
            assert!(greeting.starts_with("220"), "{greeting}");
            assert!(client.say("PROXY TCP4 192.0.2.7 127.0.1.1 40000 25").await.starts_with("500"));
        }
    });
}

/// Clients by one proxy are counted as themselves: it may have thousands, each of them as many as a peer may.
#[test]
fn limits_hold_for_clients() {
    with_relay(LISTENERS, || async {
        let mut there = Vec::new();
        for client in 0..30 {
            let mut client = opened(26, PROXY, &v1(&format!("198.51.100.{client}"))).await;
            assert!(client.reply().await.starts_with("220"));
            there.push(client);
        }
        for (header, said) in [
            (v1("198.51.100.7"), "220"),
            (v2("198.51.100.7"), "421 4.7.0 Too many connections from your address"),
            (v2("198.51.100.8"), "220"),
        ] {
            let mut client = opened(26, PROXY, &header).await;
            let greeting = client.reply().await;
            assert!(greeting.starts_with(said), "{greeting}");
            there.push(client);
        }
    });
}

/// Half headers take a few places for a few seconds; the others are served meanwhile.
#[test]
fn waiting_headers_are_few() {
    with_relay(LISTENERS, || async {
        // A sixteenth of 10,000 places for the relay; here the listener's.
        let mut waiting = Vec::new();
        for _ in 0..625 {
            waiting.push(opened(26, PROXY, b"PROXY ").await);
        }
        sleep(Duration::from_millis(100)).await;
        let mut next = opened(26, PROXY, b"").await;
        assert!(next.reply().await.starts_with("421 4.7.0 Too many connections"));
        let (_client, greeting) = Client::connect_to(26, OURS).await;
        assert!(greeting.starts_with("220"), "{greeting}");
        sleep(Duration::from_secs(6)).await;
        assert_eq!(refused().await, 625);
        assert!(relays(&v1("192.0.2.7")).await.starts_with("250"));
    });
}

/// Who may say XCLIENT is whom it says it speaks for, until it says otherwise; what it may itself is not the client's.
#[test]
fn xclient_says_who_relays() {
    with_relay(LISTENERS, || async {
        let (mut client, _) = Client::connect_to(27, FILTER).await;
        assert!(client.say("EHLO filter.test").await.contains("XCLIENT NAME ADDR"));
        for (address, reply) in [
            ("192.0.2.7", "250"),
            ("198.51.100.7", "550"),
            ("IPV6:2001:db8:1::7", "250"),
            ("[UNAVAILABLE]", "550"),
            ("127.0.0.9", "250"),
            ("[TEMPUNAVAIL]", "550"),
        ] {
            let said = client.say(&format!("XCLIENT ADDR={address} NAME=[UNAVAILABLE]")).await;
            assert!(said.starts_with("220 relay.test"), "{address}: {said}");
            assert!(client.begin(0, "b@b.test").await.starts_with("503"));
            assert!(client.say("EHLO client.test").await.contains("XCLIENT"));
            let said = client.begin(0, "b@b.test").await;
            assert!(said.starts_with(reply), "{address}: {said}");
            assert!(client.say("XCLIENT ADDR=192.0.2.7").await.starts_with("503"));
            assert!(client.say("RSET").await.starts_with("250"));
        }
    });
}

/// It is for those who are listed: nobody else, not by saying to be one, and not who has a proxy that is one.
#[test]
fn xclient_of_others() {
    with_relay(LISTENERS, || async {
        for (port, from, header) in [
            (27, OURS, Vec::new()),
            (25, FILTER, Vec::new()),
            (26, PROXY, v1("198.51.100.7")),
            (26, PROXY, b"PROXY UNKNOWN\r\n".to_vec()),
        ] {
            let mut client = opened(port, from, &header).await;
            assert!(client.reply().await.starts_with("220"));
            assert!(!client.say("EHLO a.test").await.contains("XCLIENT"));
            let said = client.say("XCLIENT ADDR=127.0.0.5").await;
            assert!(said.starts_with("550 5.7.0"), "{port} {from}: {said}");
            assert!(client.begin(0, "b@b.test").await.starts_with("550 5.7.1"));
        }
        // A proxy's client that is listed itself may.
        let mut client = opened(26, PROXY, &v1("127.0.0.5")).await;
        assert!(client.reply().await.starts_with("220"));
        assert!(client.say("XCLIENT ADDR=192.0.2.7").await.starts_with("220"));
    });
}

/// The limits are those of the client that is spoken for, and its place is its own again when it has gone.
#[test]
fn limits_hold_for_who_is_spoken_for() {
    with_relay(LISTENERS, || async {
        let speak = async |address: &str| {
            let (mut client, greeting) = Client::connect_to(27, FILTER).await;
            assert!(greeting.starts_with("220"), "{greeting}");
            let said = client.say(&format!("XCLIENT ADDR={address}")).await;
            (client, said)
        };
        let mut there = Vec::new();
        for number in 0..10 {
            let (client, said) = speak(&format!("198.51.100.{}", number / 2)).await;
            assert!(said.starts_with("220"), "{said}");
            there.push(client);
        }
        let (client, said) = speak("198.51.100.1").await;
        assert!(said.starts_with("421 4.7.0 Too many connections from your address"), "{said}");
        assert_eq!(last_words(client).await.0, "");
        drop(there);
        sleep(Duration::from_secs(1)).await;
        assert!(speak("198.51.100.1").await.1.starts_with("220"));
    });
}
