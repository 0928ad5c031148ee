//! The task that writes and syncs groups: group commit with one sync in flight.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::{Elapsed, Instant, now, sim, sleep, timeout_at, yield_now};
use futures_lite::future::or;

use super::chores::RETRY;
use super::config::Durability;
use super::copy::Copied;
use super::entries::{Entry, Weight};
use super::error::is_no_space;
use super::finished::Finished;
use super::format::{BLOCK, FIRST_GROUP, Identity, Kind};
use super::group::{Group, Stamp};
use super::index::Unindexed;
use super::log::{Active, Condition, Inner, LINGER, Log, NewNote, Pending, SyncScope};
use super::notes::{Note, Place};
use super::payload::{Status, TableEntry, encode_table};
use super::recover::Piece;
use super::table::LiveSegment;

/// Other tasks get their turn after this many bytes written in one round.
const TURN_BYTES: u64 = 1 << 20;

/// As [`LINGER`], where the disk has no room for another segment.
const LINGER_SHORT_OF_ROOM: Duration = Duration::from_secs(1);

/// Runs until the log is closed or sealed.
pub(super) async fn run(log: Rc<Log>) {
    if let Err(failure) = begin(&log).await {
        log.seal(failure);
        return;
    }
    loop {
        let due = log.inner().due(log.class);
        let outcome = match due {
            Due::Now => round(&log).await,
            Due::Watermark => {
                log.inner().enter(0, true, &log.geometry, |_| ());
                round(&log).await
            }
            Due::At(deadline) => {
                // Either somebody has brought work, or the time has come: look again.
                let _ = timeout_at(deadline, log.work.notified()).await;
                continue;
            }
            Due::Never => {
                log.work.notified().await;
                continue;
            }
            Due::End => break,
        };
        if let Err(failure) = outcome {
            log.seal(failure);
            break;
        }
        log.room.notify_all();
        if log.inner().has_chores() {
            log.chores.notify_one();
        }
    }
}

/// Waits until there is a first segment.
async fn begin(log: &Log) -> Result<(), String> {
    loop {
        {
            let inner = log.inner();
            if inner.has_begun() || inner.is_over() {
                return Ok(());
            }
            if matches!(inner.condition, Condition::Closing) && inner.is_quiet() {
                return Ok(());
            }
        }
        if log.begin().await.map_err(|error| error.to_string())? {
            log::info!("spool {}: there is room for a first segment: the spool is in use", log.dir.display());
            log.room.notify_all();
            log.space.notify_one();
            return Ok(());
        }
        let _ = timeout_at(now() + RETRY, or(log.room.notified(), log.work.notified())).await;
    }
}

/// When the next round starts.
enum Due {
    Now,
    Watermark,
    At(Instant),
    Never,
    End,
}

impl Inner {
    /// How long states wait for company. Each group takes a block at least: where room is short, more wait for one.
    fn linger(&self) -> Duration {
        if self.lacks_room() { LINGER_SHORT_OF_ROOM } else { LINGER }
    }

    fn due(&self, class: Durability) -> Due {
        if matches!(self.condition, Condition::Sealed(_) | Condition::Closed) {
            return Due::End;
        }
        let linger = self.linger();
        let closing = matches!(self.condition, Condition::Closing);
        if self.active.is_short_of_ids()
            || self.queue.len() > 1
            || !self.written.is_empty()
            || self.queue.back().is_some_and(|open| open.urgent)
            || self.can_copy()
        {
            return Due::Now;
        }
        let watermark = class == Durability::Synced && self.gate.watermark_is_due();
        let states = self.queue.back().and_then(|open| open.since).into_iter().chain(self.table_since).min();
        match states {
            Some(since) if closing || since + linger <= now() => Due::Now,
            Some(since) => Due::At(since + linger),
            None if watermark && (closing || self.last_round + linger <= now()) => Due::Watermark,
            None if watermark => Due::At(self.last_round + linger),
            None if closing => Due::End,
            None => Due::Never,
        }
    }
}

/// Writes what has entered, syncs it if the class wants that, and settles it.
async fn round(log: &Log) -> Result<(), String> {
    if log.inner().active.is_short_of_ids() {
        next_segment(log).await?;
    }
    let last = log.inner().queue.back().map_or(0, |open| open.ticket);
    let mut turn = 0;
    loop {
        let step = log.inner().write_next(last, log);
        match step {
            Ok(Step::Wrote(bytes)) if turn + bytes > TURN_BYTES => {
                turn = 0;
                yield_now().await;
            }
            Ok(Step::Wrote(bytes)) => turn += bytes,
            Ok(Step::SegmentIsFull) => next_segment(log).await?,
            Ok(Step::Done) => break,
            Err(error) => stall(log, error).await?,
        }
    }
    copy(log).await?;
    if std::mem::take(&mut log.inner().stalled) {
        log.tell_room();
    }
    settle(log).await
}

