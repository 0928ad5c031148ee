//! The time by which mail ages. Wall clocks jump: a machine starts with a wrong one, and somebody corrects it.
//!
//! While the relay runs, ages follow the monotonic clock from the start on ([`Clock`]): no jump makes mail older or younger.
//! At a start there is the wall clock alone, and what an earlier run has left in the file `clock` beside the spool's
//! segments ([`Past`]): when it was last seen to run, and stretches of wall-clock time that do not count because the clock
//! jumped over them, or because nothing ran. Those do not age mail either: whatever the clock says at a start, nothing
//! is returned that could not be tried for all of its age limit.
//!
//! | the clock | what follows |
//! |---|---|
//! | jumps ahead while the relay runs | nothing now; the stretch is noted and does not count at later starts |
//! | jumps back while it runs | nothing now; what was noted of times that are still to come does not hold |
//! | is ahead at a start, or the relay was down for long | the stretch does not count |
//! | is back at a start | what has arrived in the future has arrived now |
//!
//! Retries recorded for later than `retry.max` from now are due by then ([`crate::dispatch`]). What people read, dates in
//! Received fields and notifications, is the wall clock's.

use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::fs::{self, File, OpenOptions};
use chasqui_runtime::{Instant, now, sleep, turn_time, wall_clock};

use crate::settle::millis;
use crate::shard::Shard;

/// How far wall clock and monotonic clock may drift apart between two looks before it is a jump.
const JUMP_MS: u64 = 10_000;
/// Time between two runs that counts, of the age limit and at most: the relay was started again.
const RESTART_SHARE: u32 = 16;
const RESTART_MAX: Duration = Duration::from_secs(600);
/// Stretches that are remembered; of more the oldest are forgotten.
const STRETCHES_MAX: usize = 8;
/// How often a disk is asked that does not give it, and the time between.
const READS_MAX: usize = 20;
const READ_AGAIN: Duration = Duration::from_millis(25);
/// Octets of the file: one sector, which is written whole or not at all.
const FILE_BYTES: usize = 512;

/// Milliseconds since the epoch as the wall clock stood at the start, going on by the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    start_ms: u64,
}

impl Clock {
    pub(crate) fn new() -> Clock {
        Clock { start: now(), start_ms: wall_clock_ms() }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.start_ms + millis(turn_time() - self.start)
    }

    /// How far the wall clock is ahead of this one.
    fn wall_ahead_ms(&self) -> i64 {
        wall_clock_ms().cast_signed() - (self.start_ms + millis(now() - self.start)).cast_signed()
    }
}

pub(crate) fn wall_clock_ms() -> u64 {
    millis(wall_clock())
}

/// What is known of the wall clock in earlier runs and this one.
#[derive(Debug)]
pub(crate) struct Past {
    path: PathBuf,
    /// When it was written last.
    written: Instant,
    /// How far the wall clock was ahead of the relay's at the last look.
    ahead_ms: i64,
    known: Known,
}

/// What the file tells, in milliseconds of the wall clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    /// When a relay was last seen to run.
    seen_ms: u64,
    /// From when until when time does not count, in rising order.
    stretches: Vec<(u64, u64)>,
}

impl Known {
    fn parse(text: &str) -> Option<Known> {
        let mut known = Known::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["seen", ms] => known.seen_ms = ms.parse().ok()?,
                ["skip", from, until] if known.stretches.len() < STRETCHES_MAX => {
                    known.stretches.push((from.parse().ok()?, until.parse().ok()?));
                }
                _ => return None,
            }
        }
        Some(known).filter(|known| known.seen_ms > 0)
    }

    fn text(&self) -> String {
        let mut text = format!("seen {}\n", self.seen_ms);
        for (from, until) in &self.stretches {
            let _ = writeln!(text, "skip {from} {until}");
        }
        let padding = FILE_BYTES.saturating_sub(text.len() + 1);
        text.extend(std::iter::repeat_n(' ', padding));
        text.push('\n');
        text
    }

    /// The wall clock stands at `now_ms` and has come there from `from_ms`, in no time or while nothing ran.
    fn leap(&mut self, from_ms: u64, now_ms: u64) {
        // What is to come will pass. What has been skipped of the past stays so: how much of it has passed after all, while
        // the clock was ahead, is not known.
        self.stretches.iter_mut().for_each(|(_, until)| *until = now_ms.min(*until));
        self.stretches.retain(|(from, until)| from < until);
        if from_ms < now_ms {
            if self.stretches.len() == STRETCHES_MAX {
                self.stretches.remove(0);
            }
            self.stretches.push((from_ms, now_ms));
        }
    }

    /// How old at `now_ms` is what arrived at `arrived_ms`?
    fn age_ms(&self, arrived_ms: u64, now_ms: u64) -> u64 {
        let skipped = self.stretches.iter().map(|(from, until)| until.saturating_sub(arrived_ms.max(*from)));
        now_ms.saturating_sub(arrived_ms).saturating_sub(skipped.sum())
    }
}

/// Time between two runs that counts.
fn restart_max(max_age: Duration) -> Duration {
    (max_age / RESTART_SHARE).min(RESTART_MAX)
}

