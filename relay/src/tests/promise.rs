//! The promise on the wire: with a disk that is slow or fails, what does a client read, and when? And what goes on.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_runtime::{channel, run, sleep, spawn, timeout};
use chasqui_testkit::Client;

use crate::config::Config;
use crate::process::Process;
use crate::route::{Resolver, ResolverConfig};
use crate::spool::tests::{Faults, plant, temp_dir};

/// Long enough for a reply that must not come to come.
const PATIENCE: Duration = Duration::from_millis(50);

/// Sends a whole message but does not wait for its reply.
async fn hand_over(client: &mut Client) {
    client.write(b"MAIL FROM:<s@x.test>\r\nRCPT TO:<u@y.test>\r\nDATA\r\n").await.unwrap();
    for code in ["250", "250", "354"] {
        assert!(client.reply().await.starts_with(code));
    }
    client.write(b"Subject: promise\r\n\r\ntext\r\n.\r\n").await.unwrap();
}

async fn is_silent(client: &mut Client) -> bool {
    timeout(PATIENCE, client.reply()).await.is_err()
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
    let (reports, mut outcomes) = channel::bounded(1);
    let process = Arc::new(Process::new(config, resolver, 1, 128, reports).expect("no certificates"));
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
            let connect = async || Client::connect(address).await.expect("a greeting");
            let (first, second) = (connect().await, connect().await);
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
        hand_over(&mut first).await;
        while faults.syncs_started() == before {
            sleep(Duration::from_millis(1)).await;
        }
        assert!(is_silent(&mut first).await, "the sync of the first is held");
        hand_over(&mut second).await;
        assert!(is_silent(&mut second).await && is_silent(&mut first).await);
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
        hand_over(&mut first).await;
        assert!(is_silent(&mut first).await);
        hand_over(&mut second).await;
        faults.fail_syncs();
        faults.release_syncs();
        assert!(first.reply().await.starts_with("451 4.3.0"));
        assert!(second.reply().await.starts_with("451 4.3.0"));
        assert!(first.command("MAIL FROM:<s@x.test>").await.starts_with("451 4.3.0"), "the spool is sealed");
    });
}

/// Retries that are due do not wait for each other's envelopes: while the disk gives none, all are asked for.
#[test]
fn retries_read_side_by_side() {
    with_relay(|faults, mut first, _| async move {
        faults.hold_reads();
        for _ in 0..5 {
            hand_over(&mut first).await;
            assert!(first.reply().await.starts_with("250 2.0.0"));
        }
        while faults.reads_held() < 5 {
            sleep(Duration::from_millis(1)).await;
        }
        faults.release_reads();
    });
}
