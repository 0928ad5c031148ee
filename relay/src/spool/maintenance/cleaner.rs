//! Copying survivors forward, so that one message that is deferred for days does not keep the segment around it.
//!
//! Maintenance picks a sealed segment, reads it, and hands what counts in it to the committer in batches. The committer
//! writes a batch behind the mail of a round, under the same sync, and at that moment the index goes over to the copies.
//! When they are durable the originals are dead, and a segment in which nothing counts is freed as any other. All that
//! is copied was durable, being in a sealed segment; so it does no harm when a copy outlives a crash and something
//! that was written before it does not.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use super::spare::{Stop, keep_ready};
use super::victim::victim;
use crate::spool::disk::SegmentFile;
use crate::spool::format::headers::{
    BLOCK, FIRST_GROUP, GROUP_HEADER, GROUP_MAX, GroupHeader, Identity, Kind, RECORD_HEADER, RecordHeader,
    padded, record_is_whole,
};
use crate::spool::log::copy::{Verdict, judge};
use crate::spool::log::copying::{Batch, Survivor};
use crate::spool::log::handle::Log;

/// Bytes of records that are copied in one round of the committer: a sync of them takes little longer than one of a
/// lone block, so that acceptance keeps its latency.
const BATCH_BYTES: usize = 256 << 10;
/// Bytes read at once: four rounds of [`BATCH_BYTES`], and all the memory that cleaning holds.
const WINDOW: u64 = 1 << 20;

/// Cleans one segment, if there is one that is worth it; returns whether there was.
pub(crate) async fn clean(log: &Log) -> Result<bool, Stop> {
    let victim = victim(&log.inner(), &log.geometry);
    let Some(victim) = victim else { return Ok(false) };
    log.inner().copying.cleaning = true;
    let outcome = pass(log, victim).await;
    let mut inner = log.inner();
    inner.copying.cleaning = false;
    inner.copying.batch = None;
    outcome?;
    Ok(true)
}

async fn pass(log: &Log, victim: u32) -> Result<(), Stop> {
    let mut walk = {
        let inner = log.inner();
        let live = inner.segments.table.live(victim).expect("chosen in this turn");
        Walk::new(Identity { ordinal: victim, epoch: live.epoch }, live.segment.clone())
    };
    let (mut records, mut bytes) = (VecDeque::new(), 0);
    let (mut later, mut lost) = (false, false);
    loop {
        let window = match walk.next().await {
            Ok(Some(window)) => window,
            Ok(None) => break,
            Err(error) => {
                log::warn!("spool {}: segment {victim} cannot be read: {error}", log.dir.display());
                lost = true;
                break;
            }
        };
        for found in &window.found {
            let payload = window.payload(found);
            // What a damaged state would say is not known. That a damaged piece counts is.
            let is_state = matches!(found.header.kind, Kind::State | Kind::Cut);
            let verdict = judge(&log.inner(), victim, &found.header, found.offset, payload);
            match verdict {
                Verdict::Dead if !is_state || window.is_whole(found) => {}
                Verdict::Later => later = true,
                _ if !window.is_whole(found) => {
                    log::warn!(
                        "spool {}: segment {victim} is damaged at {}",
                        log.dir.display(),
                        found.offset
                    );
                    lost = true;
                }
                _ => {
                    bytes += RECORD_HEADER + payload.len();
                    records.push_back(window.survivor(found));
                }
            }
            if bytes >= BATCH_BYTES {
                bytes = 0;
                submit(log, victim, std::mem::take(&mut records)).await?;
            }
        }
    }
    submit(log, victim, records).await?;
    let mut inner = log.inner();
    let has_records = inner.segments.table.live(victim).is_some_and(|live| live.has_records());
    if lost || (has_records && !later && !inner.groups.losing().any(|ordinal| ordinal == victim)) {
        inner.segments.table.give_up(victim);
    } else if !has_records && !later {
        inner.segments.table.cleaned(victim);
        inner.stats.cleaned += 1;
    }
    Ok(())
}

