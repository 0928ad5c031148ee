//! What counts of segments in every state: the decisions of recovery, on images in memory.

use crate::spool::format::group::{Group, Stamp};
use crate::spool::format::headers::{BLOCK, FIRST_GROUP, Identity, Kind, SegmentHeader};
use crate::spool::format::message::{Envelope, encode_message};
use crate::spool::format::scan::Scanner;
use crate::spool::format::state::{State, encode_references, encode_state};
use crate::spool::format::table::{Status, TableEntry, encode_cuts, encode_table};
use crate::spool::recovery::assembly::{Assembly, Fate, ScannedFile};
use crate::spool::recovery::recover::assemble;

const LENGTH: u64 = 128 << 10;
const SPOOL: u64 = 77;

/// The image of a segment under construction.
struct Image {
    identity: Identity,
    bytes: Vec<u8>,
    end: u64,
    incarnation: u32,
}

impl Image {
    fn new(ordinal: u32, incarnation: u32) -> Image {
        let identity = Identity { ordinal, epoch: u64::from(ordinal) * 1000 };
        let header = SegmentHeader { spool: SPOOL, identity, length: LENGTH, shard: 0 };
        let mut bytes = header.encode();
        bytes.resize(LENGTH as usize, 0);
        Image { identity, bytes, end: FIRST_GROUP, incarnation }
    }

