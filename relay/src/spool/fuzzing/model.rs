//! A small spool in memory, written by the rules of FORMAT.md, and what it must be found to hold.

use std::collections::{BTreeMap, BTreeSet};

use chasqui_protocol::smtp::data::BodyForm;

use super::{Image, Program, start};
use crate::spool::format::group::{Group, Stamp};
use crate::spool::format::headers::{BLOCK, FIRST_GROUP, Identity, Kind, SegmentHeader};
use crate::spool::format::index::Index;
use crate::spool::format::message::{Envelope, encode_message};
use crate::spool::format::state::{State, encode_state};
use crate::spool::format::table::{Status, TableEntry, encode_cuts, encode_table};
use crate::spool::log::recipient_set::RecipientSet;

pub(super) const SPOOL: u64 = 77;
/// Bytes of a segment.
const LENGTH: u64 = 64 << 10;
/// Bytes of records after which a group is written.
const GROUP: usize = 12 << 10;
/// Bytes kept for a seal.
const SEAL: u64 = BLOCK;
/// Segments in use at once; at the limit nothing more is written.
const SEGMENTS_MAX: usize = 12;
const MESSAGES_MAX: u64 = 200;

/// The body of a message: its bytes tell whose they are.
pub(super) fn body_of(id: u64, length: usize) -> Vec<u8> {
    (0..length).map(|at| (id as usize * 31 + at * 7 + (at >> 8)) as u8).collect()
}

/// A group on disk: index of the file in [`Model::images`], and its bytes there.
pub(super) type Place = (usize, u64, u64);

/// A message that was committed.
pub(super) struct Sent {
    pub(super) id: u64,
    pub(super) envelope: Envelope,
    pub(super) length: usize,
    finished: RecipientSet,
    /// Groups with pieces of it.
    pub(super) places: Vec<Place>,
    /// Ordinals of the segments with a piece of it.
    references: BTreeSet<u32>,
    /// Its message record has not been written.
    uncommitted: bool,
}

impl Sent {
    pub(super) fn is_queued(&self) -> bool {
        !self.uncommitted && !self.finished.is_complete()
    }
}

struct Segment {
    image: Image,
    identity: Identity,
    end: u64,
    status: Status,
    /// Messages that states in it speak of.
    refers_to: BTreeSet<u64>,
    /// Segments that its cuts speak of.
    binds: BTreeSet<u32>,
}

/// The spool under construction.
pub(super) struct Model {
    pub(super) sent: BTreeMap<u64, Sent>,
    segments: Vec<Segment>,
    /// Index of the one that is written to.
    active: usize,
    open: Group,
    /// Of the active segment.
    index: Index,
    /// What takes effect when the open group is written.
    entered: Vec<Entered>,
    groups: Vec<Place>,
    next_id: u64,
    next_ordinal: u32,
    incarnation: u32,
    next_sequence: u64,
    durable: u64,
}

enum Entered {
    Chunk(u64),
    Message(u64, Envelope, usize),
    State(u64, u32, bool),
}

impl Model {
    pub(super) fn new() -> Model {
        let mut model = Model {
            sent: BTreeMap::new(),
            segments: Vec::new(),
            active: 0,
            open: Group::default(),
            index: Index::new(LENGTH),
            entered: Vec::new(),
            groups: Vec::new(),
            next_id: 1,
            next_ordinal: 1,
            incarnation: 1,
            next_sequence: 1,
            durable: 0,
        };
        let first = model.prepare();
        model.activate(first, |_| ());
        model
    }

    /// Ids of the messages with recipients left, ascending.
    pub(super) fn queued(&self) -> Vec<u64> {
        self.sent.values().filter(|sent| sent.is_queued()).map(|sent| sent.id).collect()
    }

    pub(super) fn images(&self) -> Vec<Image> {
        self.segments.iter().map(|segment| segment.image.clone()).collect()
    }

