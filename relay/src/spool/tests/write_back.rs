//! Class `memory`: what is written and what is not, and what that is worth after an end of either kind.

use std::time::Duration;

use chasqui_runtime::timeout;

use super::*;
use chasqui_protocol::smtp::data::BodyForm;

/// Unwritten messages stay for as long as the test takes.
fn in_memory(dir: &Path) -> SpoolConfig {
    let write_back = WriteBackLimits { bytes: 1 << 20, time: Duration::from_secs(600) };
    SpoolConfig { class: Durability::Memory, write_back, ..config(dir) }
}

async fn put_for(spool: &Spool, body: &[u8], recipients: usize) -> Result<MessageId, SpoolError> {
    let mut writer = spool.begin(None);
    writer.write(body).await?;
    writer.commit(&envelope(recipients)).await
}

fn deferred(id: MessageId, recipients: &[u32]) -> StateChange<'_> {
    let state = State::Deferred { until_ms: 77, attempts: 3, reason: "later".into(), warned: true };
    StateChange { id, recipients, state }
}

/// Until all that was to be written has its place.
async fn written(spool: &Spool) {
    let is_written = || {
        let inner = spool.own.inner();
        inner.groups.queue.is_empty() && inner.write_back.len() == inner.write_back.held().0
    };
    while !is_written() {
        timeout(Duration::from_secs(10), spool.own.room.notified()).await.expect("a round");
    }
}

async fn found(config: SpoolConfig) -> (Rc<Spool>, Vec<RecoveredMessage>) {
    let (spool, recovery) = open(config).await.unwrap();
    (spool, recovery.messages)
}

/// Messages are committed, read, unchanged, and delivered without a byte being written.
#[test]
fn nothing_is_written() {
    on_shard(|dir| async move {
        let (spool, _) = open(in_memory(&dir)).await.unwrap();
        while spool.own.inner().segments.spare.is_none() {
            spool.own.room.notified().await;
        }
        let before = spool.stats();
        let bodies: Vec<Vec<u8>> = (0..20).map(|seed| body(seed, 200 * seed as usize)).collect();
        let mut ids = Vec::new();
        for body in &bodies {
            let mut writer = spool.begin(None);
            writer.write(body).await.unwrap();
            let envelope = Envelope { form: BodyForm::Lines { stuffed: true }, ..envelope(2) };
            ids.push(writer.commit(&envelope).await.unwrap());
            assert_eq!(spool.envelope(ids[ids.len() - 1]).await.unwrap(), Some(envelope));
        }
        assert_eq!((spool.stats().queued, spool.stats().in_memory), (20, 20));
        for (id, body) in ids.iter().zip(&bodies) {
            assert_eq!(&read(&spool, *id).await, body);
            assert_eq!(
                spool.body(*id).await.unwrap().unwrap().read(100, 100).await.unwrap(),
                body[body.len().min(100)..body.len().min(200)]
            );
            for recipients in [&[0], &[1]] {
                spool.states(&[StateChange { id: *id, recipients, state: State::Delivered }]).unwrap();
            }
            assert!(spool.body(*id).await.unwrap().is_none() && spool.envelope(*id).await.unwrap().is_none());
        }
        let after = spool.stats();
        assert_eq!((after.groups, after.bytes, after.syncs), (before.groups, before.bytes, before.syncs));
        assert_eq!((after.messages, after.queued, after.in_memory_bytes), (20, 0, 0));
        assert_eq!(spool.own.inner().space.reserved, 0);
    });
}

