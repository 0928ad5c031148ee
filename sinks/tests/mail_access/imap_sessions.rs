//! Several sessions on one mailbox: sequence numbers, EXISTS, RECENT and EXPUNGE are right for each.

use std::sync::{Arc, Mutex};

use chasqui_runtime::channel::bounded;
use chasqui_runtime::{Config, SeededRng, available_cores, run, shard};
use chasqui_sinks::mailbox::{Limits, Store};

use crate::support::{Lines, PASSWORD, Site, USER, message, serve, with_site};

fn deliver_many(site: &Site, count: usize) {
    (0..count).for_each(|number| assert!(site.deliver(&message(number, 100, false)) > 0));
}

/// What one session expunges, another hears of at NOOP and not during FETCH, and its sequence numbers hold till then.
#[test]
fn expunge_is_told_when_allowed() {
    with_site(|site| async move {
        deliver_many(&site, 5);
        let mut one = Lines::selected(&site).await;
        let mut two = Lines::selected(&site).await;
        assert_eq!(one.command("a STORE 2,4 +FLAGS.SILENT (\\Deleted)").await, "a OK stored");
        assert_eq!(one.command("b EXPUNGE").await, "* 4 EXPUNGE\n* 2 EXPUNGE\nb OK expunged");
        assert_eq!(one.command("c FETCH 3 UID").await, "* 3 FETCH (UID 5)\nc OK fetched");
        // The second session still counts five, and 5 is still UID 5.
        assert_eq!(two.command("a FETCH 5 UID").await, "* 5 FETCH (UID 5)\na OK fetched");
        assert_eq!(two.command("b FETCH 2 UID").await, "b NO some of the messages are gone");
        let store = "STORE 2:3 -FLAGS";
        let said = two.command(&format!("b {store} (\\Seen)")).await;
        assert_eq!(said, "* 3 FETCH (FLAGS ())\nb NO some of the messages are gone");
        assert_eq!(two.command(&format!("b {store}.SILENT (\\Seen)")).await, "b OK stored");
        site.deliver(&message(6, 100, false));
        assert_eq!(
            two.command("c FETCH 1 UID").await,
            "* 1 FETCH (UID 1)\n* 6 EXISTS\n* 1 RECENT\nc OK fetched"
        );
        assert_eq!(two.command("d NOOP").await, "* 4 EXPUNGE\n* 2 EXPUNGE\nd OK done");
        assert_eq!(two.command("e UID SEARCH ALL").await, "* SEARCH 1 3 5 6\ne OK searched");
        assert_eq!(two.command("f SEARCH UID 5:*").await, "* SEARCH 3 4\nf OK searched");
        // RECENT belongs to the session that was told first.
        assert_eq!(one.command("d NOOP").await, "* 4 EXISTS\n* 3 RECENT\nd OK done");
    });
}

/// Flags set by one session reach the other, and its own changes are not told twice.
#[test]
fn flags_are_told() {
    with_site(|site| async move {
        deliver_many(&site, 3);
        let mut one = Lines::selected(&site).await;
        let mut two = Lines::selected(&site).await;
        assert_eq!(
            one.command("a UID STORE 2:3 +FLAGS (\\Seen)").await,
            "* 2 FETCH (UID 2 FLAGS (\\Seen \\Recent))\n* 3 FETCH (UID 3 FLAGS (\\Seen \\Recent))\na OK stored"
        );
        assert_eq!(two.command("a STORE 3 -FLAGS.SILENT (\\Seen)").await, two_heard());
        assert_eq!(one.command("b NOOP").await, "* 3 FETCH (UID 3 FLAGS (\\Recent))\nb OK done");
        assert_eq!(one.command("c SEARCH SEEN").await, "* SEARCH 2\nc OK searched");
        assert_eq!(one.command("d SEARCH NOT SEEN RECENT").await, "* SEARCH 1 3\nd OK searched");
        assert_eq!(two.command("b SEARCH OR SEEN NEW").await, "* SEARCH 2\nb OK searched");
        assert_eq!(one.command("e STORE 1 FLAGS (\\Flagged custom)").await, flagged());
        assert!(one.command("f SEARCH SUBJECT x").await.starts_with("f NO"));
    });
}