/// Has records copied, and waits until the copies are durable.
async fn submit(log: &Log, from: u32, records: VecDeque<Survivor>) -> Result<(), Stop> {
    if records.is_empty() {
        return Ok(());
    }
    {
        let mut inner = log.inner();
        inner.check()?;
        inner.copying.batch = Some(Batch { from, records });
        inner.copying.waits = false;
    }
    log.work.notify_one();
    loop {
        {
            let mut inner = log.inner();
            inner.check()?;
            if std::mem::take(&mut inner.copying.failed) {
                return Err(Stop::Retry);
            }
            if inner.copying.batch.is_none() && !inner.groups.written.iter().any(|pending| pending.copies) {
                return Ok(());
            }
        }
        keep_ready(log).await?;
        log.maintenance.notified().await;
    }
}

/// A walk over the groups of a sealed segment.
struct Walk {
    identity: Identity,
    segment: Rc<SegmentFile>,
    position: u64,
    /// Bytes of the group at `position`, as far as is known.
    wanted: u64,
    ended: bool,
}

/// Bytes of a segment, and the records in them.
struct Window {
    start: u64,
    bytes: Vec<u8>,
    found: Vec<Found>,
}

struct Found {
    header: RecordHeader,
    crc: u32,
    /// Where it starts in its segment.
    offset: u32,
}

impl Window {
    fn at(&self, found: &Found) -> usize {
        (u64::from(found.offset) - self.start) as usize
    }

    fn payload(&self, found: &Found) -> &[u8] {
        &self.bytes[self.at(found) + RECORD_HEADER..][..found.header.payload_length() as usize]
    }

    fn is_whole(&self, found: &Found) -> bool {
        record_is_whole(&self.bytes[self.at(found)..][..RECORD_HEADER], self.payload(found), found.crc)
    }

    fn survivor(&self, found: &Found) -> Survivor {
        let (meta, body) = self.payload(found).split_at(found.header.meta_length as usize);
        let (meta, body) = (meta.to_vec(), body.to_vec());
        Survivor { header: found.header, offset: found.offset, meta, body }
    }
}

impl Walk {
    fn new(identity: Identity, segment: Rc<SegmentFile>) -> Walk {
        Walk { identity, segment, position: FIRST_GROUP, wanted: BLOCK, ended: false }
    }

    /// Reads on. Where no group stands it goes on block by block: a recovery may have discarded some.
    async fn next(&mut self) -> io::Result<Option<Window>> {
        let left = self.segment.len().saturating_sub(self.position) / BLOCK * BLOCK;
        if left == 0 || self.ended {
            return Ok(None);
        }
        let (start, length) = (self.position, WINDOW.max(self.wanted).min(left));
        let bytes = self.segment.read(start, length as usize).await?;
        let mut window = Window { start, bytes, found: Vec::new() };
        self.wanted = BLOCK;
        while !self.ended && self.position < start + length {
            let at = (self.position - start) as usize;
            let step = match self.group_at(&window.bytes[at..]) {
                None => BLOCK,
                Some(taken) if self.position + taken > start + length => {
                    self.wanted = taken;
                    break;
                }
                Some(taken) => {
                    self.records_in(&mut window, at);
                    taken
                }
            };
            self.position += step;
        }
        Ok(Some(window))
    }

    /// Bytes of the group that stands here, with its padding.
    fn group_at(&self, bytes: &[u8]) -> Option<u64> {
        let (header, _) = GroupHeader::decode(bytes)?;
        let length = u64::from(header.length);
        let fits = (GROUP_HEADER as u64..=GROUP_MAX).contains(&length)
            && self.position + padded(length) <= self.segment.len()
            && u64::from(header.block) * BLOCK == self.position;
        (fits && header.identity == self.identity).then(|| padded(length))
    }

    fn records_in(&mut self, window: &mut Window, group: usize) {
        let Some((header, _)) = GroupHeader::decode(&window.bytes[group..]) else { return };
        let end = group + header.length as usize;
        let mut at = group + GROUP_HEADER;
        while let Some((header, crc)) = window.bytes.get(at..end).and_then(RecordHeader::decode) {
            let next = at as u64 + RECORD_HEADER as u64 + header.payload_length();
            if next > end as u64 || header.epoch != self.identity.epoch {
                return;
            }
            self.ended |= header.kind == Kind::Seal;
            window.found.push(Found { header, crc, offset: (window.start + at as u64) as u32 });
            at = next as usize;
        }
    }
}