/// Writes what the cleaner wants copied, behind the mail; it waits if there is no room for it.
async fn copy(log: &Log) -> Result<(), String> {
    while log.inner().can_copy() {
        let step = log.inner().write_copies(log);
        match step {
            Ok(Copied::All) => break,
            Ok(Copied::SegmentIsFull) if log.inner().spare.is_some() => {
                next_segment(log).await?;
            }
            Ok(Copied::SegmentIsFull) => {
                log.inner().copy_waits = true;
                log.chores.notify_one();
            }
            // The originals are there.
            Err(error) if is_no_space(&error) => {
                let mut inner = log.inner();
                (inner.copying, inner.copy_failed) = (None, true);
                drop(inner);
                log.chores.notify_one();
            }
            Err(error) => return Err(write_failed(error)),
        }
    }
    Ok(())
}

/// A write has failed. When the file system has no room, which it may say of preallocated segments too if it copies
/// on write, nothing is lost: the same write is tried again, mail is refused meanwhile, and who waits goes on waiting.
/// Any other failure is final.
async fn stall(log: &Log, error: io::Error) -> Result<(), String> {
    if !is_no_space(&error) || matches!(log.inner().condition, Condition::Closing) {
        return Err(write_failed(error));
    }
    if !std::mem::replace(&mut log.inner().stalled, true) {
        log::warn!("spool {}: no room to write, mail is refused: {error}", log.dir.display());
    }
    log.room.notify_all();
    if !log.inner().written.is_empty() {
        settle(log).await?;
    }
    sleep(RETRY).await;
    match &log.inner().condition {
        Condition::Sealed(why) => Err(why.to_string()),
        _ => Ok(()),
    }
}

/// Syncs what was written, if the class wants that, and settles it.
///
/// A disk may take long. States that have waited for [`LINGER`] meanwhile are written behind what is being synced:
/// should the process be killed, the page cache keeps them, and what was delivered is not sent again.
async fn settle(log: &Log) -> Result<(), String> {
    if sim::PlantedFault::AckBeforeSync.is_planted() {
        log.inner().settle();
    }
    if log.class == Durability::Synced {
        let (syncing, scope) = start_sync(log);
        let mut syncing = pin!(syncing);
        let mut look = now() + LINGER;
        let outcome = loop {
            match timeout_at(look, syncing.as_mut()).await {
                Ok(outcome) => break outcome,
                Err(Elapsed) => look = write_lingering(log)?,
            }
        };
        log.inner().end_sync(scope, outcome)?;
    }
    log.check_place()?;
    let mut inner = log.inner();
    inner.settle();
    inner.last_round = now();
    Ok(())
}

fn write_lingering(log: &Log) -> Result<Instant, String> {
    match log.inner().write_lingering(log) {
        // The next round tries it again.
        Err(error) if is_no_space(&error) => Ok(now() + LINGER),
        outcome => outcome.map_err(write_failed),
    }
}

/// One fdatasync of the active segment; earlier segments were synced when they were sealed.
fn start_sync(log: &Log) -> (impl Future<Output = io::Result<()>> + use<>, SyncScope) {
    let inner = log.inner();
    let segment = inner.active.segment.clone();
    (async move { segment.sync().await }, inner.sync_scope())
}

/// Seals the active segment and goes on in the spare.
///
/// The seal names the successor and is durable before anything is written there, so that a recovery that can
/// read the one knows of the other.
async fn next_segment(log: &Log) -> Result<(), String> {
    // Once, and when something has been freed: chores that fail tell so each time and try again by themselves.
    log.inner().spare_wanted = true;
    log.chores.notify_one();
    while log.inner().spare.is_none() {
        // Who waits for what is written should not wait for the spare too.
        if !log.inner().written.is_empty() {
            settle(log).await?;
            continue;
        }
        if let Condition::Sealed(why) = &log.inner().condition {
            return Err(why.to_string());
        }
        // Room is kept for the table that lets a segment go, because that may become the spare.
        let table = log.inner().write_table(log);
        match table {
            Ok(Step::Wrote(_)) => {
                log.chores.notify_one();
                continue;
            }
            Ok(_) => {}
            Err(error) => {
                stall(log, error).await?;
                continue;
            }
        }
        log.room.notified().await;
    }
    loop {
        let sealed = log.inner().write_seal(log);
        match sealed {
            Ok(()) => break,
            Err(error) => stall(log, error).await?,
        }
    }
    match log.class {
        Durability::Synced => {
            let (syncing, scope) = start_sync(log);
            let outcome = syncing.await;
            let mut inner = log.inner();
            inner.end_sync(scope, outcome)?;
            inner.settle();
        }
        Durability::Buffered | Durability::Memory => {
            let mut inner = log.inner();
            let sealed = inner.active.segment.clone();
            inner.unsynced.push(sealed);
        }
    }
    log.inner().activate_spare();
    log.inner().spare_wanted = false;
    log.chores.notify_one();
    Ok(())
}

