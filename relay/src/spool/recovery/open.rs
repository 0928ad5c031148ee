//! A start: what counts is made durable, put into memory, and a new incarnation begins. Only then is anything delivered.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;

use chasqui_runtime::sync::Notify;
use chasqui_runtime::{rng, sim, spawn};

use super::assembly::{Assembly, Fate, FoundMessage, Unsure};
use super::first_segment::{Source, Stock};
use super::read::Scanned;
use crate::spool::config::{Durability, Geometry, SpoolConfig};
use crate::spool::disk::{Disk, SegmentFile, move_aside_if_room, segment_path};
use crate::spool::error::OpenError;
use crate::spool::format::headers::{Identity, padded};
use crate::spool::format::id::MessageId;
use crate::spool::format::place::{Piece, Weight};
use crate::spool::log::buffers::Buffers;
use crate::spool::log::committer;
use crate::spool::log::entries::Entry;
use crate::spool::log::first::First;
use crate::spool::log::groups::Groups;
use crate::spool::log::handle::{Log, LogParts};
use crate::spool::log::inner::Inner;
use crate::spool::log::messages::Messages;
use crate::spool::log::segment_table::{FreeSegment, LiveSegment, SegmentTable};
use crate::spool::log::segments::{Active, Segments, Spare};
use crate::spool::log::streams::Streams;
use crate::spool::log::watermark::Watermark;
use crate::spool::maintenance::{task, write_back};
use crate::spool::stats::SpoolStats;

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
    pub(crate) async fn sync(&self, class: Durability) -> Result<(), OpenError> {
        self.write_again(class).await?;
        for ((number, file), fate) in self.files.iter().zip(&self.assembly.fates) {
            if matches!(fate, Fate::Live { .. }) {
                let path = segment_path(&self.dir, *number);
                file.sync().await.map_err(OpenError::io("sync", &path))?;
            }
        }
        Ok(())
    }

    /// Carries out what was decided, builds what stands in memory, and begins a new incarnation. On a full disk without a
    /// reserve the last is put off.
    pub(crate) async fn start(
        self,
        config: &SpoolConfig,
        shard: usize,
        disk: &Disk,
        space: &Notify,
    ) -> Result<(Rc<Log>, Vec<FoundMessage>), OpenError> {
        self.write_again(config.class).await?;
        let Scanned { dir, lock, files, next_file, mut assembly } = self;
        let parts = LogParts {
            geometry: Geometry::new(config, files.len()),
            spool: assembly.spool.unwrap_or_else(|| rng().next_u64()),
            dir,
            disk: disk.clone(),
            class: config.class,
            shard: shard as u32,
            inflight_max: config.max_inflight_bytes,
            write_back: config.write_back,
            space: space.clone(),
            lock,
        };
        let mut stock = carry_out(files, &assembly, next_file, &parts.dir).await?;
        let messages = build(&mut assembly, &mut stock.table);
        let Assembly { messages: recovered, refers_to, cuts, incarnation, .. } = assembly;
        let tail = if sim::PlantedFault::AppendAfterRecovery.is_planted() {
            stock.table.tail_of(recovered.last())
        } else {
            None
        };
        let first = First { recovered: refers_to.keys().copied().collect(), cuts, tail, ..First::default() };
        let log = begin(parts, stock, first, messages, incarnation).await?;
        spawn_tasks(&log);
        Ok((log, recovered))
    }
}

