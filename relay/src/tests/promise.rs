//! The promise on the wire: with a disk that is slow or fails, what does a client read, and when? And what goes on.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_runtime::net::{ConnectOptions, TcpStream};
use chasqui_runtime::{mailbox, run, sleep, spawn, timeout};

use crate::config::Config;
use crate::process::Process;
use crate::route::{Resolver, ResolverConfig};
use crate::spool::tests::{Faults, plant, temp_dir};

/// Long enough for a reply that must not come to come.
const PATIENCE: Duration = Duration::from_millis(50);

struct Client {
    stream: TcpStream,
    unread: String,
}

impl Client {
    async fn connect(address: std::net::SocketAddr) -> Client {
        let stream = TcpStream::connect(address, &ConnectOptions::default()).await.unwrap();
        let mut client = Client { stream, unread: String::new() };
        assert!(client.reply().await.starts_with("220"));
        client.say("EHLO client.test\r\n").await;
        while client.reply().await.starts_with("250-") {}
        client
    }

    async fn say(&self, text: &str) {
        self.stream.write_all(text.as_bytes().to_vec()).await.unwrap();
    }

    async fn reply(&mut self) -> String {
        loop {
            if let Some((line, rest)) = self.unread.split_once("\r\n") {
                let line = line.to_owned();
                self.unread = rest.to_owned();
                return line;
            }
            let piece = self.stream.read().await.unwrap();
            assert!(!piece.is_empty(), "the relay has closed");
            self.unread.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    /// Sends a whole message but does not wait for its reply.
    async fn hand_over(&mut self) {
        self.say("MAIL FROM:<s@x.test>\r\nRCPT TO:<u@y.test>\r\nDATA\r\n").await;
        for code in ["250", "250", "354"] {
            assert!(self.reply().await.starts_with(code));
        }
        self.say("Subject: promise\r\n\r\ntext\r\n.\r\n").await;
    }

    async fn is_silent(&mut self) -> bool {
        timeout(PATIENCE, self.reply()).await.is_err()
    }
}

/// Runs a relay of one shard whose mail has nowhere to go.
async fn relay(spool: &std::path::Path) -> (Arc<Process>, std::net::SocketAddr) {
    let text = format!(
        "hostname = \"relay.test\"\nlisten = [\"127.0.0.1:0\"]\nspool.directory = {spool:?}\nroutes.\"*\" = [\"127.0.0.1:1\"]\n\
         retry.first = \"20ms\"\n"
    );
    let config = Config::parse(&text, "promise.toml".as_ref()).unwrap();
    let servers = vec!["127.0.0.1:1".parse().unwrap()];
    let resolver = Resolver::start(ResolverConfig { servers, ..ResolverConfig::default() }).unwrap();
    let (reports, mut outcomes) = mailbox::channel(1);
    let process = Arc::new(Process::new(config, resolver, 1, 128, reports));
    spawn(crate::lifecycle::run(process.clone()));
    let (_, listening) = outcomes.recv().await.unwrap();
    (process, listening.unwrap()[0])
}

/// Runs a test with the disk of a relay and two clients of it.
fn with_relay<Fut: Future<Output = ()>>(
    test: impl Fn(Rc<Faults>, Client, Client) -> Fut + Clone + Send + Sync + 'static,
) {
    let folder = temp_dir();
    let path = folder.path().to_owned();
    run(chasqui_runtime::Config::default(), move || {
        let (path, test) = (path.clone(), test.clone());
        async move {
            let faults = plant();
            let (_process, address) = relay(&path).await;
            let (first, second) = (Client::connect(address).await, Client::connect(address).await);
            test(faults, first, second).await;
        }
    })
    .unwrap();
}

/// No client reads 250 before a sync that was started after its message had been written has completed.
#[test]
fn no_250_before_its_sync() {
    with_relay(|faults, mut first, mut second| async move {
        faults.hold_syncs();
        let before = faults.syncs_started();
        first.hand_over().await;
        while faults.syncs_started() == before {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(first.is_silent().await, "the sync of the first is held");
        second.hand_over().await;
        assert!(second.is_silent().await && first.is_silent().await);
        assert_eq!(faults.syncs_started(), before + 1, "one sync at a time");
        faults.release_syncs();
        assert!(first.reply().await.starts_with("250 2.0.0"));
        assert!(second.reply().await.starts_with("250 2.0.0"));
        assert!(faults.syncs_started() >= before + 2, "the second was not covered by the first's sync");
    });
}

/// When a sync fails, whoever waits for it reads 451, and nothing is accepted afterwards.
#[test]
fn a_failed_sync_is_answered_451() {
    with_relay(|faults, mut first, mut second| async move {
        faults.hold_syncs();
        first.hand_over().await;
        assert!(first.is_silent().await);
        second.hand_over().await;
        faults.fail_syncs();
        faults.release_syncs();
        assert!(first.reply().await.starts_with("451 4.3.0"));
        assert!(second.reply().await.starts_with("451 4.3.0"));
        first.say("MAIL FROM:<s@x.test>\r\n").await;
        assert!(first.reply().await.starts_with("451 4.3.0"), "the spool is sealed");
    });
}

/// Retries that are due do not wait for each other's envelopes: while the disk gives none, all are asked for.
#[test]
fn retries_read_side_by_side() {
    with_relay(|faults, mut first, _| async move {
        faults.hold_reads();
        for _ in 0..5 {
            first.hand_over().await;
            assert!(first.reply().await.starts_with("250 2.0.0"));
        }
        while faults.reads_held() < 5 {
            sleep(Duration::from_millis(1)).await;
        }
        faults.release_reads();
    });
}
