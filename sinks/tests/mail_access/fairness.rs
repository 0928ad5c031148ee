//! What one client asks costs the others little, whatever it asks and however much of it.

use std::time::Duration;

use chasqui_runtime::{now, process, sleep, spawn};

use crate::support::{CLOSED, Lines, PASSWORD, Site, USER, with_site, with_site_alone};

/// How long others may wait.
const WAIT_MAX: Duration = Duration::from_millis(100);

fn deliver(site: &Site, messages: usize) {
    (0..messages).for_each(|_| assert!(site.deliver(b"Subject: x\r\n\r\n") > 0));
}

/// The longest that another user waits for the answer to NOOP, while `greedy` gets its answers for a second.
async fn longest_wait(site: &Site, greedy: Lines) -> Duration {
    let reading = async move { while greedy.stream.read().await.is_ok_and(|piece| !piece.is_empty()) {} };
    longest_wait_beside(site, reading).await
}

async fn longest_wait_beside(site: &Site, greedy: impl Future<Output = ()> + 'static) -> Duration {
    let mut other = Lines::connect(site.imap).await;
    other.line().await;
    assert!(other.command(&format!("l LOGIN other@d1.chasqui.test {PASSWORD}")).await.contains("l OK"));
    let greedy = spawn(greedy);
    let (begun, mut longest) = (now(), Duration::ZERO);
    while begun.elapsed() < Duration::from_secs(1) {
        let asked = now();
        other.command("n NOOP").await;
        longest = longest.max(asked.elapsed());
        sleep(Duration::from_millis(5)).await;
    }
    greedy.cancel().await;
    longest
}

async fn maildrop(site: &Site) -> Lines {
    let mut pop3 = Lines::connect(site.pop3).await;
    pop3.send(&format!("USER {USER}\r\nPASS {PASSWORD}\r\n")).await;
    pop3.until("+OK maildrop has").await;
    pop3
}

/// A POP3 client that pipelines long listings, or ones in which nothing is left, does not hold up others.
#[test]
fn pop3_listings_leave_others_their_turn() {
    with_site_alone(|site| async move {
        deliver(&site, 50_000);
        let memory = || process::anonymous_rss_bytes(process::id()).unwrap();
        let pop3 = maildrop(&site).await;
        let before = memory();
        pop3.stream.write_all("UIDL\r\n".repeat(1365).into_bytes()).await.unwrap();
        let waited = longest_wait(&site, pop3).await;
        let grown = memory().saturating_sub(before) >> 20;
        assert!(waited < WAIT_MAX, "{waited:?}");
        assert!(grown < 60, "{grown} MiB");
        let mut pop3 = loop {
            // The lock goes when the server has noticed that the last client did.
            let mut lines = Lines::connect(site.pop3).await;
            lines.send(&format!("USER {USER}\r\nPASS {PASSWORD}\r\n")).await;
            lines.until("+OK send PASS").await;
            if lines.line().await.starts_with("+OK") {
                break lines;
            }
            sleep(Duration::from_millis(10)).await;
        };
        let deletions: String = (1..=50_000).map(|number| format!("DELE {number}\r\n")).collect();
        let stream = pop3.stream.clone();
        let sending = spawn(async move { stream.write_all(deletions.into_bytes()).await.map(drop) });
        for _ in 0..50_000 {
            assert_eq!(pop3.line().await, "+OK deleted");
        }
        sending.await.unwrap();
        pop3.stream.write_all("UIDL\r\nSTAT\r\n".repeat(4000).into_bytes()).await.unwrap();
        let waited = longest_wait(&site, pop3).await;
        assert!(waited < WAIT_MAX, "{waited:?}");
    });
}

