//! Directories of a simulated disk: names as they are, names as they are durable, and the changes between.
//!
//! A change is durable once each directory it touches was synced after it. At a power cut a prefix of the changes
//! that are left survives, as of a journal.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::FileId;
use crate::sim::world::World;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Directory,
    File(FileId),
}

type Tree = BTreeMap<PathBuf, Entry>;

#[derive(Clone, Debug)]
enum Change {
    Add(PathBuf, Entry),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
}

impl Change {
    fn apply(&self, tree: &mut Tree) {
        match self {
            Self::Add(path, entry) => drop(tree.insert(path.clone(), *entry)),
            Self::Remove(path) => drop(tree.remove(path)),
            Self::Rename(from, to) => {
                let moved: Vec<PathBuf> =
                    tree.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for path in moved {
                    if let (Some(entry), Ok(rest)) = (tree.remove(&path), path.strip_prefix(from)) {
                        // Joining an empty rest would add a slash.
                        let target = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                        tree.insert(target, entry);
                    }
                }
            }
        }
    }

    fn directories(&self) -> Vec<PathBuf> {
        let parent = |path: &Path| path.parent().map(Path::to_owned);
        match self {
            Self::Add(path, _) | Self::Remove(path) => parent(path).into_iter().collect(),
            Self::Rename(from, to) => {
                let mut both: Vec<_> = parent(from).into_iter().chain(parent(to)).collect();
                both.dedup();
                both
            }
        }
    }
}

struct Pending {
    change: Change,
    /// Directories that were not synced since.
    unsynced: Vec<PathBuf>,
}

/// The names of one disk.
#[derive(Default)]
pub(super) struct Names {
    now: Tree,
    durable: Tree,
    pending: Vec<Pending>,
}

impl Names {
    fn entry(&self, path: &Path) -> Option<Entry> {
        if path.parent().is_none() {
            return Some(Entry::Directory); // the root
        }
        self.now.get(path).copied()
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        let unsynced = change.directories();
        self.pending.push(Pending { change, unsynced });
    }

    /// The file that a path names.
    pub(super) fn file(&self, path: &Path) -> io::Result<FileId> {
        match self.entry(path) {
            Some(Entry::File(file)) => Ok(file),
            Some(Entry::Directory) => Err(io::Error::from_raw_os_error(libc::EISDIR)),
            None => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }

    fn check_directory(&self, path: &Path) -> io::Result<()> {
        match self.entry(path) {
            Some(Entry::Directory) => Ok(()),
            Some(Entry::File(_)) => Err(io::Error::from_raw_os_error(libc::ENOTDIR)),
            None => Err(io::Error::from_raw_os_error(libc::ENOENT)),
        }
    }

    fn check_parent(&self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), |parent| self.check_directory(parent))
    }

    /// Gives a new file its name.
    pub(super) fn add(&mut self, path: &Path, file: FileId) -> io::Result<()> {
        self.check_parent(path)?;
        if self.entry(path).is_some() {
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        self.change(Change::Add(path.to_owned(), Entry::File(file)));
        Ok(())
    }

    pub(super) fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut ancestors: Vec<&Path> = path.ancestors().collect();
        ancestors.reverse();
        for ancestor in ancestors {
            if self.entry(ancestor).is_none() {
                self.change(Change::Add(ancestor.to_owned(), Entry::Directory));
            }
            self.check_directory(ancestor)?;
        }
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.check_directory(path)?;
        Ok(self.now.keys().filter(|entry| entry.parent() == Some(path)).cloned().collect())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let moved = self.entry(from).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        self.check_parent(to)?;
        match (moved, self.entry(to)) {
            (Entry::File(_), Some(Entry::Directory)) => {
                return Err(io::Error::from_raw_os_error(libc::EISDIR));
            }
            (Entry::Directory, Some(Entry::File(_))) => {
                return Err(io::Error::from_raw_os_error(libc::ENOTDIR));
            }
            (Entry::Directory, Some(Entry::Directory)) if !self.list(to)?.is_empty() => {
                return Err(io::Error::from_raw_os_error(libc::ENOTEMPTY));
            }
            _ => {}
        }
        self.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.change(Change::Remove(path.to_owned()));
        Ok(())
    }

    /// Removes what stands at a path, with all below it, durably.
    pub(super) fn remove_all(&mut self, path: &Path) {
        for tree in [&mut self.now, &mut self.durable] {
            tree.retain(|entry, _| !entry.starts_with(path));
        }
        let durable = &mut self.durable;
        self.pending.retain(|pending| match &pending.change {
            Change::Add(added, _) => !added.starts_with(path),
            Change::Remove(removed) => !removed.starts_with(path),
            Change::Rename(from, to) if to.starts_with(path) => {
                durable.remove(from);
                false
            }
            Change::Rename(..) => true,
        });
    }

    /// Whether a name leads to a file now.
    pub(super) fn leads_to(&self, file: FileId) -> bool {
        self.now.values().any(|entry| *entry == Entry::File(file))
    }

    /// Makes the changes in one directory durable.
    pub(super) fn sync(&mut self, path: &Path) -> io::Result<()> {
        self.check_directory(path)?;
        let durable = &mut self.durable;
        self.pending.retain_mut(|pending| {
            pending.unsynced.retain(|directory| directory != path);
            if pending.unsynced.is_empty() {
                pending.change.apply(durable);
            }
            !pending.unsynced.is_empty()
        });
        Ok(())
    }

    pub(super) fn exists(&self, path: &Path) -> io::Result<()> {
        self.entry(path).map(drop).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }

    /// Whether any name, durable or not, leads to a file.
    pub(super) fn mentions(&self, file: FileId) -> bool {
        let wanted = Entry::File(file);
        self.now.values().chain(self.durable.values()).any(|entry| *entry == wanted)
            || self
                .pending
                .iter()
                .any(|pending| matches!(&pending.change, Change::Add(_, entry) if *entry == wanted))
    }

    /// A power cut: a prefix of the changes that are not durable survives.
    pub(super) fn cut(&mut self, world: &World) {
        let pending = std::mem::take(&mut self.pending);
        let survive = world.below(pending.len() as u64 + 1) as usize;
        for Pending { change, .. } in &pending[..survive] {
            change.apply(&mut self.durable);
        }
        let rooted = |tree: &Tree, path: &Path| {
            path.ancestors().skip(1).all(|above| above.parent().is_none() || tree.contains_key(above))
        };
        let lost: Vec<PathBuf> =
            self.durable.keys().filter(|path| !rooted(&self.durable, path)).cloned().collect();
        for path in lost {
            self.durable.remove(&path);
        }
        self.now = self.durable.clone();
    }
}
