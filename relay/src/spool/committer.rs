//! The task that writes and syncs groups: group commit with one sync in flight.

use std::io;
use std::pin::pin;
use std::rc::Rc;

use chasqui_runtime::{Elapsed, Instant, now, sim, timeout_at, yield_now};

use super::config::Durability;
use super::entries::Entry;
use super::finished::Finished;
use super::format::{BLOCK, FIRST_GROUP, Identity, Kind};
use super::group::{Group, Stamp};
use super::log::{Active, Condition, Inner, LINGER, Log, Pending, SyncScope};
use super::payload::{Status, TableEntry, encode_table};
use super::recover::Piece;
use super::table::LiveSegment;

/// Other tasks get their turn after this many bytes written in one round.
const TURN_BYTES: u64 = 1 << 20;

/// Runs until the log is closed or sealed.
pub(super) async fn run(log: Rc<Log>) {
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

/// When the next round starts.
enum Due {
    Now,
    Watermark,
    At(Instant),
    Never,
    End,
}

impl Inner {
    fn due(&self, class: Durability) -> Due {
        if matches!(self.condition, Condition::Sealed(_) | Condition::Closed) {
            return Due::End;
        }
        let closing = matches!(self.condition, Condition::Closing);
        if self.active.is_short_of_ids()
            || self.queue.len() > 1
            || !self.written.is_empty()
            || self.queue.back().is_some_and(|open| open.urgent)
        {
            return Due::Now;
        }
        let watermark = class == Durability::Synced && self.gate.watermark_is_due();
        let states = self.queue.back().and_then(|open| open.since);
        match states {
            Some(since) if closing || since + LINGER <= now() => Due::Now,
            Some(since) => Due::At(since + LINGER),
            None if watermark && (closing || self.last_round + LINGER <= now()) => Due::Watermark,
            None if watermark => Due::At(self.last_round + LINGER),
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
        let step = log.inner().write_next(last, log).map_err(write_failed)?;
        match step {
            Step::Wrote(bytes) if turn + bytes > TURN_BYTES => {
                turn = 0;
                yield_now().await;
            }
            Step::Wrote(bytes) => turn += bytes,
            Step::SegmentIsFull => next_segment(log).await?,
            Step::Done => break,
        }
    }
    settle(log).await
}

/// Syncs what was written, if the class wants that, and settles it.
///
/// A disk may take long. States that have waited for [`LINGER`] meanwhile are written behind what is being synced:
/// should the process be killed, the page cache keeps them, and what was delivered is not sent again.
async fn settle(log: &Log) -> Result<(), String> {
    if sim::bug("ack-before-sync") {
        log.inner().settle();
    }
    if log.class == Durability::Synced {
        let (syncing, scope) = start_sync(log);
        let mut syncing = pin!(syncing);
        let mut look = now() + LINGER;
        let outcome = loop {
            match timeout_at(look, syncing.as_mut()).await {
                Ok(outcome) => break outcome,
                Err(Elapsed) => look = log.inner().write_lingering(log).map_err(write_failed)?,
            }
        };
        log.inner().end_sync(scope, outcome)?;
    }
    let mut inner = log.inner();
    inner.settle();
    inner.last_round = now();
    Ok(())
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
    // Once: chores that fail tell so each time and try again by themselves.
    log.chores.notify_one();
    loop {
        if log.inner().spare.is_some() {
            break;
        }
        // Who waits for what is written should not wait for the spare too.
        if !log.inner().written.is_empty() {
            settle(log).await?;
        }
        if let Condition::Sealed(why) = &log.inner().condition {
            return Err(why.to_string());
        }
        log.room.notified().await;
    }
    log.inner().write_seal(log).map_err(write_failed)?;
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
    log.inner().activate_spare(log).map_err(write_failed)?;
    log.chores.notify_one();
    Ok(())
}

fn write_failed(error: io::Error) -> String {
    format!("write failed: {error}")
}

enum Step {
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

    /// Writes the next group up to the one with ticket `last`.
    fn write_next(&mut self, last: u64, log: &Log) -> io::Result<Step> {
        let Some(next) = self.queue.front().filter(|next| next.ticket <= last) else {
            return Ok(Step::Done);
        };
        let table = if next.table { log.geometry.table_reserve } else { 0 };
        let needed = next.group.padded_len() + table + log.geometry.table_reserve;
        if self.active.end + needed > self.active.segment.len() {
            return Ok(Step::SegmentIsFull);
        }
        let mut pending = self.queue.pop_front().expect("seen above");
        self.queued_bytes -= pending.group.padded_len();
        if pending.table {
            self.push_table(&mut pending.group, Kind::Table, None);
        }
        let (offset, bytes) = self.append(&mut pending.group)?;
        self.place(&mut pending, offset);
        self.arrived(&pending.messages, &log.geometry);
        pending.last_sequence = self.gate.appended();
        self.written.push(pending);
        Ok(Step::Wrote(bytes))
    }

    /// Writes what waits, if states in it have waited long enough and it fits; returns when to look again.
    fn write_lingering(&mut self, log: &Log) -> io::Result<Instant> {
        let waits = self.queue.back().and_then(|open| Some((open.since? + LINGER, open.ticket)));
        let now = now();
        match waits {
            Some((due, _)) if due > now => return Ok(due),
            Some((_, last)) => while let Step::Wrote(_) = self.write_next(last, log)? {},
            None => {}
        }
        Ok(now + LINGER)
    }

    fn push_table(&self, group: &mut Group, kind: Kind, successor: Option<TableEntry>) {
        group.push(kind, 0, 0, |into| encode_table(into, self.table.entries().chain(successor)), &[]);
    }

    /// Writes a group behind the last one; returns where, and how many bytes.
    pub(super) fn append(&mut self, group: &mut Group) -> io::Result<(u64, u64)> {
        let is_rewriting = sim::bug("rewrite-durable-block") && self.active.end > FIRST_GROUP;
        let offset = self.active.end - if is_rewriting { BLOCK } else { 0 };
        debug_assert!(offset.is_multiple_of(BLOCK), "groups start on blocks of their own");
        let records = group.records() as u64;
        let bytes = group.finish(&Stamp {
            identity: self.active.identity,
            offset,
            first_sequence: self.gate.next(),
            watermark: self.gate.durable(),
            incarnation: self.incarnation,
        });
        self.active.segment.append_at(offset, bytes)?;
        let length = bytes.len() as u64;
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
                stream.chunks.push(piece(chunk.body, chunk.length));
                self.table.add_piece(ordinal);
            }
        }
        for message in &pending.messages {
            let chunks = message.stream.map(|stream| self.streams.remove(stream).chunks).unwrap_or_default();
            let head = piece(message.body, message.length);
            let finished = Finished::none_of(message.recipients);
            let entry = Entry::new(message.meta_length, head, chunks, finished);
            self.table.add_piece(ordinal);
            self.messages.insert(message.id, entry);
        }
        self.stats.messages += pending.messages.len() as u64;
        self.table.speak(ordinal, &pending.speaks_of);
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
    fn activate_spare(&mut self, log: &Log) -> io::Result<()> {
        let spare = self.spare.take().expect("waited for");
        let Identity { ordinal, epoch } = spare.identity;
        self.table.seal(self.active.identity.ordinal);
        self.table.insert(ordinal, LiveSegment::new(spare.file, epoch, spare.segment.clone()));
        self.active = Active::new(spare.identity, spare.segment, FIRST_GROUP);
        let mut group = Group::default();
        self.push_table(&mut group, Kind::Table, None);
        debug_assert!(group.padded_len() <= log.geometry.table_reserve, "room for the table is kept");
        self.append(&mut group).map(drop)
    }
}
