//! The file that a start begins in when the disk is full.

use std::io;
use std::time::Duration;

use chasqui_runtime::{fs, now};

use crate::spool::disk::{SegmentFile, reserve_path};
use crate::spool::log::handle::Log;

/// Bytes of the reserve at most: groups of states until a segment of mail is finished and can be used again.
const RESERVE_MAX: u64 = 64 << 20;
/// A reserve for which there was no room is thought of again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Keeps a file for the next start, if there is room for it and more.
pub(crate) async fn keep_reserve(log: &Log) {
    {
        let inner = log.inner();
        let is_wanted = inner.segments.look_for_reserve.is_some_and(|at| at <= now());
        if !is_wanted || inner.segments.spare.is_none() || !inner.has_begun() {
            return;
        }
    }
    let size = log.geometry.segment_size.min(RESERVE_MAX);
    let is_kept = make_reserve(log, size).await.unwrap_or_else(|error| {
        log::debug!("spool {}: cannot keep a reserve: {error}", log.dir.display());
        false
    });
    log.inner().segments.look_for_reserve = (!is_kept).then(|| now() + LOOK_AGAIN);
}

async fn make_reserve(log: &Log, size: u64) -> io::Result<bool> {
    let (path, unborn) = (reserve_path(&log.dir), log.dir.join("reserve.new"));
    if SegmentFile::open(&log.disk, &path).await.is_ok_and(|reserve| reserve.len() >= size) {
        return Ok(true);
    }
    // A disk that it would fill has better use for its room.
    if fs::available_bytes(&log.dir).await? < 4 * size {
        return Ok(false);
    }
    let urgent = || log.inner().segments.needs_spare();
    let made = async {
        drop(SegmentFile::create(&log.disk, &unborn, size, urgent).await?);
        fs::rename(&unborn, &path).await?;
        fs::sync_dir(&log.dir).await
    };
    let made = made.await;
    if made.is_err() {
        let _ = fs::remove_file(&unborn).await;
    }
    made.map(|()| true)
}
