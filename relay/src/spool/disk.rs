//! Segment files by number, and the one place through which the spool writes and syncs them.

use std::io;
use std::path::{Path, PathBuf};

use chasqui_runtime::fs::{self, File, OpenOptions, Segment, Slice};
use chasqui_runtime::{now, sleep};
use std::time::Duration;

use super::error::is_no_space;
use crate::spool::format::headers::{BLOCK, Identity, SegmentHeader};
use crate::spool::format::index::IndexPlace;
use crate::spool::format::scan::FoundGroup;

/// What the disk refused is tried again after this: FORMAT.md, *Writing*, 8.
pub(crate) const RETRY: Duration = Duration::from_secs(1);
/// Bytes of zeros written at once: the memory it takes, and one operation for that many bytes.
const STEP_BYTES: usize = 1 << 20;

/// What stands under the segment files.
#[derive(Clone, Debug)]
pub(crate) enum Disk {
    /// Files.
    Real,
    /// Files whose writes and syncs a test delays or fails.
    #[cfg(test)]
    Faulty(std::rc::Rc<super::tests::Faults>),
}

impl Disk {
    /// The disk of this shard: files, unless a test has planted faults before them.
    pub(crate) fn of_shard() -> Disk {
        #[cfg(test)]
        if let Some(faults) = super::tests::planted() {
            return Disk::Faulty(faults);
        }
        Disk::Real
    }
}

/// An open segment file.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    segment: Segment,
    disk: Disk,
    #[cfg(test)]
    path: PathBuf,
}

impl SegmentFile {
    /// Makes a file of zeros, durable but for its name. A disk that is busy with zeros cannot sync mail, so they go
    /// out in steps with pauses between them, unless it is `urgent`.
    pub(crate) async fn create(
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

    pub(crate) async fn open(disk: &Disk, path: &Path) -> io::Result<SegmentFile> {
        Ok(SegmentFile::new(Segment::open(path).await?, disk, path))
    }

    /// A block of zeros in memory.
    pub(crate) fn nowhere(disk: &Disk) -> io::Result<SegmentFile> {
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

    pub(crate) fn len(&self) -> u64 {
        self.segment.len()
    }

    /// Does a name lead to it still?
    pub(crate) fn is_linked(&self) -> bool {
        self.segment.is_linked()
    }

    pub(crate) fn leases(&self) -> usize {
        self.segment.leases()
    }

    pub(crate) fn slice(&self, offset: u64, length: u32) -> Slice {
        self.segment.slice(offset, length)
    }

    pub(crate) async fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        #[cfg(test)]
        if let Disk::Faulty(faults) = &self.disk {
            faults.before_read().await;
        }
        self.segment.read_async(offset, length).await
    }

    /// Reads, with a lease, so that the segment is not overwritten meanwhile.
    pub(crate) async fn read_leased(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let lease = self.segment.slice(offset, length as u32);
        let bytes = self.read(offset, length).await;
        drop(lease);
        bytes
    }

    /// Writes pieces, whole blocks together, one behind the other into the page cache.
    pub(crate) fn append_at(&self, offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        #[cfg(test)]
        if let Disk::Faulty(faults) = &self.disk {
            faults.before_append(&self.path, &self.segment, offset, &pieces.concat())?;
        }
        self.segment.append_at(offset, pieces)
    }

    /// Makes durable what was appended before the call.
    pub(crate) async fn sync(&self) -> io::Result<()> {
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
pub(crate) fn segment_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("segment-{number:08}"))
}

/// The path of a segment file before it has its header.
pub(crate) fn unborn_path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("segment-{number:08}{UNBORN}"))
}

/// The path of the file that a start begins in when the disk is full.
pub(crate) fn reserve_path(dir: &Path) -> PathBuf {
    dir.join("reserve")
}

/// Where damaged and foreign files go.
pub(crate) fn quarantine_dir(dir: &Path) -> PathBuf {
    dir.join("quarantine")
}

const UNBORN: &str = ".new";

/// What an entry of a shard's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Segment(u32),
    /// A crash came before it had its header: nothing was ever in it.
    Unborn,
    Other,
}

/// Tells by the name.
pub(crate) fn classify(path: &Path) -> Entry {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name.strip_prefix("segment-") {
        Some(number) if number.ends_with(UNBORN) => Entry::Unborn,
        Some(number) => number.parse().map_or(Entry::Other, Entry::Segment),
        None => Entry::Other,
    }
}

/// Reads the groups of a segment from its index; `None` when it has none that is whole.
pub(crate) async fn read_index(file: &SegmentFile, identity: Identity) -> Option<Vec<FoundGroup>> {
    let last = file.read(file.len().checked_sub(BLOCK)?, BLOCK as usize).await.ok()?;
    let place = IndexPlace::find(&last, identity, file.len())?;
    let bytes = file.read(place.offset, place.length).await.ok()?;
    place.groups(&bytes)
}

/// Makes a segment file: under another name until its header is durable, so that a file with a segment's name
/// without a header is damage.
pub(crate) async fn create(
    disk: &Disk,
    dir: &Path,
    file: u32,
    header: &SegmentHeader,
    urgent: impl Fn() -> bool,
) -> io::Result<SegmentFile> {
    let (unborn, path) = (unborn_path(dir, file), segment_path(dir, file));
    let made = async {
        let segment = SegmentFile::create(disk, &unborn, header.length, urgent).await?;
        segment.append_at(0, &[&header.encode()])?;
        segment.sync().await?;
        fs::rename(&unborn, &path).await?;
        fs::sync_dir(dir).await?;
        Ok(segment)
    }
    .await;
    if made.is_err() {
        // What there is of it takes space; it may not even exist.
        let _ = fs::remove_file(&unborn).await;
    }
    made
}

/// As [`move_aside`]; on a full disk the file stays where it is, for a later start.
pub(crate) async fn move_aside_if_room(dir: &Path, path: &Path) -> io::Result<()> {
    match move_aside(dir, path).await {
        Err(error) if is_no_space(&error) => {
            log::warn!("spool: cannot move {} to quarantine: {error}", path.display());
            Ok(())
        }
        moved => moved,
    }
}

/// Moves a file into the quarantine directory, under a name that is not taken.
pub(crate) async fn move_aside(dir: &Path, path: &Path) -> io::Result<()> {
    let quarantine = quarantine_dir(dir);
    fs::create_dir_all(&quarantine).await?;
    let taken = fs::read_dir(&quarantine).await?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("file");
    let free_name = (0..=taken.len()).map(|count| quarantine.join(format!("{name}.{count}")));
    let target = free_name.into_iter().find(|name| !taken.contains(name)).expect("more names than files");
    fs::rename(path, &target).await?;
    fs::sync_dir(&quarantine).await?;
    fs::sync_dir(dir).await
}
