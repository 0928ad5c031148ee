//! The simulated disk of a node: files behind a page cache, and directories, both with what is durable of them.

mod calls;
mod file;
mod names;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use super::event::{Done, Event, Op, Payload};
use super::handle::OpenFile;
use super::nodes::Kill;
use super::options::DiskFaults;
use super::world::{NodeId, ProcessId, World};
use file::{File, PAGE_BYTES};
use names::Names;

/// Numbers a file of one disk.
pub(super) type FileId = u64;

/// What a disk can be made to fail at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOperation {
    /// Reads of files.
    Read,
    /// Writes, and the making of files.
    Write,
    /// fdatasync. As in Linux, what it covered counts as written afterwards and is not written again.
    Sync,
    /// Changes of directories, and the sync of one.
    Directory,
}

/// One node's disk.
pub(super) struct Disk {
    pub(super) operations: u64,
    pub(super) kill_at: Option<(u64, Kill)>,
    pub(super) faults: DiskFaults,
    files: BTreeMap<FileId, File>,
    names: Names,
    planned: VecDeque<DiskOperation>,
    capacity_pages: u64,
    /// Counts power cuts: what was under way before one does not end after it.
    era: u64,
    locks: BTreeMap<PathBuf, ProcessId>,
}

/// Work of an engine's operation, done some time after it was asked for.
pub(super) enum DiskWork {
    Read { file: OpenFile, offset: u64, length: usize },
    Write { file: OpenFile, offset: u64, bytes: Vec<u8> },
    Allocate { file: OpenFile, offset: u64, length: u64 },
}

/// An fdatasync under way.
pub(super) struct SyncInFlight {
    op: Op,
    process: ProcessId,
    pub(super) file: FileId,
    /// What was written before it began.
    covers: u64,
    era: u64,
}

impl Disk {
    pub(super) fn new(capacity_bytes: u64) -> Self {
        Self {
            operations: 0,
            kill_at: None,
            faults: DiskFaults::default(),
            files: BTreeMap::new(),
            names: Names::default(),
            planned: VecDeque::new(),
            capacity_pages: capacity_bytes / PAGE_BYTES as u64,
            era: 0,
            locks: BTreeMap::new(),
        }
    }

    pub(super) fn fail(&mut self, operation: DiskOperation, count: u32) {
        self.planned.extend((0..count).map(|_| operation));
    }

    pub(super) fn heal(&mut self) {
        self.planned.clear();
        self.faults = DiskFaults::default();
    }

    pub(super) fn set_capacity(&mut self, bytes: u64) {
        self.capacity_pages = bytes / PAGE_BYTES as u64;
    }

    fn used_pages(&self) -> u64 {
        self.files.values().map(File::pages).sum()
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_pages() * PAGE_BYTES as u64
    }

    /// What a mapping shows of a file: its page cache, zeros beyond the end.
    pub(super) fn mapped(&self, file: FileId, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = self.files.get(&file).map_or_else(Vec::new, |file| file.read(offset, length));
        bytes.resize(length, 0);
        bytes
    }

    pub(super) fn peek(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.names.file(path)?;
        let file = self.files.get(&file).ok_or(io::ErrorKind::NotFound)?;
        Ok(file.read(0, file.length() as usize))
    }

    pub(super) fn list(&self, path: &Path) -> Vec<PathBuf> {
        self.names.list(path).unwrap_or_default()
    }

    /// Removes a directory and all that is in it, or a file.
    pub(super) fn remove_all(&mut self, path: &Path) {
        self.names.remove_all(path);
        self.collect();
    }

    fn file(&mut self, id: FileId) -> io::Result<&mut File> {
        self.files.get_mut(&id).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// An error when `pages` more do not fit.
    fn reserve(&self, pages: u64) -> io::Result<()> {
        if pages > 0 && self.used_pages() + pages > self.capacity_pages {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        Ok(())
    }

    fn write(&mut self, id: FileId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let missing = self.file(id)?.missing_pages(offset, bytes.len() as u64);
        self.reserve(missing)?;
        self.file(id)?.write(offset, bytes);
        Ok(())
    }

    /// Forgets files that no name and no handle leads to.
    fn collect(&mut self) {
        let names = &self.names;
        self.files.retain(|id, file| file.handles > 0 || names.mentions(*id));
    }

    /// What a power cut leaves.
    fn cut(&mut self, world: &World) {
        self.era += 1;
        self.kill_at = None;
        self.names.cut(world);
        self.files.values_mut().for_each(|file| file.cut(world));
        self.collect();
    }
}

impl World {
    /// Counts an operation of a process's disk, and says whether it fails: by a planned fault, by chance, or
    /// because the process is no more. Without a kind it fails for the last reason only.
    fn disk_step(&self, process: ProcessId, kind: Option<DiskOperation>) -> io::Result<()> {
        let gone = || io::Error::other("the process has ended");
        if !self.is_alive(process) {
            return Err(gone());
        }
        let mut disks = self.disks.borrow_mut();
        let disk = &mut disks[self.node_of(process)];
        disk.operations += 1;
        self.step(12, disk.operations);
        if let Some((number, how)) = disk.kill_at
            && disk.operations >= number
        {
            disk.kill_at = None;
            drop(disks);
            self.end_process(process, how);
            return Err(gone());
        }
        let Some(kind) = kind else { return Ok(()) };
        let chance = match kind {
            DiskOperation::Read => disk.faults.read,
            DiskOperation::Write => disk.faults.write,
            DiskOperation::Sync => disk.faults.sync,
            DiskOperation::Directory => 0.0,
        };
        let planned = disk.planned.iter().position(|planned| *planned == kind);
        if planned.and_then(|index| disk.planned.remove(index)).is_some() || self.chance(chance) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }

    /// A synchronous write of all bytes.
    pub(super) fn write_now(&self, file: OpenFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let outcome = self.disk_step(file.process, Some(DiskOperation::Write));
        if outcome.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EIO)) {
            // Part of it may have been written.
            let part = self.below(bytes.len() as u64 + 1) as usize;
            let _full = self.disks.borrow_mut()[file.node].write(file.file, offset, &bytes[..part]);
        }
        outcome?;
        self.disks.borrow_mut()[file.node].write(file.file, offset, bytes)
    }

