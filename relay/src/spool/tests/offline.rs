//! Reading a spool without changing it: closed, damaged, and while it is in use.

use std::collections::{BTreeMap, VecDeque};

use chasqui_protocol::smtp::data::{BodyForm, stuff};
use chasqui_runtime::{JoinHandle, spawn, spawn_blocking, yield_now};

use super::*;
use crate::spool::offline::{
    Deferred, Message, MessageError, Queued, RecipientState, Salvaged, SegmentState, Shard,
    read as read_offline, salvage,
};

fn only_shard(dir: &Path) -> Shard {
    let mut shards = read_offline(dir).unwrap();
    assert_eq!(shards.len(), 1);
    shards.remove(0)
}

/// What the tool writes for each message.
fn emls(shard: &Shard) -> Vec<(MessageId, Vec<u8>)> {
    let eml = |queued: Queued<'_>| {
        let mut eml = Vec::new();
        let octets = queued.write_eml(&mut eml).unwrap();
        assert_eq!(octets, eml.len() as u64);
        (queued.id(), eml)
    };
    shard.messages().map(eml).collect()
}

fn messages(shard: &Shard) -> Vec<Message> {
    shard.messages().map(|queued| queued.message().unwrap()).collect()
}

/// Names and contents of everything in a directory.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => found.push((path.clone(), std::fs::read(&path).unwrap())),
        }
    }
    found.sort();
    found
}

/// Every state of a recipient is told, of a spool in use and of a closed one, and nothing in it is changed.
#[test]
fn lists_every_state() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        let finished = put(&spool, b"finished\r\n").await.unwrap();
        spool.states(&[delivered(finished)]).unwrap();
        let mut writer = spool.begin(None);
        writer.write(b"body\r\n").await.unwrap();
        let sent = envelope(4);
        let id = writer.commit(&sent).await.unwrap();
        let deferral = State::Deferred { until_ms: 5, attempts: 2, reason: "451 later".into(), warned: true };
        let changes = [(1, State::Delivered), (2, State::Bounced), (3, deferral)];
        for (recipient, state) in changes {
            spool.states(&[StateChange { id, recipients: &[recipient], state }]).unwrap();
        }
        spool.flush().await.unwrap();
        let expected = Deferred { until_ms: 5, attempts: 2, reason: "451 later".into(), warned: true };
        let expected = [
            RecipientState::Open,
            RecipientState::Delivered,
            RecipientState::Bounced,
            RecipientState::Deferred(expected),
        ];
        let check = |shard: &Shard| {
            let found = messages(shard);
            assert_eq!((found.len(), found[0].id, &found[0].envelope), (1, id, &sent));
            assert_eq!(found[0].recipients, expected);
            assert!(shard.settled && shard.findings.is_empty(), "{:?}", shard.findings);
            let live: Vec<_> = shard.segments.iter().filter(|it| it.state == SegmentState::Live).collect();
            assert_eq!((live.len(), live[0].messages), (1, 1));
            assert!((50..500).contains(&live[0].live_bytes), "{}", live[0].live_bytes);
        };
        let in_use = only_shard(&dir);
        check(&in_use);
        assert_eq!(in_use.in_use_by, Some(std::process::id()));
        spool.close().await.unwrap();
        drop(spool);
        let before = contents(&dir);
        let closed = only_shard(&dir);
        check(&closed);
        assert_eq!(closed.in_use_by, None);
        assert!(contents(&dir) == before, "reading has changed the spool");
    });
}

