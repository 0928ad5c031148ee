//! Opening a shard's directory: lock, scan, decide, and make the decisions durable before anything is delivered.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use chasqui_runtime::fs::{self, DirLock, FilesystemKind};
use chasqui_runtime::sync::Notify;
use chasqui_runtime::{rng, sim, spawn};

use super::begin::{First, Source};
use super::buffers::Buffers;
use super::config::{Durability, Geometry, SpoolConfig};
use super::disk::{Disk, Entry as DirEntry, SegmentFile, classify, segment_path};
use super::entries::{Entries, Entry, Weight};
use super::error::OpenError;
use super::format::{BLOCK, HeaderFault, Identity, SegmentHeader, padded};
use super::gate::SyncGate;
use super::id::MessageId;
use super::index::read_index;
use super::log::{Active, Inner, Log, LogParts, Start};
use super::notes::Notes;
use super::patience::Patience;
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
                    chores::move_aside_if_room(&dir, &path).await.map_err(OpenError::io("move", &path))?;
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
    /// table and the cut. Only after that may anything be delivered. On a full disk without a reserve that is put off.
    pub(super) async fn start(
        self,
        config: &SpoolConfig,
        shard: usize,
        disk: &Disk,
        space: &Notify,
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
                    chores::move_aside_if_room(&dir, &path).await.map_err(OpenError::io("move", &path))?;
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
        let source = Source {
            disk,
            dir: &dir,
            config,
            geometry: &geometry,
            spool,
            shard: shard as u32,
            is_full: Cell::new(false),
        };
        let found = source.segment(&mut fresh, &mut table, &mut next_ordinal, &mut next_file).await?;
        let is_full = source.is_full.get();
        stats.syncs += u64::from(found.is_some());
        for (file, identity, segment) in fresh {
            table.add_free(FreeSegment { file, identity, segment, damaged: false });
        }
        let tail = if sim::PlantedFault::AppendAfterRecovery.is_planted() {
            table.tail_of(recovered.last())
        } else {
            None
        };
        let first = First {
            recovered: assembly.speaks_of.keys().copied().collect(),
            cuts: assembly.cuts,
            tail,
            ..First::default()
        };
        // Ids that are given before there is a segment have an ordinal of their own.
        let nowhere = Identity { ordinal: next_ordinal, epoch: rng().next_u64() };
        next_ordinal += 1;
        let active = Active::nowhere(disk, nowhere).map_err(OpenError::io("map memory for", &dir))?;
        let start = Start {
            gate: SyncGate::new(config.class),
            incarnation: assembly.incarnation,
            table,
            active,
            first,
            spare: found,
            next_ordinal,
            next_file,
            messages,
            notes,
            buffers: Buffers::new(config.max_inflight_bytes / 4),
            stats,
        };
        let parts = LogParts {
            dir,
            disk: disk.clone(),
            class: config.class,
            geometry,
            shard: shard as u32,
            spool,
            inflight_max: config.max_inflight_bytes,
            residents: config.residents,
            space: space.clone(),
            lock,
        };
        let log = Log::new(parts, Inner::new(start));
        let has_begun = log.begin().await?;
        if is_full || !has_begun {
            log.inner().start_full();
            let delivers = if has_begun { "delivered" } else { "not delivered before there is" };
            log::warn!(
                "spool {}: the disk has no room: mail is refused, and what is queued is {delivers}",
                log.dir.display()
            );
        }
        let tasks = [spawn(committer::run(log.clone())), spawn(chores::run(log.clone()))];
        log.tasks.borrow_mut().extend(tasks);
        if config.class == Durability::Memory {
            log.tasks.borrow_mut().push(spawn(residents::run(log.clone())));
        }
        Ok((log, recovered))
    }
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
