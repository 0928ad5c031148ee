//! The first segment of an incarnation, and its first groups: table and cuts. Before they are durable nothing is taken or
//! delivered, because nothing could be recorded.
//!
//! A start needs a segment even where the disk is full, so one file of zeros is kept for it: `reserve`, which only a start
//! may use. Where there is none either, the log is open without a segment: mail is refused, nothing is delivered, and it
//! begins when there is room.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::fs;
use chasqui_runtime::{now, rng};

use super::chores;
use super::config::{Geometry, SpoolConfig};
use super::disk::{Disk, SegmentFile, segment_path};
use super::error::{OpenError, SpoolError, is_no_space};
use super::format::{FIRST_GROUP, GROUP_HEADER, Identity, Kind, RECORD_HEADER, SEGMENT_MIN, SegmentHeader};
use super::group::Group;
use super::log::{Active, Condition, Inner, Log, Spare};
use super::payload::{Cut, encode_cuts, encode_table};
use super::table::{LiveSegment, SegmentTable};

/// Bytes of the reserve at most: groups of states until a segment of mail is finished and can be used again.
const RESERVE_MAX: u64 = 64 << 20;
/// A reserve for which there was no room is thought of again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Without a reserve, smaller files than a segment are tried: each of a quarter of the one before.
const SMALLER: u64 = 4;
/// Such a file has room for this many tables at least.
const TABLES_MIN: u64 = 8;

/// What the first groups are made of, until they are durable.
#[derive(Default)]
pub(super) struct First {
    pub(super) cuts: Vec<Cut>,
    /// The segments that were recovered: as long as one of them is there the cuts are needed.
    pub(super) recovered: Vec<u32>,
    /// Those that are still to be written, once there is a segment.
    pub(super) groups: Option<VecDeque<Group>>,
    /// Where the planted fault goes on that appends after a recovery.
    pub(super) tail: Option<Active>,
}

/// Where the first segment comes from.
pub(super) struct Source<'a> {
    pub(super) disk: &'a Disk,
    pub(super) dir: &'a Path,
    pub(super) config: &'a SpoolConfig,
    pub(super) geometry: &'a Geometry,
    pub(super) spool: u64,
    pub(super) shard: u32,
    /// The disk had no room for a segment: what was found instead is for states.
    pub(super) is_full: Cell<bool>,
}

/// A segment that no group was written to.
pub(super) type Fresh = (u32, Identity, Rc<SegmentFile>);

