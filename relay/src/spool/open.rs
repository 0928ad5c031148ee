//! Opening a shard's directory: lock, scan, decide, and make the decisions durable before anything is delivered.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use chasqui_runtime::fs::{self, DirLock, FilesystemKind};
use chasqui_runtime::{rng, sim, spawn};

use super::buffers::Buffers;
use super::config::{Durability, Geometry, SpoolConfig};
use super::disk::{Disk, Entry as DirEntry, SegmentFile, classify, segment_path};
use super::entries::{Entries, Entry, Weight};
use super::error::OpenError;
use super::format::{
    BLOCK, FIRST_GROUP, GROUP_HEADER, HeaderFault, Identity, Kind, RECORD_HEADER, SegmentHeader, padded,
};
use super::gate::SyncGate;
use super::group::Group;
use super::id::MessageId;
use super::index::read_index;
use super::log::{Active, Inner, Log, LogParts, Start};
use super::notes::Notes;
use super::patience::Patience;
use super::payload::{Cut, encode_cuts, encode_table};
use super::recover::{Assembly, Fate, FoundMessage, Piece, ScannedFile, Unsure, assemble, rivals};
use super::scan::Scanner;
use super::table::{FreeSegment, LiveSegment, SegmentTable};
use super::{SpoolStats, chores, committer, private, residents};

/// A directory whose files were read.
pub(super) struct Scanned {
    dir: PathBuf,
    lock: DirLock,
    files: Vec<(u32, SegmentFile)>,
    next_file: u32,
    pub(super) assembly: Assembly,
}

