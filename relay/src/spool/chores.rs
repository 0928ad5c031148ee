//! The task that frees segments and keeps a spare ready.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::fs;
use chasqui_runtime::{now, rng, sim, timeout};

use super::cleaner;
use super::config::{Durability, Geometry};
use super::disk::{Disk, SegmentFile, quarantine_dir, segment_path, unborn_path};
use super::error::{SpoolError, is_no_space};
use super::format::{Identity, SegmentHeader};
use super::id::MessageId;
use super::index::write_indexes;
use super::log::{Inner, Log, Spare};
use super::table::FreeSegment;

/// What the disk refused is tried again after this.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// Segments beyond `max_space` that states may use, because only states free others.
const STATES_SEGMENTS: usize = 2;
/// Segments that are kept when little mail is there: the active one, the spare, and a free one.
const KEPT: usize = 3;

/// Runs until the log is closed or sealed.
pub(super) async fn run(log: Rc<Log>) {
    loop {
        match tidy(&log).await {
            Ok(()) => log.chores.notified().await,
            Err(Chore::Over) if log.inner().is_over() => return,
            // What has entered may still need a spare at the end, and the disk may have none now.
            Err(Chore::Retry | Chore::Over) => drop(timeout(RETRY, log.chores.notified()).await),
        }
    }
}

pub(super) enum Chore {
    /// Nothing can be recorded any more.
    Over,
    /// The disk refused something; it was logged.
    Retry,
}

impl From<SpoolError> for Chore {
    fn from(_: SpoolError) -> Chore {
        Chore::Over
    }
}

async fn tidy(log: &Log) -> Result<(), Chore> {
    loop {
        // What lies in the segments that are there comes before a new one.
        if log.inner().prefers_cleaning(&log.geometry) && cleaner::clean(log).await? {
            continue;
        }
        let ready = keep_ready(log).await;
        if matches!(ready, Err(Chore::Over)) || !cleaner::clean(log).await? {
            ready?;
            break;
        }
    }
    if log.inner().segments() < KEPT {
        // Made now, when there is little to do, rather than when mail has filled the first two.
        let made = prepare_new(log).await;
        let Spare { file, identity, segment } =
            made.map_err(|error| log.put_off("prepare a segment", &error))?;
        log.inner().table.add_free(FreeSegment { file, identity, segment, damaged: false });
    }
    write_indexes(log).await;
    log.keep_reserve().await;
    shrink(log).await.map_err(|error| log.put_off("remove a segment", &error))
}

/// Frees what can be freed and sees to it that there is a spare, or will be when what was freed is durable.
pub(super) async fn keep_ready(log: &Log) -> Result<(), Chore> {
    if log.inner().is_over() {
        return Err(Chore::Over);
    }
    // At the end too: what has entered may need the room.
    free_segments(log).await?;
    if log.inner().spare.is_some() || log.inner().awaits_free() {
        return Ok(log.inner().check()?);
    }
    match prepare(log).await {
        Ok(spare) => {
            let mut inner = log.inner();
            inner.spare = Some(spare);
            inner.spare_failed = None;
            inner.is_last_room = false;
        }
        Err(error) => {
            let failure = match is_no_space(&error) {
                true => SpoolError::NoSpace,
                false => SpoolError::DiskFails(error.to_string().into()),
            };
            if log.inner().spare_failed.replace(failure.clone()) != Some(failure) {
                log::warn!("spool {}: cannot prepare a segment: {error}", log.dir.display());
            }
        }
    }
    if log.inner().spare.is_some() {
        log.tell_room();
    }
    log.room.notify_all();
    log.work.notify_one();
    let inner = log.inner();
    if inner.spare.is_none() { Err(Chore::Retry) } else { Ok(inner.check()?) }
}

/// Finds segments in which nothing counts and has that recorded; those for which it is durable may be overwritten. Does
/// not wait for the committer, which may itself be waiting for a spare.
async fn free_segments(log: &Log) -> Result<(), Chore> {
    let is_durable = {
        let inner = log.inner();
        inner.freeing.is_some_and(|table| table <= inner.tables_settled)
    };
    if is_durable {
        if log.class != Durability::Synced {
            log.sync_up().await?;
        }
        let damaged = {
            let mut inner = log.inner();
            inner.freeing = None;
            inner.table.release()
        };
        log.tell_room();
        for segment in damaged {
            let path = segment_path(&log.dir, segment.file);
            match move_aside(&log.dir, &path).await {
                Ok(()) => log.inner().table.done(segment.identity),
                Err(error) => log::warn!("spool: cannot move {} to quarantine: {error}", path.display()),
            }
        }
    }
    if log.inner().freeing.is_some() {
        return Ok(());
    }
    if log.class != Durability::Synced && !log.inner().unsynced.is_empty() {
        log.sync_up().await?;
    }
    let mut inner = log.inner();
    if inner.table.find_freeable() {
        inner.freeing = Some(inner.ask_for_table());
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
    let free = log.inner().table.pop_free(ready);
    let Some(FreeSegment { file, identity: old, segment, .. }) = free else {
        return prepare_new(log).await;
    };
    let identity = log.inner().new_identity()?;
    segment.append_at(0, &[&log.header(identity, segment.len()).encode()])?;
    segment.sync().await?;
    let mut inner = log.inner();
    inner.stats.syncs += 1;
    inner.stats.recycled += 1;
    sim::mark("segment-recycled");
    inner.table.done(old);
    Ok(Spare { file, identity, segment })
}

async fn prepare_new(log: &Log) -> io::Result<Spare> {
    let (file, identity) = {
        let mut inner = log.inner();
        // One more for cleaning, which gives back more than it takes.
        let cleaning = usize::from(inner.cleaning || inner.victim(&log.geometry).is_some());
        if inner.segments() >= log.geometry.segments_found + STATES_SEGMENTS + cleaning {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "max_space is used up"));
        }
        // While there is no spare, each round of the committer wakes the chores.
        if inner.disk_full_until.is_some_and(|until| now() < until) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        inner.next_file += 1;
        (inner.next_file - 1, inner.new_identity()?)
    };
    let header = log.header(identity, log.geometry.segment_size);
    let urgent = || log.inner().needs_spare();
    let made = create(&log.disk, &log.dir, file, &header, urgent).await;
    let mut inner = log.inner();
    let is_full = made.as_ref().is_err_and(is_no_space);
    inner.disk_full_until = is_full.then(|| now() + RETRY);
    drop(inner);
    let segment = made?;
    log.inner().stats.syncs += 1;
    Ok(Spare { file, identity, segment: Rc::new(segment) })
}