/// An IMAP client that pipelines searches, flag changes and selections of a large mailbox does not hold up others.
#[test]
fn imap_commands_leave_others_their_turn() {
    with_site(|site| async move {
        deliver(&site, 50_000);
        let greedy = Lines::selected(&site).await;
        let mut commands = String::new();
        for number in 0..300 {
            commands +=
                &format!("a SEARCH UNSEEN LARGER {number} NOT ANSWERED\r\nb SELECT INBOX\r\nc EXPUNGE\r\n");
            commands += "d STORE 1:* +FLAGS.SILENT (\\Flagged)\r\ne STORE 1:* -FLAGS.SILENT (\\Flagged)\r\n";
        }
        greedy.stream.write_all(commands.into_bytes()).await.unwrap();
        let waited = longest_wait(&site, greedy).await;
        assert!(waited < WAIT_MAX, "{waited:?}");
    });
}

/// To select a mailbox of 100,000 messages, to lock it as a maildrop and to delete all of it are each done in one go, which is short
/// enough for everybody else.
#[test]
fn a_huge_mailbox_leaves_others_their_turn() {
    with_site_alone(|site| async move {
        deliver(&site, 100_000);
        let greedy = Lines::selected(&site).await;
        greedy.stream.write_all("a SELECT INBOX\r\n".repeat(1000).into_bytes()).await.unwrap();
        let selecting = longest_wait(&site, greedy).await;
        let again = site.clone();
        let logins = async move {
            loop {
                let mut pop3 = Lines::connect(again.pop3).await;
                pop3.send(&format!("USER {USER}\r\nPASS {PASSWORD}\r\nQUIT\r\n")).await;
                pop3.until(CLOSED).await;
            }
        };
        let locking = longest_wait_beside(&site, logins).await;
        let mut pop3 = maildrop(&site).await;
        let stream = pop3.stream.clone();
        let deletions: String = (1..=100_000).map(|number| format!("DELE {number}\r\n")).collect();
        let sending = spawn(async move { stream.write_all(deletions.into_bytes()).await.map(drop) });
        for _ in 0..100_000 {
            assert_eq!(pop3.line().await, "+OK deleted");
        }
        sending.await.unwrap();
        let quitting = async move {
            pop3.send("QUIT\r\n").await;
            pop3.until(CLOSED).await;
        };
        let deleting = longest_wait_beside(&site, quitting).await;
        assert!(selecting.max(locking).max(deleting) < WAIT_MAX, "{selecting:?} {locking:?} {deleting:?}");
    });
}

/// A search that is repeated is answered from what was found before, until something changes.
#[test]
fn repeated_searches_cost_little() {
    with_site(|site| async move {
        deliver(&site, 20_000);
        let mut one = Lines::selected(&site).await;
        let mut two = Lines::selected(&site).await;
        assert_eq!(one.command("s STORE 1:19999 +FLAGS.SILENT (\\Seen)").await, "s OK stored");
        two.command("n NOOP").await;
        let begun = now();
        for number in 0..20 {
            let found = two.command(&format!("a SEARCH UNSEEN SMALLER {}", 1000 + number)).await;
            assert_eq!(found, "* SEARCH 20000\na OK searched");
        }
        let anew = begun.elapsed();
        let begun = now();
        for _ in 0..20 {
            assert_eq!(two.command("b SEARCH UNSEEN").await, "* SEARCH 20000\nb OK searched");
        }
        let again = begun.elapsed();
        assert!(again * 4 < anew, "{again:?} of {anew:?}");
        site.deliver(b"\r\n");
        assert!(two.command("c SEARCH UNSEEN").await.starts_with("* SEARCH 20000\n* 20001 EXISTS"));
        assert_eq!(two.command("d SEARCH UNSEEN").await, "* SEARCH 20000 20001\nd OK searched");
        assert_eq!(two.command("e UID SEARCH UNSEEN").await, "* SEARCH 20000 20001\ne OK searched");
        one.command("s STORE 7 -FLAGS.SILENT (\\Seen)").await;
        assert!(two.command("f UID SEARCH UNSEEN").await.starts_with("* SEARCH 7 20000 20001\n"));
        one.command("s STORE 7 +FLAGS.SILENT (\\Deleted)").await;
        one.command("x EXPUNGE").await;
        assert!(two.command("g UID SEARCH UNSEEN").await.starts_with("* SEARCH 20000 20001\n"));
        assert_eq!(two.command("h SEARCH UNSEEN").await, "* SEARCH 19999 20000\nh OK searched");
    });
}