    /// Does one thing that a relay does.
    pub(super) fn step(&mut self, program: &mut Program<'_>) {
        match program.byte() % 10 {
            0 | 1 => self.message(program, 0),
            2 => self.message(program, 2),
            3 | 4 => self.state(program),
            5 => drop(self.write_group()),
            6 => self.sync(),
            7 => self.next_segment(),
            8 => self.free_segments(),
            _ => self.restart(program.byte().is_multiple_of(2)),
        }
        if self.open.len() > GROUP {
            self.write_group();
        }
    }

    fn message(&mut self, program: &mut Program<'_>, chunks: u32) {
        let (id, size, recipients) = (self.next_id, program.byte(), 1 + program.byte() % 3);
        if id > MESSAGES_MAX {
            return;
        }
        self.next_id += 1;
        let length = usize::from(size) * 16;
        let envelope = Envelope {
            reverse_path: format!("sender{id}@example.org"),
            recipients: (0..recipients).map(|index| format!("{index}@example.net")).collect(),
            arrived_ms: id,
            lead_ms: if size % 5 == 0 { id.cast_signed() - 7 } else { 0 },
            size: length as u64,
            eight_bit: size % 2 == 0,
            form: BodyForm::Lines { stuffed: size % 3 == 0 },
            dsn: None,
        };
        let body = body_of(id, length);
        let piece = length / (chunks as usize + 1);
        for index in 0..chunks {
            let bytes = &body[index as usize * piece..][..piece];
            self.open.push(Kind::Chunk, 0, id, |into| into.extend_from_slice(&index.to_le_bytes()), bytes);
            self.entered.push(Entered::Chunk(id));
            if program.byte().is_multiple_of(2) && !self.write_group() {
                return;
            }
        }
        let chunked = chunks as usize * piece;
        let flags = u8::from(envelope.form.is_stuffed()) | u8::from(envelope.eight_bit) << 1;
        let meta = |into: &mut Vec<u8>| encode_message(into, chunks, chunked as u64, &envelope);
        self.open.push(Kind::Message, flags, id, meta, &body[chunked..]);
        self.entered.push(Entered::Message(id, envelope, length));
    }

    fn state(&mut self, program: &mut Program<'_>) {
        let queued = self.queued();
        let (which, index, kind) = (program.byte(), u32::from(program.byte() % 3), program.byte() % 3);
        let Some(id) = queued.get(usize::from(which) % queued.len().max(1)) else { return };
        let state = match kind {
            0 => State::Delivered,
            1 => State::Bounced,
            _ => State::Deferred { until_ms: 1, attempts: 2, reason: "451 later".into(), warned: false },
        };
        self.open.push(Kind::State, 0, *id, |into| encode_state(into, &[index], &state), &[]);
        self.entered.push(Entered::State(*id, index, kind < 2));
    }

    /// Writes the open group, in the next segment if it does not fit.
    /// False when the spool is full: then what was not written is forgotten, as by a session that was told so.
    pub(super) fn write_group(&mut self) -> bool {
        let room = self.open.padded_len() + SEAL + self.index.room(self.open.index_length());
        let full = self.segments[self.active].end + room > LENGTH;
        if full && !self.seal() {
            self.open = Group::default();
            self.entered.clear();
            return false;
        }
        let group = std::mem::take(&mut self.open);
        let place = self.append(group);
        let ordinal = self.segments[self.active].identity.ordinal;
        for entered in std::mem::take(&mut self.entered) {
            match entered {
                Entered::Chunk(id) => {
                    self.part(id).places.push(place);
                    self.part(id).references.insert(ordinal);
                }
                Entered::Message(id, envelope, length) => {
                    let sent = self.part(id);
                    sent.finished = RecipientSet::none_of(envelope.recipients.len() as u32);
                    (sent.envelope, sent.length, sent.uncommitted) = (envelope, length, false);
                    sent.places.push(place);
                    sent.references.insert(ordinal);
                }
                Entered::State(id, index, is_final) => {
                    if is_final {
                        self.part(id).finished.mark(index);
                    }
                    self.segments[self.active].refers_to.insert(id);
                }
            }
        }
        true
    }

