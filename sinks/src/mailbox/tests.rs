//! The store on a shard of its own.

use std::time::Duration;

use chasqui_runtime::{Config, run, timeout};

use chasqui_protocol::imap::flags::Flags;

use super::index::examine;
use super::*;

const DATE: Duration = Duration::from_secs(1_700_000_000);

fn on_shard<T: Send + 'static>(test: impl Fn() -> T + Send + Sync + 'static) -> T {
    let test = Arc::new(test);
    run(Config::default(), move || {
        let test = test.clone();
        async move { test() }
    })
    .unwrap()
}

fn texts(store: &Store, address: &str) -> Vec<(u32, Vec<u8>)> {
    let mailbox = store.open(address).unwrap();
    let state = mailbox.lock();
    state.messages().iter().map(|message| (message.uid(), message.read(0, u32::MAX).unwrap())).collect()
}

/// Header size and POP3 form are the same however the message is cut into parts.
#[test]
fn examine_at_every_split() {
    let cases: &[(&[u8], u32, bool, bool)] = &[
        (b"", 0, false, true),
        (b"a: b\r\n\r\nbody\r\n", 8, false, true),
        (b"a: b\r\n\r\n.\r\n", 8, true, true),
        (b"a: b\r\n\r\nb\r\n.c\r\n", 8, true, true),
        (b"a: b\r\n\r\nb\n.c\r\n\r\nd\r.", 8, false, false),
        (b".a\r\n", 4, true, true),
        (b"\r\nbody\r\n", 2, false, true),
        (b"a: b\r\nc: d\r\n", 12, false, true),
        (b"a\n\r\n.b\r.c\n.d", 12, true, false),
        (b"a\n.b\r.c\n.d\r\n", 12, false, true),
        (b"a\r\n\r", 4, false, false),
    ];
    for &(message, header_size, dots, ended) in cases {
        for first in 0..=message.len() {
            for second in first..=message.len() {
                let parts = [&message[..first], &message[first..second], &message[second..]];
                let (found, form) = examine(&parts);
                let shown = String::from_utf8_lossy(message);
                assert_eq!((found, form.dots, form.ended), (header_size, dots, ended), "{shown:?}");
            }
        }
    }
}

/// Messages come back byte for byte, with ascending UIDs per mailbox, also when segments change.
#[test]
fn delivered_bytes_come_back() {
    on_shard(|| {
        let store = Store::new(Limits { segment_bytes: 4096, ..Limits::default() });
        let message = |index: usize| vec![b'a' + (index % 26) as u8; index * 37];
        for index in 0..100 {
            let bytes = message(index);
            let (one, other) = bytes.split_at(index);
            let uid = store.deliver("a@x.test", &[one, other], DATE).unwrap();
            assert_eq!(uid.get() as usize, index + 1);
            store.deliver("b@x.test", &[b"other"], DATE).unwrap();
        }
        store.deliver("a@x.test", &[&[7; 10_000]], DATE).unwrap();
        let mut expected: Vec<(u32, Vec<u8>)> =
            (0..100).map(|index| (index as u32 + 1, message(index))).collect();
        expected.push((101, vec![7; 10_000]));
        assert_eq!(texts(&store, "a@x.test"), expected);
        assert_eq!(texts(&store, "b@x.test").len(), 100);
        assert_eq!(store.usage().mailboxes, 2);
    });
}

/// Memory goes back when messages are deleted, but not while one is held, and then another message fits again.
#[test]
fn memory_is_reclaimed() {
    on_shard(|| {
        let limits = Limits { segment_bytes: 64 << 10, max_bytes: 1 << 20, ..Limits::default() };
        let store = Store::new(limits);
        let message = [0; 4096];
        let mut delivered = 0;
        while store.deliver("a@x.test", &[&message], DATE).is_ok() {
            delivered += 1;
        }
        assert_eq!(delivered, 256);
        assert!(matches!(store.deliver("a@x.test", &[&message], DATE), Err(DeliverError::Full)));
        let mailbox = store.open("a@x.test").unwrap();
        let held = mailbox.lock().find(1).cloned().unwrap();
        let uids: Vec<u32> = (1..=256).collect();
        assert_eq!(mailbox.delete(&uids), 256);
        assert_eq!(mailbox.delete(&uids), 0);
        // The open segment and the one of the held message remain.
        assert_eq!((store.usage().segments, store.usage().bytes), (2, 128 << 10));
        drop(held);
        assert_eq!(store.usage().segments, 1);
        store.deliver("a@x.test", &[&message], DATE).unwrap();
        assert_eq!(texts(&store, "a@x.test")[0].0, 257);
    });
}

/// Every limit refuses, and what fits still goes in.
#[test]
fn limits_refuse() {
    on_shard(|| {
        let store = Store::new(Limits { max_mailboxes: 1, max_messages_per_mailbox: 2, ..Limits::default() });
        store.deliver("a@x.test", &[b"1"], DATE).unwrap();
        assert!(matches!(store.deliver("b@x.test", &[b"1"], DATE), Err(DeliverError::TooManyMailboxes)));
        store.deliver("a@x.test", &[b"2"], DATE).unwrap();
        assert!(matches!(store.deliver("a@x.test", &[b"3"], DATE), Err(DeliverError::Full)));
        assert!(store.open("b@x.test").is_none());
    });
}

