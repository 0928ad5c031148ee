//! The task that frees segments and keeps a spare ready.

use std::io;
use std::rc::Rc;

use chasqui_runtime::{fs, timeout};

use super::cleaner;
use super::indexes::write_indexes;
use super::reserve::keep_reserve;
use super::spare::{Stop, keep_ready, prepare_new, put_off};
use super::victim::{exceeds_bound, victim};
use crate::spool::config::Geometry;
use crate::spool::disk::{RETRY, segment_path};
use crate::spool::log::handle::Log;
use crate::spool::log::inner::Inner;
use crate::spool::log::segment_table::FreeSegment;
use crate::spool::log::segments::{KEPT, Spare};

/// Runs until the log is closed or has failed.
pub(crate) async fn run(log: Rc<Log>) {
    loop {
        match tidy(&log).await {
            Ok(()) => log.maintenance.notified().await,
            Err(Stop::Over) if log.inner().is_over() => return,
            // What has entered may still need a spare at the end, and the disk may have none now.
            Err(Stop::Retry | Stop::Over) => drop(timeout(RETRY, log.maintenance.notified()).await),
        }
    }
}

async fn tidy(log: &Log) -> Result<(), Stop> {
    loop {
        // What lies in the segments that are there comes before a new one.
        if prefers_cleaning(&log.inner(), &log.geometry) && cleaner::clean(log).await? {
            continue;
        }
        let ready = keep_ready(log).await;
        if matches!(ready, Err(Stop::Over)) || !cleaner::clean(log).await? {
            ready?;
            break;
        }
    }
    if log.inner().segments.count() < KEPT {
        // Made now, when there is little to do, rather than when mail has filled the first two.
        let made = prepare_new(log).await;
        let Spare { file, identity, segment } =
            made.map_err(|error| put_off(log, "prepare a segment", &error))?;
        log.inner().segments.table.add_free(FreeSegment { file, identity, segment, damaged: false });
    }
    write_indexes(log).await;
    keep_reserve(log).await;
    shrink(log).await.map_err(|error| put_off(log, "remove a segment", &error))
}

/// Is a segment to be cleaned before one is made?
fn prefers_cleaning(inner: &Inner, geometry: &Geometry) -> bool {
    let segments = &inner.segments;
    inner.check().is_ok()
        && segments.spare.is_none()
        && segments.table.free_count() == 0
        && !segments.needs_spare()
        && victim(inner, geometry).is_some()
}

/// Removes free segments beyond those that are kept.
async fn shrink(log: &Log) -> io::Result<()> {
    loop {
        let free = {
            let mut inner = log.inner();
            // While records come and go, the free one is soon wanted, and more may be free in a moment.
            let is_too_much = exceeds_bound(&inner, &log.geometry) && inner.groups.is_quiet();
            let enough = usize::from(!is_too_much);
            if inner.segments.table.free_count() <= enough || inner.segments.count() <= KEPT {
                return Ok(());
            }
            inner.segments.table.pop_free(|_| true)
        };
        let Some(free) = free else { return Ok(()) };
        fs::remove_file(&segment_path(&log.dir, free.file)).await?;
        fs::sync_dir(&log.dir).await?;
        log.inner().segments.table.done(free.identity);
    }
}