/// A message is written at its first deferral, with what has become of its recipients; the next start finds it after
/// a kill, unchanged, and of those that were not deferred nothing.
#[test]
fn deferral() {
    on_shard(|dir| async move {
        let (spool, _) = open(in_memory(&dir)).await.unwrap();
        let text = body(1, 3000);
        let lost = put(&spool, b"lost").await.unwrap();
        let kept = put_for(&spool, &text, 4).await.unwrap();
        spool.states(&[StateChange { id: kept, recipients: &[2], state: State::Delivered }]).unwrap();
        spool.states(&[deferred(kept, &[1])]).unwrap();
        // It has no place yet, and is there all the same; so is what comes of it now.
        assert_eq!(read(&spool, kept).await, text);
        spool.states(&[StateChange { id: kept, recipients: &[3], state: State::Bounced }]).unwrap();
        written(&spool).await;
        assert_eq!((spool.stats().in_memory, spool.stats().messages), (1, 2));
        assert_eq!(read(&spool, kept).await, text);
        assert_eq!(spool.envelope(kept).await.unwrap(), Some(envelope(4)));
        kill(spool).await;

        let (spool, messages) = found(in_memory(&dir)).await;
        assert_eq!(messages.len(), 1, "{lost} was in memory alone");
        assert_eq!((messages[0].id, &messages[0].envelope), (kept, &envelope(4)));
        let open: Vec<u32> = messages[0].open.iter().map(|recipient| recipient.index).collect();
        assert_eq!(open, [0, 1]);
        let deferral = messages[0].open[1].deferral.as_ref().expect("it was deferred");
        assert_eq!((deferral.until_ms, deferral.attempts, deferral.warned), (77, 3, true));
        assert_eq!(read(&spool, kept).await, text);
        spool.states(&[StateChange { id: kept, recipients: &[0, 1], state: State::Delivered }]).unwrap();
        assert_eq!(spool.stats().queued, 0);
    });
}

/// An end in good order keeps what is queued; so does `flush`.
#[test]
fn close_keeps() {
    on_shard(|dir| async move {
        let (spool, _) = open(in_memory(&dir)).await.unwrap();
        let early = put_for(&spool, b"early", 2).await.unwrap();
        spool.states(&[StateChange { id: early, recipients: &[0], state: State::Delivered }]).unwrap();
        spool.flush().await.unwrap();
        assert_eq!((spool.stats().in_memory, spool.stats().queued), (0, 1));
        let bodies: Vec<Vec<u8>> = (0..300).map(|seed| body(seed, 2000)).collect();
        let mut ids = Vec::new();
        for body in &bodies {
            ids.push(put(&spool, body).await.unwrap());
        }
        spool.states(&[delivered(ids[7])]).unwrap();
        spool.close().await.unwrap();
        assert_eq!(put(&spool, b"late").await, Err(SpoolError::Closed));
        drop(spool);
        let (spool, messages) = found(config(&dir)).await;
        assert_eq!(messages[0].open.iter().map(|open| open.index).collect::<Vec<_>>(), [1]);
        let kept: Vec<MessageId> = messages.iter().map(|message| message.id).collect();
        ids.remove(7);
        assert_eq!(kept[1..], ids);
        assert_eq!(read(&spool, ids[7]).await, bodies[8]);
    });
}

/// Beyond the limit of bytes the oldest are written, beyond that of time all; what is too large for one record is
/// written at once.
#[test]
fn limits() {
    on_shard(|dir| async move {
        let write_back = WriteBackLimits { bytes: 10_000, time: Duration::from_secs(600) };
        let (spool, _) = open(SpoolConfig { write_back, ..in_memory(&dir) }).await.unwrap();
        let mut ids = Vec::new();
        for seed in 0..10 {
            ids.push(put(&spool, &body(seed, 3000)).await.unwrap());
            assert!(spool.stats().in_memory_bytes <= 10_000);
        }
        written(&spool).await;
        assert_eq!(spool.stats().in_memory, 3);
        assert!(ids[..7].iter().all(|id| spool.own.inner().messages.entries.get(*id).is_some()));
        let before = spool.stats().groups;
        put(&spool, &body(11, 20_000)).await.unwrap();
        assert!(spool.stats().groups > before, "it is larger than a record");
        assert_eq!(spool.stats().in_memory, 3);
        spool.close().await.unwrap();
        drop(spool);

        let write_back = WriteBackLimits { bytes: 10_000, time: Duration::from_millis(5) };
        let (spool, _) = open(SpoolConfig { write_back, ..in_memory(&dir) }).await.unwrap();
        let id = put(&spool, b"waits").await.unwrap();
        while spool.own.inner().messages.entries.get(id).is_none() {
            timeout(Duration::from_secs(10), spool.own.room.notified()).await.expect("a round");
        }
        assert_eq!(spool.stats().in_memory, 0);
    });
}

