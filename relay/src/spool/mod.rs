//! The spool: where a message is from its 250 until it is delivered or bounced.
//!
//! One per shard, in a directory of its own. Messages and states are records of a log in preallocated segments;
//! records are written in groups, one fdatasync covers all that gathered while the last one ran, and a commit
//! resolves when the durability class is satisfied. FORMAT.md beside this file has the bytes and the crash cases.
//!
//! Needs: a directory that nobody else writes to. Guarantees: a message whose commit resolved in class `synced`
//! is found by every later [`Spool::open`] until states have finished all its recipients and are durable.

mod config;
mod disk;
mod error;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod log;
mod maintenance;
pub mod offline;
mod recovery;
mod stats;

#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::rc::Rc;

pub use self::config::{Durability, SpoolConfig, WriteBackLimits};
pub use self::error::{BadSize, OpenError, SpoolError};
pub use self::format::id::{BadId, MessageId, StateChange};
pub use self::format::message::Envelope;
pub use self::format::state::{Deferral, State};
pub use self::log::body::Body;
use self::log::reservation::Purpose;
pub use self::log::reservation::Reservation;
pub use self::log::writer::Writer;
pub use self::recovery::assembly::{Finding, FindingKind};
use self::recovery::read::{self, Scanned};
pub use self::recovery::recovered_messages::{OpenRecipient, RecoveredMessage, RecoveredMessages};
pub use self::stats::SpoolStats;

use self::disk::Disk;
use self::log::handle::Log;
use chasqui_runtime::fs;
use chasqui_runtime::sync::Notify;

/// The spool of one shard.
pub struct Spool {
    own: Rc<Log>,
    /// Logs of shards that no longer exist; they take states and DSNs only.
    adopted: Vec<Rc<Log>>,
    space: Notify,
}

/// What was found at the start.
#[derive(Default)]
pub struct Recovery {
    /// Messages that have recipients left.
    pub queued: RecoveredMessages,
    /// What was not yet synced at the end of an earlier run and is not whole, or was never committed.
    pub discarded: u64,
    /// What was durable and is damaged or missing; kept for inspection.
    pub quarantined: u64,
    /// A line for everything that was discarded or quarantined.
    pub report: Vec<String>,
}

/// States that have entered; see [`Spool::settled`].
#[derive(Debug)]
pub struct Ticket {
    own: u64,
    adopted: Vec<(usize, u64)>,
}

impl Spool {
    /// Opens the spool of this shard, creating it if there is none; on shard 0 also the directories of shards
    /// that no longer exist.
    pub async fn open(config: SpoolConfig) -> Result<(Rc<Spool>, Recovery), OpenError> {
        Spool::open_on(Disk::of_shard(), config).await
    }

    async fn open_on(disk: Disk, config: SpoolConfig) -> Result<(Rc<Spool>, Recovery), OpenError> {
        config.check()?;
        let mut recovery = Recovery::default();
        let own = read::scan(&config, config.shard, &disk).await?;
        recovery.add_report("", &own);
        let space = Notify::new();
        let (own, messages) = own.start(&config, config.shard, &disk, &space).await?;
        recovery.queued.add(own.clone(), messages);
        let mut adopted = Vec::new();
        for shard in former_shards(&config).await? {
            let scanned = read::scan(&config, shard, &disk).await?;
            recovery.add_report(&format!("shard-{shard}: "), &scanned);
            if scanned.assembly.messages.is_empty() {
                scanned.sync(config.class).await?;
                let dir = config.shard_dir(shard);
                recovery
                    .report
                    .push(format!("{} is drained and no longer used: it can be removed", dir.display()));
                continue;
            }
            let (log, messages) = scanned.start(&for_states(&config), shard, &disk, &space).await?;
            recovery.queued.add(log.clone(), messages);
            adopted.push(log);
        }
        Ok((Rc::new(Spool { own, adopted, space }), recovery))
    }

    /// Octets that can still be promised to mail.
    pub fn free(&self) -> u64 {
        self.own.free()
    }

    /// Whether a message of `bytes` would find space now; keeps none.
    pub fn check_room(&self, bytes: u64) -> Result<(), SpoolError> {
        self.own.check_room(bytes)
    }

