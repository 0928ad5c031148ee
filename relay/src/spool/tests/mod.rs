//! The spool on files: what it promises, with disks that are slow, fail or lose what was not synced.

mod assemble;
mod clean;
mod commit;
mod crash;
mod damage;
mod failures;
mod full;
mod fuzzed;
mod offline;
mod space;
mod starts;
mod write_back;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use chasqui_runtime::fs::Segment;
use chasqui_runtime::sync::Notify;
use chasqui_runtime::{Config, SeededRng, run, shard_local, yield_now};
use tempfile::TempDir;

use super::disk::Disk;
use super::*;
use crate::spool::format::headers::{BLOCK, GROUP_HEADER, Kind, RecordHeader};

/// What a test does to the writes and syncs of a spool, and what it knows of them.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Syncs wait until this is false.
    hold_syncs: Cell<bool>,
    /// A held sync or read looks again.
    released: Notify,
    /// Reads wait until this is false.
    hold_reads: Cell<bool>,
    reads_held: Cell<usize>,
    /// A sync has started.
    started: Notify,
    syncs: Cell<u64>,
    fail_sync: Cell<bool>,
    fail_append: Cell<bool>,
    fail_create: Cell<bool>,
    /// With what files cannot be made.
    create_error: Cell<Option<io::ErrorKind>>,
    /// Files that were to be made.
    creates: Cell<u64>,
    /// Groups that begin with a record of this kind fail so.
    fail_groups: Cell<Option<(Kind, io::ErrorKind)>>,
    /// Appends that have failed.
    failed: Cell<u64>,
    /// Syncs of this file fail.
    fail_syncs_of: RefCell<Option<PathBuf>>,
    /// Writes that no completed sync covers: file, offset and what was there before.
    unsynced: RefCell<Vec<Unsynced>>,
    count: Cell<u64>,
}

#[derive(Debug)]
struct Unsynced {
    number: u64,
    path: PathBuf,
    offset: u64,
    before: Vec<u8>,
}

impl Faults {
    pub(super) fn before_create(&self) -> io::Result<()> {
        self.creates.set(self.creates.get() + 1);
        match self.create_error.get() {
            Some(kind) => Err(kind.into()),
            None if self.fail_create.get() => Err(io::ErrorKind::StorageFull.into()),
            None => Ok(()),
        }
    }

    pub(super) fn before_append(
        &self,
        path: &Path,
        to: &Segment,
        offset: u64,
        bytes: &[u8],
    ) -> io::Result<()> {
        if self.fail_append.get() {
            return Err(io::Error::other("planted"));
        }
        let first = bytes.get(GROUP_HEADER..).and_then(RecordHeader::decode).map(|(header, _)| header.kind);
        if let Some((_, error)) = self.fail_groups.get().filter(|(kind, _)| Some(*kind) == first) {
            self.failed.set(self.failed.get() + 1);
            return Err(error.into());
        }
        let number = self.count.get() + 1;
        self.count.set(number);
        let before = to.read(offset, bytes.len())?;
        self.unsynced.borrow_mut().push(Unsynced { number, path: path.to_owned(), offset, before });
        Ok(())
    }

    /// Returns what the sync covers.
    pub(super) async fn before_sync(&self, path: &Path) -> io::Result<u64> {
        let covered = self.count.get();
        self.syncs.set(self.syncs.get() + 1);
        self.started.notify_all();
        while self.hold_syncs.get() {
            self.released.notified().await;
        }
        let fails = self.fail_syncs_of.borrow().as_ref().is_some_and(|it| it == path);
        if self.fail_sync.get() || fails { Err(io::Error::other("planted")) } else { Ok(covered) }
    }

    pub(super) async fn before_read(&self) {
        if self.hold_reads.get() {
            self.reads_held.set(self.reads_held.get() + 1);
            while self.hold_reads.get() {
                self.released.notified().await;
            }
            self.reads_held.set(self.reads_held.get() - 1);
        }
    }

    pub(super) fn after_sync(&self, path: &Path, covered: u64) {
        self.unsynced.borrow_mut().retain(|write| write.path != path || write.number > covered);
    }

    /// Syncs that start from now on wait for [`Faults::release_syncs`].
    pub(crate) fn hold_syncs(&self) {
        self.hold_syncs.set(true);
    }

    /// Reads that start from now on wait for [`Faults::release_reads`].
    pub(crate) fn hold_reads(&self) {
        self.hold_reads.set(true);
    }

    pub(crate) fn release_reads(&self) {
        self.hold_reads.set(false);
        self.released.notify_all();
    }

    /// Reads that wait.
    pub(crate) fn reads_held(&self) -> usize {
        self.reads_held.get()
    }

    /// Syncs fail from now on.
    pub(crate) fn fail_syncs(&self) {
        self.fail_sync.set(true);
    }

    /// Syncs that were started so far.
    pub(crate) fn syncs_started(&self) -> u64 {
        self.syncs.get()
    }

    pub(crate) fn release_syncs(&self) {
        self.hold_syncs.set(false);
        self.released.notify_all();
    }

    /// What a power cut in the next incarnation may still undo. A file that was removed has taken its writes with it, and
    /// another may get its name.
    fn take_unsynced(&self) -> Vec<Unsynced> {
        let mut left = self.unsynced.take();
        left.retain(|write| write.path.exists());
        left
    }

