//! What tells the mailboxes of one process from those of the one before it: UIDVALIDITY (RFC 3501 section 2.3.1.1), which is part of
//! POP3's unique ids too. It differs after every start, and ascends.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use crate::error::StartError;

/// The start of 2026: 32 bits of [`UNIT`] last from then into 2043.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);
/// What UIDVALIDITY counts. No mailbox is served before the unit of its start is over, so the next process has another one.
const UNIT: Duration = Duration::from_millis(125);
/// Longest file that is read.
const STATE_BYTES_MAX: u64 = 32;

/// The UIDVALIDITY of a process that starts, and how long it waits before it serves a mailbox.
#[derive(Debug)]
pub(crate) struct Incarnation {
    pub(crate) uid_validity: NonZeroU32,
    pub(crate) wait: Duration,
    /// Held as long as the process serves: no other one has the same state.
    pub(crate) claim: Option<File>,
}

impl Incarnation {
    /// By the clock alone (time since the Unix epoch). It must not be set back between two starts.
    pub(crate) fn by_clock(now: Duration) -> Incarnation {
        let since = now.saturating_sub(EPOCH).as_millis();
        let unit = UNIT.as_millis();
        let number = u32::try_from(since / unit + 1).unwrap_or(u32::MAX);
        let wait = Duration::from_millis((unit - since % unit) as u64);
        Incarnation { uid_validity: NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN), wait, claim: None }
    }

    /// By the clock, and after the last one, which a file of this process's own keeps.
    pub(crate) fn by_state(now: Duration, path: &Path) -> Result<Incarnation, StartError> {
        let failed = |error: io::Error| StartError::State { path: path.to_owned(), error };
        let claim = claim(path).map_err(failed)?.ok_or_else(|| {
            let path = path.display();
            StartError::Config(format!(
                "{path} is the state of a sink that runs: name another file, or stop that sink"
            ))
        })?;
        let last = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            file => {
                let mut text = String::new();
                file.and_then(|file| file.take(STATE_BYTES_MAX).read_to_string(&mut text)).map_err(failed)?;
                let wrong = || {
                    let path = path.display();
                    StartError::Config(format!(
                        "{path} is no state of a sink: remove it, or name another file"
                    ))
                };
                text.trim_end().parse::<u32>().map_err(|_| wrong())?
            }
        };
        let next = last.checked_add(1).and_then(NonZeroU32::new).ok_or_else(|| {
            StartError::Config(format!("{} has no next number: remove the file", path.display()))
        })?;
        let uid_validity = next.max(Incarnation::by_clock(now).uid_validity);
        write(path, uid_validity).map_err(failed)?;
        Ok(Incarnation { uid_validity, wait: Duration::ZERO, claim: Some(claim) })
    }
}

/// A lock beside the file, which is replaced and so cannot be locked itself. `None`: another process has it.
fn claim(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(beside(path, ".lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn beside(path: &Path, suffix: &str) -> OsString {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name
}

/// The file is the old one or the new one, also after a crash.
fn write(path: &Path, number: NonZeroU32) -> io::Result<()> {
    let new = beside(path, ".new");
    let mut file = File::create(&new)?;
    file.write_all(format!("{number}\n").as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_millis(1_800_000_000_060);

    /// Whoever starts when the wait of another one is over has a higher number, and numbers last for years.
    #[test]
    fn clocks_ascend() {
        let first = Incarnation::by_clock(NOW);
        assert!(first.wait > Duration::ZERO && first.wait <= UNIT);
        let second = Incarnation::by_clock(NOW + first.wait);
        assert_eq!(second.uid_validity.get(), first.uid_validity.get() + 1);
        assert!(
            Incarnation::by_clock(NOW + Duration::from_secs(86_400 * 365 * 15)).uid_validity.get() < u32::MAX
        );
        assert_eq!(Incarnation::by_clock(Duration::ZERO).uid_validity, NonZeroU32::MIN);
    }

    /// Of two sinks with one state the second is refused while the first one runs, and takes nothing from its numbers.
    #[test]
    fn one_sink_has_a_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let first = Incarnation::by_state(NOW, &path).unwrap();
        let refused = Incarnation::by_state(NOW, &path).unwrap_err().to_string();
        assert!(refused.contains("a sink that runs") && !refused.contains('\n'), "{refused}");
        let number = first.uid_validity.get();
        drop(first);
        assert_eq!(Incarnation::by_state(NOW, &path).unwrap().uid_validity.get(), number + 1);
    }

    /// With a state numbers ascend whatever the clock says; what is no state is refused and left alone.
    #[test]
    fn states_ascend() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let start = |now| Incarnation::by_state(now, &path).map(|incarnation| incarnation.uid_validity.get());
        let first = start(NOW).unwrap();
        assert_eq!(first, Incarnation::by_clock(NOW).uid_validity.get());
        assert_eq!(start(NOW).unwrap(), first + 1);
        assert_eq!(start(NOW - Duration::from_secs(86_400)).unwrap(), first + 2);
        assert!(start(NOW + Duration::from_secs(60)).unwrap() > first + 400);
        for wrong in ["", "mail", "-1", "4294967295", "99999999999999999999999999999999999999"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(matches!(start(NOW), Err(StartError::Config(_))), "{wrong}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), wrong);
        }
        let nowhere = Incarnation::by_state(NOW, &directory.path().join("none/state"));
        assert!(matches!(nowhere, Err(StartError::State { .. })));
    }
}
