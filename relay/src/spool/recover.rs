//! What counts of the segments found at start. Pure: files were scanned before, decisions are carried out after.
//!
//! The rules, in the order in which they are applied here, stand in FORMAT.md, *Recovery*.

use std::collections::{BTreeMap, BTreeSet};

use super::finished::Finished;
use super::format::{BLOCK, HeaderFault, Identity, RECORD_HEADER, SEGMENT_MIN, SegmentHeader};
use super::notes::{self, Note, Place, Word};
use super::payload::{Cut, MessageCounts, Status, TableEntry};
use super::scan::{Content, FoundGroup, FoundRecord};
use super::sequences::KeptGroup;

/// A segment file, scanned.
#[derive(Debug)]
pub(super) struct ScannedFile {
    /// Number in its name.
    pub(super) file: u32,
    /// Its bytes.
    pub(super) length: u64,
    /// Its header. Without one, `groups` are of any identity.
    pub(super) header: Result<SegmentHeader, HeaderFault>,
    /// Its whole groups in order of place.
    pub(super) groups: Vec<FoundGroup>,
    /// Places where a group starts that is not whole.
    pub(super) fragments: Vec<u64>,
    /// The groups are from the segment's index: nobody has looked at the bodies.
    pub(super) indexed: bool,
    /// Whole groups. Of a rival those that were seen, whatever its index says: see [`rivals`].
    pub(super) whole: usize,
}

/// What is to be done with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It counts.
    Live {
        /// Which segment it is.
        identity: Identity,
        /// Something that was durable in it is lost.
        damaged: bool,
    },
    /// Prepared and never used.
    Fresh(Identity),
    /// It may be overwritten.
    Free(Option<Identity>),
    /// Moved aside, never used again.
    Quarantined(String),
}

/// A whole group that may be in the page cache alone: index of its file, and where it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsure {
    pub(super) file: usize,
    pub(super) offset: u64,
    pub(super) end: u64,
}

/// Where a piece of a message's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) ordinal: u32,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// When a recipient is to be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deferral {
    /// Not before: wall clock, milliseconds since the Unix epoch.
    pub until_ms: u64,
    /// Attempts made.
    pub attempts: u32,
    /// Nothing more is to be told of the delay.
    pub warned: bool,
    /// Where the last reply or error stands.
    pub(super) reason: Piece,
}

/// A message that has recipients left.
#[derive(Debug)]
pub(super) struct FoundMessage {
    pub(super) id: u64,
    /// Where the record's header, with the envelope behind it, can be read in the head's segment.
    pub(super) head_offset: u32,
    pub(super) finished: Finished,
    /// By recipient, ascending.
    pub(super) deferrals: Box<[(u32, Deferral)]>,
    /// Bytes of the envelope, right before the head.
    pub(super) meta_length: u32,
    /// The piece in the message record.
    pub(super) head: Piece,
    /// The pieces that precede it.
    pub(super) chunks: Vec<Piece>,
    /// Its states that still tell something, the last ones last.
    pub(super) notes: Vec<Note>,
}

/// One line of what recovery has to say of damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it means.
    pub kind: FindingKind,
    /// Where and what, in words.
    pub line: String,
}

/// What a [`Finding`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// What was durable is damaged or missing.
    Quarantined,
    /// What was not yet durable is not whole, or was never committed.
    Discarded,
    /// Says more of what another one has counted.
    Detail,
}

/// The outcome.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    /// Random number of the spool, if any file tells it.
    pub(super) spool: Option<u64>,
    /// One per file, in their order.
    pub(super) fates: Vec<Fate>,
    /// Of each live segment, the segments that tombstones in it speak of; see
    /// [`SegmentTable::speak`](super::table::SegmentTable::speak).
    pub(super) speaks_of: BTreeMap<u32, BTreeMap<u32, u64>>,
    /// Segments with pieces of messages, and those with newer copies of the pieces.
    pub(super) copied: BTreeSet<(u32, u32)>,
    /// In order of their ids.
    pub(super) messages: Vec<FoundMessage>,
    /// Live segments that were read by their index.
    pub(super) indexed: BTreeSet<u32>,
    /// Groups that count and that no sync is known to have covered.
    pub(super) unsure: Vec<Unsure>,
    /// To be recorded before anything is delivered.
    pub(super) cuts: Vec<Cut>,
    /// Above every ordinal seen.
    pub(super) next_ordinal: u32,
    /// Of this start.
    pub(super) incarnation: u32,
    pub(super) discarded: u64,
    pub(super) quarantined: u64,
    pub(super) report: Vec<Finding>,
}