/// A message is written out byte for byte as it came: with lines that begin with dots, in one record and in many, and
/// one of 25 MiB.
#[test]
fn exports_what_was_received() {
    on_shard(|dir| async move {
        let large = SpoolConfig { segment_size: 16 << 20, max_space: 128 << 20, ..config(&dir) };
        let (spool, _) = open(large).await.unwrap();
        let mut sent = Vec::new();
        for (seed, lines) in [(1, 1), (2, 40), (3, 4000), (4, 420_000)] {
            let mut dice = SeededRng::new(seed);
            let mut message = b".\r\n..\r\n".to_vec();
            for _ in 0..lines {
                let line = [
                    &b".dot\r\n"[..],
                    b"..two\r\n",
                    b"\r\n",
                    b"a longer line of sixty octets, to come to many: ........ abc\r\n",
                ];
                message.extend_from_slice(line[dice.below(8).min(3) as usize]);
            }
            message.resize(message.len() + if seed == 4 { (25 << 20) - message.len() - 2 } else { 0 }, b'x');
            message.extend_from_slice(b"\r\n");
            let mut wire = Vec::new();
            stuff(&message, &mut wire);
            let mut writer = spool.begin(None);
            for piece in wire.chunks(8191) {
                writer.write(piece).await.unwrap();
            }
            let own = Envelope {
                form: BodyForm::Lines { stuffed: true },
                size: message.len() as u64,
                ..envelope(1)
            };
            sent.push((writer.commit(&own).await.unwrap(), message));
        }
        // Not stuffed: dots at the start of a line would be the message's own.
        let plain = b"x\r\n.y\r\n".to_vec();
        sent.push((put(&spool, &plain).await.unwrap(), plain));
        assert_eq!(sent[3].1.len(), 25 << 20);
        assert!(emls(&only_shard(&dir)) == sent);
        spool.close().await.unwrap();
    });
}

/// One damaged byte in any block: the tool finds the messages that the next start finds, and says the same of the damage,
/// where there are no indexes of segments, from which a start learns of none.
#[test]
fn agrees_with_the_next_start() {
    on_shard(|dir| async move {
        damage::filled(&dir).await;
        let shard = dir.join("shard-0");
        let mut names: Vec<_> =
            std::fs::read_dir(&shard).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for path in &names {
            let mut bytes = std::fs::read(path).unwrap();
            let trailer = bytes.len() - 64;
            bytes[trailer..].fill(0);
            std::fs::write(path, bytes).unwrap();
        }
        let mut damaged_runs = 0;
        for path in names {
            let bytes = std::fs::read(&path).unwrap();
            for block in (0..bytes.len() / 4096).filter(|block| bytes[block * 4096..][..4096] != [0; 4096]) {
                let copy = temp_dir();
                let target = copy.path().join("shard-0");
                copy_dir(&shard, &target);
                let mut bytes = bytes.clone();
                bytes[block * 4096 + if block % 3 == 0 { 40 } else { 100 }] ^= 0x55;
                std::fs::write(target.join(path.file_name().unwrap()), bytes).unwrap();
                let told = only_shard(copy.path());
                assert!(told.settled);
                let (spool, recovery) = open(config(copy.path())).await.unwrap();
                let lines: Vec<_> = told.findings.iter().map(|finding| &finding.line).collect();
                assert_eq!(lines, recovery.report.iter().collect::<Vec<_>>());
                let ids: Vec<_> = recovery.messages.iter().map(|message| message.id).collect();
                assert_eq!(told.messages().map(|queued| queued.id()).collect::<Vec<_>>(), ids);
                for (id, eml) in emls(&told) {
                    assert!(read(&spool, id).await == eml);
                }
                damaged_runs += usize::from(recovery.quarantined > 0);
                let known = only_shard(copy.path());
                let lost = recovery.report.iter().any(|line| line.contains("damaged or missing"));
                assert!(
                    !lost || known.findings.iter().any(|it| it.line.contains("later start has reported"))
                );
                kill(spool).await;
            }
        }
        assert!(damaged_runs > 20, "{damaged_runs}");
    });
}