impl Log {
    fn put_off(&self, what: &str, error: &io::Error) -> Chore {
        log::warn!("spool {}: cannot {what}: {error}", self.dir.display());
        Chore::Retry
    }

    fn header(&self, identity: Identity, length: u64) -> SegmentHeader {
        SegmentHeader { spool: self.spool, identity, length, shard: self.shard }
    }
}

impl Inner {
    /// Files of all kinds.
    fn segments(&self) -> usize {
        self.table.live_count() + self.table.free_count() + usize::from(self.spare.is_some())
    }

    /// Is there no spare, and will it be wanted soon?
    pub(super) fn needs_spare(&self) -> bool {
        let is_near = self.active.end > self.active.segment.len() / 2;
        self.spare.is_none() && (self.spare_wanted || is_near)
    }

    /// Will a segment be free before a spare is wanted? To make a file and remove another costs more than to take it.
    fn awaits_free(&self) -> bool {
        let is_soon = self.table.free_count() == 0 && self.table.is_releasing();
        is_soon && self.spare_failed.is_none() && !self.needs_spare()
    }

    fn new_identity(&mut self) -> io::Result<Identity> {
        if self.next_ordinal > MessageId::ORDINAL_MAX {
            return Err(io::Error::other("all segment ordinals are used: drain the spool and remove it"));
        }
        self.next_ordinal += 1;
        Ok(Identity { ordinal: self.next_ordinal - 1, epoch: rng().next_u64() })
    }

    /// Is a segment to be cleaned before one is made?
    fn prefers_cleaning(&self, geometry: &Geometry) -> bool {
        self.check().is_ok()
            && self.spare.is_none()
            && self.table.free_count() == 0
            && !self.needs_spare()
            && self.victim(geometry).is_some()
    }

    /// Is there anything for the chores?
    pub(super) fn has_chores(&self) -> bool {
        self.spare.is_none()
            || self.cleaning
            || self.table.is_unexamined()
            || self.freeing.is_some()
            || self.segments() != KEPT
            || !self.unsynced.is_empty()
            || !self.unindexed.is_empty()
    }
}

/// Makes a segment file: under another name until its header is durable, so that a file with a segment's name
/// without a header is damage.
pub(super) async fn create(
    disk: &Disk,
    dir: &std::path::Path,
    file: u32,
    header: &SegmentHeader,
    urgent: impl Fn() -> bool,
) -> io::Result<SegmentFile> {
    let (unborn, path) = (unborn_path(dir, file), segment_path(dir, file));
    let made = async {
        let segment = SegmentFile::create(disk, &unborn, header.length, urgent).await?;
        segment.append_at(0, &[&header.encode()])?;
        segment.sync().await?;
        fs::rename(&unborn, &path).await?;
        fs::sync_dir(dir).await?;
        Ok(segment)
    }
    .await;
    if made.is_err() {
        // What there is of it takes space; it may not even exist.
        let _ = fs::remove_file(&unborn).await;
    }
    made
}

/// Removes free segments beyond those that are kept.
async fn shrink(log: &Log) -> io::Result<()> {
    loop {
        let free = {
            let mut inner = log.inner();
            // While records come and go, the free one is soon wanted, and more may be free in a moment.
            let is_too_much = inner.exceeds_bound(&log.geometry) && inner.is_quiet();
            let enough = usize::from(!is_too_much);
            if inner.table.free_count() <= enough || inner.segments() <= KEPT {
                return Ok(());
            }
            inner.table.pop_free(|_| true)
        };
        let Some(free) = free else { return Ok(()) };
        fs::remove_file(&segment_path(&log.dir, free.file)).await?;
        fs::sync_dir(&log.dir).await?;
        log.inner().table.done(free.identity);
    }
}

/// As [`move_aside`]; on a full disk the file stays where it is, for a later start.
pub(super) async fn move_aside_if_room(dir: &std::path::Path, path: &std::path::Path) -> io::Result<()> {
    match move_aside(dir, path).await {
        Err(error) if is_no_space(&error) => {
            log::warn!("spool: cannot move {} to quarantine: {error}", path.display());
            Ok(())
        }
        moved => moved,
    }
}

/// Moves a file into the quarantine directory, under a name that is not taken.
pub(super) async fn move_aside(dir: &std::path::Path, path: &std::path::Path) -> io::Result<()> {
    let quarantine = quarantine_dir(dir);
    fs::create_dir_all(&quarantine).await?;
    let taken = fs::read_dir(&quarantine).await?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("file");
    let free_name = (0..=taken.len()).map(|count| quarantine.join(format!("{name}.{count}")));
    let target = free_name.into_iter().find(|name| !taken.contains(name)).expect("more names than files");
    fs::rename(path, &target).await?;
    fs::sync_dir(&quarantine).await?;
    fs::sync_dir(dir).await
}
