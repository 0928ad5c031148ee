//! Clients that drip octets, or speak another protocol.

use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::net::{ListenOptions, TcpListener};
use chasqui_runtime::{now, process, sleep, spawn};
use chasqui_sinks::mailbox::Login;
use chasqui_sinks::{imap, pop3};

use crate::support::{CLOSED, Lines, PASSWORD, Site, USER, with_site, with_site_alone};

const LIMIT: Duration = Duration::from_millis(500);

/// POP3 and IMAP servers with a short time limit.
fn impatient(mut site: Site) -> Site {
    let listen = || TcpListener::bind("127.0.0.1:0".parse().unwrap(), &ListenOptions::default()).unwrap();
    let login = || Login::within("chasqui.test", PASSWORD);
    let (pop3_listener, imap_listener) = (listen(), listen());
    (site.pop3, site.imap) = (pop3_listener.local_addr(), imap_listener.local_addr());
    let options = Rc::new(pop3::Options { idle_timeout: LIMIT, ..pop3::Options::new(login()) });
    let store = site.store.clone();
    spawn(async move {
        while let Ok((stream, peer)) = pop3_listener.accept().await {
            spawn(pop3::serve_pop3(stream.into(), peer, store.clone(), options.clone()));
        }
    });
    let options = Rc::new(imap::Options { idle_timeout: LIMIT, ..imap::Options::new(login()) });
    let store = site.store.clone();
    spawn(async move {
        while let Ok((stream, peer)) = imap_listener.accept().await {
            spawn(imap::serve_imap(stream.into(), peer, store.clone(), options.clone()));
        }
    });
    site
}

/// Drips an octet now and then until the server says its last.
async fn drip(lines: Lines) -> Duration {
    let begun = now();
    let stream = lines.stream.clone();
    let dripping = spawn(async move {
        while stream.write_all(b"N".to_vec()).await.is_ok() {
            sleep(LIMIT / 10).await;
        }
    });
    while lines.stream.read().await.is_ok_and(|piece| !piece.is_empty()) {}
    dripping.cancel().await;
    begun.elapsed()
}

/// A command line has its time as a whole, whatever octets come, and so has the line that ends IDLE; whole lines may come
/// as slowly as they like.
#[test]
fn dripping_clients_are_ended() {
    with_site(|site| async move {
        let site = impatient(site);
        let mut idle = Lines::selected(&site).await;
        idle.send("i IDLE\r\n").await;
        idle.until("+ idling").await;
        let mut slow = Lines::connect(site.pop3).await;
        assert!(slow.line().await.starts_with("+OK"));
        for _ in 0..5 {
            sleep(LIMIT / 2).await;
            slow.send("CAPA\r\n").await;
            slow.until(".").await;
        }
        let (pop3, imap) = (Lines::connect(site.pop3).await, Lines::connect(site.imap).await);
        // By then the idle one has been silent for too long.
        assert_eq!(idle.until("* BYE").await, "* BYE idle for too long");
        for time in [drip(pop3).await, drip(imap).await] {
            assert!(time < LIMIT * 10, "{time:?}");
        }
        let mut idle = Lines::selected(&site).await;
        idle.send("i IDLE\r\n").await;
        assert!(drip(idle).await < LIMIT * 10);
    });
}

/// An HTTP request and a TLS hello end the connection, and what comes behind them is no command.
#[test]
fn other_protocols_are_not_served() {
    with_site(|site| async move {
        for address in [site.pop3, site.imap] {
            for said in ["POST / HTTP/1.1\r\nCAPA\r\na NOOP\r\n", "\x16\x03\x01\x01"] {
                let mut lines = Lines::connect(address).await;
                lines.line().await;
                lines.send(said).await;
                let answer = lines.line().await;
                assert!(answer.contains("too many errors"), "{answer}");
                assert_eq!(lines.line().await, CLOSED);
            }
        }
    });
}

/// Clients that pipeline commands with long answers and do not read cost little; one that reads at last gets every answer whole.
#[test]
fn what_is_not_read_costs_little() {
    const MESSAGES: usize = 9000;
    with_site_alone(|site| async move {
        (0..MESSAGES).for_each(|_| assert!(site.deliver(b"Subject: x\r\n\r\n") > 0));
        let memory = || process::anonymous_rss_bytes(process::id()).unwrap();
        let before = memory();
        let mut pop3 = Lines::connect(site.pop3).await;
        pop3.send(&format!("USER {USER}\r\nPASS {PASSWORD}\r\n")).await;
        pop3.until("+OK maildrop has").await;
        pop3.send(&"UIDL\r\n".repeat(1300)).await;
        let mut imap = Vec::new();
        for _ in 0..20 {
            let mut lines = Lines::selected(&site).await;
            lines.send(&"f FETCH 1:* (UID FLAGS)\r\ng UID SEARCH ALL\r\nh NOOP\r\n".repeat(100)).await;
            imap.push(lines);
        }
        sleep(Duration::from_secs(1)).await;
        let grown = memory().saturating_sub(before) >> 20;
        // The answers are 100 MB; other tests of this process take some meanwhile.
        assert!(grown < 60, "{grown} MiB");
        for _ in 0..3 {
            assert_eq!(pop3.until(".").await.lines().count(), MESSAGES + 2);
        }
        assert_eq!(imap[0].until("f OK").await.lines().count(), MESSAGES + 1);
        let found = imap[0].until("g OK").await;
        assert_eq!(found.lines().next().unwrap().split(' ').count(), MESSAGES + 2);
        // What others do comes whole as well.
        let mut other = Lines::selected(&site).await;
        let stored = other.command("s STORE 1:* +FLAGS (\\Deleted)").await;
        assert_eq!(stored.matches("FETCH (FLAGS (").count(), MESSAGES);
        let mut told = Lines::selected(&site).await;
        assert_eq!(other.command("x EXPUNGE").await.matches(" EXPUNGE").count(), MESSAGES);
        assert_eq!(told.command("n NOOP").await.matches(" EXPUNGE").count(), MESSAGES);
    });
}