/// Locks a shard's directory and decides what counts in it. Writes nothing but removes unborn files.
pub(super) async fn scan(config: &SpoolConfig, shard: usize, disk: &Disk) -> Result<Scanned, OpenError> {
    let dir = config.shard_dir(shard);
    private::open(config, &dir).await?;
    if config.class == Durability::Synced {
        let kind = fs::filesystem_kind(&dir).await.map_err(OpenError::io("examine", &dir))?;
        if kind == FilesystemKind::Memory {
            return Err(OpenError::Volatile(dir));
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
    let lock = fs::lock_dir(&dir).await.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked(dir.clone()),
        _ => OpenError::io("lock", &dir)(error),
    })?;

    let mut files = Vec::new();
    let mut scans = Vec::new();
    let mut report = Vec::new();
    let mut next_file = 1;
    let mut patience = Patience::new();
    for path in fs::read_dir(&dir).await.map_err(OpenError::io("list", &dir))? {
        match classify(&path) {
            DirEntry::Segment(number) => {
                next_file = next_file.max(number + 1);
                // One that cannot be opened may hold mail: that is for the operator to decide.
                let opened = patience.insist(async || SegmentFile::open(disk, &path).await).await;
                let file = opened.map_err(OpenError::io("open", &path))?;
                if file.len() <= BLOCK {
                    report.push(format!("{}: not a segment; moved aside", path.display()));
                    chores::move_aside(&dir, &path).await.map_err(OpenError::io("move", &path))?;
                    continue;
                }
                let mut blocks =
                    Blocks { path: &path, file: &file, patience: &mut patience, report: &mut report };
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
        let mut blocks = Blocks { path: &path, file, patience: &mut patience, report: &mut report };
        let identity = scans[index].header.map(|header| header.identity).ok();
        let seen = blocks.scan(*number, false).await?.groups;
        scans[index].whole = seen.iter().filter(|group| Some(group.header.identity) == identity).count();
    }
    let mut assembly = assemble(&scans);
    report.into_iter().for_each(|line| assembly.quarantine(line));
    Ok(Scanned { dir, lock, files, next_file, assembly })
}

/// A file whose blocks are read with patience.
struct Blocks<'a> {
    path: &'a Path,
    file: &'a SegmentFile,
    patience: &'a mut Patience,
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
            match self.patience.insist(async || self.file.read(at, BLOCK as usize).await).await {
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

impl Scanned {
    /// Writes again what counts and is not known to be durable, so that a sync covers it. After a sync that failed, the page
    /// cache goes on to show what the disk may never have got, and further syncs report success without writing it.
    async fn write_again(&self, class: Durability) -> Result<(), OpenError> {
        if class != Durability::Synced {
            return Ok(());
        }
        for Unsure { file, offset, end } in &self.assembly.unsure {
            let (number, file) = &self.files[*file];
            let path = segment_path(&self.dir, *number);
            let bytes =
                file.read(*offset, (end - offset) as usize).await.map_err(OpenError::io("read", &path))?;
            file.append_at(*offset, &[&bytes]).map_err(OpenError::io("write", &path))?;
        }
        Ok(())
    }

    /// Makes durable what the files say now, when that is that all their messages are done with: the states that
    /// say so may be in the page cache alone, and the next start is to read them too.
    pub(super) async fn sync(&self, class: Durability) -> Result<(), OpenError> {
        self.write_again(class).await?;
        for ((number, file), fate) in self.files.iter().zip(&self.assembly.fates) {
            if matches!(fate, Fate::Live { .. }) {
                let path = segment_path(&self.dir, *number);
                file.sync().await.map_err(OpenError::io("sync", &path))?;
            }
        }
        Ok(())
    }

    /// Makes what was decided durable: what counts is synced, then a new segment begins a new incarnation with the
    /// table and the cut. Only after that may anything be delivered.
    pub(super) async fn start(
        self,
        config: &SpoolConfig,
        shard: usize,
        disk: &Disk,
    ) -> Result<(Rc<Log>, Vec<FoundMessage>), OpenError> {
        self.write_again(config.class).await?;
        let Scanned { dir, lock, files, mut next_file, assembly } = self;
        let geometry = Geometry::new(config, files.len());
        let spool = assembly.spool.unwrap_or_else(|| rng().next_u64());
        let mut stats = SpoolStats::default();
        let mut table = SegmentTable::default();
        let mut fresh = Vec::new();
        for ((number, file), fate) in files.into_iter().zip(&assembly.fates) {
            let path = segment_path(&dir, number);
            match fate {
                Fate::Live { identity, damaged } => {
                    file.sync().await.map_err(OpenError::io("sync", &path))?;
                    stats.syncs += 1;
                    let live = LiveSegment::recovered(number, identity.epoch, Rc::new(file), *damaged);
                    table.insert(identity.ordinal, live);
                }
                Fate::Fresh(identity) => fresh.push((number, *identity, Rc::new(file))),
                Fate::Free(identity) => {
                    let identity = identity.unwrap_or(Identity { ordinal: 0, epoch: 0 });
                    table.add_free(FreeSegment {
                        file: number,
                        identity,
                        segment: Rc::new(file),
                        damaged: false,
                    });
                }
                Fate::Quarantined(_) => {
                    drop(file);
                    chores::move_aside(&dir, &path).await.map_err(OpenError::io("move", &path))?;
                }
            }
        }
        let mut messages = Entries::default();
        let mut notes = Notes::default();
        let mut recovered = assembly.messages;
        for found in &mut recovered {
            let FoundMessage { meta_length, head, chunks, finished, .. } = found;
            let mut entry = Entry::new(*meta_length, *head, chunks.clone(), finished.clone());
            if entry.pieces().any(|piece| assembly.indexed.contains(&piece.ordinal)) {
                entry.set_unchecked();
            }
            let states = found.notes.iter().map(|note| Weight::of_state(note.place));
            entry.weights().chain(states).for_each(|weight| table.add_record(weight));
            messages.insert(MessageId(found.id), entry);
            notes.set(MessageId(found.id), std::mem::take(&mut found.notes));
        }
        for (from, to) in &assembly.copied {
            table.copied(*from, *to);
        }
        for (speaker, subjects) in &assembly.speaks_of {
            table.speak(*speaker, subjects.iter().map(|(subject, bytes)| (*subject, *bytes)));
        }
        // Freed here, overwritten only after the first group lists them so.
        table.find_freeable();

        let mut next_ordinal = assembly.next_ordinal;
        let (number, identity, segment) = match fresh.pop() {
            Some((number, identity, segment)) => {
                // That it can be read does not say that a sync of it has succeeded.
                let path = segment_path(&dir, number);
                let header = SegmentHeader { spool, identity, length: segment.len(), shard: shard as u32 };
                write_header(&segment, &header, &path).await?;
                stats.syncs += 1;
                (number, identity, segment)
            }
            None => {
                let identity = Identity { ordinal: next_ordinal, epoch: rng().next_u64() };
                next_ordinal += 1;
                let header = |length| SegmentHeader { spool, identity, length, shard: shard as u32 };
                let reused = table.pop_free(|_| true);
                match reused {
                    Some(free) => {
                        let path = segment_path(&dir, free.file);
                        let header = header(free.segment.len());
                        write_header(&free.segment, &header, &path).await?;
                        stats.syncs += 1;
                        table.done(free.identity);
                        (free.file, identity, free.segment)
                    }
                    None => {
                        let path = segment_path(&dir, next_file);
                        let header = header(config.segment_size);
                        let file = chores::create(disk, &dir, next_file, &header, || true)
                            .await
                            .map_err(OpenError::io("create", &path))?;
                        next_file += 1;
                        (next_file - 1, identity, Rc::new(file))
                    }
                }
            }
        };
        for (file, identity, segment) in fresh {
            table.add_free(FreeSegment { file, identity, segment, damaged: false });
        }
        table.insert(identity.ordinal, LiveSegment::new(number, identity.epoch, segment.clone()));
        if !assembly.cuts.is_empty() {
            // The cuts are needed as long as any segment that was recovered.
            table.cut(identity.ordinal, assembly.speaks_of.keys().copied());
        }

        let mut active = Active::new(identity, segment, FIRST_GROUP);
        if sim::bug("append-after-recovery") {
            active = table.tail_of(recovered.last()).unwrap_or(active);
        }
        let gate = SyncGate::new(config.class);
        let incarnation = assembly.incarnation;
        let buffers = Buffers::new(config.max_inflight_bytes / 4);
        let start = Start {
            gate,
            incarnation,
            table,
            active,
            next_ordinal,
            next_file,
            messages,
            notes,
            buffers,
            stats,
        };
        let mut inner = Inner::new(start);
        let path = segment_path(&dir, number);
        for mut group in first_groups(&inner, &geometry, &assembly.cuts) {
            inner.append(&mut group).map_err(OpenError::io("write", &path))?;
        }
        let through = inner.gate.appended();
        inner.active.segment.sync().await.map_err(OpenError::io("sync", &path))?;
        fs::sync_dir(&dir).await.map_err(OpenError::io("sync", &dir))?;
        inner.stats.syncs += 1;
        inner.gate.synced(through, 0);
        let damaged = inner.table.release();
        for segment in damaged {
            let path = segment_path(&dir, segment.file);
            chores::move_aside(&dir, &path).await.map_err(OpenError::io("move", &path))?;
            inner.table.done(segment.identity);
        }
        let parts = LogParts {
            dir,
            disk: disk.clone(),
            class: config.class,
            geometry,
            shard: shard as u32,
            spool,
            inflight_max: config.max_inflight_bytes,
            residents: config.residents,
            lock,
        };
        let log = Log::new(parts, inner);
        let tasks = [spawn(committer::run(log.clone())), spawn(chores::run(log.clone()))];
        log.tasks.borrow_mut().extend(tasks);
        if config.class == Durability::Memory {
            log.tasks.borrow_mut().push(spawn(residents::run(log.clone())));
        }
        Ok((log, recovered))
    }
}

/// Makes the header of a segment durable.
async fn write_header(segment: &SegmentFile, header: &SegmentHeader, path: &Path) -> Result<(), OpenError> {
    segment.append_at(0, &[&header.encode()]).map_err(OpenError::io("write", path))?;
    segment.sync().await.map_err(OpenError::io("sync", path))
}

impl SegmentTable<Rc<SegmentFile>> {
    /// The segment of the newest message, behind it: where a log would go on that appends after a recovery. For the
    /// planted fault of that name alone.
    fn tail_of(&self, newest: Option<&FoundMessage>) -> Option<Active> {
        let Piece { ordinal, offset, length } = newest?.head;
        let identity = self.entries().find(|entry| entry.identity.ordinal == ordinal)?.identity;
        let end = padded(u64::from(offset) + u64::from(length));
        Some(Active::new(identity, self.segment(ordinal)?.clone(), end))
    }
}

/// The table and the cuts, in as many groups as they need; all covered by one sync.
fn first_groups(inner: &Inner, geometry: &Geometry, cuts: &[Cut]) -> Vec<Group> {
    let mut groups = vec![Group::default()];
    groups[0].push(Kind::Table, 0, 0, |into| encode_table(into, inner.table.entries()), &[]);
    for cut in cuts {
        let mut cut = cut.clone();
        // Only a tiny segment can be too small for its holes. Those up to the watermark are listed to not be
        // reported again, so they go first.
        let most = (geometry.records_max() - RECORD_HEADER - 24) / 16;
        if cut.holes.len() > most {
            cut.holes.retain(|hole| hole.first > cut.watermark);
            cut.holes.truncate(most);
        }
        let length = RECORD_HEADER + 24 + 16 * cut.holes.len();
        let open = groups.last().expect("starts with one");
        if open.records() > 1 && open.len() + length > geometry.records_max() + GROUP_HEADER {
            groups.push(Group::default());
        }
        let open = groups.last_mut().expect("starts with one");
        open.push(Kind::Cut, 0, 0, |into| encode_cuts(into, &[cut]), &[]);
    }
    groups
}
