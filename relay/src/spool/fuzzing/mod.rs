//! Recovery under a fuzzer: `relay/fuzz` feeds it, and a test replays what it has found.
//!
//! The input is a program: build a small spool as the writer would, then damage it. So the fuzzer need not guess
//! checksums, and what recovery finds can be compared with what was written:
//! - what is found as a message was committed, has its own bytes, and its pieces lie in segments that count;
//! - a durable message whose groups, segment and file were left alone is found;
//! - a second start finds the same and does not report the same loss again;
//! - without damage everything is found, nothing else, and nothing is reported.
//!
//! Damage that keeps checksums right (which no disk does) may change what messages say, but nothing panics on it.

mod damage;
mod model;

use std::collections::BTreeSet;

use self::damage::Damaged;
use self::model::{Model, Sent, body_of};
use crate::spool::format::group::{Group, Stamp};
use crate::spool::format::headers::{
    BLOCK, FIRST_GROUP, GROUP_MAX, Identity, Kind, RECORD_HEADER, SegmentHeader,
};
use crate::spool::format::index::IndexPlace;
use crate::spool::format::message::CHUNK_META;
use crate::spool::format::place::Piece;
use crate::spool::format::scan::{FoundGroup, Scanner, envelope_at, is_record};
use crate::spool::format::table::{Status, TableEntry, encode_cuts, encode_table};
use crate::spool::recovery::assembly::{Assembly, Fate, FindingKind, FoundMessage, ScannedFile};
use crate::spool::recovery::recover::{assemble, rivals};

/// Runs recovery on what `input` makes; panics when it breaks a promise.
pub fn recover(input: &[u8]) {
    match input.split_first() {
        Some((0, raw)) => noise(raw),
        Some((operations, rest)) => built(*operations, &mut Program(rest)),
        None => {}
    }
}

/// Takes bytes off the front of the input; zeros behind its end.
struct Program<'a>(&'a [u8]);

impl Program<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

/// A file of a spool in memory.
#[derive(Clone)]
struct Image {
    file: u32,
    bytes: Vec<u8>,
}

impl Image {
    /// The groups, as the segment's index has them.
    fn index(&self, identity: Identity) -> Option<Vec<FoundGroup>> {
        let last = &self.bytes[self.bytes.len().checked_sub(BLOCK as usize)?..];
        let place = IndexPlace::find(last, identity, self.bytes.len() as u64)?;
        place.groups(&self.bytes[place.offset as usize..][..place.length])
    }

    fn scan(&self, by_index: bool) -> ScannedFile {
        let header = SegmentHeader::decode(self.bytes.get(..BLOCK as usize).unwrap_or_default());
        let length = self.bytes.len() as u64;
        if let Ok(whole) = header
            && by_index
            && whole.length == length
            && let Some(groups) = self.index(whole.identity)
        {
            let (whole, fragments) = (groups.len(), Vec::new());
            return ScannedFile { file: self.file, length, header, groups, fragments, indexed: true, whole };
        }
        let mut scanner = Scanner::new(header.ok().map(|header| header.identity), length);
        // Each window moves the walk forward or is asked for again, once, with more bytes.
        let most = 2 * (length / BLOCK + GROUP_MAX / BLOCK);
        for turn in 0.. {
            let Some((offset, length)) = scanner.window() else { break };
            assert!(turn <= most, "the walk comes to an end");
            scanner.feed(&self.bytes[offset as usize..][..length]);
        }
        let Scanner { groups, fragments, .. } = scanner;
        let mut end = FIRST_GROUP;
        for group in &groups {
            assert!(
                group.offset >= end && group.end() <= length,
                "groups lie one behind the other in the file"
            );
            end = group.end();
        }
        let whole = groups.len();
        ScannedFile { file: self.file, length, header, groups, fragments, indexed: false, whole }
    }
}

