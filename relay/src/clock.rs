//! The time by which mail ages. Wall clocks jump: a machine starts with a wrong one, and somebody corrects it.
//!
//! Ages follow a time of the relay's own ([`Clock`]) that goes on by the monotonic clock, and from one run to the next by
//! the wall clock, but by no more than the time of a restart: so no jump, and no time in which nothing could be tried, makes mail
//! older. The file `clock` in the spool's directory says how the two stood when a relay was last seen to run. A message's
//! envelope has the wall clock's time, and how far that was ahead when it was not about the same.
//!
//! | the wall clock | what follows |
//! |---|---|
//! | jumps while the relay runs | nothing |
//! | is ahead at a start, or the relay was down for long | the time of a restart has passed, no more |
//! | is back at a start | no time has passed |
//!
//! Retries recorded for later than `retry.max` from now are due by then ([`crate::delivery`]). What people read, dates in
//! Received fields and notifications, is the wall clock's.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chasqui_runtime::fs::{self, File, OpenOptions};
use chasqui_runtime::{Instant, now, sleep, turn_time, wall_clock};

use crate::spool::Envelope;

/// How far wall clock and monotonic clock may drift apart between two looks before it is a jump.
const JUMP_MS: u64 = 10_000;
/// How far the wall clock may be from the relay's time before an envelope says so.
const LEAD_MIN_MS: u64 = 1000;
/// Time between two runs that counts, of the age limit and at most: the relay was started again.
const RESTART_SHARE: u32 = 16;
const RESTART_MAX: Duration = Duration::from_secs(600);
/// How often a disk is asked that does not give the file, and the time between.
const READS_MAX: usize = 20;
const READ_AGAIN: Duration = Duration::from_millis(25);
/// Octets of the file: one sector, which is written whole or not at all.
const FILE_BYTES: usize = 512;

/// The relay's time, in milliseconds; those of the Unix epoch where the wall clock has never jumped and the relay was never down for long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
    start_ms: u64,
}

impl Clock {
    pub(crate) fn now_ms(&self) -> u64 {
        self.start_ms.saturating_add(millis(turn_time() - self.start))
    }

    /// When a message has arrived, for its envelope: by the wall clock, and how far that is ahead.
    pub(crate) fn stamp(&self) -> (u64, i64) {
        let wall_ms = wall_clock_ms();
        let lead_ms = self.lead_ms(wall_ms);
        (wall_ms, if lead_ms.unsigned_abs() < LEAD_MIN_MS { 0 } else { lead_ms })
    }

    /// How far the wall clock, which says `wall_ms`, is ahead of this one.
    fn lead_ms(&self, wall_ms: u64) -> i64 {
        wall_ms.cast_signed().saturating_sub(self.now_ms().cast_signed())
    }
}

pub(crate) fn wall_clock_ms() -> u64 {
    millis(wall_clock())
}

/// How the relay's time goes on from earlier runs to this one, and to the next.
#[derive(Debug)]
pub(crate) struct Past {
    path: PathBuf,
    /// Whether earlier runs have left their time.
    is_known: bool,
    /// When it was written last.
    written: Instant,
    /// How far the wall clock was ahead at the last look.
    lead_ms: i64,
}

/// Both times when a relay was last seen to run, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    relay_ms: u64,
    wall_ms: u64,
}

impl Seen {
    fn parse(text: &str) -> Option<Seen> {
        let mut words = text.split_whitespace();
        let mut number = |name| words.next().filter(|word| *word == name).and(words.next())?.parse().ok();
        let seen = Seen { relay_ms: number("relay")?, wall_ms: number("wall")? };
        (number("sum")? == seen.sum()).then_some(seen)
    }

    /// What another shard is just writing is not taken for a time.
    fn sum(&self) -> u64 {
        self.relay_ms.wrapping_mul(3).wrapping_add(self.wall_ms)
    }

    fn text(&self) -> String {
        let text = format!("relay {} wall {} sum {}", self.relay_ms, self.wall_ms, self.sum());
        format!("{text:<width$}\n", width = FILE_BYTES - 1)
    }

    /// The relay's time in a run that begins when the wall clock says `wall_ms`.
    fn go_on(&self, wall_ms: u64, max_age: Duration) -> u64 {
        let down_ms = wall_ms.saturating_sub(self.wall_ms).min(millis(restart_max(max_age)));
        self.relay_ms.saturating_add(down_ms)
    }
}

/// Time between two runs that counts.
fn restart_max(max_age: Duration) -> Duration {
    (max_age / RESTART_SHARE).min(RESTART_MAX)
}