impl Past {
    /// Reads what the shard's earlier runs have left, and begins this one. Without that, what the wall clock says is taken for true.
    pub(crate) async fn load(directory: &Path, clock: &Clock, max_age: Duration) -> Past {
        let path = directory.join("clock");
        let (now_ms, mut known) = (wall_clock_ms(), read(&path).await.unwrap_or_default());
        let down = Duration::from_millis(now_ms.saturating_sub(known.seen_ms));
        if known.seen_ms > now_ms {
            log::warn!(
                "the wall clock is {:?} behind what it was in the last run",
                Duration::from_millis(known.seen_ms - now_ms)
            );
            known.leap(now_ms, now_ms);
        } else if known.seen_ms > 0 && down > restart_max(max_age) {
            known.leap(known.seen_ms, now_ms);
        }
        known.seen_ms = now_ms;
        write(&path, known.text(), true).await;
        // The name of a new file.
        let _ = fs::sync_dir(directory).await;
        Past { path, written: now(), ahead_ms: clock.wall_ahead_ms(), known }
    }

    /// When by the relay's clock a message has arrived whose envelope says `arrived_ms`.
    pub(crate) fn arrival_ms(&self, clock: &Clock, arrived_ms: u64) -> u64 {
        clock.now_ms().saturating_sub(self.known.age_ms(arrived_ms, wall_clock_ms()))
    }

    /// Sees whether the wall clock has jumped.
    fn look(&mut self, clock: &Clock) -> bool {
        let (now_ms, ahead_ms) = (wall_clock_ms(), clock.wall_ahead_ms());
        let by_ms = ahead_ms - self.ahead_ms;
        self.ahead_ms = ahead_ms;
        self.known.seen_ms = now_ms;
        if by_ms.unsigned_abs() < JUMP_MS {
            return false;
        }
        let (by, direction) = (by_ms.unsigned_abs(), if by_ms > 0 { "ahead" } else { "back" });
        log::warn!(
            "the wall clock has jumped {direction} by {:?}; mail ages as if it had not",
            Duration::from_millis(by)
        );
        self.known.leap(now_ms.saturating_sub(if by_ms > 0 { by } else { 0 }), now_ms);
        true
    }
}

/// What the file tells; nothing when there is none, or it is of something else.
async fn read(path: &Path) -> Option<Known> {
    let options = OpenOptions { read: true, regular: true, ..OpenOptions::default() };
    let attempt = async || File::open(path, &options).await?.read_at(0, FILE_BYTES).await;
    for _ in 0..READS_MAX {
        match attempt().await {
            Ok(bytes) => return Known::parse(std::str::from_utf8(&bytes).ok()?),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => break,
            Err(error) => log::debug!("{} cannot be read: {error}", path.display()),
        }
        sleep(READ_AGAIN).await;
    }
    None
}

/// Replaces the file's text, durably if wanted.
async fn write(path: &Path, text: String, durably: bool) {
    let options = OpenOptions { write: true, create: true, regular: true, ..OpenOptions::default() };
    let written = async {
        let file = File::open(path, &options).await?;
        file.write_at(text.into_bytes(), 0).await?;
        if durably { file.sync_data().await } else { Ok(()) }
    };
    // Known to this run, and written again soon.
    if let Err(error) = written.await {
        log::debug!("{} cannot be written: {error}", path.display());
    }
}

impl Shard {
    /// Looks at the wall clock, and notes what is to be known of it at the next start. That the relay runs is not synced:
    /// after a power cut a little more time does not count.
    pub(crate) async fn look_at_clock(self: &Rc<Self>) {
        let (path, text, has_jumped) = {
            let mut past = self.past.borrow_mut();
            let has_jumped = past.look(&self.clock);
            if !has_jumped && now() - past.written < restart_max(self.config.retry.max_age) / 4 {
                return;
            }
            past.written = now();
            (past.path.clone(), past.known.text(), has_jumped)
        };
        write(&path, text, has_jumped).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    /// Time that the clock jumped over does not age what arrived before it, ages nothing twice, and is forgotten when the
    /// clock is corrected.
    #[test]
    fn stretches() {
        let (mut known, at) = (Known { seen_ms: 10 * DAY, ..Known::default() }, 10 * DAY);
        assert_eq!(known.age_ms(at - 1000, at + 500), 1500);
        known.leap(at, at + 7 * DAY);
        let now = at + 7 * DAY + 500;
        assert_eq!(known.age_ms(at - 1000, now), 1500, "arrived before the jump");
        assert_eq!(known.age_ms(at + 7 * DAY, now), 500, "arrived after it");
        assert_eq!(known.age_ms(now + DAY, now), 0, "arrived in the future");
        known.leap(at + 600, at + 600);
        assert_eq!(known.stretches, [(at, at + 600)], "it was corrected");
        assert_eq!(known.age_ms(at - 1000, at + 700), 1100);
        known.leap(at - 5000, at - 5000);
        assert_eq!(known.stretches, [], "it went further back");
        for day in 0..2 * STRETCHES_MAX as u64 {
            known.leap(at + day * DAY, at + day * DAY + 1);
        }
        assert_eq!(known.stretches.len(), STRETCHES_MAX);
        let text = known.text();
        assert_eq!((text.len(), Known::parse(&text)), (FILE_BYTES, Some(known)));
    }

    /// A file of something else tells nothing.
    #[test]
    fn foreign_text() {
        for text in ["", "\0\0", "seen x", "seen 1\nskip 1", "void"] {
            assert_eq!(Known::parse(text), None, "{text:?}");
        }
    }
}