/// The input as a file, alone and twice: bytes that nobody wrote.
fn noise(raw: &[u8]) {
    let mut bytes = raw.to_vec();
    bytes.resize(raw.len().next_multiple_of(BLOCK as usize) + 2 * BLOCK as usize, 0);
    let images = [Image { file: 1, bytes: bytes.clone() }, Image { file: 2, bytes }];
    start(&images);
}

/// What a start makes of files; holds for any bytes.
fn start(images: &[Image]) -> Assembly {
    let mut files: Vec<ScannedFile> = images.iter().map(|image| image.scan(true)).collect();
    for index in rivals(&files) {
        files[index].whole = images[index].scan(false).whole;
    }
    let assembly = assemble(&files);
    assert_eq!(assembly.fates.len(), images.len());
    let live: Vec<u32> = assembly.fates.iter().filter_map(live).map(|identity| identity.ordinal).collect();
    let distinct: BTreeSet<u32> = live.iter().copied().collect();
    assert_eq!(live.len(), distinct.len(), "a segment counts once");
    assert!(assembly.messages.is_sorted_by_key(|message| message.id));
    for pair in assembly.messages.windows(2) {
        assert_ne!(pair[0].id, pair[1].id, "a message is found once");
    }
    for message in &assembly.messages {
        for piece in message.chunks.iter().chain([&message.head]) {
            let at = assembly.fates.iter().position(|fate| live_as(fate, piece.ordinal));
            let file = &images[at.expect("pieces lie in segments that count")];
            let end = u64::from(piece.offset) + u64::from(piece.length);
            assert!(end <= file.bytes.len() as u64, "pieces lie in their files");
        }
    }
    let counted = |kind| assembly.report.iter().filter(|finding| finding.kind == kind).count() as u64;
    assert_eq!(counted(FindingKind::Quarantined), assembly.quarantined);
    assembly
}

fn live(fate: &Fate) -> Option<Identity> {
    match fate {
        Fate::Live { identity, .. } => Some(*identity),
        _ => None,
    }
}

fn live_as(fate: &Fate, ordinal: u32) -> bool {
    live(fate).is_some_and(|identity| identity.ordinal == ordinal)
}

fn built(operations: u8, program: &mut Program<'_>) {
    let mut model = Model::new();
    for _ in 0..operations.min(96) {
        model.step(program);
    }
    model.write_group();
    let sound = model.images();
    let assembly = start(&sound);
    let found: Vec<u64> = assembly.messages.iter().map(|message| message.id).collect();
    assert_eq!(found, model.queued(), "{:?}", assembly.report);
    assert_eq!(assembly.quarantined, 0, "{:?}", assembly.report);
    check_contents(&sound, &assembly, &model, |_| true);

    let mut damaged = Damaged::new(sound, &model);
    for _ in 0..12 {
        if program.is_over() {
            break;
        }
        damaged.step(program);
    }
    let assembly = start(&damaged.images);
    if damaged.forged {
        restart(&damaged.images, assembly);
        return;
    }
    check_contents(&damaged.images, &assembly, &model, |sent| damaged.spares(sent));
    let found: BTreeSet<u64> = assembly.messages.iter().map(|message| message.id).collect();
    for sent in model.sent.values().filter(|sent| sent.is_queued() && damaged.spares(sent)) {
        assert!(
            found.contains(&sent.id),
            "message {:x} was left alone and is lost: {:?}",
            sent.id,
            assembly.report
        );
    }
    let (again, ids) = restart(&damaged.images, assembly);
    assert!(again.messages.iter().map(|message| message.id).eq(ids), "{:?}", again.report);
    let again = again.report.iter().find(|finding| finding.line.contains("were durable and are damaged"));
    assert!(again.is_none(), "a loss is reported once: {again:?}");
}

