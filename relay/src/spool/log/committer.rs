//! The task that writes and syncs groups: group commit with one sync in flight.

use std::io;
use std::pin::pin;
use std::rc::Rc;

use chasqui_runtime::{Elapsed, Instant, now, sim, sleep, timeout_at, yield_now};
use futures_lite::future::or;

use super::copy::{Copied, write_copies};
use super::handle::Log;
use super::inner::{Condition, Inner, SyncScope};
use super::writing::{self, LINGER, Step, linger, write_next, write_seal, write_table};
use crate::spool::config::Durability;
use crate::spool::disk::RETRY;
use crate::spool::error::{Failure, is_no_space};

/// Other tasks get their turn after this many bytes written in one round: what the page cache takes in under a millisecond at the
/// 2 GB/s of a slow core.
const TURN_BYTES: u64 = 1 << 20;

/// Runs until the log is closed or has failed.
pub(crate) async fn run(log: Rc<Log>) {
    if let Err(failure) = begin(&log).await {
        log.fail(failure);
        return;
    }
    loop {
        let due = due(&log.inner(), log.class);
        let outcome = match due {
            Due::Now => round(&log).await,
            Due::Watermark => {
                log.inner().groups.enter(0, true, &log.geometry, |_| ());
                round(&log).await
            }
            Due::At(deadline) => {
                // Either somebody has brought work, or the time has come: look again.
                let _ = timeout_at(deadline, log.work.notified()).await;
                continue;
            }
            Due::Never => {
                log.work.notified().await;
                continue;
            }
            Due::End => break,
        };
        if let Err(failure) = outcome {
            log.fail(failure);
            break;
        }
        log.room.notify_all();
        if log.inner().needs_maintenance() {
            log.maintenance.notify_one();
        }
    }
}

/// Waits until there is a first segment.
async fn begin(log: &Log) -> Result<(), Failure> {
    loop {
        {
            let inner = log.inner();
            if inner.has_begun() || inner.is_over() {
                return Ok(());
            }
            if matches!(inner.condition, Condition::Closing) && inner.groups.is_quiet() {
                return Ok(());
            }
        }
        if log.begin().await.map_err(Failure::Begin)? {
            log::info!("spool {}: there is room for a first segment: the spool is in use", log.dir.display());
            log.room.notify_all();
            log.space.notify_one();
            return Ok(());
        }
        let _ = timeout_at(now() + RETRY, or(log.room.notified(), log.work.notified())).await;
    }
}

/// When the next round starts.
enum Due {
    Now,
    Watermark,
    At(Instant),
    Never,
    End,
}

/// What is to be done next, and when.
fn due(inner: &Inner, class: Durability) -> Due {
    if matches!(inner.condition, Condition::Failed(_) | Condition::Closed) {
        return Due::End;
    }
    let linger = linger(inner);
    let closing = matches!(inner.condition, Condition::Closing);
    if inner.segments.active.is_short_of_ids()
        || inner.groups.queue.len() > 1
        || !inner.groups.written.is_empty()
        || inner.groups.queue.back().is_some_and(|open| open.urgent)
        || inner.can_copy()
    {
        return Due::Now;
    }
    let watermark = class == Durability::Synced && inner.groups.watermark.watermark_is_due();
    let states = inner
        .groups
        .queue
        .back()
        .and_then(|open| open.since)
        .into_iter()
        .chain(inner.segments.tables.since)
        .min();
    match states {
        Some(since) if closing || since + linger <= now() => Due::Now,
        Some(since) => Due::At(since + linger),
        None if watermark && (closing || inner.groups.last_round + linger <= now()) => Due::Watermark,
        None if watermark => Due::At(inner.groups.last_round + linger),
        None if closing => Due::End,
        None => Due::Never,
    }
}

/// Writes what has entered, syncs it if the class wants that, and settles it.
async fn round(log: &Log) -> Result<(), Failure> {
    if log.inner().segments.active.is_short_of_ids() {
        next_segment(log).await?;
    }
    let last = log.inner().groups.queue.back().map_or(0, |open| open.ticket);
    let mut turn = 0;
    loop {
        let step = write_next(&mut log.inner(), last, log);
        match step {
            Ok(Step::Wrote(bytes)) if turn + bytes > TURN_BYTES => {
                turn = 0;
                yield_now().await;
            }
            Ok(Step::Wrote(bytes)) => turn += bytes,
            Ok(Step::SegmentIsFull) => next_segment(log).await?,
            Ok(Step::Done) => break,
            Err(error) => stall(log, error).await?,
        }
    }
    copy(log).await?;
    if std::mem::take(&mut log.inner().space.stalled) {
        log.tell_room();
    }
    settle(log).await
}