    /// Keeps space for a message of `bytes`.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, SpoolError> {
        self.own.look();
        Reservation::new(&self.own, Purpose::Mail, bytes)
    }

    /// Begins a message. Without a reservation, space is found as it comes.
    pub fn begin(&self, reservation: Option<Reservation>) -> Writer {
        Writer::new(self.own.clone(), reservation)
    }

    /// Begins a notification of `bytes` in the log that has message `id`, so that both can share a group. There is space for
    /// it when there is none for mail.
    pub fn begin_notification(&self, id: MessageId, bytes: u64) -> Result<Writer, SpoolError> {
        let log = self.log_of(id);
        Ok(Writer::new(log.clone(), Some(Reservation::new(log, Purpose::Notification, bytes)?)))
    }

    /// Records states, in one group if they speak of messages of one log. The group starts at the next commit, at
    /// most 50 ms later. There is no need to wait for it.
    pub fn states(&self, changes: &[StateChange<'_>]) -> Result<Ticket, SpoolError> {
        let mut ticket = Ticket { own: 0, adopted: Vec::new() };
        if changes.iter().all(|change| change.id.shard() == self.own.shard) {
            ticket.own = self.own.states(changes)?;
            return Ok(ticket);
        }
        let of = |log: &Log| -> Vec<StateChange<'_>> {
            changes.iter().filter(|change| change.id.shard() == log.shard).cloned().collect()
        };
        ticket.own = self.own.states(&of(&self.own))?;
        for (index, log) in self.adopted.iter().enumerate() {
            ticket.adopted.push((index, log.states(&of(log))?));
        }
        Ok(ticket)
    }

    /// Waits until these states satisfy the class.
    pub async fn settled(&self, ticket: Ticket) -> Result<(), SpoolError> {
        self.own.settled(ticket.own).await?;
        for (index, ticket) in ticket.adopted {
            self.adopted[index].settled(ticket).await?;
        }
        Ok(())
    }

    /// Reads the envelope of a message; `None` when all its recipients are finished. An error is of the disk, or
    /// says that the record is damaged.
    pub async fn envelope(&self, id: MessageId) -> io::Result<Option<Envelope>> {
        self.log_of(id).envelope(id).await
    }

    /// The body of a message; `None` when all its recipients are finished. What a start did not look at is checked
    /// first. An error is of the disk; `InvalidData` says that the message is damaged: no byte of it is to be used.
    pub async fn body(&self, id: MessageId) -> io::Result<Option<Body>> {
        let log = self.log_of(id);
        log.check(id).await?;
        let inner = log.inner();
        if let Some(body) = inner.write_back.body(id) {
            return Ok(Some(Body::in_memory(body)));
        }
        Ok(inner.messages.entries.get(id).map(|entry| Body::new(log, id, entry)))
    }

    /// Waits until everything entered so far is durable, in every class.
    pub async fn flush(&self) -> Result<(), SpoolError> {
        for log in self.logs() {
            log.flush().await?;
        }
        Ok(())
    }

    /// The end: takes no more, writes what has entered and the last watermark, and ends the spool's tasks. After
    /// sessions and deliveries have ended.
    pub async fn close(&self) -> Result<(), SpoolError> {
        let mut outcome = Ok(());
        for log in self.logs() {
            let closed = log.close().await;
            outcome = outcome.and(closed);
        }
        outcome
    }

    /// Why the spool takes nothing more, if a write or sync has failed.
    pub fn failed(&self) -> Option<Rc<str>> {
        self.logs().find_map(|log| log.inner().failure())
    }

    /// Looks, once a second at most, whether the spool's directories are where they were; what was removed or replaced fails the
    /// spool.
    pub fn look(&self) {
        self.logs().for_each(Log::look);
    }

    /// Can it be recorded what becomes of a message? Not when it has failed, and not before a start on a full disk has found
    /// room for its first segment: what is delivered meanwhile would be delivered again.
    pub fn can_record(&self) -> bool {
        self.logs().all(|log| log.inner().can_record())
    }

    /// Waits until there may be room again for what was refused for lack of it.
    pub async fn space_returns(&self) {
        self.space.notified().await;
    }

    /// Counters and sizes.
    pub fn stats(&self) -> SpoolStats {
        self.logs().map(Log::stats).fold(SpoolStats::default(), SpoolStats::plus)
    }

    fn logs(&self) -> impl Iterator<Item = &Log> {
        std::iter::once(&*self.own).chain(self.adopted.iter().map(|log| &**log))
    }

    fn log_of(&self, id: MessageId) -> &Rc<Log> {
        self.adopted.iter().find(|log| log.shard == id.shard()).unwrap_or(&self.own)
    }
}

impl Recovery {
    fn add_report(&mut self, from: &str, scanned: &Scanned) {
        self.discarded += scanned.assembly.discarded;
        self.quarantined += scanned.assembly.quarantined;
        self.report.extend(scanned.assembly.report.iter().map(|it| format!("{from}{}", it.line)));
    }
}

/// An adopted log takes states and DSNs only: small segments do.
fn for_states(config: &SpoolConfig) -> SpoolConfig {
    let segment_size = config.segment_size.min(1 << 20);
    SpoolConfig { segment_size, max_space: 64 * segment_size, ..config.clone() }
}

/// Shards whose directory is there although there is no such shard any more; for shard 0 to adopt.
async fn former_shards(config: &SpoolConfig) -> Result<Vec<usize>, OpenError> {
    if config.shard != 0 {
        return Ok(Vec::new());
    }
    let paths = fs::read_dir(&config.dir).await.map_err(OpenError::io("list", &config.dir))?;
    let numbers = paths.iter().filter_map(|path| {
        let number = path.file_name()?.to_str()?.strip_prefix("shard-")?;
        number.parse::<usize>().ok().filter(|shard| (config.shard_count..config::MAX_SHARDS).contains(shard))
    });
    let mut numbers: Vec<usize> = numbers.collect();
    numbers.sort_unstable();
    Ok(numbers)
}