/// Decides what counts.
pub(super) fn assemble(files: &[ScannedFile]) -> Assembly {
    let mut assembly = Assembly { spool: spool_of(files), ..Assembly::default() };
    let table = newest_table(files);
    assembly.judge_files(files, &table);
    for (file, fate) in files.iter().zip(&assembly.fates) {
        if let Fate::Live { identity, .. } = fate
            && file.indexed
        {
            assembly.indexed.insert(identity.ordinal);
        }
    }
    let kept = assembly.judge_groups(files);
    assembly.collect_messages(&kept);
    assembly
}

/// The number that most headers carry.
fn spool_of(files: &[ScannedFile]) -> Option<u64> {
    let mut votes = BTreeMap::<u64, usize>::new();
    for header in files.iter().filter_map(|file| file.header.as_ref().ok()) {
        *votes.entry(header.spool).or_default() += 1;
    }
    votes.into_iter().max_by_key(|(_, count)| *count).map(|(spool, _)| spool)
}

/// Files that were read by an index and whose header another file has too. An index says what was written, not what is
/// there, so which of them is the segment shows when their groups are looked at.
pub(super) fn rivals(files: &[ScannedFile]) -> Vec<usize> {
    let mut claims = BTreeMap::<Identity, usize>::new();
    for header in files.iter().filter_map(|file| file.header.as_ref().ok()) {
        *claims.entry(header.identity).or_default() += 1;
    }
    let is_rival = |file: &ScannedFile| {
        file.indexed && file.header.as_ref().is_ok_and(|header| claims[&header.identity] > 1)
    };
    (0..files.len()).filter(|index| is_rival(&files[*index])).collect()
}

/// Which file is which segment. Of several with one header, a copy or a header in the wrong place, it is the one with
/// the most whole groups, of equal ones the first.
fn originals(files: &[ScannedFile]) -> BTreeMap<Identity, usize> {
    let mut originals = BTreeMap::new();
    let fullness = |index: usize| files[index].whole;
    for (index, header) in
        files.iter().enumerate().filter_map(|(index, it)| Some((index, it.header.as_ref().ok()?)))
    {
        let original = originals.entry(header.identity).or_insert(index);
        if fullness(index) > fullness(*original) {
            *original = index;
        }
    }
    originals
}

#[derive(Default)]
struct NewestTable {
    entries: Vec<TableEntry>,
    /// The highest ordinal that it knows of.
    ordinal: u32,
}

impl NewestTable {
    fn frees(&self, file: u32) -> bool {
        self.entries.iter().any(|entry| entry.file == file && entry.status == Status::Free)
    }

    fn status(&self, identity: Identity) -> Option<Status> {
        self.entries.iter().find(|entry| entry.identity == identity).map(|entry| entry.status)
    }
}

fn newest_table(files: &[ScannedFile]) -> NewestTable {
    let tables = files.iter().flat_map(|file| &file.groups).flat_map(|group| {
        let sequences = group.header.first_sequence..;
        group.records.iter().zip(sequences).filter_map(move |(record, sequence)| match &record.content {
            Content::Table(entries, _) => Some(((group.header.incarnation, sequence), group, entries)),
            _ => None,
        })
    });
    tables.max_by_key(|(age, ..)| *age).map_or_else(NewestTable::default, |(_, group, entries)| NewestTable {
        entries: entries.to_vec(),
        ordinal: entries
            .iter()
            .map(|entry| entry.identity.ordinal)
            .fold(group.header.identity.ordinal, u32::max),
    })
}

