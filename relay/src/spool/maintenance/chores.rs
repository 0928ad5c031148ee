//! The task that frees segments and keeps a spare ready.

use std::io;
use std::rc::Rc;

use chasqui_runtime::fs;
use chasqui_runtime::{rng, timeout};

use super::cleaner;
use super::indexes::write_indexes;
use super::spare::{Chore, keep_ready, prepare_new};
use crate::spool::config::Geometry;
use crate::spool::disk::{RETRY, segment_path};
use crate::spool::format::headers::Identity;
use crate::spool::format::id::MessageId;
use crate::spool::log::handle::Log;
use crate::spool::log::inner::Inner;
use crate::spool::log::segments::Spare;
use crate::spool::log::table::FreeSegment;

/// Segments that are kept when little mail is there: the active one, the spare, and a free one.
const KEPT: usize = 3;

/// Runs until the log is closed or sealed.
pub(crate) async fn run(log: Rc<Log>) {
    loop {
        match tidy(&log).await {
            Ok(()) => log.chores.notified().await,
            Err(Chore::Over) if log.inner().is_over() => return,
            // What has entered may still need a spare at the end, and the disk may have none now.
            Err(Chore::Retry | Chore::Over) => drop(timeout(RETRY, log.chores.notified()).await),
        }
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

impl Inner {
    /// Files of all kinds.
    pub(crate) fn segments(&self) -> usize {
        self.table.live_count() + self.table.free_count() + usize::from(self.spare.is_some())
    }

    /// Is there no spare, and will it be wanted soon?
    pub(crate) fn needs_spare(&self) -> bool {
        let is_near = self.active.end > self.active.segment.len() / 2;
        self.spare.is_none() && (self.spare_wanted || is_near)
    }

    /// Will a segment be free before a spare is wanted? To make a file and remove another costs more than to take it.
    pub(crate) fn awaits_free(&self) -> bool {
        let is_soon = self.table.free_count() == 0 && self.table.is_releasing();
        is_soon && self.spare_failed.is_none() && !self.needs_spare()
    }

    pub(crate) fn new_identity(&mut self) -> io::Result<Identity> {
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
    pub(crate) fn has_chores(&self) -> bool {
        self.spare.is_none()
            || self.cleaning
            || self.table.is_unexamined()
            || self.freeing.is_some()
            || self.segments() != KEPT
            || !self.unsynced.is_empty()
            || !self.unindexed.is_empty()
    }
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