fn two_heard() -> &'static str {
    "* 2 FETCH (UID 2 FLAGS (\\Seen))\n* 3 FETCH (UID 3 FLAGS (\\Seen))\na OK stored"
}

fn flagged() -> &'static str {
    "* 1 FETCH (FLAGS (\\Flagged \\Recent))\ne OK stored"
}

/// EXAMINE changes nothing: flags, expunging and RECENT stay as they are for the next session.
#[test]
fn examine_changes_nothing() {
    with_site(|site| async move {
        deliver_many(&site, 2);
        let mut one = Lines::connect(site.imap).await;
        one.line().await;
        one.command(&format!("l LOGIN {USER} {PASSWORD}")).await;
        let status = one.command("s STATUS INBOX (MESSAGES RECENT UIDNEXT UNSEEN)").await;
        assert_eq!(status, "* STATUS INBOX (MESSAGES 2 RECENT 2 UIDNEXT 3 UNSEEN 2)\ns OK counted");
        let examined = one.command("a EXAMINE INBOX").await;
        assert!(examined.contains("* 2 RECENT") && examined.ends_with("a OK [READ-ONLY] INBOX examined"));
        assert!(one.command("b STORE 1 +FLAGS (\\Seen)").await.starts_with("b NO"));
        assert!(one.command("c EXPUNGE").await.starts_with("c NO"));
        one.command("d FETCH 1 BODY[HEADER]").await;
        assert_eq!(one.command("e CLOSE").await, "e OK closed");
        assert!(one.command("f SELECT INBOX").await.contains("* 2 RECENT"));
        assert_eq!(one.command("g SEARCH UNSEEN").await, "* SEARCH 1 2\ng OK searched");
    });
}

/// UID EXPUNGE takes only the named messages, CLOSE the rest, and CLOSE tells nothing.
#[test]
fn uid_expunge_and_close() {
    with_site(|site| async move {
        deliver_many(&site, 4);
        let mut one = Lines::selected(&site).await;
        one.command("a STORE 1:3 +FLAGS.SILENT (\\Deleted)").await;
        assert_eq!(one.command("b UID EXPUNGE 2:99").await, "* 3 EXPUNGE\n* 2 EXPUNGE\nb OK expunged");
        assert_eq!(one.command("c CLOSE").await, "c OK closed");
        assert!(one.command("d SELECT INBOX").await.contains("* 1 EXISTS"));
        assert_eq!(one.command("e UID SEARCH ALL").await, "* SEARCH 4\ne OK searched");
    });
}

/// A session that idles hears of deliveries and of what others do, from another shard too.
#[test]
fn idle_hears_across_shards() {
    let cores = available_cores();
    let cores = vec![cores[0], *cores.last().unwrap()];
    let store = Store::new(Limits::default());
    let (ready, is_ready) = bounded::<()>(4);
    let is_ready = Arc::new(Mutex::new(Some(is_ready)));
    let config = Config { cores, ..Config::default() };
    let outcome = run(config, move || {
        let (store, ready, is_ready) = (store.clone(), ready.clone(), is_ready.clone());
        async move {
            if shard() == 1 {
                let mut is_ready = is_ready.lock().unwrap().take().unwrap();
                for number in 0..3 {
                    is_ready.recv().await;
                    let bytes = message(number, 100, false);
                    store.deliver(USER, &[&bytes], std::time::Duration::ZERO).unwrap();
                }
                is_ready.recv().await;
                store.open(USER).unwrap().delete(&[1, 3]);
                return;
            }
            let site = serve(store);
            let mut one = Lines::selected(&site).await;
            one.send("i IDLE\r\n").await;
            assert_eq!(one.line().await, "+ idling");
            for number in 1..=3 {
                ready.send(()).unwrap();
                assert_eq!(one.line().await, format!("* {number} EXISTS"));
                assert_eq!(one.line().await, format!("* {number} RECENT"));
            }
            ready.send(()).unwrap();
            assert_eq!(one.line().await, "* 3 EXPUNGE");
            assert_eq!(one.line().await, "* 1 EXPUNGE");
            assert_eq!(
                {
                    one.send("DONE\r\n").await;
                    one.line().await
                },
                "i OK no longer idle"
            );
        }
    });
    outcome.unwrap();
}