impl Assembly {
    fn judge_files(&mut self, files: &[ScannedFile], table: &NewestTable) {
        let originals = originals(files);
        let mut claimed = BTreeSet::new();
        for (index, file) in files.iter().enumerate() {
            let fate = match &file.header {
                Ok(header) if originals[&header.identity] != index => {
                    let ordinal = header.identity.ordinal;
                    Fate::Quarantined(format!("another file is segment {ordinal} already"))
                }
                Ok(header) => judge_readable(file, header, self.spool, table),
                Err(_) => Fate::Free(None), // decided below, when it is known what the others are
            };
            if matches!(fate, Fate::Live { damaged: true, .. }) {
                self.quarantine(format!("{}: has only {} bytes", name(file.file), file.length));
            }
            if let Fate::Live { identity, .. } | Fate::Fresh(identity) | Fate::Free(Some(identity)) = fate {
                claimed.insert(identity);
            }
            self.fates.push(fate);
        }
        for (index, file) in files.iter().enumerate().filter(|(_, file)| file.header.is_err()) {
            let fate = judge_unreadable(file, table, &claimed);
            if let Fate::Live { identity, .. } = fate {
                claimed.insert(identity);
                self.quarantine(format!("{}: header unreadable, its groups are read", name(file.file)));
            }
            self.fates[index] = fate;
        }
        for (file, fate) in files.iter().zip(self.fates.clone()) {
            if let Fate::Quarantined(why) = fate {
                self.quarantine(format!("{}: {why}; moved aside", name(file.file)));
            }
        }
        for entry in &table.entries {
            if entry.status == Status::Live && !claimed.contains(&entry.identity) {
                let Identity { ordinal, .. } = entry.identity;
                self.quarantine(format!(
                    "{} (segment {ordinal}) is missing: its messages are lost",
                    name(entry.file)
                ));
            }
        }
        let headers = files.iter().filter_map(|file| file.header.as_ref().ok());
        let seen = headers.map(|header| header.identity.ordinal);
        let groups = files.iter().flat_map(|file| &file.groups);
        let seen = seen.chain(groups.clone().map(|group| group.header.identity.ordinal));
        self.next_ordinal = 1 + seen.fold(table.ordinal, u32::max);
        self.incarnation = 1 + groups.map(|group| group.header.incarnation).max().unwrap_or(0);
    }

    pub(super) fn quarantine(&mut self, line: String) {
        self.quarantined += 1;
        self.report.push(Finding { kind: FindingKind::Quarantined, line });
    }

    pub(super) fn discard(&mut self, line: String) {
        self.discarded += 1;
        self.report.push(Finding { kind: FindingKind::Discarded, line });
    }

