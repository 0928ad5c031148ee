//! Copying survivors forward, so that one message that is deferred for days does not keep the segment around it.
//!
//! The chores pick a sealed segment, read it, and hand what counts in it to the committer in batches. The committer
//! writes a batch behind the mail of a round, under the same sync, and at that moment the index goes over to the copies.
//! When they are durable the originals are dead, and a segment in which nothing counts is freed as any other. All that
//! is copied was durable, being in a sealed segment; so it does no harm when a copy outlives a crash and something
//! that was written before it does not.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;

use super::spare::{Chore, keep_ready};
use crate::spool::config::Geometry;
use crate::spool::disk::SegmentFile;
use crate::spool::format::headers::{
    BLOCK, FIRST_GROUP, GROUP_HEADER, GROUP_MAX, GroupHeader, Identity, Kind, RECORD_HEADER, RecordHeader,
    padded, record_is_whole,
};
use crate::spool::log::copy::{Batch, Survivor, Verdict};
use crate::spool::log::handle::Log;
use crate::spool::log::inner::Inner;

/// Bytes of records that are copied in one round of the committer: a sync of them takes little longer than one of a
/// lone block, so that acceptance keeps its latency.
const BATCH_BYTES: usize = 256 << 10;
/// Bytes read at once.
const WINDOW: u64 = 1 << 20;

impl Inner {
    /// Bytes of all segments.
    pub(crate) fn used_bytes(&self) -> u64 {
        let spare = self.spare.as_ref().map_or(0, |spare| spare.segment.len());
        self.table.files().map(|file| file.len()).sum::<u64>() + spare
    }

    /// Do the segments take more than twice what counts and three segments? Of the free ones, which are removed if
    /// need be, one is counted.
    pub(crate) fn exceeds_bound(&self, geometry: &Geometry) -> bool {
        let live: u64 = self.table.live_segments().map(|(_, live)| live.segment.len()).sum();
        let ready = u64::from(self.spare.is_some()) + self.table.free_count().min(1) as u64;
        live + ready * geometry.segment_size > 2 * self.table.live_bytes() + 3 * geometry.segment_size
    }

    /// Is `max_space` nearly used up?
    fn is_pressed(&self, geometry: &Geometry) -> bool {
        self.table.live_count() + 3 >= geometry.segments_max
    }

    /// The segment that is cleaned next: the one in which least counts, if copying that gains space that is wanted.
    pub(crate) fn victim(&self, geometry: &Geometry) -> Option<u32> {
        let pressed = self.is_pressed(geometry);
        if !pressed && !self.exceeds_bound(geometry) {
            return None;
        }
        // Those that are losing records just now may be empty in a moment.
        let losing: BTreeSet<u32> =
            self.queue.iter().chain(&self.written).flat_map(|pending| pending.losing()).collect();
        let sealed = || self.table.live_segments().filter(|(_, live)| live.sealed);
        // What was sealed last is likely to be on its way out.
        let newest = sealed().map(|(ordinal, _)| ordinal).last();
        // Without a spare to come, what is begun has to find its end in the active segment.
        let room = match self.spare_failed.is_some() && self.spare.is_none() {
            true => self.rest_of_segment(2 * geometry.table_reserve + geometry.group_max) / 2,
            false => u64::MAX,
        };
        let gains = |live: u64, length: u64| {
            live <= room && (live <= length / 2 || pressed && live <= geometry.usable() / 4 * 3)
        };
        let candidates = sealed().filter(|(ordinal, live)| {
            !live.stuck
                && !live.is_empty()
                && (pressed || Some(*ordinal) != newest)
                && !losing.contains(ordinal)
                && gains(live.live_bytes(), live.segment.len())
        });
        candidates.min_by_key(|(_, live)| live.live_bytes()).map(|(ordinal, _)| ordinal)
    }

    /// Is it losing records as soon as what was written is settled?
    fn is_losing(&self, ordinal: u32) -> bool {
        self.queue.iter().chain(&self.written).any(|pending| pending.losing().any(|it| it == ordinal))
    }

    /// Can the committer write of what is to be copied?
    pub(crate) fn can_copy(&self) -> bool {
        self.copying.is_some() && self.check().is_ok() && (!self.copy_waits || self.spare.is_some())
    }
}

/// Cleans one segment, if there is one that is worth it; returns whether there was.
pub(crate) async fn clean(log: &Log) -> Result<bool, Chore> {
    let victim = log.inner().victim(&log.geometry);
    let Some(victim) = victim else { return Ok(false) };
    log.inner().cleaning = true;
    let outcome = pass(log, victim).await;
    let mut inner = log.inner();
    inner.cleaning = false;
    inner.copying = None;
    outcome?;
    Ok(true)
}

async fn pass(log: &Log, victim: u32) -> Result<(), Chore> {
    let mut walk = {
        let inner = log.inner();
        let live = inner.table.live(victim).expect("chosen in this turn");
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
            let verdict = log.inner().judge(victim, &found.header, found.offset, payload);
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
    let has_records = inner.table.live(victim).is_some_and(|live| live.has_records());
    if lost || (has_records && !later && !inner.is_losing(victim)) {
        inner.table.give_up(victim);
    } else if !has_records && !later {
        inner.table.cleaned(victim);
        inner.stats.cleaned += 1;
    }
    Ok(())
}

/// Has records copied, and waits until the copies are durable.
async fn submit(log: &Log, from: u32, records: VecDeque<Survivor>) -> Result<(), Chore> {
    if records.is_empty() {
        return Ok(());
    }
    {
        let mut inner = log.inner();
        inner.check()?;
        inner.copying = Some(Batch { from, records });
        inner.copy_waits = false;
    }
    log.work.notify_one();
    loop {
        {
            let mut inner = log.inner();
            inner.check()?;
            if std::mem::take(&mut inner.copy_failed) {
                return Err(Chore::Retry);
            }
            if inner.copying.is_none() && !inner.written.iter().any(|pending| pending.copies) {
                return Ok(());
            }
        }
        keep_ready(log).await?;
        log.chores.notified().await;
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
