//! Directories and their entries; all of it off the shard.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::blocking::spawn_blocking;
use crate::descriptor::Descriptor;
use crate::sim;

/// Makes a directory and the missing ones above it, each for its owner alone (mode 0700). The mode of what is there stays.
pub async fn create_dir_all(path: &Path) -> io::Result<()> {
    if let Some(here) = sim::here() {
        return here.create_dir_all(path).await;
    }
    let path = path.to_owned();
    spawn_blocking(move || std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)).await
}

/// Takes the rights of group and others away from a file or directory; the mode that it had, if it had any such right.
/// What a link points to stays as it is.
pub async fn make_private(path: &Path) -> io::Result<Option<u32>> {
    if sim::here().is_some() {
        return Ok(None);
    }
    let path = path.to_owned();
    spawn_blocking(move || {
        let metadata = std::fs::symlink_metadata(&path)?;
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_symlink() || mode & 0o077 == 0 {
            return Ok(None);
        }
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o700))?;
        Ok(Some(mode))
    })
    .await
}

/// The paths of a directory's entries, sorted.
pub async fn read_dir(path: &Path) -> io::Result<Vec<PathBuf>> {
    if let Some(here) = sim::here() {
        return here.read_dir(path).await;
    }
    let path = path.to_owned();
    spawn_blocking(move || {
        let mut paths = std::fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    })
    .await
}

/// Renames a file; durable after [`sync_dir`] of both directories.
pub async fn rename(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(here) = sim::here() {
        return here.rename(from, to).await;
    }
    let (from, to) = (from.to_owned(), to.to_owned());
    spawn_blocking(move || std::fs::rename(from, to)).await
}

/// Removes a file; durable after [`sync_dir`].
pub async fn remove_file(path: &Path) -> io::Result<()> {
    if let Some(here) = sim::here() {
        return here.remove_file(path).await;
    }
    let path = path.to_owned();
    spawn_blocking(move || std::fs::remove_file(path)).await
}

/// Makes a directory's entries durable.
pub async fn sync_dir(path: &Path) -> io::Result<()> {
    if let Some(here) = sim::here() {
        return here.sync_dir(path).await;
    }
    let path = path.to_owned();
    spawn_blocking(move || std::fs::File::open(path)?.sync_all()).await
}

/// The exclusive lock on a directory; given up when dropped or when the process ends.
#[derive(Debug)]
pub struct DirLock(Descriptor);

impl DirLock {
    /// Whether `path` still leads to the directory that is locked: it was not removed, moved or replaced. Two system calls
    /// on the shard.
    pub fn is_at(&self, path: &Path) -> bool {
        match &self.0 {
            Descriptor::Real(directory) => {
                let (Ok(held), Ok(found)) = (status(directory), std::fs::metadata(path)) else {
                    return false;
                };
                held.st_nlink > 0 && (held.st_dev, held.st_ino) == (found.dev(), found.ino())
            }
            Descriptor::Sim(handle) => handle.is_at(path),
        }
    }
}

/// What fstat tells.
pub(super) fn status(file: &impl AsRawFd) -> io::Result<libc::stat> {
    // SAFETY: all-zero bytes are a valid stat.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open during the call, which writes the local struct only.
    if unsafe { libc::fstat(file.as_raw_fd(), &mut status) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(status)
}

/// Locks a directory (flock); fails at once with [`io::ErrorKind::WouldBlock`] when another process has it.
pub async fn lock_dir(path: &Path) -> io::Result<DirLock> {
    if let Some(here) = sim::here() {
        return Ok(DirLock(here.lock_dir(path).await?));
    }
    let path = path.to_owned();
    spawn_blocking(move || {
        let directory = std::fs::File::open(path)?;
        // SAFETY: flock takes a descriptor, which stays open during the call, and a number.
        if unsafe { libc::flock(directory.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(DirLock(Descriptor::real(directory)))
    })
    .await
}

/// What a file system is made of, as far as durability cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilesystemKind {
    /// tmpfs or ramfs: gone at the next power loss, whatever is synced.
    Memory,
    /// Anything else, with the magic number of statfs(2).
    Disk(i64),
}

/// The kind of file system that holds `path`.
pub async fn filesystem_kind(path: &Path) -> io::Result<FilesystemKind> {
    if let Some(here) = sim::here() {
        return here.filesystem_kind(path);
    }
    let path = path.to_owned();
    spawn_blocking(move || filesystem_kind_blocking(&path)).await
}

/// As [`filesystem_kind`], for a thread that may block.
pub fn filesystem_kind_blocking(path: &Path) -> io::Result<FilesystemKind> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58F6;
    Ok(match statfs(path)?.f_type {
        TMPFS | RAMFS => FilesystemKind::Memory,
        other => FilesystemKind::Disk(other),
    })
}

/// Bytes an unprivileged process may still write on the file system that holds `path`.
pub async fn available_bytes(path: &Path) -> io::Result<u64> {
    if let Some(here) = sim::here() {
        return here.available_bytes(path);
    }
    let path = path.to_owned();
    let stat = spawn_blocking(move || statfs(&path)).await?;
    Ok(stat.f_bavail.saturating_mul(stat.f_bsize as u64))
}

fn statfs(path: &Path) -> io::Result<libc::statfs> {
    let directory = std::fs::File::open(path)?;
    // SAFETY: all-zero bytes are a valid statfs.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open during the call, which writes the local struct only.
    if unsafe { libc::fstatfs(directory.as_raw_fd(), &mut stat) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(stat)
}

/// Whether this process may make files in a directory.
pub fn may_make_files(directory: &Path) -> io::Result<bool> {
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: access reads the string, which lives through the call.
    if unsafe { libc::access(path.as_ptr(), libc::W_OK | libc::X_OK) } == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EACCES) || error.raw_os_error() == Some(libc::EROFS) => {
            Ok(false)
        }
        error => Err(error),
    }
}
