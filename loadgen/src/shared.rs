//! What the threads of a run share: its phase, its times, and counters. Nothing here is on the path of a
//! message: shards publish their figures every few milliseconds.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chasqui_report::Collector;
use chasqui_runtime::{Instant, now};

/// How often shards publish their counters and look at the phase while things happen.
pub(crate) const TICK: Duration = Duration::from_millis(5);
/// How often they do so at least.
const TICK_MAX: Duration = Duration::from_secs(1);

/// Paces looks at what nobody tells of: one every [`TICK`] while things happen, fewer the longer nothing has. A run that
/// waits an hour for a retry costs no more than a few looks a second.
#[derive(Debug)]
pub(crate) struct Glances {
    figure: u64,
    moved: Instant,
}

impl Glances {
    pub(crate) fn new() -> Self {
        Self { figure: 0, moved: now() }
    }

    /// Time of the next look. `figure` is another one whenever something has happened.
    pub(crate) fn next(&mut self, figure: u64) -> Instant {
        let at = now();
        if self.figure != figure {
            (self.figure, self.moved) = (figure, at);
        }
        at + ((at - self.moved) / 16).clamp(TICK, TICK_MAX)
    }
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Connections and readers are set up.
    Connecting,
    /// Messages are sent and not measured yet.
    Warmup,
    /// The measured window.
    Window,
    /// No new messages; those under way arrive.
    Draining,
    /// Mailboxes are read back.
    Reading,
    /// The relay's queue has been asked; the barrier passes through the arrival streams.
    Barrier,
    /// Every mailbox is read once more, to its end.
    LastReading,
    /// Everything is known.
    Done,
}

impl Phase {
    const ALL: [Phase; 8] = [
        Phase::Connecting,
        Phase::Warmup,
        Phase::Window,
        Phase::Draining,
        Phase::Reading,
        Phase::Barrier,
        Phase::LastReading,
        Phase::Done,
    ];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Connecting => "connecting",
            Phase::Warmup => "warm-up",
            Phase::Window => "window",
            Phase::Draining => "draining",
            Phase::Reading => "reading",
            Phase::Barrier | Phase::LastReading => "judging",
            Phase::Done => "done",
        })
    }
}

/// Why a started run has no outcome. One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunError {
    /// It could not begin: nothing to connect to, or an instrument that does not work. The user's to mend.
    NotBegun(String),
    /// It was stopped before it began.
    Stopped,
    /// A thread has panicked.
    Panicked(String),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBegun(reason) => f.write_str(reason),
            Self::Stopped => f.write_str("stopped before the run began"),
            Self::Panicked(thread) => write!(f, "internal error: a {thread} thread has panicked"),
        }
    }
}

impl std::error::Error for RunError {}

impl RunError {
    /// The run cannot begin, for this reason.
    pub(crate) fn not_begun(reason: impl fmt::Display) -> Self {
        Self::NotBegun(reason.to_string())
    }
}

/// Counters of one generator shard, written by it alone. On cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct ShardCounters {
    pub(crate) scheduled: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) unknown: AtomicU64,
    pub(crate) arrived: AtomicU64,
    pub(crate) verified: AtomicU64,
    pub(crate) bounced: AtomicU64,
    pub(crate) corrupted: AtomicU64,
    pub(crate) outstanding: AtomicU64,
    pub(crate) unverified: AtomicU64,
    pub(crate) events: AtomicU64,
    pub(crate) connections: AtomicU64,
    pub(crate) waiting: AtomicU64,
    pub(crate) lag_us_max: AtomicU64,
    /// Connections that still send or wait for a final reply.
    pub(crate) busy: AtomicU64,
}

/// Since when a shard's longest idle connection has been so, for the other shards. On a cache line of its own.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct FreeSince(AtomicU64);

impl Default for FreeSince {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl FreeSince {
    /// `None`: every connection is busy.
    pub(crate) fn set(&self, since: Option<Instant>) {
        self.0.store(since.map_or(u64::MAX, Instant::as_nanos), Ordering::Relaxed);
    }

