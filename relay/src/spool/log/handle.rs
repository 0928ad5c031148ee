//! The log of one shard's directory: what its parts and tasks share.

use std::cell::{Cell, RefCell, RefMut};
use std::future::poll_fn;
use std::path::PathBuf;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use chasqui_runtime::fs::DirLock;
use chasqui_runtime::sync::Notify;
use chasqui_runtime::{Instant, JoinHandle, now, turn_time};

use super::inner::{Condition, Inner};
use crate::spool::config::{Durability, Geometry, WriteBackLimits};
use crate::spool::disk::Disk;
use crate::spool::error::{Failure, SpoolError};

/// Time between two looks at the directory: where it is gone, no more mail than that of this time is lost with it.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The log of one directory.
pub(crate) struct Log {
    pub(crate) dir: PathBuf,
    pub(crate) disk: Disk,
    pub(crate) class: Durability,
    pub(crate) geometry: Geometry,
    /// Whose directory it is.
    pub(crate) shard: u32,
    /// Random number of the directory.
    pub(crate) spool: u64,
    pub(crate) inflight_max: usize,
    pub(crate) write_back: WriteBackLimits,
    /// For who was refused room: there may be some again.
    pub(crate) space: Notify,
    inner: RefCell<Inner>,
    /// For the committer: there is something to write.
    pub(crate) work: Notify,
    /// For writers: something was settled, or there is more room.
    pub(crate) room: Notify,
    /// For maintenance: segments may be freed, or the spare is used up.
    pub(crate) maintenance: Notify,
    /// For who writes out what is in memory alone: there is something again.
    pub(crate) write_back_due: Notify,
    pub(crate) tasks: RefCell<Vec<JoinHandle<()>>>,
    /// When it was last seen that the directory is where it was.
    seen: Cell<Instant>,
    lock: DirLock,
}

impl Log {
    pub(crate) fn new(parts: LogParts, inner: Inner) -> Rc<Log> {
        let LogParts { dir, disk, class, geometry, shard, spool, inflight_max, write_back, space, lock } =
            parts;
        Rc::new(Log {
            dir,
            disk,
            class,
            geometry,
            shard,
            spool,
            inflight_max,
            write_back,
            space,
            inner: RefCell::new(inner),
            work: Notify::new(),
            room: Notify::new(),
            maintenance: Notify::new(),
            write_back_due: Notify::new(),
            tasks: RefCell::default(),
            seen: Cell::new(now()),
            lock,
        })
    }

    /// There may be room again: who was refused some tries again.
    pub(crate) fn tell_room(&self) {
        self.room.notify_all();
        let mut inner = self.inner();
        if inner.has_begun() && std::mem::take(&mut inner.space.has_refused) {
            self.space.notify_one();
        }
    }

    /// Never held across an await.
    pub(crate) fn inner(&self) -> RefMut<'_, Inner> {
        self.inner.borrow_mut()
    }

    /// Waits until the group with this ticket is settled.
    pub(crate) async fn settled(&self, ticket: u64) -> Result<(), SpoolError> {
        poll_fn(|context| {
            let mut inner = self.inner();
            if inner.groups.is_settled(ticket) {
                return Poll::Ready(Ok(()));
            }
            if let Err(failed) = inner.check_sound() {
                return Poll::Ready(Err(failed));
            }
            inner.groups.wait(ticket, context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Classes `buffered` and `memory`: makes durable what is in the page cache.
    pub(crate) async fn sync_up(&self) -> Result<(), SpoolError> {
        let (segments, scope) = {
            let mut inner = self.inner();
            let mut segments = std::mem::take(&mut inner.segments.unsynced);
            segments.push(inner.segments.active.segment.clone());
            (segments, inner.sync_scope())
        };
        for segment in segments {
            if let Err(error) = segment.sync().await {
                let why = self.fail(Failure::Sync(error));
                return Err(SpoolError::Failed(why));
            }
            self.inner().stats.syncs += 1;
        }
        self.inner().synced(scope);
        Ok(())
    }

    /// Sees, once a second at most, to it that what is written can be found at the next start; the log fails when its directory
    /// or the segment that is written was removed or replaced.
    pub(crate) fn look(&self) {
        if let Err(why) = self.check_place() {
            self.fail(why);
        }
    }

    /// As [`Log::look`], for who fails the log itself.
    pub(crate) fn check_place(&self) -> Result<(), Failure> {
        let now = turn_time();
        if now - self.seen.get() < LOOK_EVERY || self.inner().is_over() {
            return Ok(());
        }
        self.seen.set(now);
        if !self.lock.is_at(&self.dir) {
            return Err(Failure::DirectoryGone);
        }
        let inner = self.inner();
        if inner.has_begun() && !inner.segments.active.segment.is_linked() {
            return Err(Failure::SegmentGone);
        }
        Ok(())
    }

    /// After a failed write or sync nothing is known of what the disk holds, and a second sync would report
    /// success for pages that the kernel has dropped. So: tell everybody, and accept nothing more.
    pub(crate) fn fail(&self, failure: Failure) -> Rc<str> {
        let why: Rc<str> = failure.to_string().into();
        let waiters = {
            let mut inner = self.inner();
            if let Condition::Failed(first) = &inner.condition {
                return first.clone();
            }
            log::error!("spool {} has failed, it accepts nothing more: {why}", self.dir.display());
            inner.condition = Condition::Failed(why.clone());
            inner.groups.take_waiters()
        };
        waiters.for_each(Waker::wake);
        self.room.notify_all();
        // One task waits for each of these, and must learn of it even if it is busy now.
        self.work.notify_one();
        self.maintenance.notify_one();
        self.write_back_due.notify_one();
        why
    }
}

/// What a log is made of.
pub(crate) struct LogParts {
    pub(crate) dir: PathBuf,
    pub(crate) disk: Disk,
    pub(crate) class: Durability,
    pub(crate) geometry: Geometry,
    pub(crate) shard: u32,
    pub(crate) spool: u64,
    pub(crate) inflight_max: usize,
    pub(crate) write_back: WriteBackLimits,
    pub(crate) space: Notify,
    pub(crate) lock: DirLock,
}