/// Envelope and body of every message found are those that were written. Of what was read in an index, bodies are looked
/// at only now, and damage to them is found.
fn check_contents(images: &[Image], assembly: &Assembly, model: &Model, spares: impl Fn(&Sent) -> bool) {
    let place = |ordinal: u32| {
        let at = assembly.fates.iter().position(|fate| live_as(fate, ordinal)).expect("checked before");
        (live(&assembly.fates[at]).expect("it is live").epoch, &images[at].bytes)
    };
    let file = |ordinal: u32| place(ordinal).1;
    let is_readable = |id: u64, chunk: Option<u32>, meta_length: u32, piece: &Piece| {
        let (epoch, bytes) = place(piece.ordinal);
        let from = (piece.offset - meta_length) as usize - RECORD_HEADER;
        let record = &bytes[from..][..RECORD_HEADER + (meta_length + piece.length) as usize];
        !assembly.indexed.contains(&piece.ordinal)
            || is_record(record, id, chunk, epoch, (meta_length, piece.length))
    };
    for FoundMessage { id, head_offset, meta_length, head, chunks, .. } in &assembly.messages {
        let sent: &Sent = model.sent.get(id).unwrap_or_else(|| panic!("{id:x} was never committed"));
        let envelope = envelope_at(&file(head.ordinal)[*head_offset as usize..], *id);
        assert_eq!(envelope.as_ref(), Some(&sent.envelope));
        let mut pieces = (0..).zip(chunks);
        if !is_readable(*id, None, *meta_length, head)
            || !pieces.all(|(index, piece)| is_readable(*id, Some(index), CHUNK_META, piece))
        {
            assert!(!spares(sent), "message {id:x} was left alone and cannot be read");
            continue;
        }
        let mut bytes = Vec::new();
        for piece in chunks.iter().chain([head]) {
            bytes.extend_from_slice(&file(piece.ordinal)[piece.offset as usize..][..piece.length as usize]);
        }
        assert!(bytes == body_of(*id, sent.length), "message {id:x} was changed");
    }
}

/// Writes what a start writes, a segment with table and cuts, and starts again. Returns also the ids of the first start.
fn restart(images: &[Image], first: Assembly) -> (Assembly, Vec<u64>) {
    let mut images: Vec<Image> = images.to_vec();
    let mut entries = Vec::new();
    for (image, fate) in images.iter_mut().zip(&first.fates) {
        let (status, identity) = match fate {
            Fate::Live { identity, .. } => (Status::Live, *identity),
            Fate::Free(identity) => (Status::Free, identity.unwrap_or(Identity { ordinal: 0, epoch: 0 })),
            Fate::Fresh(identity) => (Status::Free, *identity),
            Fate::Quarantined(_) => continue,
        };
        entries.push(TableEntry { file: image.file, identity, status });
    }
    let kept: Vec<bool> = first.fates.iter().map(|fate| !matches!(fate, Fate::Quarantined(_))).collect();
    let mut keeps = kept.into_iter();
    images.retain(|_| keeps.next().expect("one for each"));
    let file = images.iter().map(|image| image.file).max().unwrap_or(0).saturating_add(1);
    let identity = Identity { ordinal: first.next_ordinal, epoch: 0xfeed_beef };
    entries.push(TableEntry { file, identity, status: Status::Live });
    let mut group = Group::default();
    group.push(Kind::Table, 0, 0, |into| encode_table(into, entries), &[]);
    group.push(Kind::Cut, 0, 0, |into| encode_cuts(into, &first.cuts), &[]);
    let stamp = Stamp {
        identity,
        offset: FIRST_GROUP,
        first_sequence: 1,
        watermark: 0,
        incarnation: first.incarnation,
    };
    let group = group.finish(&stamp).concat();
    let length = FIRST_GROUP + group.len() as u64 + BLOCK;
    let header = SegmentHeader { spool: first.spool.unwrap_or(model::SPOOL), identity, length, shard: 0 };
    let mut bytes = header.encode();
    bytes.extend(group);
    bytes.resize(length as usize, 0);
    images.push(Image { file, bytes });
    let ids = first.messages.iter().map(|message| message.id).collect();
    (start(&images), ids)
}
