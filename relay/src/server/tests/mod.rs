//! What peers can take of a whole relay, in the simulator.

mod proxies;

use std::net::SocketAddr;
use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, TcpStream};
use chasqui_runtime::sim::{self, Options, Simulation};
use chasqui_runtime::{sleep, timeout};

use crate::route::SimulatedAnswer;
use crate::tests::simulated::relay_with;

/// In `networks` are 127.0.0.2 and 127.0.0.3.
const NETWORKS: &str = "networks = [\"127.0.0.2/31\"]\n";
const OURS: u8 = 2;
const OUR_OTHER: u8 = 3;
const STRANGER: u8 = 9;

/// A client that waits for each reply.
struct Client(chasqui_testkit::Client);

impl Client {
    /// Connects from 127.0.0.`from`; the greeting, or what was said in its place.
    async fn connect(from: u8) -> (Client, String) {
        Client::connect_to(25, from).await
    }

    async fn connect_to(port: u16, from: u8) -> (Client, String) {
        let options = ConnectOptions { local: Some([127, 0, 0, from].into()) };
        let stream = TcpStream::connect(SocketAddr::from(([127, 0, 1, 1], port)), &options).await.unwrap();
        let mut client = Client(chasqui_testkit::Client::new(stream));
        let greeting = client.reply().await;
        (client, greeting)
    }

    async fn greeted(from: u8) -> Client {
        let (mut client, greeting) = Client::connect(from).await;
        assert!(greeting.starts_with("220"), "{greeting}");
        assert!(client.say("HELO a.test").await.starts_with("250"));
        client
    }

    async fn reply(&mut self) -> String {
        let reply = timeout(Duration::from_secs(60), self.0.reply()).await.expect("a reply");
        assert!(reply.ends_with("\r\n"), "closed");
        reply
    }

    async fn say(&mut self, line: &str) -> String {
        self.0.write(format!("{line}\r\n").as_bytes()).await.unwrap();
        self.reply().await
    }

    /// MAIL with this size, and RCPT: the last reply.
    async fn begin(&mut self, size: u64, recipient: &str) -> String {
        let mail = self.say(&format!("MAIL FROM:<a@a.test> SIZE={size}")).await;
        if mail.starts_with("250") { self.say(&format!("RCPT TO:<{recipient}>")).await } else { mail }
    }

    /// Sends a message; the last reply.
    async fn send(&mut self, recipient: &str) -> String {
        let reply = self.begin(100, recipient).await;
        if !reply.starts_with("250") {
            return reply;
        }
        assert!(self.say("DATA").await.starts_with("354"));
        self.say("Subject: a\r\n\r\na\r\n.").await
    }
}

/// Runs `clients` beside a relay with these settings, before the tables, and tables.
fn with_relay<F: Future<Output = ()> + 'static>(
    settings: &'static str,
    clients: impl FnOnce() -> F + 'static,
) {
    let outcome = Simulation::new(1, Options::default()).run(move || async move {
        let node = sim::node("relay");
        drop(node.start(move || relay_with(settings, |_| SimulatedAnswer::Temporary("silence"))));
        sleep(Duration::from_secs(1)).await;
        clients().await;
    });
    outcome.unwrap();
}

/// What a stranger only says is to come takes no space; what a recipient is there for takes a fair share, and everybody else's
/// mail is taken meanwhile.
#[test]
fn declared_sizes_cost_others_nothing() {
    with_relay(NETWORKS, || async {
        const MIB: u64 = 1 << 20;
        let mut held = Vec::new();
        for _ in 0..50 {
            let mut client = Client::greeted(STRANGER).await;
            assert!(client.say(&format!("MAIL FROM:<a@a.test> SIZE={}", 40 * MIB)).await.starts_with("250"));
            assert!(client.say("RCPT TO:<b@b.test>").await.starts_with("550"));
            held.push(client);
        }
        assert!(Client::greeted(OURS).await.send("b@b.test").await.starts_with("250"));
        // The spool has room for some 59 MiB of mail.
        let mut taken = Vec::new();
        for from in 0..8 {
            for _ in 0..8 {
                let mut client = Client::greeted(STRANGER + from).await;
                match client.begin(MIB, "postmaster").await {
                    reply if reply.starts_with("250") => taken.push((from, client)),
                    reply => assert!(reply.starts_with("452 4.3.1"), "{reply}"),
                }
            }
        }
        let of = |from| taken.iter().filter(|(of, _)| *of == from).count();
        assert!((1..=4).contains(&of(0)) && (8..=15).contains(&taken.len()), "{} {}", of(0), taken.len());
        assert!(Client::greeted(STRANGER).await.begin(40 * MIB, "postmaster").await.starts_with("452"));

        let mut ours = Vec::new();
        for _ in 0..60 {
            let mut client = Client::greeted(OURS).await;
            if client.begin(MIB, "b@b.test").await.starts_with("250") {
                ours.push(client);
            }
        }
        assert!((15..=32).contains(&ours.len()), "{}", ours.len());
        assert!(Client::greeted(OUR_OTHER).await.begin(8 * MIB, "b@b.test").await.starts_with("250"));
        assert!(Client::greeted(OUR_OTHER).await.send("b@b.test").await.starts_with("250"));
        // What is given up is there again.
        drop((held, taken, ours));
        sleep(Duration::from_secs(1)).await;
        assert!(Client::greeted(OURS).await.begin(40 * MIB, "b@b.test").await.starts_with("250"));
    });
}

