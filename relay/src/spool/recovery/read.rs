//! Reading of a shard's directory: it is locked, its files are scanned.

use std::io;
use std::path::{Path, PathBuf};

use chasqui_runtime::fs::{self, DirLock, FilesystemKind};

use super::assembly::{Assembly, ScannedFile};
use super::private;
use super::read_retry::ReadRetry;
use super::recover::{assemble, rivals};
use crate::spool::config::{Durability, SpoolConfig};
use crate::spool::disk::{
    Disk, Entry as DirEntry, SegmentFile, classify, move_aside_if_room, read_index, segment_path,
};
use crate::spool::error::OpenError;
use crate::spool::format::headers::{BLOCK, HeaderFault, SegmentHeader};
use crate::spool::format::scan::Scanner;

/// A directory whose files were read.
pub(crate) struct Scanned {
    pub(super) dir: PathBuf,
    pub(super) lock: DirLock,
    pub(super) files: Vec<(u32, SegmentFile)>,
    pub(super) next_file: u32,
    pub(crate) assembly: Assembly,
}

/// Locks a shard's directory and decides what counts in it. Writes nothing but removes unborn files.
pub(crate) async fn scan(config: &SpoolConfig, shard: usize, disk: &Disk) -> Result<Scanned, OpenError> {
    let dir = config.shard_dir(shard);
    let lock = lock(config, &dir).await?;
    let mut files = Vec::new();
    let mut scans = Vec::new();
    let mut report = Vec::new();
    let mut next_file = 1;
    let mut retry = ReadRetry::new();
    for path in fs::read_dir(&dir).await.map_err(OpenError::io("list", &dir))? {
        match classify(&path) {
            DirEntry::Segment(number) => {
                next_file = next_file.max(number + 1);
                // One that cannot be opened may hold mail: that is for the operator to decide.
                let opened = retry.run(async || SegmentFile::open(disk, &path).await).await;
                let file = opened.map_err(OpenError::io("open", &path))?;
                if file.len() <= BLOCK {
                    report.push(format!("{}: not a segment; moved aside", path.display()));
                    move_aside_if_room(&dir, &path).await.map_err(OpenError::io("move", &path))?;
                    continue;
                }
                let mut blocks = Blocks { path: &path, file: &file, retry: &mut retry, report: &mut report };
                scans.push(blocks.scan(number, true).await?);
                files.push((number, file));
            }
            DirEntry::Unborn => fs::remove_file(&path).await.map_err(OpenError::io("remove", &path))?,
            DirEntry::Other => {}
        }
    }
    for index in rivals(&scans) {
        let (number, file) = &files[index];
        let path = segment_path(&dir, *number);
        let mut blocks = Blocks { path: &path, file, retry: &mut retry, report: &mut report };
        let identity = scans[index].header.map(|header| header.identity).ok();
        let seen = blocks.scan(*number, false).await?.groups;
        scans[index].whole = seen.iter().filter(|group| Some(group.header.identity) == identity).count();
    }
    let mut assembly = assemble(&scans);
    report.into_iter().for_each(|line| assembly.quarantine(line));
    Ok(Scanned { dir, lock, files, next_file, assembly })
}

/// Makes the directory if there is none, and locks it. Its name, and those above it, are durable then.
async fn lock(config: &SpoolConfig, dir: &Path) -> Result<DirLock, OpenError> {
    private::open(config, dir).await?;
    if config.class == Durability::Synced {
        let kind = fs::filesystem_kind(dir).await.map_err(OpenError::io("examine", dir))?;
        if kind == FilesystemKind::Memory {
            return Err(OpenError::Volatile(dir.to_owned()));
        }
    }
    fs::sync_dir(&config.dir).await.map_err(OpenError::io("sync", &config.dir))?;
    // The spool's own entry, and those above that were made with it. What may not be read was not made by us.
    for above in config.dir.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        match fs::sync_dir(above).await {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            synced => synced.map_err(OpenError::io("sync", above))?,
        }
    }
    fs::lock_dir(dir).await.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked(dir.to_owned()),
        _ => OpenError::io("lock", dir)(error),
    })
}

/// A file whose blocks are read and read again where the disk refuses.
struct Blocks<'a> {
    path: &'a Path,
    file: &'a SegmentFile,
    retry: &'a mut ReadRetry,
    report: &'a mut Vec<String>,
}

impl Blocks<'_> {
    /// Finds the groups of the file, by its index if that is whole and may be used.
    async fn scan(&mut self, number: u32, by_index: bool) -> Result<ScannedFile, OpenError> {
        let length = self.file.len();
        let header = SegmentHeader::decode(&self.read(0, BLOCK as usize).await);
        if let Err(HeaderFault::UnknownVersion(version)) = header {
            return Err(OpenError::UnknownVersion { path: self.path.to_owned(), version });
        }
        let whole = header.ok().filter(|header| header.length == length && by_index);
        if let Some(header) = whole
            && let Some(groups) = read_index(self.file, header.identity).await
        {
            let (whole, fragments) = (groups.len(), Vec::new());
            return Ok(ScannedFile {
                file: number,
                length,
                header: Ok(header),
                groups,
                fragments,
                indexed: true,
                whole,
            });
        }
        let mut scanner = Scanner::new(header.ok().map(|header| header.identity), length);
        while let Some((offset, length)) = scanner.window() {
            scanner.feed(&self.read(offset, length).await);
        }
        let Scanner { groups, fragments, .. } = scanner;
        let whole = groups.len();
        Ok(ScannedFile { file: number, length, header, groups, fragments, indexed: false, whole })
    }

    /// Reads bytes; blocks that the disk refuses to give are zeros, which no group survives.
    async fn read(&mut self, offset: u64, length: usize) -> Vec<u8> {
        if let Ok(bytes) = self.file.read(offset, length).await {
            return bytes;
        }
        let mut bytes = Vec::with_capacity(length);
        for at in (offset..offset + length as u64).step_by(BLOCK as usize) {
            match self.retry.run(async || self.file.read(at, BLOCK as usize).await).await {
                Ok(block) => bytes.extend(block),
                Err(error) => {
                    self.report
                        .push(format!("{}: block at {at} cannot be read: {error}", self.path.display()));
                    bytes.resize(bytes.len() + BLOCK as usize, 0);
                }
            }
        }
        bytes
    }
}