/// One POP3 session at a time has a maildrop; it sees what was there when it came.
#[test]
fn maildrop_is_exclusive() {
    on_shard(|| {
        let store = Store::new(Limits::default());
        store.deliver("a@x.test", &[b"1"], DATE).unwrap();
        let mailbox = store.open("a@x.test").unwrap();
        let maildrop = mailbox.lock_maildrop().unwrap();
        assert!(mailbox.lock_maildrop().is_none());
        store.deliver("a@x.test", &[b"2"], DATE).unwrap();
        assert_eq!(maildrop.messages().len(), 1);
        assert_eq!(maildrop.delete(&[0]), 1);
        drop(maildrop);
        assert_eq!(mailbox.lock_maildrop().unwrap().messages().len(), 1);
    });
}

/// A watch is woken by delivery, flags and deletion, once for many changes, and nobody is left behind when it goes.
#[test]
fn watches_wake() {
    let outcome = run(Config::default(), || async {
        let store = Store::new(Limits::default());
        let mailbox = store.open("a@x.test").unwrap();
        let mut watch = mailbox.watch();
        let mut wakes = 0;
        for step in 0..3 {
            match step {
                0 => {
                    store.deliver("a@x.test", &[b"1"], DATE).unwrap();
                    store.deliver("a@x.test", &[b"2"], DATE).unwrap();
                }
                1 => mailbox.lock().set_flags([1].into_iter(), |flags| flags.with(Flags::SEEN)),
                _ => assert_eq!(mailbox.delete(&[1, 2]), 2),
            }
            timeout(Duration::from_secs(5), watch.changed()).await.unwrap();
            wakes += 1;
            assert!(timeout(Duration::from_millis(1), watch.changed()).await.is_err());
        }
        drop(watch);
        store.deliver("a@x.test", &[b"3"], DATE).unwrap();
        wakes
    });
    assert_eq!(outcome.unwrap(), 3);
}

/// With a limit on messages or memory the oldest makes room whatever mailbox it is in; those that nobody had read are told, and what
/// readers delete leaves nothing behind.
#[test]
fn the_oldest_make_room() {
    on_shard(|| {
        let deliver = |store: &Store, number: u64, size: usize| {
            let origin = Origin { run: 7, sequence: number, recipient: number % 2 };
            let (mut dropped, address) = (Vec::new(), ["a@x.test", "b@x.test"][number as usize % 2]);
            store.deliver_from(address, &[&vec![b'x'; size]], DATE, origin, &mut dropped).unwrap();
            dropped.iter().map(|dropped| dropped.origin.sequence).collect::<Vec<u64>>()
        };
        let store = Store::new(Limits { drop_oldest: Some(10), ..Limits::default() });
        assert!((0..10).all(|number| deliver(&store, number, 10).is_empty()));
        assert_eq!(deliver(&store, 10, 10), [0]);
        let mailbox = store.open("b@x.test").unwrap();
        mailbox.lock().set_flags([1].into_iter(), |flags| flags.with(Flags::SEEN));
        mailbox.lock().mark_read([2].into_iter());
        assert_eq!(deliver(&store, 11, 10), [0; 0], "1 was seen");
        assert_eq!((deliver(&store, 12, 10), deliver(&store, 13, 10)), (vec![2], vec![]), "3 was read");
        assert_eq!(mailbox.delete(&[3, 4]), 2);
        assert!((14..16).all(|number| deliver(&store, number, 10).is_empty()), "5 and 7 are gone");
        assert_eq!(deliver(&store, 16, 10), [4]);
        let held = texts(&store, "a@x.test").len() + texts(&store, "b@x.test").len();
        assert_eq!(held, 10);

        let limits = Limits { segment_bytes: 64 << 10, max_bytes: 1 << 20, ..Limits::default() };
        let store = Store::new(Limits { drop_oldest: Some(usize::MAX), ..limits });
        let dropped: usize = (0..1000).map(|number| deliver(&store, number, 8 << 10).len()).sum();
        let held = texts(&store, "a@x.test").len() + texts(&store, "b@x.test").len();
        assert_eq!(dropped + held, 1000);
        assert!((100..=128).contains(&held) && store.usage().bytes <= 1 << 20, "{held}");
        assert!(
            matches!(store.deliver("a@x.test", &[&vec![0; 2 << 20]], DATE), Err(DeliverError::Full)),
            "it is larger than all there is"
        );
        for number in 0..20_000 {
            deliver(&store, number, 10);
            let uids: Vec<u32> = mailbox_uids(&store, "a@x.test");
            store.open("a@x.test").unwrap().delete(&uids);
        }
        assert!(store.oldest.as_ref().unwrap().queued() < 40_000);
    });
}

fn mailbox_uids(store: &Store, address: &str) -> Vec<u32> {
    store.open(address).unwrap().lock().messages().iter().map(Message::uid).collect()
}
