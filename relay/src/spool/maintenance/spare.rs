//! The spare: freeing of segments, and what a spare is made of.

use std::io;
use std::rc::Rc;

use chasqui_runtime::{now, sim};

use super::victim::victim;
use crate::spool::config::Durability;
use crate::spool::disk::{RETRY, SegmentFile, create, move_aside, segment_path};
use crate::spool::error::{SpoolError, is_no_space};
use crate::spool::format::headers::{Identity, SegmentHeader};
use crate::spool::log::handle::Log;
use crate::spool::log::segment_table::FreeSegment;
use crate::spool::log::segments::Spare;

/// Segments beyond `max_space` that states may use, because only states free others.
const STATES_SEGMENTS: usize = 2;

/// Why maintenance does not go on.
pub(crate) enum Stop {
    /// Nothing can be recorded any more.
    Over,
    /// The disk refused something; it was logged.
    Retry,
}

impl From<SpoolError> for Stop {
    fn from(_: SpoolError) -> Stop {
        Stop::Over
    }
}

/// Frees what can be freed and sees to it that there is a spare, or will be when what was freed is durable.
pub(crate) async fn keep_ready(log: &Log) -> Result<(), Stop> {
    if log.inner().is_over() {
        return Err(Stop::Over);
    }
    // At the end too: what has entered may need the room.
    free_segments(log).await?;
    if log.inner().segments.spare.is_some() || log.inner().segments.awaits_free() {
        return Ok(log.inner().check()?);
    }
    match prepare(log).await {
        Ok(spare) => {
            let mut inner = log.inner();
            inner.segments.spare = Some(spare);
            inner.segments.spare_failed = None;
            inner.segments.is_last_room = false;
        }
        Err(error) => {
            let failure = match is_no_space(&error) {
                true => SpoolError::NoSpace,
                false => SpoolError::DiskFails(error.to_string().into()),
            };
            if log.inner().segments.spare_failed.replace(failure.clone()) != Some(failure) {
                log::warn!("spool {}: cannot prepare a segment: {error}", log.dir.display());
            }
        }
    }
    if log.inner().segments.spare.is_some() {
        log.tell_room();
    }
    log.room.notify_all();
    log.work.notify_one();
    let inner = log.inner();
    if inner.segments.spare.is_none() { Err(Stop::Retry) } else { Ok(inner.check()?) }
}

/// Finds segments in which nothing counts and has that recorded; those for which it is durable may be overwritten. Does
/// not wait for the committer, which may itself be waiting for a spare.
async fn free_segments(log: &Log) -> Result<(), Stop> {
    let is_durable = {
        let inner = log.inner();
        inner.segments.tables.freeing.is_some_and(|table| table <= inner.segments.tables.settled)
    };
    if is_durable {
        if log.class != Durability::Synced {
            log.sync_up().await?;
        }
        let damaged = {
            let mut inner = log.inner();
            inner.segments.tables.freeing = None;
            inner.segments.table.release()
        };
        log.tell_room();
        for segment in damaged {
            let path = segment_path(&log.dir, segment.file);
            match move_aside(&log.dir, &path).await {
                Ok(()) => log.inner().segments.table.done(segment.identity),
                Err(error) => log::warn!("spool: cannot move {} to quarantine: {error}", path.display()),
            }
        }
    }
    if log.inner().segments.tables.freeing.is_some() {
        return Ok(());
    }
    if log.class != Durability::Synced && !log.inner().segments.unsynced.is_empty() {
        log.sync_up().await?;
    }
    let mut inner = log.inner();
    if inner.segments.table.find_freeable() {
        inner.segments.tables.freeing = Some(inner.segments.tables.ask());
        drop(inner);
        log.work.notify_one();
    }
    Ok(())
}

/// A segment with a durable header that nothing was written to: a free one, else a new file.
async fn prepare(log: &Log) -> io::Result<Spare> {
    let ready = |segment: &Rc<SegmentFile>| {
        segment.leases() == 0 || sim::PlantedFault::RecycleUnderLease.is_planted()
    };
    let free = log.inner().segments.table.pop_free(ready);
    let Some(FreeSegment { file, identity: old, segment, .. }) = free else {
        return prepare_new(log).await;
    };
    let identity = log.inner().segments.new_identity()?;
    segment.append_at(0, &[&header(log, identity, segment.len()).encode()])?;
    segment.sync().await?;
    let mut inner = log.inner();
    inner.stats.syncs += 1;
    inner.stats.recycled += 1;
    sim::mark("segment-recycled");
    inner.segments.table.done(old);
    Ok(Spare { file, identity, segment })
}

pub(crate) async fn prepare_new(log: &Log) -> io::Result<Spare> {
    let (file, identity) = {
        let mut inner = log.inner();
        // One more for cleaning, which gives back more than it takes.
        let cleaning = usize::from(inner.copying.cleaning || victim(&inner, &log.geometry).is_some());
        if inner.segments.count() >= log.geometry.segments_found + STATES_SEGMENTS + cleaning {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "max_space is used up"));
        }
        // While there is no spare, each round of the committer wakes maintenance.
        if inner.segments.disk_full_until.is_some_and(|until| now() < until) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        (inner.segments.new_file(), inner.segments.new_identity()?)
    };
    let header = header(log, identity, log.geometry.segment_size);
    let urgent = || log.inner().segments.needs_spare();
    let made = create(&log.disk, &log.dir, file, &header, urgent).await;
    let mut inner = log.inner();
    let is_full = made.as_ref().is_err_and(is_no_space);
    inner.segments.disk_full_until = is_full.then(|| now() + RETRY);
    drop(inner);
    let segment = made?;
    log.inner().stats.syncs += 1;
    Ok(Spare { file, identity, segment: Rc::new(segment) })
}

/// What the disk refused is tried again later.
pub(crate) fn put_off(log: &Log, what: &str, error: &io::Error) -> Stop {
    log::warn!("spool {}: cannot {what}: {error}", log.dir.display());
    Stop::Retry
}

fn header(log: &Log, identity: Identity, length: u64) -> SegmentHeader {
    SegmentHeader { spool: log.spool, identity, length, shard: log.shard }
}