    /// Appends a group; returns its offset.
    fn group(&mut self, first_sequence: u64, watermark: u64, fill: impl FnOnce(&mut Group)) -> u64 {
        let mut group = Group::default();
        fill(&mut group);
        let (identity, offset, incarnation) = (self.identity, self.end, self.incarnation);
        let bytes =
            group.finish(&Stamp { identity, offset, first_sequence, watermark, incarnation }).concat();
        self.bytes[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        self.end += bytes.len() as u64;
        offset
    }

    fn scanned(&self) -> ScannedFile {
        let header = SegmentHeader::decode(&self.bytes[..BLOCK as usize]);
        let mut scanner = Scanner::new(header.ok().map(|header| header.identity), LENGTH);
        while let Some((offset, length)) = scanner.window() {
            scanner.feed(&self.bytes[offset as usize..][..length]);
        }
        let Scanner { groups, fragments, .. } = scanner;
        let whole = groups.len();
        ScannedFile {
            file: self.identity.ordinal,
            length: LENGTH,
            header,
            groups,
            fragments,
            indexed: false,
            whole,
        }
    }

    fn entry(&self, status: Status) -> TableEntry {
        TableEntry { file: self.identity.ordinal, identity: self.identity, status }
    }
}

fn envelope() -> Envelope {
    Envelope {
        reverse_path: String::new(),
        recipients: vec!["a@example.net".into()],
        arrived_ms: 0,
        lead_ms: 0,
        size: 0,
        eight_bit: false,
        form: Default::default(),
        dsn: None,
    }
}

fn table(group: &mut Group, kind: Kind, entries: &[TableEntry]) {
    group.push(kind, 0, 0, |into| encode_table(into, entries.iter().copied()), &[]);
}

fn message(group: &mut Group, id: u64, chunks: u32, chunked: u64) {
    group.push(Kind::Message, 0, id, |into| encode_message(into, chunks, chunked, &envelope()), b"tail");
}

fn chunk(group: &mut Group, id: u64, index: u32) {
    group.push(Kind::Chunk, 0, id, |into| into.extend_from_slice(&index.to_le_bytes()), b"chunk");
}

fn delivered(group: &mut Group, id: u64) {
    group.push(Kind::State, 0, id, |into| encode_state(into, &[0], &State::Delivered), &[]);
}

fn ids(assembly: &Assembly) -> Vec<u64> {
    assembly.messages.iter().map(|message| message.id).collect()
}

/// A commit record whose chunk is gone is no message: discarded when it was not durable, quarantined when it was.
#[test]
fn commit_without_its_chunk() {
    for watermark in [0, 4] {
        let mut image = Image::new(1, 1);
        let entry = image.entry(Status::Live);
        image.group(1, 0, |group| table(group, Kind::Table, &[entry]));
        let lost = image.group(2, 0, |group| chunk(group, 9, 0));
        image.group(3, 0, |group| message(group, 9, 1, 5));
        image.group(4, watermark, |group| message(group, 10, 0, 0));
        image.group(5, watermark, |_| ());
        assert_eq!(ids(&assemble(&[image.scanned()])), [9, 10]);
        image.bytes[lost as usize + 70] ^= 1;
        let assembly = assemble(&[image.scanned()]);
        assert_eq!(ids(&assembly), [10], "{:?}", assembly.report);
        assert_eq!(assembly.quarantined > 0, watermark > 0, "{:?}", assembly.report);
        assert_eq!(assembly.discarded > 0, watermark == 0, "{:?}", assembly.report);
    }
}

/// What an earlier recovery discarded stays discarded when it turns up whole later.
#[test]
fn void_stays_void() {
    let mut first = Image::new(1, 1);
    let entry = first.entry(Status::Live);
    first.group(1, 0, |group| table(group, Kind::Table, &[entry]));
    first.group(2, 1, |group| message(group, 9, 0, 0));
    let torn = first.group(3, 1, |group| message(group, 10, 0, 0));
    first.group(4, 1, |group| message(group, 11, 0, 0));
    let last = first.group(5, 1, |group| delivered(group, 9));
    first.bytes[torn as usize + 70] ^= 1;
    first.bytes[last as usize + 70] ^= 1;
    let assembly = assemble(&[first.scanned()]);
    assert_eq!(ids(&assembly), [9, 11]);
    assert_eq!((assembly.discarded, assembly.quarantined), (2, 0), "{:?}", assembly.report);

    let mut second = Image::new(2, assembly.incarnation);
    let entries = [first.entry(Status::Live), second.entry(Status::Live)];
    second.group(1, 0, |group| {
        table(group, Kind::Table, &entries);
        group.push(Kind::Cut, 0, 0, |into| encode_cuts(into, &assembly.cuts), &[]);
    });
    first.bytes[torn as usize + 70] ^= 1;
    first.bytes[last as usize + 70] ^= 1;
    let again = assemble(&[first.scanned(), second.scanned()]);
    assert_eq!(ids(&again), [9, 11]);
    assert!(again.report.is_empty(), "{:?}", again.report);
}

/// What was torn at the start of a segment is reported once and is no damage, when the segment before has been recycled by
/// the next start too, or was freed in what was torn; what that segment loses later is damage.
#[test]
fn torn_start_of_a_segment() {
    let (mut first, mut second) = (Image::new(1, 1), Image::new(2, 1));
    let (was_live, freed, live) =
        (first.entry(Status::Live), first.entry(Status::Free), second.entry(Status::Live));
    first.group(1, 0, |group| table(group, Kind::Table, &[was_live]));
    first.group(2, 1, |group| table(group, Kind::Seal, &[was_live, live]));
    let torn = second.group(3, 2, |group| table(group, Kind::Table, &[freed, live]));
    second.group(4, 2, |group| table(group, Kind::Table, &[freed, live]));
    let kept = second.group(5, 2, |group| message(group, 9, 0, 0));
    second.group(6, 2, |group| message(group, 10, 0, 0));
    second.bytes[torn as usize + 70] ^= 1;
    let assembly = assemble(&[first.scanned(), second.scanned()]);
    assert_eq!(assembly.fates[0], Fate::Free(Some(first.identity)));
    assert_eq!(ids(&assembly), [9, 10]);
    assert_eq!((assembly.discarded, assembly.quarantined), (1, 0), "{:?}", assembly.report);

    let mut third = Image::new(3, assembly.incarnation);
    let entries = [freed, live, third.entry(Status::Live)];
    third.group(1, 0, |group| {
        table(group, Kind::Table, &entries);
        group.push(Kind::Cut, 0, 0, |into| encode_cuts(into, &assembly.cuts), &[]);
    });
    for files in
        [vec![first.scanned(), second.scanned(), third.scanned()], vec![second.scanned(), third.scanned()]]
    {
        let again = assemble(&files);
        assert_eq!(ids(&again), [9, 10]);
        assert!(again.report.is_empty(), "{:?}", again.report);
    }
    second.bytes[kept as usize + 70] ^= 1;
    let damaged = assemble(&[second.scanned(), third.scanned()]);
    assert_eq!(ids(&damaged), [10]);
    assert_eq!(damaged.quarantined, 1, "{:?}", damaged.report);
}

/// A free segment is not read, although all its groups are whole; one with a torn header is known as free by the
/// table, one that no table lists is set aside.
#[test]
fn free_torn_and_unlisted() {
    let mut old = Image::new(1, 1);
    let entry = old.entry(Status::Live);
    old.group(1, 0, |group| {
        table(group, Kind::Table, &[entry]);
        message(group, 9, 0, 0);
    });
    let mut new = Image::new(2, 1);
    let entries = [old.entry(Status::Free), new.entry(Status::Live)];
    new.group(3, 2, |group| table(group, Kind::Table, &entries));
    let identity = old.identity;
    let assembly = assemble(&[old.scanned(), new.scanned()]);
    assert_eq!(assembly.fates[0], Fate::Free(Some(identity)));
    assert!(assembly.messages.is_empty() && assembly.report.is_empty(), "{:?}", assembly.report);

    old.bytes[20] ^= 1;
    let assembly = assemble(&[old.scanned(), new.scanned()]);
    assert_eq!(assembly.fates[0], Fate::Free(None));
    assert!(assembly.report.is_empty(), "{:?}", assembly.report);

    let mut unlisted = Image::new(1, 1);
    unlisted.identity.ordinal = 8;
    unlisted.bytes[20] ^= 1;
    let assembly = assemble(&[new.scanned(), unlisted.scanned()]);
    assert!(matches!(assembly.fates[1], Fate::Quarantined(_)), "{:?}", assembly.fates);
}

/// A live segment whose header is damaged is read by the identity that the table has for it.
#[test]
fn header_lost() {
    let mut image = Image::new(1, 1);
    let entry = image.entry(Status::Live);
    image.group(1, 0, |group| {
        table(group, Kind::Table, &[entry]);
        message(group, 9, 0, 0);
    });
    image.bytes[20] ^= 1;
    let assembly = assemble(&[image.scanned()]);
    assert_eq!(ids(&assembly), [9]);
    assert_eq!(assembly.quarantined, 1);
    assert_eq!(assembly.fates, [Fate::Live { identity: image.identity, damaged: true }]);
}

/// The successor that a seal names and that lost everything is missed.
#[test]
fn successor_destroyed() {
    let mut first = Image::new(1, 1);
    let mut second = Image::new(2, 1);
    let mut third = Image::new(3, 1);
    let all = [first.entry(Status::Live), second.entry(Status::Live), third.entry(Status::Live)];
    first.group(1, 0, |group| table(group, Kind::Table, &all[..1]));
    first.group(2, 1, |group| table(group, Kind::Seal, &all[..2]));
    let at = second.group(3, 2, |group| table(group, Kind::Seal, &all));
    third.group(4, 3, |group| table(group, Kind::Table, &all));
    let files = vec![first.scanned(), second.scanned(), third.scanned()];
    assert!(assemble(&files).report.is_empty());
    second.bytes[at as usize + 70] ^= 1;
    let assembly = assemble(&[first.scanned(), second.scanned(), third.scanned()]);
    assert_eq!(assembly.quarantined, 1, "{:?}", assembly.report);
    assert!(matches!(assembly.fates[1], Fate::Live { damaged: true, .. }));
}

fn delivered_beside(group: &mut Group, id: u64, recipient: u32, references: &[u32]) {
    let meta = |into: &mut Vec<u8>| encode_state(into, &[recipient], &State::Delivered);
    group.push(Kind::State, 0, id, meta, &encode_references(references));
}

/// Of a message that was copied the newest whole copy counts, with states that are older than the copy; without a copy that
/// is whole, the original. A state that finishes it is bound to the segments of both.
#[test]
fn copies() {
    let mut first = Image::new(1, 1);
    let mut second = Image::new(2, 1);
    let mut third = Image::new(3, 1);
    let all = [first.entry(Status::Live), second.entry(Status::Live), third.entry(Status::Live)];
    let two = |group: &mut Group, id: u64| {
        let envelope =
            Envelope { recipients: vec!["a@example.net".into(), "b@example.net".into()], ..envelope() };
        group.push(Kind::Message, 0, id, |into| encode_message(into, 1, 5, &envelope), b"tail");
    };
    first.group(1, 0, |group| table(group, Kind::Table, &all[..1]));
    first.group(2, 1, |group| {
        chunk(group, 9, 0);
        two(group, 9);
    });
    first.group(4, 3, |group| table(group, Kind::Seal, &all[..2]));
    second.group(5, 4, |group| table(group, Kind::Table, &all[..2]));
    second.group(6, 5, |group| delivered_beside(group, 9, 0, &[1]));
    let copied = second.group(7, 6, |group| two(group, 9));
    second.group(8, 7, |group| table(group, Kind::Seal, &all));
    third.group(9, 8, |group| table(group, Kind::Table, &all));

    let assembly = assemble(&[first.scanned(), second.scanned(), third.scanned()]);
    let [found] = assembly.messages.as_slice() else { panic!("{:?}", assembly.messages) };
    assert_eq!((found.head.ordinal, found.chunks[0].ordinal), (2, 1));
    assert_eq!(found.finished.open().collect::<Vec<_>>(), [1]);
    assert_eq!(found.states.len(), 1);
    assert_eq!(assembly.copied, [(1, 2)].into());
    assert!(assembly.report.is_empty(), "{:?}", assembly.report);
    // Of a message with recipients left, a state that ended one is counted as a record that lives.
    assert_eq!(assembly.refers_to[&2], [(1, 0), (2, 0)].into());

    third.group(10, 9, |group| delivered_beside(group, 9, 1, &[1, 2]));
    let assembly = assemble(&[first.scanned(), second.scanned(), third.scanned()]);
    assert!(assembly.messages.is_empty());
    assert!(assembly.refers_to[&3][&2] > 50 && assembly.refers_to[&3][&1] == 0, "{:?}", assembly.refers_to);

    second.bytes[copied as usize + 70] ^= 1;
    let assembly = assemble(&[first.scanned(), second.scanned()]);
    assert_eq!(assembly.messages[0].head.ordinal, 1);
    assert_eq!(assembly.messages[0].finished.open().collect::<Vec<_>>(), [1]);
}