/// Space is kept for each of them: when there is none for more, those that are there can still be written.
#[test]
fn space_is_kept() {
    on_shard(|dir| async move {
        let tight = SpoolConfig { max_space: 256 << 10, ..in_memory(&dir) };
        let (spool, _) = open(tight.clone()).await.unwrap();
        let mut ids = Vec::new();
        let full = loop {
            match put(&spool, &body(ids.len() as u64, 3000)).await {
                Ok(id) => ids.push(id),
                Err(error) => break error,
            }
        };
        assert_eq!(full, SpoolError::NoSpace);
        assert!(ids.len() > 10 && spool.stats().in_memory == ids.len() as u64);
        spool.close().await.unwrap();
        drop(spool);
        let (spool, messages) = found(tight).await;
        assert_eq!(messages.iter().map(|message| message.id).collect::<Vec<_>>(), ids);
        assert_eq!(read(&spool, ids[9]).await, body(9, 3000));
    });
}

/// A notification stays in memory when the message that it tells of does, and is written with the state of a message
/// that is on the disk: a kill may not take the one without the other.
#[test]
fn notifications() {
    on_shard(|dir| async move {
        let (spool, _) = open(in_memory(&dir)).await.unwrap();
        let bounce = |id| StateChange { id, recipients: &[0], state: State::Bounced };
        let (unwritten, waits) =
            (put(&spool, b"unwritten").await.unwrap(), put(&spool, b"waits").await.unwrap());
        let notice = spool.begin_notification(unwritten, 0).unwrap();
        notice.commit_with(&envelope(1), &[bounce(unwritten)]).await.unwrap();
        assert_eq!((spool.stats().queued, spool.stats().in_memory), (2, 2));

        // A warning of a delay takes the message that is late to the disk with it.
        let warning = spool.begin_notification(waits, 0).unwrap();
        let warning = warning.commit_with(&envelope(1), &[deferred(waits, &[0])]).await.unwrap();
        written(&spool).await;
        assert_eq!((spool.stats().queued, spool.stats().in_memory), (3, 1));
        spool.states(&[delivered(warning)]).unwrap();

        let notice = spool.begin_notification(waits, 0).unwrap();
        let notice = notice.commit_with(&envelope(1), &[bounce(waits)]).await.unwrap();
        written(&spool).await;
        kill(spool).await;
        let (_spool, messages) = found(in_memory(&dir)).await;
        assert_eq!(messages.iter().map(|message| message.id).collect::<Vec<_>>(), [notice]);
    });
}

/// A disk that fails seals the spool; what is in memory can still be delivered.
#[test]
fn failed_disk() {
    on_shard(|dir| async move {
        let (faults, disk) = faulty();
        let (spool, _) = open_on(disk, in_memory(&dir)).await.unwrap();
        while spool.own.inner().segments.spare.is_none() {
            spool.own.room.notified().await;
        }
        let (first, second) = (put(&spool, b"first").await.unwrap(), put(&spool, b"second").await.unwrap());
        faults.fail_append.set(true);
        spool.states(&[deferred(first, &[0])]).unwrap();
        while spool.failed().is_none() {
            timeout(Duration::from_secs(10), spool.own.room.notified()).await.expect("the seal");
        }
        assert!(matches!(put(&spool, b"third").await, Err(SpoolError::Failed(_))));
        for (id, text) in [(first, &b"first"[..]), (second, b"second")] {
            assert_eq!(read(&spool, id).await, text);
        }
        spool.states(&[delivered(second)]).unwrap();
        assert!(spool.body(second).await.unwrap().is_none());
        assert!(matches!(spool.close().await, Err(SpoolError::Failed(_))));
    });
}