    /// What is known of a message; it counts when its message record is written.
    fn part(&mut self, id: u64) -> &mut Sent {
        self.sent.entry(id).or_insert_with(|| Sent {
            id,
            envelope: Envelope::default(),
            length: 0,
            finished: RecipientSet::none_of(0),
            places: Vec::new(),
            references: BTreeSet::new(),
            uncommitted: true,
        })
    }

    /// All groups written since the files were last overwritten.
    pub(super) fn groups(&self) -> &[Place] {
        &self.groups
    }

    fn append(&mut self, mut group: Group) -> Place {
        let segment = &mut self.segments[self.active];
        let records = group.records() as u64;
        let offset = segment.end;
        let stamp = Stamp {
            identity: segment.identity,
            offset,
            first_sequence: self.next_sequence,
            watermark: self.durable,
            incarnation: self.incarnation,
        };
        let bytes = group.finish(&stamp).concat();
        segment.image.bytes[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        segment.end += bytes.len() as u64;
        self.index.add(&group);
        self.next_sequence += records;
        let place = (self.active, offset, segment.end);
        self.groups.push(place);
        place
    }

    fn sync(&mut self) {
        self.write_group();
        self.durable = self.next_sequence - 1;
    }

    fn next_segment(&mut self) {
        self.write_group();
        self.seal();
    }

    /// Goes on in another segment; false when there is none.
    fn seal(&mut self) -> bool {
        let in_use = self.segments.iter().filter(|segment| segment.status == Status::Live).count();
        if in_use >= SEGMENTS_MAX {
            return false;
        }
        let next = self.prepare();
        let mut group = Group::default();
        let entries: Vec<TableEntry> = self.entries().chain([self.entry(next, Status::Live)]).collect();
        group.push(Kind::Seal, 0, 0, |into| encode_table(into, entries), &[]);
        self.append(group);
        self.durable = self.next_sequence - 1;
        self.write_index();
        self.activate(next, |_| ());
        true
    }

    /// Writes the index of the active segment at its end, if there is room for it.
    fn write_index(&mut self) {
        let segment = &mut self.segments[self.active];
        let index = std::mem::replace(&mut self.index, Index::new(LENGTH));
        let Some(bytes) = index.finish(segment.identity) else { return };
        let start = LENGTH - bytes.len() as u64;
        if start >= segment.end {
            segment.image.bytes[start as usize..].copy_from_slice(&bytes);
        }
    }

    /// A segment with a new header: a free one, else a new file. It is not listed.
    fn prepare(&mut self) -> usize {
        let identity = Identity {
            ordinal: self.next_ordinal,
            epoch: u64::from(self.next_ordinal).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        self.next_ordinal += 1;
        let header = SegmentHeader { spool: SPOOL, identity, length: LENGTH, shard: 0 }.encode();
        let free = self.segments.iter().position(|segment| segment.status == Status::Free);
        let index = free.unwrap_or(self.segments.len());
        if free.is_none() {
            let image = Image { file: index as u32 + 1, bytes: vec![0; LENGTH as usize] };
            let (refers_to, binds) = (BTreeSet::new(), BTreeSet::new());
            let status = Status::Damaged;
            self.segments.push(Segment { image, identity, end: FIRST_GROUP, status, refers_to, binds });
        }
        self.groups.retain(|(file, ..)| *file != index);
        let segment = &mut self.segments[index];
        segment.image.bytes[..BLOCK as usize].copy_from_slice(&header);
        (segment.identity, segment.end) = (identity, FIRST_GROUP);
        segment.refers_to.clear();
        segment.binds.clear();
        // Neither live nor free until it is active: no table lists it.
        segment.status = Status::Damaged;
        index
    }

    fn activate(&mut self, index: usize, more: impl FnOnce(&mut Group)) {
        self.active = index;
        self.index = Index::new(LENGTH);
        self.segments[index].status = Status::Live;
        let mut group = Group::default();
        let entries: Vec<TableEntry> = self.entries().collect();
        group.push(Kind::Table, 0, 0, |into| encode_table(into, entries), &[]);
        more(&mut group);
        self.append(group);
    }

    fn entries(&self) -> impl Iterator<Item = TableEntry> + '_ {
        let listed = (0..self.segments.len()).filter(|index| self.segments[*index].status != Status::Damaged);
        listed.map(|index| self.entry(index, self.segments[index].status))
    }

    fn entry(&self, index: usize, status: Status) -> TableEntry {
        let segment = &self.segments[index];
        TableEntry { file: segment.image.file, identity: segment.identity, status }
    }

    /// Gives back what nothing keeps, durably, before anything is overwritten.
    fn free_segments(&mut self) {
        self.sync();
        let live: BTreeSet<u32> = self.ordinals(Status::Live);
        let mut gone: BTreeSet<u32> = BTreeSet::new();
        loop {
            let is_gone = |ordinal: &u32| gone.contains(ordinal) || !live.contains(ordinal);
            let goes = |(index, segment): &(usize, &Segment)| {
                let ordinal = segment.identity.ordinal;
                let keeps =
                    self.sent.values().any(|sent| sent.is_queued() && sent.references.contains(&ordinal));
                let references = segment.refers_to.iter().flat_map(|id| &self.sent[id].references);
                let refers = references
                    .chain(&segment.binds)
                    .any(|reference| *reference != ordinal && !is_gone(reference));
                *index != self.active
                    && segment.status == Status::Live
                    && !is_gone(&ordinal)
                    && !keeps
                    && !refers
            };
            let next =
                self.segments.iter().enumerate().find(goes).map(|(_, segment)| segment.identity.ordinal);
            match next {
                Some(ordinal) => gone.insert(ordinal),
                None => break,
            };
        }
        if gone.is_empty() || self.segments[self.active].end + 2 * SEAL > LENGTH {
            return;
        }
        for segment in self.segments.iter_mut().filter(|segment| gone.contains(&segment.identity.ordinal)) {
            segment.status = Status::Free;
        }
        let mut group = Group::default();
        let entries: Vec<TableEntry> = self.entries().collect();
        group.push(Kind::Table, 0, 0, |into| encode_table(into, entries), &[]);
        self.append(group);
        self.sync();
    }

    fn ordinals(&self, status: Status) -> BTreeSet<u32> {
        let of_status = self.segments.iter().filter(|segment| segment.status == status);
        of_status.map(|segment| segment.identity.ordinal).collect()
    }

    /// The process dies and starts again. The open group was written, whole or torn, and not synced.
    fn restart(&mut self, tear: bool) {
        let in_use = self.segments.iter().filter(|segment| segment.status == Status::Live).count();
        if in_use >= SEGMENTS_MAX || self.incarnation > 6 {
            return;
        }
        let fits = self.segments[self.active].end + self.open.padded_len() + SEAL <= LENGTH;
        if tear && fits && self.open.records() > 0 {
            let group = std::mem::take(&mut self.open);
            let (index, from, _) = self.append(group);
            self.segments[index].image.bytes[from as usize + 70] ^= 0xff;
            self.entered.clear();
        } else {
            self.write_group();
        }
        let recovered = self.ordinals(Status::Live);
        let assembly = start(&self.images());
        assert_eq!(assembly.quarantined, 0, "{:?}", assembly.report);
        (self.next_ordinal, self.incarnation) = (assembly.next_ordinal, assembly.incarnation);
        (self.next_sequence, self.durable) = (1, 0);
        let next = self.prepare();
        self.activate(next, |group| {
            group.push(Kind::Cut, 0, 0, |into| encode_cuts(into, &assembly.cuts), &[]);
        });
        self.durable = self.next_sequence - 1;
        // The cuts are needed as long as what was recovered.
        self.segments[next].binds = recovered;
    }
}