/// Of a damaged group every record that is whole is salvaged, and the others as they lie: before the next start, and from
/// quarantine after it.
#[test]
fn salvages_what_recovery_gives_up() {
    on_shard(|dir| async move {
        // All of it in one segment, which is not sealed.
        let config = |dir: &Path| SpoolConfig { segment_size: 128 << 10, ..config(dir) };
        let (spool, _) = open(config(&dir)).await.unwrap();
        // Two in one group, then one in chunks.
        let (first, second) =
            futures_lite::future::zip(put(&spool, b"first\r\n"), put(&spool, b"second\r\n")).await;
        let (first, second) = (first.unwrap(), second.unwrap());
        let chunked = put(&spool, &body(7, 30_000)).await.unwrap();
        let sound = put(&spool, b"sound\r\n").await.unwrap();
        spool.close().await.unwrap();
        drop(spool);
        let path = dir.join("shard-0/segment-00000001");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).position(|it| it == what).unwrap();
        let body_of_first = at(&bytes, b"first\r\n");
        bytes[body_of_first] = b'F';
        let in_a_chunk = at(&bytes, &body(7, 30_000)[..100]);
        bytes[in_a_chunk + 50] ^= 1;
        std::fs::write(&path, &bytes).unwrap();

        let check = |shard: &Shard| {
            let found = salvage(shard).unwrap();
            let whole: Vec<_> = found.iter().map(|it| (it.id, it.complete)).collect();
            assert_eq!(whole, [(first, false), (second, true), (chunked, false)]);
            let eml = |index: usize| {
                let mut eml = Vec::new();
                found[index].write_eml(&mut eml).unwrap();
                eml
            };
            assert_eq!((eml(0), eml(1)), (b"First\r\n".to_vec(), b"second\r\n".to_vec()));
            let mut expected = body(7, 30_000);
            expected[50] ^= 1;
            assert!(eml(2) == expected);
            for salvaged in &found {
                let message = salvaged.message.as_ref().unwrap();
                assert_eq!(message.envelope, envelope(1));
                assert_eq!(message.recipients, [RecipientState::Unknown]);
            }
        };
        let shard = only_shard(&dir);
        assert_eq!(shard.messages().map(|queued| queued.id()).collect::<Vec<_>>(), [sound]);
        check(&shard);

        // The next starts move the segment aside once nothing counts in it.
        let aside = dir.join("shard-0/quarantine/segment-00000001.0");
        let (spool, _) = open(config(&dir)).await.unwrap();
        spool.states(&[delivered(sound)]).unwrap();
        let mut seed = 0;
        while !aside.exists() {
            seed += 1;
            assert!(seed < 500, "the damaged segment is moved when nothing in it counts");
            let id = put(&spool, &body(seed, 3000)).await.unwrap();
            spool.states(&[delivered(id)]).unwrap();
        }
        spool.close().await.unwrap();
        let shard = only_shard(&dir);
        assert_eq!(shard.set_aside, [aside]);
        let sources = |it: &Salvaged| it.sources == shard.set_aside;
        let found = salvage(&shard).unwrap();
        let ids: Vec<_> = found.iter().filter(|it| it.id != sound).map(|it| it.id).collect();
        assert_eq!(ids, [first, second, chunked]);
        assert!(found.iter().all(sources));
    });
}

/// While segments are filled, freed and overwritten as fast as they can be, a reader never tells of damage, and what it
/// exports is unchanged.
#[test]
fn beside_a_spool_under_load() {
    on_shard(|dir| async move {
        let (spool, _) = open(config(&dir)).await.unwrap();
        let sent = Rc::new(RefCell::new(BTreeMap::new()));
        let load: JoinHandle<()> = {
            let (spool, sent) = (spool.clone(), sent.clone());
            spawn(async move {
                let mut queued = VecDeque::new();
                for seed in 1.. {
                    let body = body(seed, [300, 3000, 9000, 30_000][seed as usize % 4]);
                    let mut writer = spool.begin(None);
                    sent.borrow_mut().insert(writer.id(), body.clone());
                    writer.write(&body).await.unwrap();
                    queued.push_back(writer.commit(&envelope(1)).await.unwrap());
                    if queued.len() > 5 {
                        spool.states(&[delivered(queued.pop_front().unwrap())]).unwrap();
                    }
                    yield_now().await;
                }
            })
        };
        let (mut rounds, mut exported) = (0, 0);
        while rounds < 60 || spool.stats().recycled < 30 {
            rounds += 1;
            assert!(rounds < 1_000_000, "{:?}", spool.stats());
            let dir = dir.clone();
            let told = spawn_blocking(move || {
                let shard = only_shard(&dir);
                let emls = shard.messages().filter_map(|queued| {
                    let mut eml = Vec::new();
                    match queued.write_eml(&mut eml) {
                        Err(MessageError::Gone) => None,
                        written => Some((queued.id(), written.map(|_| eml).unwrap())),
                    }
                });
                (emls.collect::<Vec<_>>(), shard)
            });
            let (emls, shard) = told.await;
            let damage = shard.findings.iter().find(|it| it.kind == FindingKind::Quarantined);
            assert!(damage.is_none(), "round {rounds}: {damage:?}");
            for (id, eml) in emls {
                assert!(sent.borrow()[&id] == eml, "message {id} was changed");
                exported += 1;
            }
        }
        assert!(exported > 60, "{exported}");
        load.cancel().await;
        kill(spool).await;
    });
}