/// Search keys nest a hundred deep, and their number is limited.
#[test]
fn search_keys_are_limited() {
    with_site(|site| async move {
        deliver(&site, 3);
        let mut lines = Lines::selected(&site).await;
        let nested = |depth: usize| format!("{}SEEN{}", "(".repeat(depth), ")".repeat(depth));
        assert_eq!(
            lines.command(&format!("a SEARCH NOT {}", nested(99))).await,
            "* SEARCH 1 2 3\na OK searched"
        );
        let refused = lines.command(&format!("b SEARCH NOT {}", nested(100))).await;
        assert_eq!(refused, "b BAD the search keys are nested more than 100 deep");
        let many = lines.command(&format!("c SEARCH{}", " ALL".repeat(1001))).await;
        assert_eq!(many, "c NO [LIMIT] there are too many search keys");
        assert_eq!(lines.command("d SEARCH 2").await, "* SEARCH 2\nd OK searched");
    });
}

/// An idle client that does not read costs little, however much happens meanwhile, and hears all of it at last.
#[test]
fn news_are_told_piece_by_piece() {
    const MESSAGES: usize = 150_000;
    with_site_alone(|site| async move {
        deliver(&site, MESSAGES);
        let mut idle = Vec::new();
        for _ in 0..8 {
            let mut lines = Lines::selected(&site).await;
            lines.send("i IDLE\r\n").await;
            lines.until("+ idling").await;
            idle.push(lines);
        }
        let memory = || process::anonymous_rss_bytes(process::id()).unwrap();
        let before = memory();
        let mut other = Lines::selected(&site).await;
        for round in 0..3 {
            let sign = if round % 2 == 0 { '+' } else { '-' };
            assert_eq!(
                other.command(&format!("s STORE 1:* {sign}FLAGS.SILENT (\\Deleted)")).await,
                "s OK stored"
            );
        }
        other.send("c CLOSE\r\n").await;
        assert_eq!(other.line().await, "c OK closed");
        let grown = memory().saturating_sub(before) >> 20;
        // A view of the other session is 1.2 MB, and all that is to be told is 16 octets a message and client.
        assert!(grown < 16, "{grown} MiB");
        let mut last = idle.pop().unwrap();
        let mut left = MESSAGES;
        while left > 0 {
            let line = last.line().await;
            if let Some(sequence) = line.strip_suffix(" EXPUNGE") {
                let sequence: usize = sequence[2..].parse().unwrap();
                assert!(sequence >= 1 && sequence <= left, "{line}");
                left -= 1;
            }
        }
        last.send("DONE\r\n").await;
        last.until("i OK").await;
    });
}

/// Wrong passwords are answered ever later, and after five of them the connection is closed, with a word.
#[test]
fn guessing_takes_time() {
    with_site(|site| async move {
        let imap = spawn(async move {
            let mut lines = Lines::connect(site.imap).await;
            lines.line().await;
            let mut waits = Vec::new();
            for _ in 0..5 {
                let asked = now();
                assert!(lines.command(&format!("a LOGIN {USER} wrong")).await.contains("a NO"));
                waits.push(asked.elapsed());
            }
            assert_eq!(lines.line().await, "* BYE too many failed logins");
            assert_eq!(lines.line().await, CLOSED);
            waits
        });
        let mut lines = Lines::connect(site.pop3).await;
        lines.line().await;
        let mut waits = Vec::new();
        for _ in 0..5 {
            let asked = now();
            lines.send(&format!("USER {USER}\r\nPASS wrong\r\n")).await;
            assert!(lines.until("-ERR").await.contains("invalid user name or password"));
            waits.push(asked.elapsed());
        }
        assert_eq!(lines.line().await, "-ERR too many errors");
        assert_eq!(lines.line().await, CLOSED);
        for waits in [waits, imap.await] {
            let least = [100, 200, 400, 800, 1600].map(Duration::from_millis);
            assert!(waits.iter().zip(least).all(|(waited, least)| *waited >= least), "{waits:?}");
        }
    });
}