/// MAIL says when a size has no room at all.
#[test]
fn mail_compares_the_size() {
    with_relay(NETWORKS, || async {
        let mut client = Client::greeted(OURS).await;
        assert!(client.say("MAIL FROM:<a@a.test> SIZE=66000000").await.starts_with("452 4.3.1"));
        assert!(client.say("MAIL FROM:<a@a.test> SIZE=70000000").await.starts_with("552 5.3.4"));
        assert!(client.send("b@b.test").await.starts_with("250"));
    });
}

/// What comes without a size, or beyond it, counts as it comes: a stranger's messages stop at its share, and ours go on.
#[test]
fn octets_that_come_count() {
    with_relay(NETWORKS, || async {
        let mut strangers = Vec::new();
        for _ in 0..6 {
            let mut client = Client::greeted(STRANGER).await;
            assert!(client.begin(10, "postmaster").await.starts_with("250"));
            assert!(client.say("DATA").await.starts_with("354"));
            strangers.push(client);
        }
        let body = "x".repeat(76) + "\r\n";
        let body = body.repeat((2 << 20) / body.len());
        for client in &mut strangers {
            client.0.write(body.as_bytes()).await.unwrap();
        }
        let mut ours = Client::greeted(OURS).await;
        assert!(ours.begin(0, "b@b.test").await.starts_with("250"));
        assert!(ours.say("DATA").await.starts_with("354"));
        for _ in 0..8 {
            ours.0.write(body.as_bytes()).await.unwrap();
        }
        assert!(ours.say(".").await.starts_with("250"));
        let mut refused = 0;
        for client in &mut strangers {
            refused += usize::from(client.say(".").await.starts_with("452 4.3.1"));
        }
        assert!((4..=5).contains(&refused), "{refused} of 6 were refused");
    });
}

/// Strangers leave places for `networks`, and for those who have few connections.
#[test]
fn places_are_kept() {
    with_relay("networks = [\"127.0.0.2/31\"]\n[limits]\nconnections = 40\n", || async {
        let mut there = Vec::new();
        for _ in 0..40 {
            let (client, greeting) = Client::connect(STRANGER).await;
            match greeting.starts_with("220") {
                true => there.push(client),
                false => assert!(greeting.starts_with("421 4.7.0 Too many connections"), "{greeting}"),
            }
        }
        assert_eq!(there.len(), 30);
        there.push(Client::greeted(STRANGER + 1).await);
        for _ in 0..5 {
            there.push(Client::greeted(OURS).await);
        }
    });
}

/// With a limit, messages and recipients of a peer beyond it wait for the next minute, and others' do not.
#[test]
fn rates_are_limited() {
    let limits =
        "networks = [\"127.0.0.2/31\"]\n[limits]\nmessages_per_minute = 3\nrecipients_per_minute = 5\n";
    with_relay(limits, || async {
        let mut client = Client::greeted(OURS).await;
        for _ in 0..3 {
            assert!(client.send("b@b.test").await.starts_with("250"));
        }
        assert!(client.send("b@b.test").await.starts_with("452 4.7.0 Too many messages"));
        let mut other = Client::greeted(OUR_OTHER).await;
        assert!(other.begin(0, "b@b.test").await.starts_with("250"));
        for number in 0..4 {
            assert!(other.say(&format!("RCPT TO:<u{number}@b.test>")).await.starts_with("250"));
        }
        assert!(other.say("RCPT TO:<last@b.test>").await.starts_with("452 4.7.0 Too many recipients"));
        sleep(Duration::from_secs(120)).await;
        assert!(client.send("b@b.test").await.starts_with("250"));
        assert!(other.say("RCPT TO:<last@b.test>").await.starts_with("250"));
    });
}

/// A listener of its own has networks and limits of its own, within those of the relay; the others' clients have what they had.
#[test]
fn listeners_have_their_own() {
    let listener = "networks = [\"127.0.0.2/32\"]\n[[listener]]\naddress = \"127.0.1.1:26\"\n\
                    networks = [\"127.0.0.9/32\"]\nconnections_per_peer = 2\n";
    with_relay(listener, || async {
        for (port, from, reply) in
            [(25, OURS, "250"), (25, STRANGER, "550"), (26, OURS, "550"), (26, STRANGER, "250")]
        {
            let (mut client, greeting) = Client::connect_to(port, from).await;
            assert!(greeting.starts_with("220") && client.say("HELO a.test").await.starts_with("250"));
            let said = client.begin(0, "b@b.test").await;
            assert!(said.starts_with(reply), "{port} {from}: {said}");
        }
        let mut there = Vec::new();
        for said in ["220", "220", "421 4.7.0 Too many connections from your address"] {
            let (client, greeting) = Client::connect_to(26, OUR_OTHER).await;
            assert!(greeting.starts_with(said), "{greeting}");
            there.push(client);
        }
        assert!(Client::connect_to(25, OUR_OTHER).await.1.starts_with("220"));
    });
}
