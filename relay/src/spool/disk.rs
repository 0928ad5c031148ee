//! Segment files by number, and the one place through which the spool writes and syncs them.

use std::io;
use std::path::{Path, PathBuf};

use chasqui_runtime::fs::{File, OpenOptions, Segment, Slice};
use chasqui_runtime::{now, sleep};

use super::format::BLOCK;

/// Bytes of zeros written at once.
const STEP_BYTES: usize = 1 << 20;

/// What stands under the segment files.
#[derive(Clone, Debug)]
pub(super) enum Disk {
    /// Files.
    Real,
    /// Files whose writes and syncs a test delays or fails.
    #[cfg(test)]
    Faulty(std::rc::Rc<super::tests::Faults>),
}

impl Disk {
    /// The disk of this shard: files, unless a test has planted faults before them.
    pub(super) fn of_shard() -> Disk {
        #[cfg(test)]
        if let Some(faults) = super::tests::planted() {
            return Disk::Faulty(faults);
        }
        Disk::Real
    }
}

/// An open segment file.
#[derive(Debug)]
pub(super) struct SegmentFile {
    segment: Segment,
    disk: Disk,
    #[cfg(test)]
    path: PathBuf,
}

impl SegmentFile {
    /// Makes a file of zeros, durable but for its name. A disk that is busy with zeros cannot sync mail, so they go
    /// out in steps with pauses between them, unless it is `urgent`.
    pub(super) async fn create(
        disk: &Disk,
        path: &Path,
        length: u64,
        urgent: impl Fn() -> bool,
    ) -> io::Result<SegmentFile> {
        #[cfg(test)]
        if let Disk::Faulty(faults) = disk {
            faults.before_create()?;
        }
        let options = OpenOptions {
            write: true,
            create: true,
            truncate: true,
            regular: true,
            ..OpenOptions::default()
        };
        let file = File::open(path, &options).await?;
        let mut zeros = Vec::new();
        for offset in (0..length).step_by(STEP_BYTES) {
            let start = now();
            zeros.resize(STEP_BYTES.min((length - offset) as usize), 0);
            zeros = file.write_at(zeros, offset).await?;
            if !urgent() {
                file.sync_data().await?;
                sleep(now() - start).await;
            }
        }
        file.sync_data().await?;
        SegmentFile::open(disk, path).await
    }

    pub(super) async fn open(disk: &Disk, path: &Path) -> io::Result<SegmentFile> {
        Ok(SegmentFile::new(Segment::open(path).await?, disk, path))
    }

    /// A block of zeros in memory.
    pub(super) fn nowhere(disk: &Disk) -> io::Result<SegmentFile> {
        Ok(SegmentFile::new(Segment::anonymous(BLOCK)?, disk, Path::new("nowhere")))
    }

    #[cfg_attr(not(test), expect(unused_variables, reason = "the path is for the faults of tests"))]
    fn new(segment: Segment, disk: &Disk, path: &Path) -> SegmentFile {
        SegmentFile {
            segment,
            disk: disk.clone(),
            #[cfg(test)]
            path: path.with_extension(""),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.segment.len()
    }

    /// Does a name lead to it still?
    pub(super) fn is_linked(&self) -> bool {
        self.segment.is_linked()
    }

    pub(super) fn leases(&self) -> usize {
        self.segment.leases()
    }

    pub(super) fn slice(&self, offset: u64, length: u32) -> Slice {
        self.segment.slice(offset, length)
    }

    pub(super) async fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        #[cfg(test)]
        if let Disk::Faulty(faults) = &self.disk {
            faults.before_read().await;
        }
        self.segment.read_async(offset, length).await
    }

    /// Reads, with a lease, so that the segment is not overwritten meanwhile.
    pub(super) async fn read_leased(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let lease = self.segment.slice(offset, length as u32);
        let bytes = self.read(offset, length).await;
        drop(lease);
        bytes
    }

    /// Writes pieces, whole blocks together, one behind the other into the page cache.
    pub(super) fn append_at(&self, offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        #[cfg(test)]
        if let Disk::Faulty(faults) = &self.disk {
            faults.before_append(&self.path, &self.segment, offset, &pieces.concat())?;
        }
        self.segment.append_at(offset, pieces)
    }

    /// Makes durable what was appended before the call.
    pub(super) async fn sync(&self) -> io::Result<()> {
        match &self.disk {
            Disk::Real => self.segment.sync().await,
            #[cfg(test)]
            Disk::Faulty(faults) => {
                let covered = faults.before_sync(&self.path).await?;
                self.segment.sync().await?;
                faults.after_sync(&self.path, covered);
                Ok(())
            }
        }
    }
}

/// The path of segment file `number`.
pub(super) fn segment_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("segment-{number:08}"))
}

/// The path of a segment file before it has its header.
pub(super) fn unborn_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("segment-{number:08}{UNBORN}"))
}

/// Where damaged and foreign files go.
pub(super) fn quarantine_dir(dir: &Path) -> PathBuf {
    dir.join("quarantine")
}

const UNBORN: &str = ".new";

/// What an entry of a shard's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Segment(u32),
    /// A crash came before it had its header: nothing was ever in it.
    Unborn,
    Other,
}

/// Tells by the name.
pub(super) fn classify(path: &Path) -> Entry {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.strip_prefix("segment-") {
        Some(number) if number.ends_with(UNBORN) => Entry::Unborn,
        Some(number) => number.parse().map_or(Entry::Other, Entry::Segment),
        None => Entry::Other,
    }
}
