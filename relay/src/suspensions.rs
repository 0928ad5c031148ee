//! Suspending delivery to a domain or a site, by the operator.
//!
//! Mail goes on being accepted, and waits; the age limit holds. What is suspended is kept in the file `suspended` in the
//! spool's directory, so that it is so after a restart too. A transaction under way is finished.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use chasqui_protocol::control::Target;
use chasqui_runtime::fs::{self, File, OpenOptions};
use chasqui_runtime::sync::Semaphore;

use thiserror::Error;

use crate::queue::Queue;
use crate::route::SiteKey;

/// Domains and sites that can be suspended at a time.
const SUSPENDED_MAX: usize = 1000;
/// Octets of the file that are read: as many domains and sites with the longest names.
const FILE_MAX: usize = 16 << 20;

/// Why what is suspended is not known: the relay does not start, and the operator mends the file.
#[derive(Debug, Error)]
pub(crate) enum LoadError {
    #[error("{}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("{}: not what was written; mend it (`domain NAME` or `site NAME` a line) or remove it", .0.display())]
    Foreign(PathBuf),
}

/// Why nothing was suspended or resumed: who asked is told.
#[derive(Debug, Error)]
pub(crate) enum ChangeError {
    #[error("{SUSPENDED_MAX} domains and sites are suspended; resume others first")]
    Full,
    #[error("it cannot be kept: {0}")]
    Unkept(io::Error),
}

/// All that is suspended, and its file.
pub(crate) struct Suspended {
    directory: PathBuf,
    targets: RefCell<BTreeSet<Target>>,
    /// One change at a time.
    changing: Semaphore,
}

impl Suspended {
    /// Reads the file; without one nothing is suspended.
    pub(crate) async fn load(directory: &Path) -> Result<Suspended, LoadError> {
        let path = directory.join("suspended");
        let targets = match read(&path).await {
            Ok(text) => parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(BTreeSet::new()),
            Err(error) => return Err(LoadError::Unreadable { path, error }),
        };
        let targets = targets.ok_or(LoadError::Foreign(path))?;
        let (targets, changing) = (RefCell::new(targets), Semaphore::new(1));
        Ok(Suspended { directory: directory.to_owned(), targets, changing })
    }

    /// Everything that is suspended.
    pub(crate) fn targets(&self) -> BTreeSet<Target> {
        self.targets.borrow().clone()
    }

    /// Suspends or resumes, durably; whether that changes anything.
    pub(crate) async fn change(&self, target: &Target, suspend: bool) -> Result<bool, ChangeError> {
        let _alone = self.changing.acquire(1).await;
        let mut targets = self.targets();
        let changed = if suspend { targets.insert(target.clone()) } else { targets.remove(target) };
        if !changed {
            return Ok(false);
        }
        if targets.len() > SUSPENDED_MAX {
            return Err(ChangeError::Full);
        }
        write(&self.directory, &targets).await.map_err(ChangeError::Unkept)?;
        self.targets.replace(targets);
        Ok(true)
    }
}

fn parse(text: &str) -> Option<BTreeSet<Target>> {
    let target = |line: &str| match line.split_once(' ')? {
        ("domain", name) => Target::Domain(name.to_owned()).checked().ok(),
        ("site", name) => Target::Site(name.to_owned()).checked().ok(),
        _ => None,
    };
    text.lines().map(target).collect()
}

async fn read(path: &Path) -> io::Result<String> {
    let options = OpenOptions { read: true, regular: true, ..OpenOptions::default() };
    let file = File::open(path, &options).await?;
    let bytes = file.read_at(0, FILE_MAX).await?;
    String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Replaces the file: whole after a crash, old or new.
async fn write(directory: &Path, targets: &BTreeSet<Target>) -> io::Result<()> {
    let mut text = String::new();
    for target in targets {
        let (kind, name) = match target {
            Target::Domain(name) => ("domain", name),
            Target::Site(name) => ("site", name),
        };
        text.extend([kind, " ", name, "\n"]);
    }
    let (path, new) = (directory.join("suspended"), directory.join("suspended.new"));
    let options =
        OpenOptions { write: true, create: true, truncate: true, regular: true, ..OpenOptions::default() };
    let file = File::open(&new, &options).await?;
    file.write_at(text.into_bytes(), 0).await?;
    file.sync_data().await?;
    fs::rename(&new, &path).await?;
    fs::sync_dir(directory).await
}

/// Suspends or resumes a domain or site on this shard.
pub(crate) fn apply(queue: &mut Queue, target: &Target, suspend: bool) {
    match target {
        Target::Site(name) => {
            queue.sites.suspend(&SiteKey::from(name.as_str()), suspend);
        }
        // Jobs at sites are found when they are taken.
        Target::Domain(domain) if suspend => {
            queue.suspensions.suspend(domain);
        }
        Target::Domain(domain) => queue.resume(domain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chasqui_runtime::{Config, run, timeout};
    use std::time::Duration;

    /// A pipe in the place of the file does not hang the start: it is told of.
    #[test]
    fn a_pipe_for_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        assert!(std::process::Command::new("mkfifo").arg(path.join("suspended")).status().unwrap().success());
        run(Config::default(), move || {
            let path = path.clone();
            async move {
                let loaded = timeout(Duration::from_secs(10), Suspended::load(&path)).await;
                let line = loaded.expect("it does not hang").err().expect("refused").to_string();
                assert!(line.contains("suspended: it is not a regular file"), "{line}");
            }
        })
        .unwrap();
    }

    /// What is written is read again; a file of something else is refused.
    #[test]
    fn lines() {
        let targets = parse("domain a.test\nsite 10 mx.a.test:25,20 mx.b.test:25\n").expect("two");
        assert!(targets.contains(&Target::Site("10 mx.a.test:25,20 mx.b.test:25".into())));
        assert_eq!(targets.len(), 2);
        assert_eq!(parse("domain a b\n"), None);
        assert_eq!(parse(""), Some(BTreeSet::new()));
        assert_eq!(parse("a.test\n"), None);
    }
}
