//! When no more mail is taken because of what is here already.
//!
//! Four things are limited. Space in the spool and the octets in flight are the spool's matter; here are the messages in
//! the queue, and the memory of the process. The queue is looked at when a transaction begins, so that it can be longer by
//! what the sessions have begun; memory at each recipient and before each message too.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use chasqui_runtime::{now, process, sleep, spawn, spawn_blocking, turn_time};

use super::Server;

/// The text of the replies to clients while memory is short.
pub(crate) const MEMORY: &str = "Insufficient memory, try again later";
/// The text of the replies to clients while the queue is full.
const QUEUED: &str = "Too many messages are queued, try again later";

/// How old a figure of memory may be before it is read again.
const READ_EVERY: Duration = Duration::from_millis(250);
/// The same when it is short with what was taken since.
const READ_SOON: Duration = Duration::from_millis(10);
/// Pause between two attempts to give back freed memory. It doubles while that does not help, because it costs time.
const GIVE_BACK_EVERY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(8));

/// The process's memory: read when somebody asks and the last figure is old, by one shard at a time.
#[derive(Debug)]
pub(crate) struct Memory {
    limit: u64,
    /// 0: unknown.
    bytes: AtomicU64,
    /// Taken since that was read, as far as [`Memory::take`] was told.
    taken: AtomicU64,
    read_ns: AtomicU64,
    reading: AtomicBool,
    /// When freed memory may be given back again.
    give_back_ns: AtomicU64,
    system: System,
}

/// What the system is asked.
#[derive(Debug, Clone, Copy)]
struct System {
    read: fn() -> io::Result<u64>,
    give_back: fn(),
}

impl Memory {
    pub(crate) fn new(limit: u64) -> Self {
        let read = || process::anonymous_rss_bytes(process::id());
        Memory::with(limit, System { read, give_back: process::give_back_memory })
    }

    fn with(limit: u64, system: System) -> Self {
        Memory {
            limit,
            bytes: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            read_ns: AtomicU64::new(0),
            reading: AtomicBool::new(false),
            give_back_ns: AtomicU64::new(0),
            system,
        }
    }

    /// Something was kept that takes so many octets; what takes much between two readings is to be told. Half as much is added
    /// for the allocator and for lists that grow; the next reading tells what it was.
    pub(crate) fn take(&self, octets: usize) {
        self.taken.fetch_add((octets + octets / 2) as u64, Ordering::Relaxed);
    }

    /// More is in use than allowed, by the last figure; has a new one read when that is old.
    pub(crate) fn is_short(self: &Arc<Self>) -> bool {
        let is_short = self.exceeds();
        let age = turn_time().as_nanos().saturating_sub(self.read_ns.load(Ordering::Relaxed));
        let age_max = if is_short { READ_SOON } else { READ_EVERY };
        if u128::from(age) > age_max.as_nanos() && !self.reading.swap(true, Ordering::Relaxed) {
            let memory = self.clone();
            spawn(async move {
                memory.watch().await;
                memory.reading.store(false, Ordering::Relaxed);
            });
        }
        is_short
    }

    fn exceeds(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) + self.taken.load(Ordering::Relaxed) > self.limit
    }

    /// Reads the figure; while it is too high gives freed memory back and reads again, so that nobody has to ask and be
    /// refused for that.
    async fn watch(&self) {
        let (mut pause, longest) = GIVE_BACK_EVERY;
        loop {
            self.read().await;
            if !self.exceeds() {
                return;
            }
            if now().as_nanos() >= self.give_back_ns.load(Ordering::Relaxed) {
                spawn_blocking(self.system.give_back).await;
                self.give_back_ns.store((now() + pause).as_nanos(), Ordering::Relaxed);
                pause = (pause * 2).min(longest);
                self.read().await;
                if !self.exceeds() {
                    return;
                }
            }
            sleep(READ_EVERY).await;
        }
    }

    /// Anonymous memory now, in octets; `None`: the system does not tell.
    pub(crate) async fn read(&self) -> Option<u64> {
        let taken = self.taken.load(Ordering::Relaxed);
        let read = spawn_blocking(self.system.read).await.ok();
        self.bytes.store(read.unwrap_or(0), Ordering::Relaxed);
        self.taken.fetch_sub(taken.min(self.taken.load(Ordering::Relaxed)), Ordering::Relaxed);
        self.read_ns.store(now().as_nanos(), Ordering::Relaxed);
        read
    }
}

/// Why no message can be taken now, as the client is told.
pub(super) fn shortage(server: &Server) -> Option<&'static str> {
    let share = server.context.config.limits.queued.div_ceil(chasqui_runtime::shard_count());
    if server.context.queued() >= share {
        return Some(QUEUED);
    }
    server.shared.memory.is_short().then_some(MEMORY)
}

#[cfg(test)]
mod tests {
    use chasqui_runtime::{Config, run};

    use super::*;

    static USED: AtomicU64 = AtomicU64::new(0);
    static FREED: AtomicU64 = AtomicU64::new(0);
    static GIVEN_BACK: AtomicU64 = AtomicU64::new(0);

    /// Memory that was freed and not returned is given back before anybody is refused for good, seldom; what is taken between two
    /// readings counts at once.
    #[test]
    fn freed_memory_is_given_back() {
        let read = || Ok(USED.load(Ordering::Relaxed) + FREED.load(Ordering::Relaxed));
        let give_back = || {
            FREED.store(0, Ordering::Relaxed);
            GIVEN_BACK.fetch_add(1, Ordering::Relaxed);
        };
        let outcome = run(Config::default(), move || async move {
            let memory = Arc::new(Memory::with(100, System { read, give_back }));
            let settled = async |memory: &Arc<Memory>| {
                for _ in 0..20 {
                    memory.is_short();
                    sleep(Duration::from_millis(20)).await;
                }
                memory.is_short()
            };
            USED.store(50, Ordering::Relaxed);
            FREED.store(80, Ordering::Relaxed);
            assert!(!settled(&memory).await);
            assert_eq!(GIVEN_BACK.load(Ordering::Relaxed), 1);

            memory.take(60);
            assert!(memory.is_short(), "at once");
            assert!(!settled(&memory).await, "it was not that much");

            USED.store(120, Ordering::Relaxed);
            assert!(settled(&memory).await);
            assert_eq!(GIVEN_BACK.load(Ordering::Relaxed), 1, "that is not done all the time");
            USED.store(50, Ordering::Relaxed);
            sleep(READ_EVERY * 2).await;
            assert!(!memory.is_short(), "nobody had to ask");
        });
        outcome.unwrap();
    }
}
