//! The first segment of an incarnation.
//!
//! A start needs a segment even where the disk is full, so one file of zeros is kept for it: `reserve`, which only a start
//! may use. Where there is none either, the log is open without a segment: mail is refused, nothing is delivered, and it
//! begins when there is room.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use chasqui_runtime::{fs, rng};

use crate::spool::config::Geometry;
use crate::spool::disk::{Disk, SegmentFile, create, reserve_path, segment_path};
use crate::spool::error::{OpenError, is_no_space};
use crate::spool::format::headers::{Identity, SEGMENT_MIN, SegmentHeader};
use crate::spool::log::segment_table::{FreeSegment, SegmentTable};
use crate::spool::log::segments::{Active, Spare};

/// Without a reserve, smaller files than a segment are tried: each of a quarter of the one before.
const SMALLER: u64 = 4;
/// Such a file has room for this many tables at least.
const TABLES_MIN: u64 = 8;

/// Where the first segment comes from.
pub(super) struct Source<'a> {
    pub(super) disk: &'a Disk,
    pub(super) dir: &'a Path,
    pub(super) geometry: &'a Geometry,
    pub(super) spool: u64,
    pub(super) shard: u32,
    /// The disk had no room for a segment: what was found instead is for states.
    pub(super) is_full: Cell<bool>,
}

/// The segments that a start has found, as far as records may go to them or be in them.
pub(super) struct Stock {
    pub(super) table: SegmentTable<Rc<SegmentFile>>,
    /// Prepared, and never written to.
    pub(super) fresh: Vec<Spare>,
    pub(super) next_ordinal: u32,
    pub(super) next_file: u32,
    /// Syncs that it took.
    pub(super) syncs: u64,
}

impl Stock {
    /// Of the next segment.
    fn new_identity(&mut self) -> Identity {
        self.next_ordinal += 1;
        Identity { ordinal: self.next_ordinal - 1, epoch: rng().next_u64() }
    }

    /// What was not taken of the fresh ones may be overwritten.
    fn free_rest(&mut self) {
        for Spare { file, identity, segment } in self.fresh.drain(..) {
            self.table.add_free(FreeSegment { file, identity, segment, damaged: false });
        }
    }
}

impl Source<'_> {
    /// The first segment; `None`: there is room for none. What is left of the stock is for later.
    pub(super) async fn take(&self, stock: &mut Stock) -> Result<Option<Spare>, OpenError> {
        let first = self.segment(stock).await?;
        stock.syncs += u64::from(first.is_some());
        stock.free_rest();
        Ok(first)
    }

    /// A fresh segment, a free one, a new file, the reserve, or a smaller file. `None`: there is room for none of them.
    async fn segment(&self, stock: &mut Stock) -> Result<Option<Spare>, OpenError> {
        if let Some(fresh) = stock.fresh.pop() {
            // That it can be read does not say that a sync of it has succeeded.
            self.write_header(fresh.file, fresh.identity, &fresh.segment).await?;
            return Ok(Some(fresh));
        }
        let identity = stock.new_identity();
        if let Some(free) = stock.table.pop_free(|_| true) {
            self.write_header(free.file, identity, &free.segment).await?;
            stock.table.done(free.identity);
            return Ok(Some(Spare { file: free.file, identity, segment: free.segment }));
        }
        let file = stock.next_file;
        stock.next_file += 1;
        let path = segment_path(self.dir, file);
        let size = self.geometry.segment_size;
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

    /// Stands for the active segment until there is one: ids that are given before have an ordinal of their own.
    pub(super) fn placeholder(&self, stock: &mut Stock) -> Result<Active, OpenError> {
        Active::nowhere(self.disk, stock.new_identity()).map_err(OpenError::io("map memory for", self.dir))
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
        let mut size = self.geometry.segment_size / SMALLER;
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