/// What a client knows of its mailbox from the responses alone: UIDs by sequence number, where it has been told.
#[derive(Default)]
struct Known(Vec<Option<u32>>);

impl Known {
    fn hear(&mut self, response: &str) {
        for line in response.lines() {
            let words: Vec<&str> = line.split([' ', '(', ')']).filter(|word| !word.is_empty()).collect();
            let ["*", number, what, ..] = words[..] else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            match what {
                "EXISTS" => {
                    assert!(number >= self.0.len(), "messages go by EXPUNGE alone: {line}");
                    self.0.resize(number, None);
                }
                "EXPUNGE" => drop(self.0.remove(number - 1)),
                "FETCH" => {
                    let uid =
                        words.iter().position(|word| *word == "UID").map(|at| words[at + 1].parse().unwrap());
                    let known = &mut self.0[number - 1];
                    assert!(known.is_none() || uid.is_none() || *known == uid, "{known:?}: {line}");
                    *known = known.or(uid);
                }
                _ => {}
            }
        }
    }
}

/// Random deliveries, flags, deletions and expunging by three sessions: each session's picture stays true by what it
/// is told, and all agree in the end.
#[test]
fn pictures_stay_true() {
    with_site(|site| async move {
        let mut random = SeededRng::new(7);
        let mut sessions = Vec::new();
        for _ in 0..3 {
            let mut lines = Lines::selected(&site).await;
            let mut known = Known::default();
            known.hear(&lines.command("x SELECT INBOX").await);
            sessions.push((lines, known));
        }
        for step in 0..600 {
            if random.below(3) == 0 {
                deliver_many(&site, 1 + random.below(3) as usize);
            }
            let (lines, known) = &mut sessions[random.below(3) as usize];
            let count = known.0.len() as u64;
            let command = match random.below(8) {
                0 | 1 => "NOOP".to_owned(),
                2 => "EXPUNGE".to_owned(),
                3 => "UID FETCH 1:* FLAGS".to_owned(),
                4 if count > 0 => format!("FETCH {}:* UID", 1 + random.below(count)),
                5 if count > 0 => format!("STORE {} +FLAGS (\\Deleted)", 1 + random.below(count)),
                6 if count > 0 => format!("STORE {}:* -FLAGS.SILENT (\\Deleted)", 1 + random.below(count)),
                7 if count > 0 => format!("UID STORE {}:* +FLAGS (\\Deleted)", 1 + random.below(2 * count)),
                _ => "UID SEARCH DELETED".to_owned(),
            };
            let response = lines.command(&format!("t{step} {command}")).await;
            assert!(!response.contains(" BAD "), "{command}: {response}");
            let may_tell = !command.starts_with("FETCH") && !command.starts_with("STORE");
            assert!(may_tell || !response.contains("EXPUNGE"), "{command}: {response}");
            known.hear(&response);
        }
        let mailbox = site.store.open(USER).unwrap();
        let uids: Vec<Option<u32>> =
            mailbox.lock().messages().iter().map(|message| Some(message.uid())).collect();
        let delivered = mailbox.lock().uid_next() as usize - 1;
        assert!(!uids.is_empty() && uids.len() < delivered - 50, "{} of {delivered}", uids.len());
        for (lines, known) in &mut sessions {
            known.hear(&lines.command("y NOOP").await);
            known.hear(&lines.command("z FETCH 1:* UID").await);
            assert_eq!(known.0, uids);
        }
    });
}