fn write_failed(error: io::Error) -> String {
    format!("write failed: {error}")
}

pub(super) enum Step {
    Wrote(u64),
    SegmentIsFull,
    Done,
}

impl Inner {
    fn end_sync(&mut self, scope: SyncScope, outcome: io::Result<()>) -> Result<(), String> {
        outcome.map_err(|error| format!("fdatasync failed: {error}"))?;
        self.synced(scope);
        self.stats.syncs += 1;
        Ok(())
    }

    /// Writes a table if one is wanted, else the next group up to the one with ticket `last`.
    fn write_next(&mut self, last: u64, log: &Log) -> io::Result<Step> {
        match self.write_table(log)? {
            Step::Done => {}
            step => return Ok(step),
        }
        let Some(next) = self.queue.front().filter(|next| next.ticket <= last) else {
            return Ok(Step::Done);
        };
        // A seal and a table always find room.
        let (padded, index_length) = (next.group.padded_len(), next.group.index_length());
        if !self.fits(padded, index_length, 2 * log.geometry.table_reserve, 0) {
            return Ok(Step::SegmentIsFull);
        }
        let mut pending = self.queue.pop_front().expect("seen above");
        let placed = self.append(&mut pending.group);
        let (offset, bytes) = match placed {
            Ok(place) => place,
            Err(error) => {
                self.queue.push_front(pending);
                return Err(error);
            }
        };
        self.queued_bytes -= padded;
        self.place(&mut pending, offset);
        self.arrived(&pending.messages, &log.geometry);
        pending.last_sequence = self.gate.appended();
        self.written.push(pending);
        Ok(Step::Wrote(bytes))
    }

    /// Writes what waits, if states in it have waited long enough and it fits; returns when to look again.
    fn write_lingering(&mut self, log: &Log) -> io::Result<Instant> {
        let linger = self.linger();
        let waits = self.queue.back().and_then(|open| Some((open.since? + linger, open.ticket)));
        let now = now();
        match waits {
            Some((due, _)) if due > now => return Ok(due),
            Some((_, last)) => while let Step::Wrote(_) = self.write_next(last, log)? {},
            None => {}
        }
        Ok(now + linger)
    }

    /// Writes a table, if one is wanted.
    pub(super) fn write_table(&mut self, log: &Log) -> io::Result<Step> {
        if self.table_since.is_none() {
            return Ok(Step::Done);
        }
        let mut pending = Pending { table: Some(self.tables_asked), ..Pending::default() };
        self.push_table(&mut pending.group, Kind::Table, None);
        debug_assert!(pending.group.padded_len() <= log.geometry.table_reserve, "room for the table is kept");
        let (padded, index_length) = (pending.group.padded_len(), pending.group.index_length());
        if padded > self.rest_of_segment(log.geometry.table_reserve) {
            return Ok(Step::SegmentIsFull);
        }
        if !self.fits(padded, index_length, log.geometry.table_reserve, 0) {
            // The segment that it frees may be the spare that is waited for.
            self.active.index.give_up();
        }
        let (_, bytes) = self.append(&mut pending.group)?;
        self.table_since = None;
        self.push_written(pending);
        Ok(Step::Wrote(bytes))
    }

    /// A group that nobody waits for by a ticket of its own is written.
    pub(super) fn push_written(&mut self, pending: Pending) {
        let ticket = self.written.last().map_or(self.settled_ticket, |last| last.ticket);
        let last_sequence = self.gate.appended();
        self.written.push(Pending { ticket, last_sequence, ..pending });
    }

    /// Does a group find room that takes so many bytes in the segment and in its index, when so many are kept for tables
    /// and for others? When there is no spare to come, the index gives way.
    pub(super) fn fits(&mut self, padded: u64, index_length: usize, tables: u64, others: u64) -> bool {
        let rest = self.rest_of_segment(tables + others);
        if padded + self.active.index.room(index_length + tables as usize) <= rest {
            return true;
        }
        let gives_way = padded <= rest && self.spare.is_none() && self.spare_failed.is_some();
        if gives_way {
            self.active.index.give_up();
        }
        gives_way
    }

    /// Bytes that the active segment has left, when so many are kept.
    pub(super) fn rest_of_segment(&self, kept: u64) -> u64 {
        (self.active.segment.len() - self.active.end).saturating_sub(kept)
    }

