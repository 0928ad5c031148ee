//! The log of one shard's directory.

use std::cell::{Cell, RefCell, RefMut};
use std::future::poll_fn;
use std::path::PathBuf;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use chasqui_runtime::fs::DirLock;
use chasqui_runtime::sync::Notify;
use chasqui_runtime::{Instant, JoinHandle, now, turn_time};

use super::inner::{Condition, Inner};
use crate::spool::config::{Durability, Geometry, ResidentLimits};
use crate::spool::disk::Disk;
use crate::spool::error::SpoolError;
use crate::spool::format::id::StateChange;

/// Time between two looks at the directory.
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
    pub(crate) residents: ResidentLimits,
    /// For who was refused room: there may be some again.
    pub(crate) space: Notify,
    inner: RefCell<Inner>,
    /// For the committer: there is something to write.
    pub(crate) work: Notify,
    /// For writers: something was settled, or there is more room.
    pub(crate) room: Notify,
    /// For the chores: segments may be freed, or the spare is used up.
    pub(crate) chores: Notify,
    /// For who writes out what is in memory alone: there is something again.
    pub(crate) resides: Notify,
    pub(crate) tasks: RefCell<Vec<JoinHandle<()>>>,
    /// When it was last seen that the directory is where it was.
    seen: Cell<Instant>,
    lock: DirLock,
}

impl Log {
    pub(crate) fn new(parts: LogParts, inner: Inner) -> Rc<Log> {
        let LogParts { dir, disk, class, geometry, shard, spool, inflight_max, residents, space, lock } =
            parts;
        Rc::new(Log {
            dir,
            disk,
            class,
            geometry,
            shard,
            spool,
            inflight_max,
            residents,
            space,
            inner: RefCell::new(inner),
            work: Notify::new(),
            room: Notify::new(),
            chores: Notify::new(),
            resides: Notify::new(),
            tasks: RefCell::default(),
            seen: Cell::new(now()),
            lock,
        })
    }

    /// There may be room again: who was refused some tries again.
    pub(crate) fn tell_room(&self) {
        self.room.notify_all();
        let mut inner = self.inner();
        if inner.has_begun() && std::mem::take(&mut inner.has_refused) {
            self.space.notify_one();
        }
    }

    /// Never held across an await.
    pub(crate) fn inner(&self) -> RefMut<'_, Inner> {
        self.inner.borrow_mut()
    }

    /// Enters states; they share one group unless they are larger than one.
    pub(crate) fn states(&self, changes: &[StateChange<'_>]) -> Result<u64, SpoolError> {
        let mut guard = self.inner();
        let inner = &mut *guard;
        let changes = &*inner.settle_residents(changes, self);
        if changes.is_empty() {
            // What is in memory alone has no states on the disk.
            return Ok(0);
        }
        inner.check()?;
        let length = inner.states_length(changes);
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

    /// Waits until the group with this ticket is settled.
    pub(crate) async fn settled(&self, ticket: u64) -> Result<(), SpoolError> {
        poll_fn(|context| {
            let mut inner = self.inner();
            if inner.settled_ticket >= ticket {
                return Poll::Ready(Ok(()));
            }
            if let Condition::Sealed(why) = &inner.condition {
                return Poll::Ready(Err(SpoolError::Sealed(why.clone())));
            }
            let waiter = (ticket, context.waker().clone());
            // Nearly always at the end: tickets are given in rising order.
            let at = inner.waiters.partition_point(|(other, _)| *other <= ticket);
            inner.waiters.insert(at, waiter);
            Poll::Pending
        })
        .await
    }

    /// Waits until everything entered so far is durable, in every class.
    pub(crate) async fn flush(&self) -> Result<(), SpoolError> {
        if self.class == Durability::Memory {
            self.write_out_all().await?;
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
            if let Condition::Sealed(why) = &inner.condition {
                return Err(SpoolError::Sealed(why.clone()));
            }
            let open = inner.queue.back_mut().filter(|open| !open.is_empty());
            if let Some(open) = open {
                open.urgent = true;
            }
            let last = inner.queue.iter().chain(&inner.written).map(|pending| pending.ticket).max();
            last.unwrap_or(inner.settled_ticket)
        };
        self.work.notify_one();
        self.settled(ticket).await
    }

    /// Classes `buffered` and `memory`: makes durable what is in the page cache.
    pub(crate) async fn sync_up(&self) -> Result<(), SpoolError> {
        let (segments, scope) = {
            let mut inner = self.inner();
            let mut segments = std::mem::take(&mut inner.unsynced);
            segments.push(inner.active.segment.clone());
            (segments, inner.sync_scope())
        };
        for segment in segments {
            if let Err(error) = segment.sync().await {
                let why = self.seal(format!("fdatasync failed: {error}"));
                return Err(SpoolError::Sealed(why));
            }
            self.inner().stats.syncs += 1;
        }
        self.inner().synced(scope);
        Ok(())
    }

    /// Sees, once a second at most, to it that what is written can be found at the next start; seals the log when its directory
    /// or the segment that is written was removed or replaced.
    pub(crate) fn look(&self) {
        if let Err(why) = self.check_place() {
            self.seal(why);
        }
    }

    /// As [`Log::look`], for who seals the log itself.
    pub(crate) fn check_place(&self) -> Result<(), String> {
        let now = turn_time();
        if now - self.seen.get() < LOOK_EVERY || self.inner().is_over() {
            return Ok(());
        }
        self.seen.set(now);
        if !self.lock.is_at(&self.dir) {
            return Err(
                "its directory was removed or replaced under the relay: what was in it is for a start to \
                        find, when it is back"
                    .into(),
            );
        }
        let inner = self.inner();
        if inner.has_begun() && !inner.active.segment.is_linked() {
            return Err("the segment that is written to was removed under the relay".into());
        }
        Ok(())
    }

    /// After a failed write or sync nothing is known of what the disk holds, and a second sync would report
    /// success for pages that the kernel has dropped. So: tell everybody, and accept nothing more.
    pub(crate) fn seal(&self, why: String) -> Rc<str> {
        let why: Rc<str> = why.into();
        let waiters = {
            let mut inner = self.inner();
            if let Condition::Sealed(first) = &inner.condition {
                return first.clone();
            }
            log::error!("spool {} is sealed, it accepts nothing more: {why}", self.dir.display());
            inner.condition = Condition::Sealed(why.clone());
            std::mem::take(&mut inner.waiters)
        };
        waiters.into_iter().for_each(|(_, waker)| waker.wake());
        self.room.notify_all();
        // One task waits for each of these, and must learn of it even if it is busy now.
        self.work.notify_one();
        self.chores.notify_one();
        self.resides.notify_one();
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
    pub(crate) residents: ResidentLimits,
    pub(crate) space: Notify,
    pub(crate) lock: DirLock,
}
