//! How states enter, and how all that has entered is brought to the disk.

use std::pin::pin;
use std::time::Duration;

use chasqui_runtime::{Elapsed, timeout};

use super::handle::Log;
use super::inner::Condition;
use super::write_out::{settle_unwritten, write_out_all};
use crate::spool::config::Durability;
use crate::spool::error::{Failure, SpoolError};
use crate::spool::format::id::StateChange;
use crate::spool::stats::SpoolStats;

/// How long the end waits for room on a full disk.
const ROOM_WAIT: Duration = Duration::from_secs(5);

impl Log {
    /// Enters states; they share one group unless they are larger than one.
    pub(crate) fn states(&self, changes: &[StateChange<'_>]) -> Result<u64, SpoolError> {
        let mut guard = self.inner();
        let inner = &mut *guard;
        let changes = &*settle_unwritten(inner, changes, self);
        if changes.is_empty() {
            // What is in memory alone has no states on the disk.
            return Ok(0);
        }
        inner.check()?;
        let length = inner.messages.states_length(changes, &inner.segments);
        if length > self.geometry.records_max() && changes.len() > 1 {
            drop(guard);
            let (first, second) = changes.split_at(changes.len() / 2);
            self.states(first)?;
            return self.states(second);
        }
        if length > self.geometry.records_max() {
            return Err(SpoolError::TooLarge);
        }
        let ticket = inner.enter_states(changes, false, &self.geometry);
        drop(guard);
        self.work.notify_one();
        Ok(ticket)
    }

    /// Waits until everything entered so far is durable, in every class.
    pub(crate) async fn flush(&self) -> Result<(), SpoolError> {
        if self.class == Durability::Memory {
            write_out_all(self).await?;
            // The states of what was in memory enter when it has its place.
            self.flush_groups().await?;
        }
        self.flush_groups().await?;
        if self.class != Durability::Synced {
            self.sync_up().await?;
        }
        Ok(())
    }

    /// Waits until what has entered satisfies the class.
    async fn flush_groups(&self) -> Result<(), SpoolError> {
        let ticket = {
            let mut inner = self.inner();
            inner.check_sound()?;
            inner.groups.hurry()
        };
        self.work.notify_one();
        self.settled(ticket).await
    }

    /// Takes no more, writes what has entered and the last watermark, and ends the tasks.
    pub(crate) async fn close(&self) -> Result<(), SpoolError> {
        let flushed = self.flush_if_room().await;
        {
            let mut inner = self.inner();
            if matches!(inner.condition, Condition::Running) {
                inner.condition = Condition::Closing;
            }
        }
        let tasks = std::mem::take(&mut *self.tasks.borrow_mut());
        self.work.notify_one();
        self.write_back_due.notify_one();
        for task in tasks {
            task.await;
            let mut inner = self.inner();
            if matches!(inner.condition, Condition::Closing) {
                inner.condition = Condition::Closed;
            }
            drop(inner);
            self.maintenance.notify_one();
        }
        flushed
    }

    /// Flushes, unless the disk has no room for what has entered and gets none in [`ROOM_WAIT`].
    async fn flush_if_room(&self) -> Result<(), SpoolError> {
        let mut flushing = pin!(self.flush());
        loop {
            match timeout(ROOM_WAIT, flushing.as_mut()).await {
                Ok(flushed) => return flushed,
                Err(Elapsed) if self.inner().lacks_room() => {
                    self.fail(Failure::NoRoom);
                    return Err(SpoolError::NoSpace);
                }
                Err(Elapsed) => {}
            }
        }
    }

    /// Counters and sizes.
    pub(crate) fn stats(&self) -> SpoolStats {
        let inner = self.inner();
        let (in_memory, in_memory_bytes) = inner.write_back.held();
        let (in_memory, in_memory_bytes) = (in_memory as u64, in_memory_bytes as u64);
        SpoolStats {
            segments_live: inner.segments.table.live_count() as u64,
            segments_free: inner.segments.table.free_count() as u64
                + u64::from(inner.segments.spare.is_some()),
            live_bytes: inner.segments.table.live_bytes(),
            used_bytes: inner.segments.used_bytes(),
            inflight_bytes: inner.inflight() as u64,
            queued: (inner.messages.entries.len() + inner.write_back.len()) as u64,
            messages: inner.stats.messages + inner.write_back.unwritten(),
            in_memory,
            in_memory_bytes,
            ..inner.stats
        }
    }
}