impl Source<'_> {
    /// A fresh segment, a free one, a new file, the reserve, or a smaller file. `None`: there is room for none of them.
    pub(super) async fn segment(
        &self,
        fresh: &mut Vec<Fresh>,
        table: &mut SegmentTable<Rc<SegmentFile>>,
        next_ordinal: &mut u32,
        next_file: &mut u32,
    ) -> Result<Option<Spare>, OpenError> {
        if let Some((file, identity, segment)) = fresh.pop() {
            // That it can be read does not say that a sync of it has succeeded.
            self.write_header(file, identity, &segment).await?;
            return Ok(Some(Spare { file, identity, segment }));
        }
        let identity = Identity { ordinal: *next_ordinal, epoch: rng().next_u64() };
        *next_ordinal += 1;
        if let Some(free) = table.pop_free(|_| true) {
            self.write_header(free.file, identity, &free.segment).await?;
            table.done(free.identity);
            return Ok(Some(Spare { file: free.file, identity, segment: free.segment }));
        }
        let file = *next_file;
        *next_file += 1;
        let path = segment_path(self.dir, file);
        let size = self.config.segment_size;
        let made = chores::create(self.disk, self.dir, file, &self.header(identity, size), || true).await;
        let segment = match made {
            Ok(segment) => Some(segment),
            Err(error) if is_no_space(&error) => {
                self.is_full.set(true);
                match self.reserve(file, identity).await {
                    Some(segment) => Some(segment),
                    None => self.smaller(file, identity).await?,
                }
            }
            Err(error) => return Err(OpenError::io("create", &path)(error)),
        };
        Ok(segment.map(|segment| Spare { file, identity, segment: Rc::new(segment) }))
    }

    fn header(&self, identity: Identity, length: u64) -> SegmentHeader {
        SegmentHeader { spool: self.spool, identity, length, shard: self.shard }
    }

    /// Makes the header of a segment durable.
    async fn write_header(
        &self,
        file: u32,
        identity: Identity,
        segment: &SegmentFile,
    ) -> Result<(), OpenError> {
        let path = segment_path(self.dir, file);
        let header = self.header(identity, segment.len()).encode();
        segment.append_at(0, &[&header]).map_err(OpenError::io("write", &path))?;
        segment.sync().await.map_err(OpenError::io("sync", &path))
    }

    /// Makes the reserve a segment, for which the disk needs no room.
    async fn reserve(&self, file: u32, identity: Identity) -> Option<SegmentFile> {
        let (reserve, path) = (reserve_path(self.dir), segment_path(self.dir, file));
        let segment = SegmentFile::open(self.disk, &reserve).await.ok()?;
        if segment.len() < self.least() {
            return None;
        }
        let taken = async {
            segment.append_at(0, &[&self.header(identity, segment.len()).encode()])?;
            segment.sync().await?;
            fs::rename(&reserve, &path).await?;
            fs::sync_dir(self.dir).await
        };
        match taken.await {
            Ok(()) => Some(segment),
            Err(error) => {
                log::warn!("spool: cannot use {}: {error}", reserve.display());
                None
            }
        }
    }

    async fn smaller(&self, file: u32, identity: Identity) -> Result<Option<SegmentFile>, OpenError> {
        let mut size = self.config.segment_size / SMALLER;
        while size >= self.least() {
            let header = self.header(identity, size.next_multiple_of(SEGMENT_MIN));
            match chores::create(self.disk, self.dir, file, &header, || true).await {
                Ok(segment) => return Ok(Some(segment)),
                Err(error) if is_no_space(&error) => size /= SMALLER,
                Err(error) => return Err(OpenError::io("create", &segment_path(self.dir, file))(error)),
            }
        }
        Ok(None)
    }

    /// Bytes of a segment at least.
    fn least(&self) -> u64 {
        SEGMENT_MIN.max(TABLES_MIN * self.geometry.table_reserve)
    }
}

impl Inner {
    /// Are the first groups durable?
    pub(super) fn has_begun(&self) -> bool {
        self.first.is_none()
    }

    /// The disk was full at the start.
    pub(super) fn start_full(&mut self) {
        self.is_last_room = true;
        self.spare_failed = Some(SpoolError::NoSpace);
    }

    /// Can what happens be recorded?
    pub(super) fn can_record(&self) -> bool {
        self.has_begun() && !matches!(self.condition, Condition::Sealed(_))
    }

    /// Goes on in the spare, which is the first segment, if there is one; the groups that it begins with.
    fn enter_first(&mut self, geometry: &Geometry) -> bool {
        let Some(spare) = self.spare.take() else { return false };
        let mut first = self.first.take().unwrap_or_default();
        let Spare { file, identity, segment } = spare;
        self.table.insert(identity.ordinal, LiveSegment::new(file, identity.epoch, segment.clone()));
        if !first.cuts.is_empty() {
            self.table.cut(identity.ordinal, first.recovered.iter().copied());
        }
        self.active = first.tail.take().unwrap_or_else(|| Active::new(identity, segment, FIRST_GROUP));
        first.groups = Some(first_groups(&self.table, geometry, &first.cuts).into());
        self.first = Some(first);
        true
    }

    /// Writes of the first groups what is still to be written.
    fn write_first(&mut self) -> io::Result<()> {
        let mut first = self.first.take().unwrap_or_default();
        let mut outcome = Ok(());
        let groups = first.groups.get_or_insert_default();
        while let Some(group) = groups.front_mut() {
            outcome = self.append(group).map(drop);
            if outcome.is_err() {
                break;
            }
            groups.pop_front();
        }
        self.first = Some(first);
        outcome
    }
}