    fn get(&self) -> Instant {
        Instant::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// State of a run that all its threads see.
pub(crate) struct Shared {
    phase: AtomicU8,
    stops: AtomicU8,
    start_ns: AtomicU64,
    window_end_ns: AtomicU64,
    drain_end_ns: AtomicU64,
    /// Index and count of every arrival stream, as its sink says it.
    pub(crate) streams: Mutex<Vec<(u32, u32)>>,
    /// Generator shards whose connections stand, or have failed for the first time.
    pub(crate) prepared: AtomicUsize,
    /// Reader shards whose mailboxes can be read.
    pub(crate) readers_prepared: AtomicUsize,
    /// Generator shards whose arrival streams have answered the barrier, or never will.
    pub(crate) barriers: AtomicUsize,
    /// Reader shards that have ended.
    pub(crate) readers_done: AtomicUsize,
    pub(crate) shards: Box<[ShardCounters]>,
    pub(crate) free_since: Box<[Arc<FreeSince>]>,
    pub(crate) collector: Mutex<Option<Collector>>,
    failure: Mutex<Option<RunError>>,
    created: Instant,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(shards: usize) -> Self {
        Self {
            phase: AtomicU8::new(0),
            stops: AtomicU8::new(0),
            start_ns: AtomicU64::new(0),
            window_end_ns: AtomicU64::new(u64::MAX),
            drain_end_ns: AtomicU64::new(u64::MAX),
            streams: Mutex::default(),
            prepared: AtomicUsize::new(0),
            readers_prepared: AtomicUsize::new(0),
            barriers: AtomicUsize::new(0),
            readers_done: AtomicUsize::new(0),
            shards: (0..shards).map(|_| ShardCounters::default()).collect(),
            free_since: (0..shards).map(|_| Arc::default()).collect(),
            collector: Mutex::new(None),
            failure: Mutex::new(None),
            created: now(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::Acquire))]
    }

    /// Only the coordinator moves the phase, and only forward.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Why the run cannot begin; the first reason stays.
    pub(crate) fn fail(&self, reason: impl fmt::Display) {
        if let Ok(mut failure) = self.failure.lock() {
            failure.get_or_insert_with(|| RunError::not_begun(reason));
        }
    }

    /// Why the run cannot begin, when something is known to stand against it.
    pub(crate) fn failure(&self) -> Option<RunError> {
        self.failure.lock().ok()?.clone()
    }

    pub(crate) fn stop(&self) {
        let _ = self.stops.fetch_update(Ordering::AcqRel, Ordering::Acquire, |stops| stops.checked_add(1));
    }

    /// How often the end was asked for.
    pub(crate) fn stops(&self) -> u8 {
        self.stops.load(Ordering::Acquire)
    }

    /// Sets when the warm-up starts and the window ends.
    pub(crate) fn set_times(&self, start: Instant, window_end: Instant) {
        self.window_end_ns.store(window_end.as_nanos(), Ordering::Release);
        self.start_ns.store(start.as_nanos(), Ordering::Release);
    }

    /// The start of the warm-up, once it is fixed.
    pub(crate) fn start(&self) -> Option<Instant> {
        let start_ns = self.start_ns.load(Ordering::Acquire);
        (start_ns > 0).then(|| Instant::from_nanos(start_ns))
    }

    /// The end of the window: as planned, or when the run was stopped.
    pub(crate) fn window_end(&self) -> Instant {
        Instant::from_nanos(self.window_end_ns.load(Ordering::Acquire))
    }

    /// Nothing is waited for after `at`.
    pub(crate) fn end_drain(&self, at: Instant) {
        self.drain_end_ns.store(at.as_nanos(), Ordering::Release);
    }

    /// When the drain ended; now, while it has not.
    pub(crate) fn drain_end(&self) -> Instant {
        Instant::from_nanos(self.drain_end_ns.load(Ordering::Acquire)).min(now())
    }

    /// Since the run was started.
    pub(crate) fn took(&self) -> Duration {
        self.created.elapsed()
    }

    /// Since when a connection of a shard other than `index` has been free; the end of time where none is.
    pub(crate) fn free_elsewhere(&self, index: usize) -> Instant {
        let others = self.free_since.iter().enumerate().filter(|(shard, _)| *shard != index);
        others.map(|(_, free)| free.get()).min().unwrap_or(Instant::from_nanos(u64::MAX))
    }

    pub(crate) fn cut_window(&self, end: Instant) {
        self.window_end_ns.fetch_min(end.as_nanos(), Ordering::AcqRel);
    }

    /// A counter over all shards.
    pub(crate) fn sum(&self, counter: impl Fn(&ShardCounters) -> &AtomicU64) -> u64 {
        self.shards.iter().map(|shard| counter(shard).load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn progress(&self, warmup: Duration) -> Progress {
        let at = now();
        let phase = self.phase();
        let start = self.start();
        let phase_left = match (phase, start) {
            (Phase::Warmup, Some(start)) => Some((start + warmup).saturating_sub(at)),
            (Phase::Window, _) => Some(self.window_end().saturating_sub(at)),
            _ => None,
        };
        let lag = self.shards.iter().map(|shard| shard.lag_us_max.load(Ordering::Relaxed)).max();
        Progress {
            phase,
            elapsed: at.saturating_sub(start.unwrap_or(self.created)),
            phase_left,
            scheduled: self.sum(|shard| &shard.scheduled),
            sent: self.sum(|shard| &shard.sent),
            accepted: self.sum(|shard| &shard.accepted),
            rejected: self.sum(|shard| &shard.rejected),
            unknown: self.sum(|shard| &shard.unknown),
            arrived: self.sum(|shard| &shard.arrived),
            verified: self.sum(|shard| &shard.verified),
            bounced: self.sum(|shard| &shard.bounced),
            corrupted: self.sum(|shard| &shard.corrupted),
            connections: self.sum(|shard| &shard.connections),
            waiting: self.sum(|shard| &shard.waiting),
            lag_us_max: lag.unwrap_or(0),
        }
    }
}

/// Figures of a run while it goes on; recipients unless said otherwise, a few milliseconds old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How far the run has come.
    pub phase: Phase,
    /// Since the warm-up began, or since [`start`](crate::start) before that.
    pub elapsed: Duration,
    /// Until the warm-up or the window ends.
    pub phase_left: Option<Duration>,
    /// Intended so far.
    pub scheduled: u64,
    /// Begun.
    pub sent: u64,
    /// Answered 250.
    pub accepted: u64,
    /// Answered 4xx or 5xx.
    pub rejected: u64,
    /// Without a final reply for good.
    pub unknown: u64,
    /// Seen at the sinks or in a mailbox.
    pub arrived: u64,
    /// Seen intact.
    pub verified: u64,
    /// Bounced.
    pub bounced: u64,
    /// Seen changed.
    pub corrupted: u64,
    /// Open SMTP connections.
    pub connections: u64,
    /// Messages that are due and have found no free connection.
    pub waiting: u64,
    /// Largest schedule lag of the last second or so, in microseconds; 0 in a closed loop.
    pub lag_us_max: u64,
}
