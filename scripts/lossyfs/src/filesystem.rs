//! The image as a FUSE file system. Syncs take a while, as on a disk, so that cuts fall into them.

use std::ffi::OsStr;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use crate::image::{Directory, File, Image, Node, Refusal};

/// The kernel alone changes what is here, so what it remembers stays right.
const TTL: Duration = Duration::from_secs(3600);
const BLOCK: u32 = 4096;

/// What fails on demand.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// Every sync answers EIO, and what it covered is lost.
    Sync,
    /// Every write answers EIO.
    Write,
}

/// What the mounted file system and the command loop share.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) image: Image,
    pub(crate) fault: Fault,
    /// The power is off: nothing reaches the image.
    pub(crate) off: bool,
    /// Counts cuts: a sync that began before one does nothing after it.
    pub(crate) life: u64,
    pub(crate) writes: u64,
    pub(crate) syncs: u64,
    /// Faults that were answered.
    pub(crate) failures: u64,
}

/// A sync under way.
pub(crate) struct Sync {
    done_at: Instant,
    life: u64,
    ino: u64,
    mark: u64,
    reply: ReplyEmpty,
}

/// One mount of the disk.
pub(crate) struct Mounted {
    pub(crate) disk: Arc<Mutex<Disk>>,
    pub(crate) syncs: Sender<Sync>,
    pub(crate) sync_time: Duration,
}

pub(crate) fn lock(disk: &Mutex<Disk>) -> MutexGuard<'_, Disk> {
    disk.lock().expect("no panic while the disk is locked")
}

impl Sync {
    /// Waits until the disk is done, then settles: durable first, answered afterwards.
    pub(crate) fn finish(self, disk: &Mutex<Disk>) {
        std::thread::sleep(self.done_at.saturating_duration_since(Instant::now()));
        let mut disk = lock(disk);
        if disk.off || disk.life != self.life {
            return self.reply.error(Errno::EIO);
        }
        if disk.fault == Fault::Sync {
            disk.failures += 1;
            disk.image.sync_failed(self.ino, self.mark);
            return self.reply.error(Errno::EIO);
        }
        disk.syncs += 1;
        disk.image.synced(self.ino, self.mark);
        self.reply.ok();
    }
}

impl Mounted {
    /// The disk, unless its power is off.
    fn disk(&self) -> Result<MutexGuard<'_, Disk>, Errno> {
        let disk = lock(&self.disk);
        if disk.off { Err(Errno::EIO) } else { Ok(disk) }
    }

    fn sync(&self, ino: INodeNo, reply: ReplyEmpty) {
        let begun = self.disk().and_then(|disk| Ok((disk.life, disk.image.mark(ino.0)?)));
        match begun {
            Ok((life, mark)) => {
                let done_at = Instant::now() + self.sync_time;
                let sync = Sync { done_at, life, ino: ino.0, mark, reply };
                // The receiver lives as long as the process; should it be gone, the dropped reply says EIO.
                let _ = self.syncs.send(sync);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn entry(&self, ino: Result<(u64, FileAttr), Errno>, reply: ReplyEntry) {
        match ino {
            Ok((_, attributes)) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn make(&self, parent: INodeNo, name: &OsStr, node: Node) -> Result<(u64, FileAttr), Errno> {
        let mut disk = self.disk()?;
        let ino = disk.image.make(parent.0, name, node)?;
        Ok((ino, attributes(&disk.image, ino)?))
    }
}

impl From<Refusal> for Errno {
    fn from(refusal: Refusal) -> Errno {
        match refusal {
            Refusal::NotFound => Errno::ENOENT,
            Refusal::NotADirectory => Errno::ENOTDIR,
            Refusal::IsADirectory => Errno::EISDIR,
            Refusal::Exists => Errno::EEXIST,
            Refusal::NotEmpty => Errno::ENOTEMPTY,
            Refusal::NoSpace => Errno::ENOSPC,
        }
    }
}

fn attributes(image: &Image, ino: u64) -> Result<FileAttr, Refusal> {
    let node = image.node(ino)?;
    let (kind, perm) = match node {
        Node::File(_) => (FileType::RegularFile, 0o600),
        Node::Directory(_) => (FileType::Directory, 0o700),
    };
    let time: SystemTime = UNIX_EPOCH;
    Ok(FileAttr {
        ino: INodeNo(ino),
        size: node.len(),
        blocks: node.len().div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK,
        flags: 0,
    })
}

fn answer(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for Mounted {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.disk().and_then(|disk| {
            let ino = disk.image.lookup(parent.0, name)?;
            Ok((ino, attributes(&disk.image, ino)?))
        });
        self.entry(found, reply);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.disk().and_then(|disk| Ok(attributes(&disk.image, ino.0)?)) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.disk().and_then(|mut disk| {
            if let Some(size) = size {
                disk.image.set_length(ino.0, size)?;
            }
            Ok(attributes(&disk.image, ino.0)?)
        });
        match set {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        self.entry(self.make(parent, name, Node::Directory(Directory::default())), reply);
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(parent, name, Node::File(File::default())) {
            Ok((_, attributes)) => {
                reply.created(&TTL, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.disk().and_then(|mut disk| Ok(disk.image.remove(parent.0, name, false)?)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer(self.disk().and_then(|mut disk| Ok(disk.image.remove(parent.0, name, true)?)), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let renamed =
            self.disk().and_then(|mut disk| Ok(disk.image.rename((parent.0, name), (to.0, to_name))?));
        answer(renamed, reply);
    }

    // Pages stay in the kernel's cache from open to open; every write passes through it to here.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk() {
            Ok(disk) => match disk.image.read(ino.0, offset, size) {
                Ok(bytes) => reply.data(bytes),
                Err(refusal) => reply.error(refusal.into()),
            },
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.disk().and_then(|mut disk| {
            if disk.fault == Fault::Write {
                disk.failures += 1;
                return Err(Errno::EIO);
            }
            let written = disk.image.write(ino.0, offset, data);
            disk.failures += u64::from(written.is_err());
            disk.writes += 1;
            Ok(written?)
        });
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(ino, reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.sync(ino, reply);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.disk().and_then(|disk| {
            let dots = [(OsStr::new("."), ino.0), (OsStr::new(".."), ino.0)];
            let entries = disk.image.list(ino.0)?.map(|(name, ino)| (name.as_os_str(), ino));
            for (at, (name, ino)) in dots.into_iter().chain(entries).enumerate().skip(offset as usize) {
                let kind = attributes(&disk.image, ino)?.kind;
                if reply.add(INodeNo(ino), at as u64 + 1, kind, name) {
                    break;
                }
            }
            Ok(())
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.disk() {
            Ok(disk) => {
                let blocks = disk.image.capacity / u64::from(BLOCK);
                let free = blocks.saturating_sub(disk.image.used() / u64::from(BLOCK));
                reply.statfs(blocks, free, free, 1 << 20, 1 << 20, BLOCK, 255, BLOCK);
            }
            Err(errno) => reply.error(errno),
        }
    }
}