    /// What the records of the groups that count come to.
    fn collect_messages(&mut self, kept: &[KeptGroup<'_>]) {
        let count = kept.iter().map(|kept| kept.group.records.len()).sum();
        let mut records = Vec::with_capacity(count);
        for KeptGroup { group, promised, .. } in kept {
            let ordinal = group.header.identity.ordinal;
            self.speaks_of.entry(ordinal).or_default();
            let is_of_message =
                |it: &&FoundRecord| !matches!(it.content, Content::Table(..) | Content::Cuts(_));
            let of_messages = group.records.iter().filter(is_of_message);
            records.extend(of_messages.map(|record| (record, ordinal, *promised)));
        }
        // Message by message, each in the order in which its records were written. Groups are many and ids rise
        // with time, so that sorting is quick, and needs less memory than a map.
        let mut order: Vec<(u64, u32)> =
            (0..).zip(&records).map(|(at, (record, ..))| (record.id, at)).collect();
        order.sort_unstable();

        let mut uncommitted = 0u64;
        for of_message in order.chunk_by(|a, b| a.0 == b.0) {
            let id = of_message[0].0;
            let mut building = Building::default();
            for (_, at) in of_message {
                let (record, ordinal, promised) = records[*at as usize];
                building.take(record, ordinal, promised);
            }
            self.bind(&building);
            match building.finish(id) {
                Outcome::Queued(message) => self.messages.push(message),
                Outcome::Done => {}
                Outcome::Uncommitted => uncommitted += 1,
                Outcome::Torn => {
                    self.discard(format!("message {id:016x}: a piece was not synced; discarded"))
                }
                Outcome::Damaged(head) => {
                    self.quarantine(format!("message {id:016x}: a piece that was durable is lost"));
                    for fate in &mut self.fates {
                        match fate {
                            Fate::Live { identity, damaged } if identity.ordinal == head.ordinal => {
                                *damaged = true
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
        if uncommitted > 0 {
            self.discarded += uncommitted;
            let line = format!("{uncommitted} messages were not received to their end; discarded");
            self.report.push(Finding { kind: FindingKind::Discarded, line });
        }
    }

    /// A state that ended recipients is kept as long as a copy of their message is there.
    fn bind(&mut self, building: &Building) {
        self.copied.extend(&building.copied);
        if building.ends.is_empty() {
            return;
        }
        // Those of a message with recipients left are counted as records that live.
        let is_done = building.commit.as_ref().is_none_or(|commit| building.finished(commit).is_complete());
        let homes = building.homes();
        for place in &building.ends {
            let subjects = self.speaks_of.entry(place.ordinal).or_default();
            for home in &homes {
                let counts = is_done && homes.last() == Some(home);
                *subjects.entry(*home).or_default() += if counts { u64::from(place.length) } else { 0 };
            }
        }
    }
}

pub(super) fn name(file: u32) -> String {
    format!("segment-{file:08}")
}

fn judge_readable(
    file: &ScannedFile,
    header: &SegmentHeader,
    spool: Option<u64>,
    table: &NewestTable,
) -> Fate {
    let identity = header.identity;
    if Some(header.spool) != spool {
        return Fate::Quarantined("belongs to another spool".into());
    }
    let status = table.status(identity);
    if header.length != file.length && status != Some(Status::Live) {
        return Fate::Quarantined(format!("has {} bytes instead of {}", file.length, header.length));
    }
    match status {
        Some(Status::Live) => Fate::Live { identity, damaged: header.length != file.length },
        Some(Status::Free) => Fate::Free(Some(identity)),
        Some(Status::Damaged) => Fate::Quarantined("was damaged, and nothing in it counts any more".into()),
        // Made after the newest table that can be read.
        None if identity.ordinal > table.ordinal && file.groups.is_empty() && file.fragments.is_empty() => {
            Fate::Fresh(identity)
        }
        None if identity.ordinal > table.ordinal => Fate::Live { identity, damaged: false },
        // Its header could not be synced: it is lost, or was not tried again. Nothing of an older use counts.
        None if table.frees(file.file) => Fate::Free(Some(identity)),
        None => Fate::Quarantined(format!("segment {} is not in the table of segments", identity.ordinal)),
    }
}

fn judge_unreadable(file: &ScannedFile, table: &NewestTable, claimed: &BTreeSet<Identity>) -> Fate {
    let unclaimed = |entry: &&TableEntry| !claimed.contains(&entry.identity);
    let of_groups: BTreeSet<Identity> = file.groups.iter().map(|group| group.header.identity).collect();
    // Activated after the newest table: only a live segment has groups with such an ordinal.
    let newer = of_groups.iter().find(|it| it.ordinal > table.ordinal && !claimed.contains(it));
    let live = table.entries.iter().filter(unclaimed).find(|entry| {
        entry.status == Status::Live && (entry.file == file.file || of_groups.contains(&entry.identity))
    });
    if let Some(identity) = newer.copied().or(live.map(|entry| entry.identity)) {
        return Fate::Live { identity, damaged: true };
    }
    // A crash while a free segment got its new header.
    let mut free = table.entries.iter().filter(unclaimed);
    match free.find(|entry| entry.status == Status::Free && entry.file == file.file) {
        Some(_) if file.length >= SEGMENT_MIN && file.length.is_multiple_of(BLOCK) => Fate::Free(None),
        Some(_) => Fate::Quarantined(format!("has {} bytes and no header", file.length)),
        None => Fate::Quarantined("header unreadable, and no table lists it".into()),
    }
}

struct Commit {
    counts: MessageCounts,
    head_offset: u32,
    meta_length: u32,
    head: Piece,
    promised: bool,
}

/// What is known of one message.
#[derive(Default)]
struct Building {
    commit: Option<Commit>,
    chunks: BTreeMap<u32, Piece>,
    deferrals: BTreeMap<u32, Deferral>,
    /// Recipients that were delivered or given up.
    ended: Vec<u32>,
    /// Where that is told.
    ends: Vec<Place>,
    /// States that still tell something if it has recipients left.
    notes: Vec<Note>,
    /// From where to where pieces were copied.
    copied: Vec<(u32, u32)>,
}

enum Outcome {
    Queued(FoundMessage),
    Done,
    Uncommitted,
    Torn,
    Damaged(Piece),
}

impl Building {
    /// The next of the message's records. States may be older than the copy that counts.
    fn take(&mut self, record: &FoundRecord, ordinal: u32, promised: bool) {
        let FoundRecord { head_offset, meta_length, body_offset, body_length, .. } = *record;
        let piece = Piece { ordinal, offset: body_offset, length: body_length };
        let length = RECORD_HEADER as u32 + meta_length + body_length;
        let offset = body_offset - meta_length - RECORD_HEADER as u32;
        let place = Place { ordinal, offset, length };
        match &record.content {
            Content::Message(counts) => {
                self.commit(Commit { counts: *counts, head_offset, meta_length, head: piece, promised });
            }
            Content::Chunk(index) => {
                let before = self.chunks.insert(*index, piece);
                self.copied(before, piece);
            }
            Content::Delivered(recipients) => self.end(place, Word::Delivered, recipients.as_slice()),
            Content::Bounced(recipients) => self.end(place, Word::Bounced, recipients.as_slice()),
            Content::Deferred(deferred) => {
                let (recipients, deferral) = &**deferred;
                let recipients = recipients.as_slice();
                self.deferrals.extend(recipients.iter().map(|index| (*index, deferral.clone())));
                notes::add(&mut self.notes, Note::new(place, Word::Deferred, recipients));
            }
            Content::Table(..) | Content::Cuts(_) => {}
        }
    }

    /// The newest copy counts; an older one may be durable when this one is not yet.
    fn commit(&mut self, commit: Commit) {
        let before = self.commit.take();
        self.copied(before.as_ref().map(|before| before.head), commit.head);
        let promised = commit.promised || before.is_some_and(|before| before.promised);
        self.commit = Some(Commit { promised, ..commit });
    }

    fn copied(&mut self, from: Option<Piece>, to: Piece) {
        if let Some(from) = from.filter(|from| from.ordinal != to.ordinal) {
            self.copied.push((from.ordinal, to.ordinal));
        }
    }

    fn end(&mut self, place: Place, word: Word, recipients: &[u32]) {
        self.ended.extend(recipients);
        self.ends.push(place);
        notes::add(&mut self.notes, Note::new(place, word, recipients));
    }

    /// Segments with copies of its pieces.
    fn homes(&self) -> BTreeSet<u32> {
        let head = self.commit.iter().map(|commit| commit.head.ordinal);
        let pieces = head.chain(self.chunks.values().map(|chunk| chunk.ordinal));
        pieces.chain(self.copied.iter().map(|(from, _)| *from)).collect()
    }

    fn finished(&self, commit: &Commit) -> Finished {
        let mut finished = Finished::none_of(commit.counts.recipients);
        self.ended.iter().for_each(|index| finished.mark(*index));
        finished
    }

    fn finish(self, id: u64) -> Outcome {
        let Some(commit) = &self.commit else {
            // What ended recipients was written after the commit, which may be gone before the last chunk is.
            let is_done = self.chunks.is_empty() || !self.ends.is_empty();
            return if is_done { Outcome::Done } else { Outcome::Uncommitted };
        };
        let finished = self.finished(commit);
        if finished.is_complete() {
            return Outcome::Done;
        }
        let counts = commit.counts;
        let chunks: Vec<Piece> = self.chunks.range(..counts.chunks).map(|(_, piece)| *piece).collect();
        let chunked_bytes: u64 = chunks.iter().map(|piece| u64::from(piece.length)).sum();
        if chunks.len() != counts.chunks as usize || chunked_bytes != counts.chunked_bytes {
            return if commit.promised { Outcome::Damaged(commit.head) } else { Outcome::Torn };
        }
        let deferrals = self.deferrals.into_iter().filter(|(index, _)| !finished.has(*index)).collect();
        let Commit { head_offset, meta_length, head, .. } = *commit;
        let notes = self.notes;
        Outcome::Queued(FoundMessage {
            id,
            head_offset,
            finished,
            deferrals,
            meta_length,
            head,
            chunks,
            notes,
        })
    }
}