/// Writes what the cleaner wants copied, behind the mail; it waits if there is no room for it.
async fn copy(log: &Log) -> Result<(), Failure> {
    while log.inner().can_copy() {
        let step = write_copies(&mut log.inner(), log);
        match step {
            Ok(Copied::All) => break,
            Ok(Copied::SegmentIsFull) if log.inner().segments.spare.is_some() => {
                next_segment(log).await?;
            }
            Ok(Copied::SegmentIsFull) => {
                log.inner().copying.waits = true;
                log.maintenance.notify_one();
            }
            // The originals are there.
            Err(error) if is_no_space(&error) => {
                let mut inner = log.inner();
                (inner.copying.batch, inner.copying.failed) = (None, true);
                drop(inner);
                log.maintenance.notify_one();
            }
            Err(error) => return Err(Failure::Write(error)),
        }
    }
    Ok(())
}

/// A write has failed. When the file system has no room, which it may say of preallocated segments too if it copies
/// on write, nothing is lost: the same write is tried again, mail is refused meanwhile, and who waits goes on waiting.
/// Any other failure is final.
async fn stall(log: &Log, error: io::Error) -> Result<(), Failure> {
    if !is_no_space(&error) || matches!(log.inner().condition, Condition::Closing) {
        return Err(Failure::Write(error));
    }
    if !std::mem::replace(&mut log.inner().space.stalled, true) {
        log::warn!("spool {}: no room to write, mail is refused: {error}", log.dir.display());
    }
    log.room.notify_all();
    if !log.inner().groups.written.is_empty() {
        settle(log).await?;
    }
    sleep(RETRY).await;
    match &log.inner().condition {
        Condition::Failed(why) => Err(Failure::Known(why.clone())),
        _ => Ok(()),
    }
}

/// Syncs what was written, if the class wants that, and settles it.
///
/// A disk may take long. States that have waited for [`LINGER`] meanwhile are written behind what is being synced:
/// should the process be killed, the page cache keeps them, and what was delivered is not sent again.
async fn settle(log: &Log) -> Result<(), Failure> {
    if sim::PlantedFault::AckBeforeSync.is_planted() {
        log.inner().settle();
    }
    if log.class == Durability::Synced {
        let (syncing, scope) = start_sync(log);
        let mut syncing = pin!(syncing);
        let mut look = now() + LINGER;
        let outcome = loop {
            match timeout_at(look, syncing.as_mut()).await {
                Ok(outcome) => break outcome,
                Err(Elapsed) => look = write_lingering(log)?,
            }
        };
        end_sync(&mut log.inner(), scope, outcome)?;
    }
    log.check_place()?;
    let mut inner = log.inner();
    inner.settle();
    inner.groups.last_round = now();
    Ok(())
}

fn write_lingering(log: &Log) -> Result<Instant, Failure> {
    match writing::write_lingering(&mut log.inner(), log) {
        // The next round tries it again.
        Err(error) if is_no_space(&error) => Ok(now() + LINGER),
        outcome => outcome.map_err(Failure::Write),
    }
}

/// One fdatasync of the active segment; earlier segments were synced when they were sealed.
fn start_sync(log: &Log) -> (impl Future<Output = io::Result<()>> + use<>, SyncScope) {
    let inner = log.inner();
    let segment = inner.segments.active.segment.clone();
    (async move { segment.sync().await }, inner.sync_scope())
}

/// Seals the active segment and goes on in the spare.
///
/// The seal names the successor and is durable before anything is written there, so that a recovery that can
/// read the one knows of the other.
async fn next_segment(log: &Log) -> Result<(), Failure> {
    // Once, and when something has been freed: maintenance that fails says so each time and tries again by itself.
    log.inner().segments.spare_wanted = true;
    log.maintenance.notify_one();
    while log.inner().segments.spare.is_none() {
        // Who waits for what is written should not wait for the spare too.
        if !log.inner().groups.written.is_empty() {
            settle(log).await?;
            continue;
        }
        if let Condition::Failed(why) = &log.inner().condition {
            return Err(Failure::Known(why.clone()));
        }
        // Room is kept for the table that lets a segment go, because that may become the spare.
        let table = write_table(&mut log.inner(), log);
        match table {
            Ok(Step::Wrote(_)) => {
                log.maintenance.notify_one();
                continue;
            }
            Ok(_) => {}
            Err(error) => {
                stall(log, error).await?;
                continue;
            }
        }
        log.room.notified().await;
    }
    loop {
        let sealed = write_seal(&mut log.inner(), log);
        match sealed {
            Ok(()) => break,
            Err(error) => stall(log, error).await?,
        }
    }
    match log.class {
        Durability::Synced => {
            let (syncing, scope) = start_sync(log);
            let outcome = syncing.await;
            let mut inner = log.inner();
            end_sync(&mut inner, scope, outcome)?;
            inner.settle();
        }
        Durability::Buffered | Durability::Memory => {
            let mut inner = log.inner();
            let sealed = inner.segments.active.segment.clone();
            inner.segments.unsynced.push(sealed);
        }
    }
    log.inner().segments.activate_spare();
    log.maintenance.notify_one();
    Ok(())
}

/// A sync has come to its end.
fn end_sync(inner: &mut Inner, scope: SyncScope, outcome: io::Result<()>) -> Result<(), Failure> {
    outcome.map_err(Failure::Sync)?;
    inner.synced(scope);
    inner.stats.syncs += 1;
    Ok(())
}
