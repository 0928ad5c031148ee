//! Group commit over one append path: the shape of the relay's spool without its bookkeeping.
//!
//! Records are copied into an open group with their checksum; groups are padded to 4 KiB; one sync is in flight, and
//! what arrives meanwhile is the next round. Segments are used in turn, each with a fresh header before and a seal at
//! its end.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::fs::{Segment, Store};
use chasqui_runtime::sync::Notify;
use chasqui_runtime::{Instant, now, spawn};

/// Octets of one record: a message of 2 KiB with its header and envelope.
pub(crate) const RECORD_BYTES: usize = 2300;
const BLOCK: u64 = 4096;
const GROUP_HEADER: usize = 64;
/// Largest group, as in the spool.
const GROUP_MAX: u64 = 2 << 20;

/// How a group gets into its segment and becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    /// One synchronous pwritev per group, then an asynchronous fdatasync.
    Pwritev,
    /// A copy into the writable mapping when the group is closed, then an asynchronous fdatasync.
    Mapped,
    /// A copy into the mapping when the record arrives, also while a sync runs; then an asynchronous fdatasync.
    MappedAtOnce,
    /// Writes and fdatasync as one chain of linked operations.
    Linked,
}

impl Path {
    pub(crate) const ALL: [Path; 4] = [Path::Pwritev, Path::Mapped, Path::MappedAtOnce, Path::Linked];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Path::Pwritev => "pwritev",
            Path::Mapped => "mapped",
            Path::MappedAtOnce => "mapped_at_once",
            Path::Linked => "linked",
        }
    }
}

/// Records that are written together.
struct Group {
    segment: usize,
    offset: u64,
    /// Header and records; of [`Path::MappedAtOnce`] the header alone.
    bytes: Vec<u8>,
    /// Octets with the records, without padding.
    length: usize,
    arrivals: Vec<Instant>,
}

/// What was observed since [`Log::observe`].
#[derive(Default)]
pub(crate) struct Observed {
    /// From arrival to the completed sync, of each record.
    pub(crate) waits: Vec<Duration>,
    pub(crate) syncs: u64,
    /// Longest time that the shard was held by an append.
    pub(crate) held_max: Duration,
}

pub(crate) struct Log {
    path: Path,
    segments: Vec<Segment>,
    stores: RefCell<Vec<Store>>,
    queue: RefCell<Vec<Group>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    /// Segment and offset of the next group.
    place: Cell<(usize, u64)>,
    work: Notify,
    observed: RefCell<Observed>,
    /// A record that is settled makes place for another: a closed loop.
    refill: Cell<bool>,
    ended: Cell<bool>,
    record: Vec<u8>,
}

impl Log {
    pub(crate) fn new(path: Path, segments: &[Segment]) -> io::Result<Rc<Log>> {
        let is_mapped = matches!(path, Path::Mapped | Path::MappedAtOnce);
        let mapped = if is_mapped { segments } else { &[] };
        let stores = mapped.iter().map(Segment::store).collect::<io::Result<Vec<_>>>()?;
        let record = (0..RECORD_BYTES).map(|at| b'a' + (at % 26) as u8).collect();
        Ok(Rc::new(Log {
            path,
            segments: segments.to_vec(),
            stores: RefCell::new(stores),
            queue: RefCell::default(),
            buffers: RefCell::default(),
            place: Cell::new((0, BLOCK)),
            work: Notify::new(),
            observed: RefCell::default(),
            refill: Cell::new(false),
            ended: Cell::new(false),
            record,
        }))
    }

    /// Begins to observe, and gives what was observed before.
    pub(crate) fn observe(&self) -> Observed {
        self.observed.take()
    }

    /// Keeps as many records in the log as `waiters`, until [`Log::end`].
    pub(crate) fn close_loop(&self, waiters: usize) -> io::Result<()> {
        self.refill.set(true);
        (0..waiters).try_for_each(|_| self.enter(now()))
    }

    /// What has entered is written, then [`run`] ends.
    pub(crate) fn end(&self) {
        self.refill.set(false);
        self.ended.set(true);
        self.work.notify_one();
    }

    /// Enters a record that arrived at `arrival`.
    pub(crate) fn enter(&self, arrival: Instant) -> io::Result<()> {
        let mut queue = self.queue.borrow_mut();
        let is_open = queue.last().is_some_and(|open| (open.length + RECORD_BYTES) as u64 <= GROUP_MAX);
        if !is_open {
            if let Some(full) = queue.last() {
                self.place_behind(full);
            }
            let opened = self.open_group();
            queue.push(opened);
        }
        let open = queue.last_mut().expect("pushed if there was none");
        let checksum = crc32c::crc32c(&self.record);
        if self.path == Path::MappedAtOnce {
            let stores = &mut self.stores.borrow_mut();
            self.holding(|| stores[open.segment].append_at(open.offset + open.length as u64, &self.record))?;
        } else {
            open.bytes.extend_from_slice(&self.record);
        }
        open.bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        open.length += RECORD_BYTES;
        open.arrivals.push(arrival);
        drop(queue);
        self.work.notify_one();
        Ok(())
    }