impl Log {
    /// Makes the first groups durable; `false`: there is no room for them. Errors say what was tried, and on which file.
    pub(super) async fn begin(&self) -> Result<bool, OpenError> {
        {
            let mut inner = self.inner();
            let is_in_place = inner.first.as_ref().is_some_and(|first| first.groups.is_some());
            if !is_in_place && !inner.enter_first(&self.geometry) {
                return Ok(false);
            }
        }
        let written = self.inner().write_first();
        match written {
            Ok(()) => {}
            Err(error) if is_no_space(&error) => return Ok(false),
            Err(error) => return Err(OpenError::io("write", &self.dir)(error)),
        }
        let (segment, through) = {
            let inner = self.inner();
            (inner.active.segment.clone(), inner.gate.appended())
        };
        segment.sync().await.map_err(OpenError::io("sync", &self.dir))?;
        fs::sync_dir(&self.dir).await.map_err(OpenError::io("sync", &self.dir))?;
        let damaged = {
            let mut inner = self.inner();
            inner.stats.syncs += 1;
            inner.gate.synced(through, 0);
            inner.first = None;
            inner.table.release()
        };
        for segment in damaged {
            let path = segment_path(&self.dir, segment.file);
            chores::move_aside_if_room(&self.dir, &path).await.map_err(OpenError::io("move", &path))?;
            self.inner().table.done(segment.identity);
        }
        Ok(true)
    }

    /// Keeps a file for the next start, if there is room for it and more.
    pub(super) async fn keep_reserve(&self) {
        {
            let inner = self.inner();
            let is_wanted = inner.look_for_reserve.is_some_and(|at| at <= now());
            if !is_wanted || inner.spare.is_none() || !inner.has_begun() {
                return;
            }
        }
        let size = self.geometry.segment_size.min(RESERVE_MAX);
        let is_kept = self.make_reserve(size).await.unwrap_or_else(|error| {
            log::debug!("spool {}: cannot keep a reserve: {error}", self.dir.display());
            false
        });
        self.inner().look_for_reserve = (!is_kept).then(|| now() + LOOK_AGAIN);
    }

    async fn make_reserve(&self, size: u64) -> io::Result<bool> {
        let (path, unborn) = (reserve_path(&self.dir), self.dir.join("reserve.new"));
        if SegmentFile::open(&self.disk, &path).await.is_ok_and(|reserve| reserve.len() >= size) {
            return Ok(true);
        }
        // A disk that it would fill has better use for its room.
        if fs::available_bytes(&self.dir).await? < 4 * size {
            return Ok(false);
        }
        let urgent = || self.inner().needs_spare();
        let made = async {
            drop(SegmentFile::create(&self.disk, &unborn, size, urgent).await?);
            fs::rename(&unborn, &path).await?;
            fs::sync_dir(&self.dir).await
        };
        let made = made.await;
        if made.is_err() {
            let _ = fs::remove_file(&unborn).await;
        }
        made.map(|()| true)
    }
}

fn reserve_path(dir: &Path) -> PathBuf {
    dir.join("reserve")
}

/// The table and the cuts, in as many groups as they need; all covered by one sync.
fn first_groups(table: &SegmentTable<Rc<SegmentFile>>, geometry: &Geometry, cuts: &[Cut]) -> Vec<Group> {
    let mut groups = vec![Group::default()];
    groups[0].push(Kind::Table, 0, 0, |into| encode_table(into, table.entries()), &[]);
    for cut in cuts {
        let mut cut = cut.clone();
        // Only a tiny segment can be too small for its holes. Those up to the watermark are listed to not be
        // reported again, so they go first.
        let most = (geometry.records_max() - RECORD_HEADER - 24) / 16;
        if cut.holes.len() > most {
            cut.holes.retain(|hole| hole.first > cut.watermark);
            cut.holes.truncate(most);
        }
        let length = RECORD_HEADER + 24 + 16 * cut.holes.len();
        let open = groups.last().expect("starts with one");
        if open.records() > 1 && open.len() + length > geometry.records_max() + GROUP_HEADER {
            groups.push(Group::default());
        }
        let open = groups.last_mut().expect("starts with one");
        open.push(Kind::Cut, 0, 0, |into| encode_cuts(into, &[cut]), &[]);
    }
    groups
}