    fn push_table(&self, group: &mut Group, kind: Kind, successor: Option<TableEntry>) {
        // One that is listed later may be newer than the spare, which would look forgotten then.
        let spare = self.spare.as_ref().filter(|_| successor.is_none()).map(|spare| TableEntry {
            file: spare.file,
            identity: spare.identity,
            status: Status::Free,
        });
        let entries = self.table.entries().chain(spare).chain(successor);
        group.push(kind, 0, 0, |into| encode_table(into, entries), &[]);
    }

    /// Writes a group behind the last one; returns where, and how many bytes.
    pub(super) fn append(&mut self, group: &mut Group) -> io::Result<(u64, u64)> {
        let is_rewriting =
            sim::PlantedFault::RewriteDurableBlock.is_planted() && self.active.end > FIRST_GROUP;
        let offset = self.active.end - if is_rewriting { BLOCK } else { 0 };
        debug_assert!(offset.is_multiple_of(BLOCK), "groups start on blocks of their own");
        let records = group.records() as u64;
        let stamp = Stamp {
            identity: self.active.identity,
            offset,
            first_sequence: self.gate.next(),
            watermark: self.gate.durable(),
            incarnation: self.incarnation,
        };
        let length = group.padded_len();
        let written = self.active.segment.append_at(offset, &group.finish(&stamp));
        if let Err(error) = written {
            group.reopen();
            return Err(error);
        }
        for body in group.take_bodies() {
            self.buffers.keep(body);
        }
        self.active.index.add(group);
        self.active.end = offset + length;
        self.gate.append(records);
        self.stats.groups += 1;
        self.stats.bytes += length;
        Ok((offset, length))
    }

    /// Enters where the group's messages are, now that it has its place.
    fn place(&mut self, pending: &mut Pending, offset: u64) {
        let ordinal = self.active.identity.ordinal;
        let piece = |body: u32, length: u32| Piece { ordinal, offset: offset as u32 + body, length };
        for chunk in &pending.chunks {
            let stream = self.streams.get_mut(chunk.stream);
            // A stream that was given up meanwhile leaves a dead chunk.
            if let Some(stream) = stream.filter(|stream| stream.id == chunk.id) {
                let piece = piece(chunk.body, chunk.length);
                stream.chunks.push(piece);
                self.table.add_record(Weight::of_chunk(piece));
            }
        }
        for message in &pending.messages {
            let chunks = message.stream.map(|stream| self.streams.remove(stream).chunks).unwrap_or_default();
            let head = piece(message.body, message.length);
            let finished = Finished::none_of(message.recipients);
            let entry = Entry::new(message.meta_length, head, chunks, finished);
            self.table.add_record(Weight::of_record(head, message.meta_length));
            self.messages.insert(message.id, entry);
        }
        self.stats.messages += pending.messages.len() as u64;
        self.table.speak(ordinal, pending.speaks_of.iter().copied());
        self.place_notes(pending, offset);
    }

    fn place_notes(&mut self, pending: &mut Pending, offset: u64) {
        let ordinal = self.active.identity.ordinal;
        for NewNote { id, start, length, word, recipients } in &mut pending.notes {
            let place = Place { ordinal, offset: offset as u32 + *start, length: *length };
            self.table.add_record(Weight::of_state(place));
            let note = Note { place, word: *word, recipients: std::mem::take(recipients) };
            let dead = self.notes.add(*id, note);
            pending.releases.extend(dead.into_iter().map(Weight::of_state));
        }
        for (id, home) in pending.completed.drain(..) {
            for note in self.notes.remove(id) {
                pending.releases.push(Weight::of_state(note.place));
                if note.word.is_final() {
                    // A tombstone from now on.
                    self.table.speak(note.place.ordinal, [(home, u64::from(note.place.length))]);
                }
            }
        }
    }

    fn write_seal(&mut self, log: &Log) -> io::Result<()> {
        let spare = self.spare.as_ref().expect("waited for");
        let successor = TableEntry { file: spare.file, identity: spare.identity, status: Status::Live };
        let mut group = Group::default();
        self.push_table(&mut group, Kind::Seal, Some(successor));
        debug_assert!(group.padded_len() <= log.geometry.table_reserve, "room for the seal is kept");
        self.append(&mut group).map(drop)
    }

    /// Goes on in the spare; the first group there is the table.
    fn activate_spare(&mut self) {
        let spare = self.spare.take().expect("waited for");
        let Identity { ordinal, epoch } = spare.identity;
        self.table.seal(self.active.identity.ordinal);
        self.table.insert(ordinal, LiveSegment::new(spare.file, epoch, spare.segment.clone()));
        let active = Active::new(spare.identity, spare.segment, FIRST_GROUP);
        let Active { identity, segment, end, index, .. } = std::mem::replace(&mut self.active, active);
        self.unindexed.push(Unindexed { identity, segment, end, index });
        self.ask_for_table();
    }
}
