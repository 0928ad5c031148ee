//! The first segment of an incarnation.
//!
//! A start needs a segment even where the disk is full, so one file of zeros is kept for it: `reserve`, which only a start
//! may use. Where there is none either, the log is open without a segment: mail is refused, nothing is delivered, and it
//! begins when there is room.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use chasqui_runtime::fs;
use chasqui_runtime::rng;

use crate::spool::config::{Geometry, SpoolConfig};
use crate::spool::disk::{Disk, SegmentFile, create, reserve_path, segment_path};
use crate::spool::error::{OpenError, is_no_space};
use crate::spool::format::headers::{Identity, SEGMENT_MIN, SegmentHeader};
use crate::spool::log::segments::Spare;
use crate::spool::log::table::SegmentTable;

/// Without a reserve, smaller files than a segment are tried: each of a quarter of the one before.
const SMALLER: u64 = 4;
/// Such a file has room for this many tables at least.
const TABLES_MIN: u64 = 8;

/// Where the first segment comes from.
pub(crate) struct Source<'a> {
    pub(crate) disk: &'a Disk,
    pub(crate) dir: &'a Path,
    pub(crate) config: &'a SpoolConfig,
    pub(crate) geometry: &'a Geometry,
    pub(crate) spool: u64,
    pub(crate) shard: u32,
    /// The disk had no room for a segment: what was found instead is for states.
    pub(crate) is_full: Cell<bool>,
}

/// A segment that no group was written to.
pub(crate) type Fresh = (u32, Identity, Rc<SegmentFile>);

impl Source<'_> {
    /// A fresh segment, a free one, a new file, the reserve, or a smaller file. `None`: there is room for none of them.
    pub(crate) async fn segment(
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
        let made = create(self.disk, self.dir, file, &self.header(identity, size), || true).await;
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
            match create(self.disk, self.dir, file, &header, || true).await {
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