    /// A power cut: of what was not synced, pieces of 512 bytes arrive or not, as the dice fall.
    fn lose_unsynced(&self, dice: &mut SeededRng) {
        // The newest first, so that each finds the bytes that it replaced.
        for write in self.unsynced.borrow_mut().drain(..).rev() {
            let kept = dice.below(4);
            // A file that has not got its name yet was never part of the spool.
            let Ok(mut file) = std::fs::File::options().write(true).open(&write.path) else { continue };
            for (index, sector) in write.before.chunks(512).enumerate() {
                let lost = match kept {
                    0 => true,
                    1 => false,
                    _ => dice.below(2) == 0,
                };
                if lost {
                    use std::io::{Seek, SeekFrom, Write};
                    file.seek(SeekFrom::Start(write.offset + 512 * index as u64)).unwrap();
                    file.write_all(sector).unwrap();
                }
            }
        }
    }
}

/// Faults of a whole shard, for tests that open the spool through the relay.
struct Planted(RefCell<Option<Rc<Faults>>>);

/// Plants faults before the disk of every spool that this shard opens from now on.
pub(crate) fn plant() -> Rc<Faults> {
    let faults = Rc::new(Faults::default());
    *shard_local(|| Planted(RefCell::new(None))).0.borrow_mut() = Some(faults.clone());
    faults
}

pub(super) fn planted() -> Option<Rc<Faults>> {
    shard_local(|| Planted(RefCell::new(None))).0.borrow().clone()
}

/// A directory on a disk: beside the test program, because the usual place may be tmpfs.
pub(crate) fn temp_dir() -> TempDir {
    let program = std::env::current_exe().unwrap();
    tempfile::tempdir_in(program.parent().unwrap()).unwrap()
}

/// Runs a test on a shard, with a directory of its own.
fn on_shard<Fut: Future<Output = ()> + 'static>(test: impl Fn(PathBuf) -> Fut + Send + Sync + 'static) {
    let dir = temp_dir();
    let path = dir.path().to_owned();
    run(Config::default(), move || test(path.clone())).unwrap();
}

/// Small segments, so that little mail fills many.
fn config(dir: &Path) -> SpoolConfig {
    SpoolConfig { segment_size: 64 << 10, max_space: 2 << 20, ..SpoolConfig::new(dir.to_owned(), 0, 1) }
}

/// What a start has found.
struct Found {
    messages: Vec<RecoveredMessage>,
    discarded: u64,
    quarantined: u64,
    report: Vec<String>,
}

async fn open(config: SpoolConfig) -> Result<(Rc<Spool>, Found), OpenError> {
    open_on(Disk::of_shard(), config).await
}

async fn open_on(disk: Disk, config: SpoolConfig) -> Result<(Rc<Spool>, Found), OpenError> {
    let (spool, recovery) = Spool::open_on(disk, config).await?;
    let Recovery { mut queued, discarded, quarantined, report } = recovery;
    let mut messages = Vec::with_capacity(queued.len());
    while let Some(mut batch) = queued.next().await {
        messages.append(&mut batch);
    }
    assert!(queued.is_empty() && !queued.again());
    Ok((spool, Found { messages, discarded, quarantined, report }))
}

fn faulty() -> (Rc<Faults>, Disk) {
    let faults = Rc::new(Faults::default());
    (faults.clone(), Disk::Faulty(faults))
}

fn envelope(recipients: usize) -> Envelope {
    Envelope {
        reverse_path: "sender@example.org".into(),
        recipients: (0..recipients).map(|index| format!("user{index}@example.net")).collect(),
        arrived_ms: 1,
        lead_ms: 0,
        size: 5,
        eight_bit: false,
        form: Default::default(),
        dsn: None,
    }
}

/// A body that tells by its bytes which it is.
fn body(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    SeededRng::new(seed).fill(&mut bytes);
    bytes
}

async fn put(spool: &Spool, body: &[u8]) -> Result<MessageId, SpoolError> {
    let mut writer = spool.begin(None);
    for piece in body.chunks(1000) {
        writer.write(piece).await?;
    }
    writer.commit(&envelope(1)).await
}

async fn read(spool: &Spool, id: MessageId) -> Vec<u8> {
    let body = spool.body(id).await.unwrap().expect("the message is queued");
    let bytes = body.read(0, body.len() as usize).await.unwrap();
    assert_eq!(bytes.len() as u64, body.len());
    bytes
}

/// Waits until the segments that are sealed have their indexes.
async fn indexed(spool: &Spool) {
    while !spool.own.inner().segments.unindexed.is_empty() {
        yield_now().await;
    }
}

fn delivered(id: MessageId) -> StateChange<'static> {
    StateChange { id, recipients: &[0], state: State::Delivered }
}

/// The process dies: what is not written stays unwritten, what is not synced stays unsynced.
async fn kill(spool: Rc<Spool>) {
    for log in spool.logs() {
        let mut tasks = std::mem::take(&mut *log.tasks.borrow_mut()).into_iter();
        tasks.next().expect("the committer").cancel().await;
        if let Disk::Faulty(faults) = &log.disk {
            faults.fail_sync.set(true);
            faults.release_syncs();
        }
        // Maintenance may be at work on the directory off the shard: it ends by itself.
        log.fail(error::Failure::Known("killed".into()));
        for task in tasks {
            task.await;
        }
    }
    assert_eq!(Rc::strong_count(&spool), 1, "somebody still uses the spool");
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}