/// Does with the files what was decided: what counts is synced, what is refused is moved aside.
async fn carry_out(
    files: Vec<(u32, SegmentFile)>,
    assembly: &Assembly,
    next_file: u32,
    dir: &Path,
) -> Result<Stock, OpenError> {
    let mut stock = Stock {
        table: SegmentTable::default(),
        fresh: Vec::new(),
        next_ordinal: assembly.next_ordinal,
        next_file,
        syncs: 0,
    };
    for ((number, file), fate) in files.into_iter().zip(&assembly.fates) {
        let path = segment_path(dir, number);
        match fate {
            Fate::Live { identity, damaged } => {
                file.sync().await.map_err(OpenError::io("sync", &path))?;
                stock.syncs += 1;
                let live = LiveSegment::recovered(number, identity.epoch, Rc::new(file), *damaged);
                stock.table.insert(identity.ordinal, live);
            }
            Fate::Fresh(identity) => {
                stock.fresh.push(Spare { file: number, identity: *identity, segment: Rc::new(file) });
            }
            Fate::Free(identity) => {
                let identity = identity.unwrap_or(Identity { ordinal: 0, epoch: 0 });
                let segment = Rc::new(file);
                stock.table.add_free(FreeSegment { file: number, identity, segment, damaged: false });
            }
            Fate::Quarantined(_) => {
                drop(file);
                move_aside_if_room(dir, &path).await.map_err(OpenError::io("move", &path))?;
            }
        }
    }
    Ok(stock)
}

/// The index of the messages that were found; the table learns what keeps each segment, and finds those that can go.
fn build(assembly: &mut Assembly, table: &mut SegmentTable<Rc<SegmentFile>>) -> Messages {
    let mut messages = Messages::default();
    for found in &mut assembly.messages {
        let FoundMessage { meta_length, head, chunks, finished, .. } = found;
        let mut entry = Entry::new(*meta_length, *head, chunks.clone(), finished.clone());
        if entry.pieces().any(|piece| assembly.indexed.contains(&piece.ordinal)) {
            entry.set_unchecked();
        }
        let states = found.states.iter().map(|state| Weight::of_state(state.place));
        entry.weights().chain(states).for_each(|weight| table.add_record(weight));
        messages.entries.insert(MessageId(found.id), entry);
        messages.states.set(MessageId(found.id), std::mem::take(&mut found.states));
    }
    for (from, to) in &assembly.copied {
        table.copied(*from, *to);
    }
    for (from, subjects) in &assembly.refers_to {
        table.refer(*from, subjects.iter().map(|(subject, bytes)| (*subject, *bytes)));
    }
    // Freed here, overwritten only after the first group lists them so.
    table.find_freeable();
    messages
}

/// A new segment begins a new incarnation with the table and the cuts, if there is room for one.
async fn begin(
    parts: LogParts,
    mut stock: Stock,
    first: First,
    messages: Messages,
    incarnation: u32,
) -> Result<Rc<Log>, OpenError> {
    let source = Source {
        disk: &parts.disk,
        dir: &parts.dir,
        geometry: &parts.geometry,
        spool: parts.spool,
        shard: parts.shard,
        is_full: Cell::new(false),
    };
    let spare = source.take(&mut stock).await?;
    let is_full = source.is_full.get();
    let active = source.placeholder(&mut stock)?;
    let Stock { table, next_ordinal, next_file, syncs, .. } = stock;
    let groups = Groups::new(Watermark::new(parts.class, incarnation));
    let segments = Segments::new(table, active, spare, next_ordinal, next_file);
    let streams = Streams::new(Buffers::new(parts.inflight_max / 4));
    let stats = SpoolStats { syncs, ..SpoolStats::default() };
    let log = Log::new(parts, Inner::new(first, groups, segments, messages, streams, stats));
    let has_begun = log.begin().await?;
    if is_full || !has_begun {
        log.inner().start_full();
        let delivers = if has_begun { "delivered" } else { "not delivered before there is" };
        log::warn!(
            "spool {}: the disk has no room: mail is refused, and what is queued is {delivers}",
            log.dir.display()
        );
    }
    Ok(log)
}

fn spawn_tasks(log: &Rc<Log>) {
    let mut tasks = log.tasks.borrow_mut();
    tasks.push(spawn(committer::run(log.clone())));
    tasks.push(spawn(task::run(log.clone())));
    if log.class == Durability::Memory {
        tasks.push(spawn(write_back::run(log.clone())));
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
