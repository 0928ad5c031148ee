//! When no more mail is taken because of what is here already.
//!
//! Four things are limited. Space in the spool and the octets in flight are the spool's matter; here are the messages in
//! the queue, and the memory of the process. The limits are looked at when a transaction begins, so that they can be
//! exceeded by what the sessions have begun.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use chasqui_runtime::{now, offload, process, spawn, turn_time};

use crate::shard::Shard;

/// The text of the replies to clients while memory is short.
pub(crate) const MEMORY: &str = "Insufficient memory, try again later";
/// The text of the replies to clients while the queue is full.
const QUEUED: &str = "Too many messages are queued, try again later";

/// How old a figure of memory may be before it is read again.
const READ_EVERY: Duration = Duration::from_millis(250);

/// The process's memory: read when somebody asks and the last figure is old, by one shard at a time.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    /// 0: unknown.
    bytes: AtomicU64,
    read_ns: AtomicU64,
    reading: AtomicBool,
}

impl Memory {
    pub(crate) fn new(limit: u64) -> Self {
        let (bytes, read_ns) = (AtomicU64::new(0), AtomicU64::new(0));
        Memory { limit, bytes, read_ns, reading: AtomicBool::new(false) }
    }

    /// More is in use than allowed, by the last figure; has a new one read when that is old.
    pub(crate) fn is_short(self: &Arc<Self>) -> bool {
        let age = turn_time().as_nanos().saturating_sub(self.read_ns.load(Ordering::Relaxed));
        if u128::from(age) > READ_EVERY.as_nanos() && !self.reading.swap(true, Ordering::Relaxed) {
            let memory = self.clone();
            spawn(async move {
                memory.read().await;
                memory.reading.store(false, Ordering::Relaxed);
            });
        }
        self.bytes.load(Ordering::Relaxed) > self.limit
    }

    /// Anonymous memory now, in octets; `None`: the system does not tell.
    pub(crate) async fn read(&self) -> Option<u64> {
        let read = offload(|| process::anonymous_rss_bytes(process::id())).await.ok();
        self.bytes.store(read.unwrap_or(0), Ordering::Relaxed);
        self.read_ns.store(now().as_nanos(), Ordering::Relaxed);
        read
    }
}

/// Why no message can be taken now, as the client is told.
pub(crate) fn of(shard: &Shard) -> Option<&'static str> {
    let share = shard.config.limits.queued.div_ceil(chasqui_runtime::shard_count());
    if shard.queued() >= share {
        return Some(QUEUED);
    }
    shard.memory.is_short().then_some(MEMORY)
}