    /// A synchronous read; short at the file's end.
    pub(super) fn read_now(&self, file: OpenFile, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.disk_step(file.process, Some(DiskOperation::Read))?;
        Ok(self.disks.borrow_mut()[file.node].file(file.file)?.read(offset, length))
    }

    pub(super) fn file_length(&self, file: OpenFile) -> u64 {
        self.disks.borrow_mut()[file.node].file(file.file).map_or(0, |file| file.length())
    }

    /// Whether the disk has a name for the file.
    pub(super) fn is_named(&self, file: OpenFile) -> bool {
        self.disks.borrow()[file.node].names.leads_to(file.file)
    }

    pub(super) fn has_directory(&self, node: NodeId, path: &Path) -> bool {
        self.disks.borrow()[node].names.list(path).is_ok()
    }

    pub(super) fn close_file(&self, file: OpenFile) {
        let mut disks = self.disks.borrow_mut();
        let disk = &mut disks[file.node];
        if let Ok(state) = disk.file(file.file) {
            state.handles -= 1;
            if state.handles == 0 {
                disk.collect();
            }
        }
    }

    /// Does the work of an engine's operation.
    pub(super) fn disk_work(&self, op: Op, process: ProcessId, work: DiskWork) -> Done {
        let partial = |length: usize| {
            let cut_short = length > 1 && self.chance(self.options.disk.partial);
            if cut_short { 1 + self.below(length as u64 - 1) as usize } else { length }
        };
        let mut payload = Payload::None;
        let outcome = match work {
            DiskWork::Read { file, offset, length } => {
                self.read_now(OpenFile { process, ..file }, offset, partial(length)).map(|bytes| {
                    let count = bytes.len();
                    payload = Payload::Read(bytes);
                    count
                })
            }
            DiskWork::Write { file, offset, bytes } => {
                let count = partial(bytes.len());
                self.write_now(OpenFile { process, ..file }, offset, &bytes[..count]).map(|()| count)
            }
            DiskWork::Allocate { file, offset, length } => {
                self.disk_step(process, Some(DiskOperation::Write)).and_then(|()| {
                    let mut disks = self.disks.borrow_mut();
                    let disk = &mut disks[file.node];
                    let missing = disk.file(file.file)?.missing_pages(offset, length);
                    disk.reserve(missing)?;
                    disk.file(file.file)?.allocate(offset, length);
                    Ok(0)
                })
            }
        };
        let result = match outcome {
            Ok(count) => count as i32,
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        Done { op, result, more: false, payload }
    }

    /// Begins an fdatasync; it covers what has been written by now.
    pub(super) fn start_sync(&self, op: Op, file: OpenFile) {
        let disk_options = &self.options.disk;
        if self.disk_step(file.process, None).is_err() {
            return; // the process is no more
        }
        let mut disks = self.disks.borrow_mut();
        let disk = &mut disks[file.node];
        let era = disk.era;
        let Ok(state) = disk.file(file.file) else { return };
        let covers = state.written();
        let stalls = self.chance(disk_options.stall);
        let delay = self.micros(if stalls { &disk_options.stall_us } else { &disk_options.sync_us });
        let sync = SyncInFlight { op, process: file.process, file: file.file, covers, era };
        self.schedule(delay, Event::Synced(sync));
    }

    /// Ends an fdatasync. It goes on when its process has ended, but not over a power cut.
    pub(super) fn disk_synced(&self, sync: SyncInFlight) -> Option<Done> {
        let SyncInFlight { op, process, file, covers, era } = sync;
        let node = self.node_of(process);
        if self.disks.borrow()[node].era != era {
            return None;
        }
        let outcome = match self.is_alive(process) {
            true => self.disk_step(process, Some(DiskOperation::Sync)),
            false => Ok(()),
        };
        let mut disks = self.disks.borrow_mut();
        if disks[node].era != era {
            return None;
        }
        if let Ok(state) = disks[node].file(file) {
            match &outcome {
                Ok(()) => state.synced(covers),
                Err(error) if error.raw_os_error() == Some(libc::EIO) => state.sync_failed(covers, self),
                Err(_) => return None, // the process was killed just before
            }
        }
        let result = outcome.map_or_else(|error| -error.raw_os_error().unwrap_or(libc::EIO), |()| 0);
        Some(Done { op, result, more: false, payload: Payload::None })
    }

    /// What becomes of a disk when the process on it has ended.
    pub(super) fn disk_process_ended(&self, process: ProcessId, how: Kill) {
        let node = self.node_of(process);
        if how == Kill::PowerCut {
            self.disk_power_cut(node);
        }
        let mut disks = self.disks.borrow_mut();
        disks[node].locks.retain(|_, owner| *owner != process);
        disks[node].collect();
    }

    pub(super) fn disk_power_cut(&self, node: NodeId) {
        self.disks.borrow_mut()[node].cut(self);
    }

    pub(super) fn unlock(&self, node: NodeId, process: ProcessId, path: &Path) {
        let mut disks = self.disks.borrow_mut();
        if disks[node].locks.get(path) == Some(&process) {
            disks[node].locks.remove(path);
        }
    }
}