    fn open_group(&self) -> Group {
        let (segment, offset) = self.place.get();
        let mut bytes = self.buffers.borrow_mut().pop().unwrap_or_default();
        bytes.resize(GROUP_HEADER, 0);
        Group { segment, offset, bytes, length: GROUP_HEADER, arrivals: Vec::new() }
    }

    /// The place of the next group, when nothing is added to `full` any more.
    fn place_behind(&self, full: &Group) {
        let end = full.offset + (full.length as u64).next_multiple_of(BLOCK);
        let room = self.segments[full.segment].len() - BLOCK;
        let next = match end + GROUP_MAX <= room {
            true => (full.segment, end),
            false => ((full.segment + 1) % self.segments.len(), BLOCK),
        };
        self.place.set(next);
    }

    /// Measures how long the shard is held.
    fn holding<T>(&self, append: impl FnOnce() -> T) -> T {
        let start = now();
        let result = append();
        let mut observed = self.observed.borrow_mut();
        observed.held_max = observed.held_max.max(now() - start);
        result
    }

    async fn sync(&self, segment: usize) -> io::Result<()> {
        self.segments[segment].sync().await?;
        self.observed.borrow_mut().syncs += 1;
        Ok(())
    }

    /// Writes groups of one segment, one behind the other, and syncs them.
    async fn write(&self, groups: &mut [Group]) -> io::Result<()> {
        let (segment, offset) = (groups[0].segment, groups[0].offset);
        for group in &mut *groups {
            if self.path == Path::MappedAtOnce {
                let padding = (group.length as u64).next_multiple_of(BLOCK) as usize - group.length;
                let store = &mut self.stores.borrow_mut()[segment];
                self.holding(|| {
                    store.append_at(group.offset + group.length as u64, &[0; BLOCK as usize][..padding])?;
                    store.append_at(group.offset, &group.bytes)
                })?;
                continue;
            }
            group.bytes.resize(group.bytes.len().next_multiple_of(BLOCK as usize), 0);
            match self.path {
                Path::Pwritev => {
                    self.holding(|| self.segments[segment].append_at(group.offset, &[&group.bytes]))?;
                }
                Path::Mapped => {
                    let store = &mut self.stores.borrow_mut()[segment];
                    self.holding(|| store.append_at(group.offset, &group.bytes))?;
                }
                Path::MappedAtOnce | Path::Linked => {}
            }
        }
        if self.path != Path::Linked {
            return self.sync(segment).await;
        }
        let bytes = groups.iter_mut().map(|group| std::mem::take(&mut group.bytes)).collect();
        let returned = self.segments[segment].append_linked(offset, bytes).await?;
        for (group, bytes) in groups.iter_mut().zip(returned) {
            group.bytes = bytes;
        }
        self.observed.borrow_mut().syncs += 1;
        Ok(())
    }

    fn settle(&self, groups: Vec<Group>) -> io::Result<()> {
        let settled = now();
        let mut count = 0;
        for mut group in groups {
            let mut observed = self.observed.borrow_mut();
            observed.waits.extend(group.arrivals.iter().map(|arrival| settled - *arrival));
            count += group.arrivals.len();
            group.bytes.clear();
            self.buffers.borrow_mut().push(group.bytes);
        }
        match self.refill.get() {
            true => (0..count).try_for_each(|_| self.enter(settled)),
            false => Ok(()),
        }
    }

    /// Gives the segment behind `segment` a new header, while the groups go on.
    fn prepare_spare(self: &Rc<Self>, segment: usize) {
        let spare = self.segments[(segment + 1) % self.segments.len()].clone();
        spawn(async move {
            spare.append_at(0, &[&[1; BLOCK as usize]]).expect("a segment has room for its header");
            spare.sync().await.expect("the disk is well");
        });
    }
}

/// Writes what enters until [`Log::end`].
pub(crate) async fn run(log: Rc<Log>) -> io::Result<()> {
    let mut current = log.place.get().0;
    log.prepare_spare(current);
    loop {
        let mut groups = log.queue.take();
        let Some(last) = groups.last() else {
            if log.ended.get() {
                return Ok(());
            }
            log.work.notified().await;
            continue;
        };
        log.place_behind(last);
        let mut rest = groups.as_mut_slice();
        while let Some(first) = rest.first() {
            let segment = first.segment;
            if segment != current {
                let end = log.segments[current].len() - BLOCK;
                log.segments[current].append_at(end, &[&[2; BLOCK as usize]])?;
                log.sync(current).await?;
                current = segment;
                log.prepare_spare(current);
            }
            let (together, others) =
                rest.split_at_mut(rest.iter().take_while(|group| group.segment == segment).count());
            log.write(together).await?;
            rest = others;
        }
        log.settle(groups)?;
    }
}