impl Past {
    /// Reads what earlier runs have left, and begins this one. Without that, what the wall clock says is taken for true. Every shard
    /// does so and has the same time: it does not matter whether one reads what another has just written.
    pub(crate) async fn load(directory: &Path, max_age: Duration) -> (Clock, Past) {
        let path = directory.join("clock");
        let (seen, wall_ms) = (read(&path).await, wall_clock_ms());
        let back_ms = seen.map_or(0, |seen| seen.wall_ms.saturating_sub(wall_ms));
        if back_ms >= JUMP_MS {
            let back = Duration::from_millis(back_ms);
            log::warn!("the wall clock is {back:?} behind what it was in the last run");
        }
        let start_ms = seen.map_or(wall_ms, |seen| seen.go_on(wall_ms, max_age));
        let clock = Clock { start: turn_time(), start_ms };
        write(&path, Seen { relay_ms: start_ms, wall_ms }, true).await;
        // The name of a new file.
        let _ = fs::sync_dir(directory).await;
        (clock, Past { path, is_known: seen.is_some(), written: now(), lead_ms: clock.lead_ms(wall_ms) })
    }

    /// When by the relay's time a recovered message has arrived: not in the future.
    pub(crate) fn arrival_ms(&self, clock: &Clock, envelope: &Envelope) -> u64 {
        let lead_ms = if self.is_known { envelope.lead_ms } else { 0 };
        envelope.arrived_ms.saturating_sub_signed(lead_ms).min(clock.now_ms())
    }

    /// Says when the wall clock has jumped.
    fn look(&mut self, clock: &Clock) {
        let lead_ms = clock.lead_ms(wall_clock_ms());
        let by_ms = lead_ms.saturating_sub(std::mem::replace(&mut self.lead_ms, lead_ms));
        if by_ms.unsigned_abs() >= JUMP_MS {
            let (by, direction) = (by_ms.unsigned_abs(), if by_ms > 0 { "ahead" } else { "back" });
            let by = Duration::from_millis(by);
            log::warn!("the wall clock has jumped {direction} by {by:?}; mail ages as if it had not");
        }
    }
}

/// What the file tells; nothing when there is none, or it stays without sense.
async fn read(path: &Path) -> Option<Seen> {
    let options = OpenOptions { read: true, regular: true, ..OpenOptions::default() };
    let attempt = async || File::open(path, &options).await?.read_at(0, FILE_BYTES).await;
    for _ in 0..READS_MAX {
        match attempt().await {
            Ok(bytes) => match std::str::from_utf8(&bytes).ok().and_then(Seen::parse) {
                Some(seen) => return Some(seen),
                None => log::debug!("{} makes no sense", path.display()),
            },
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => break,
            Err(error) => log::debug!("{} cannot be read: {error}", path.display()),
        }
        sleep(READ_AGAIN).await;
    }
    None
}

/// Replaces what the file tells, durably if wanted.
async fn write(path: &Path, seen: Seen, durably: bool) {
    let options = OpenOptions { write: true, create: true, regular: true, ..OpenOptions::default() };
    let written = async {
        let file = File::open(path, &options).await?;
        file.write_at(seen.text().into_bytes(), 0).await?;
        if durably { file.sync_data().await } else { Ok(()) }
    };
    // Known to this run, and written again soon.
    if let Err(error) = written.await {
        log::debug!("{} cannot be written: {error}", path.display());
    }
}

/// Looks at the wall clock, and notes now and then how it stands to the relay's time. That is not synced: after a power cut a little
/// more time does not count.
pub(crate) async fn look(past: &RefCell<Past>, clock: &Clock, max_age: Duration) {
    let path = {
        let mut past = past.borrow_mut();
        past.look(clock);
        if now() - past.written < restart_max(max_age) / 4 {
            return;
        }
        past.written = now();
        past.path.clone()
    };
    write(&path, Seen { relay_ms: clock.now_ms(), wall_ms: wall_clock_ms() }, false).await;
}

/// Milliseconds, as many as a counter of them holds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;
    const AGE: Duration = Duration::from_secs(5 * 86_400);

    /// From one run to the next the relay's time goes on by what the wall clock does, but not back, and not by more than a
    /// restart takes.
    #[test]
    fn runs() {
        let seen = Seen { relay_ms: 10 * DAY, wall_ms: 20_000 * DAY };
        let passed = |wall_ms| seen.go_on(wall_ms, AGE) - seen.relay_ms;
        assert_eq!(passed(seen.wall_ms + 1500), 1500);
        assert_eq!(passed(seen.wall_ms + DAY), 600_000);
        assert_eq!(passed(seen.wall_ms - DAY), 0);
        assert_eq!(seen.go_on(seen.wall_ms + DAY, Duration::from_secs(160)) - seen.relay_ms, 10_000);
        assert_eq!((seen.text().len(), Seen::parse(&seen.text())), (FILE_BYTES, Some(seen)));
    }

    /// A file of something else tells nothing.
    #[test]
    fn foreign_text() {
        for text in [
            "",
            "\0\0",
            "seen 1",
            "relay x wall 1",
            "relay 1 wall 1",
            "relay 1 wall 1 sum 5",
            "relay 1 wall",
            "wall 1 relay 1",
            "void",
        ] {
            assert_eq!(Seen::parse(text), None, "{text:?}");
        }
    }
}
