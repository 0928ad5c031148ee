//! Finds the whole groups of a segment. Sans IO: the caller reads the windows that are asked for.
//!
//! After damage it resynchronises: a group can only start at a block boundary, with magic, identity, place
//! and checksum right. Old groups of a recycled segment have another identity, and a message's body cannot
//! know the epoch, which is random.

use crc32c::crc32c_append;

use super::headers::{
    BLOCK, FIRST_GROUP, GROUP_HEADER, GROUP_MAX, GroupHeader, Identity, Kind, RECORD_HEADER, RecordHeader,
    flag, padded, record_is_whole,
};
use super::message::{Envelope, MessageCounts, decode_chunk, decode_message};
use super::place::Piece;
use super::state::{Deferral, REASON_OFFSET, State, StateMeta, decode_state};
use super::table::{Cut, TableEntry, decode_cuts, decode_table};

/// Bytes asked for at once.
const WINDOW: u64 = 1 << 20;

/// A whole group.
#[derive(Debug)]
pub(crate) struct FoundGroup {
    /// Offset in the segment.
    pub(crate) offset: u64,
    /// Its header.
    pub(crate) header: GroupHeader,
    /// Its records.
    pub(crate) records: Vec<FoundRecord>,
}

impl FoundGroup {
    /// The first byte behind the group and its padding.
    pub(crate) fn end(&self) -> u64 {
        self.offset + padded(u64::from(self.header.length))
    }

    /// The sequence that follows its last record.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.header.first_sequence + u64::from(self.header.records)
    }
}

/// A whole record: what recovery has to know of it. There may be millions.
#[derive(Debug)]
pub(crate) struct FoundRecord {
    /// The message it speaks of, 0 for none.
    pub(crate) id: u64,
    /// Where its header, with the meta part behind it, can be read in the file.
    pub(crate) head_offset: u32,
    /// Bytes of its meta part.
    pub(crate) meta_length: u32,
    /// Offset of its body in the segment.
    pub(crate) body_offset: u32,
    /// Bytes of its body.
    pub(crate) body_length: u32,
    /// What its meta part says.
    pub(crate) content: Content,
}

const _: () = assert!(size_of::<FoundRecord>() <= 48, "a start has one per record of the spool in memory");

/// What the meta part of a record says.
#[derive(Debug)]
pub(crate) enum Content {
    /// Of a message: its envelope is not kept.
    Message(MessageCounts),
    /// Index of a chunk.
    Chunk(u32),
    /// These recipients have it.
    Delivered(Indices),
    /// These recipients were given up.
    Bounced(Indices),
    /// These recipients are to be tried again.
    Deferred(Box<(Indices, Deferral)>),
    /// A table; true when it is the segment's last record.
    Table(Box<[TableEntry]>, bool),
    /// What recoveries kept.
    Cuts(Box<[Cut]>),
}

/// Indices of recipients.
#[derive(Debug)]
pub(crate) enum Indices {
    /// As nearly always.
    One(u32),
    Several(Box<[u32]>),
}

impl Indices {
    fn new(indices: &[u32]) -> Indices {
        match indices {
            [one] => Indices::One(*one),
            several => Indices::Several(several.into()),
        }
    }

    pub(crate) fn as_slice(&self) -> &[u32] {
        match self {
            Indices::One(index) => std::slice::from_ref(index),
            Indices::Several(indices) => indices,
        }
    }
}

/// A walk over one segment.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// `None`: the header is unreadable, groups of any identity are found.
    identity: Option<Identity>,
    length: u64,
    position: u64,
    /// Bytes needed at `position` before the walk can go on.
    wanted: u64,
    sealed: bool,
    /// The whole groups so far, in order of place.
    pub(crate) groups: Vec<FoundGroup>,
    /// Places where a group of this identity starts and is not whole.
    pub(crate) fragments: Vec<u64>,
}

impl Scanner {
    /// A walk over a segment of `length` bytes.
    pub(crate) fn new(identity: Option<Identity>, length: u64) -> Scanner {
        Scanner {
            identity,
            length,
            position: FIRST_GROUP,
            wanted: BLOCK,
            sealed: false,
            groups: Vec::new(),
            fragments: Vec::new(),
        }
    }

    /// The window to read next: offset and length; `None` when the walk is over.
    pub(crate) fn window(&self) -> Option<(u64, usize)> {
        let left = self.length.saturating_sub(self.position) / BLOCK * BLOCK;
        if left == 0 || self.sealed {
            return None;
        }
        Some((self.position, WINDOW.max(self.wanted).min(left) as usize))
    }

    /// Takes the bytes of the window asked for.
    pub(crate) fn feed(&mut self, window: &[u8]) {
        let mut at = 0;
        while let Some(block) = window.get(at..at + BLOCK as usize) {
            if self.sealed {
                return;
            }
            let step = match self.header_at(block) {
                None => BLOCK,
                Some((header, crc)) => {
                    let taken = padded(u64::from(header.length));
                    let Some(bytes) = window.get(at..at + taken as usize) else {
                        self.wanted = taken;
                        return;
                    };
                    match records_of(&bytes[..header.length as usize], &header, crc, self.position) {
                        Some(records) => {
                            self.sealed = self.identity.is_some() && records.iter().any(is_seal);
                            self.groups.push(FoundGroup { offset: self.position, header, records });
                            taken
                        }
                        None => {
                            self.fragments.push(self.position);
                            BLOCK
                        }
                    }
                }
            };
            at += step as usize;
            self.position += step;
            self.wanted = BLOCK;
        }
    }

    /// A group header that could stand here.
    fn header_at(&mut self, block: &[u8]) -> Option<(GroupHeader, u32)> {
        let (header, crc) = GroupHeader::decode(block)?;
        let identity_fits = self.identity.is_none_or(|identity| identity == header.identity);
        let place_fits = u64::from(header.block) * BLOCK == self.position;
        if !identity_fits || !place_fits {
            return None;
        }
        let length = u64::from(header.length);
        let most_records = (length.saturating_sub(GROUP_HEADER as u64)) / RECORD_HEADER as u64;
        if !(GROUP_HEADER as u64..=GROUP_MAX).contains(&length)
            || self.position + padded(length) > self.length
            || u64::from(header.records) > most_records
        {
            self.fragments.push(self.position);
            return None;
        }
        Some((header, crc))
    }
}

pub(crate) fn is_seal(record: &FoundRecord) -> bool {
    matches!(record.content, Content::Table(_, true))
}

/// The records of a group if all of it is whole.
fn records_of(bytes: &[u8], header: &GroupHeader, group_crc: u32, offset: u64) -> Option<Vec<FoundRecord>> {
    let mut crc = header.checksum();
    let mut records = Vec::with_capacity(header.records as usize);
    let mut at = GROUP_HEADER;
    for index in 0..u64::from(header.records) {
        let head = bytes.get(at..at + RECORD_HEADER)?;
        let (record, record_crc) = RecordHeader::decode(head)?;
        let payload_at = at + RECORD_HEADER;
        let end = payload_at.checked_add(usize::try_from(record.payload_length()).ok()?)?;
        let payload = bytes.get(payload_at..end)?;
        let expected = header.first_sequence.checked_add(index)?;
        if record.epoch != header.identity.epoch
            || record.sequence != expected
            || !record_is_whole(head, payload, record_crc)
        {
            return None;
        }
        crc = crc32c_append(crc, head);
        let (meta, _) = payload.split_at(record.meta_length as usize);
        let head_offset = offset + at as u64;
        records.push(FoundRecord::new(&record, meta, head_offset, head_offset, header.identity.ordinal)?);
        at = end;
    }
    (at == bytes.len() && crc == group_crc).then_some(records)
}

/// The envelope in the message record whose header and meta part `bytes` begin with, if it is that of message `id`.
pub(crate) fn envelope_at(bytes: &[u8], id: u64) -> Option<Envelope> {
    let (record, _) = RecordHeader::decode(bytes)?;
    let meta = bytes.get(RECORD_HEADER..RECORD_HEADER + record.meta_length as usize)?;
    if record.kind != Kind::Message || record.id != id {
        return None;
    }
    let (eight_bit, stuffed) = (record.flags & flag::EIGHT_BIT != 0, record.flags & flag::STUFFED != 0);
    decode_message(meta, eight_bit, stuffed).map(|meta| meta.envelope)
}

/// Are these the bytes of a record, and whole: of this message, this chunk of it or its message record, in a segment of
/// this epoch, with so many bytes before and in its piece? A record that a disk has put in another one's place is not.
pub(crate) fn is_record(bytes: &[u8], id: u64, chunk: Option<u32>, epoch: u64, lengths: (u32, u32)) -> bool {
    let Some((header, crc)) = RecordHeader::decode(bytes) else { return false };
    let (head, payload) = bytes.split_at(RECORD_HEADER);
    let kind = if chunk.is_some() { Kind::Chunk } else { Kind::Message };
    let is_chunk = |chunk: u32| payload.starts_with(&chunk.to_le_bytes());
    (header.kind, header.id, header.epoch) == (kind, id, epoch)
        && (header.meta_length, header.body_length) == lengths
        && chunk.is_none_or(is_chunk)
        && record_is_whole(head, payload, crc)
}

impl FoundRecord {
    /// A record of segment `ordinal` that starts at `offset`; its header and meta part are read at `head_offset`.
    pub(crate) fn new(
        record: &RecordHeader,
        meta: &[u8],
        offset: u64,
        head_offset: u64,
        ordinal: u32,
    ) -> Option<FoundRecord> {
        let fits = |place: u64| u32::try_from(place).ok();
        let meta_offset = fits(head_offset + RECORD_HEADER as u64)?;
        let content = match record.kind {
            Kind::Message => Content::Message(MessageCounts::decode(meta)?),
            Kind::Chunk => Content::Chunk(decode_chunk(meta)?),
            Kind::State => state(decode_state(meta)?, meta_offset, ordinal),
            Kind::Table => Content::Table(decode_table(meta)?.into(), false),
            Kind::Seal => Content::Table(decode_table(meta)?.into(), true),
            Kind::Cut => Content::Cuts(decode_cuts(meta)?.into()),
        };
        Some(FoundRecord {
            id: record.id,
            head_offset: fits(head_offset)?,
            meta_length: record.meta_length,
            body_offset: fits(offset + RECORD_HEADER as u64 + u64::from(record.meta_length))?,
            body_length: record.body_length,
            content,
        })
    }
}

fn state(meta: StateMeta, meta_offset: u32, ordinal: u32) -> Content {
    let recipients = Indices::new(&meta.recipients);
    match meta.state {
        State::Delivered => Content::Delivered(recipients),
        State::Bounced => Content::Bounced(recipients),
        State::Deferred { until_ms, attempts, reason, warned } => {
            let offset = meta_offset + REASON_OFFSET as u32;
            let reason = Piece { ordinal, offset, length: reason.len() as u32 };
            Content::Deferred(Box::new((recipients, Deferral { until_ms, attempts, warned, reason })))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::group::{Group, Stamp};
    use super::super::state::encode_state;
    use super::*;

    const IDENTITY: Identity = Identity { ordinal: 2, epoch: 0xfeed };

    /// A segment image with `groups` groups of some records each, and where each group starts.
    fn image(groups: &[Vec<Vec<u8>>]) -> (Vec<u8>, Vec<u64>) {
        let mut bytes = vec![0; BLOCK as usize];
        let mut starts = Vec::new();
        let mut sequence = 1;
        for bodies in groups {
            let mut group = Group::default();
            for body in bodies {
                group.push(Kind::State, 0, 9, |into| encode_state(into, &[1], &State::Delivered), body);
            }
            let offset = bytes.len() as u64;
            let stamp =
                Stamp { identity: IDENTITY, offset, first_sequence: sequence, watermark: 0, incarnation: 1 };
            bytes.extend(group.finish(&stamp).concat());
            sequence += bodies.len() as u64;
            starts.push(offset);
        }
        bytes.resize(bytes.len() + 3 * BLOCK as usize, 0);
        (bytes, starts)
    }

    fn scan(bytes: &[u8], identity: Option<Identity>) -> Scanner {
        let mut scanner = Scanner::new(identity, bytes.len() as u64);
        while let Some((offset, length)) = scanner.window() {
            let before = (scanner.position, scanner.wanted);
            scanner.feed(&bytes[offset as usize..offset as usize + length]);
            assert_ne!(before, (scanner.position, scanner.wanted), "every window brings the walk forward");
        }
        scanner
    }

    fn places(scanner: &Scanner) -> Vec<u64> {
        scanner.groups.iter().map(|group| group.offset).collect()
    }

    /// All groups of an undamaged segment are found, empty ones and those larger than a window included.
    #[test]
    fn finds_all() {
        let large = vec![vec![7; 3 << 20]];
        let (bytes, starts) =
            image(&[vec![b"a".to_vec(), vec![0; 5000]], vec![], large, vec![b"z".to_vec()]]);
        assert_eq!(places(&scan(&bytes, Some(IDENTITY))), starts);
        assert_eq!(places(&scan(&bytes, None)), starts);
    }

    /// Groups of an earlier use of the segment are not found.
    #[test]
    fn another_epoch_is_ignored() {
        let (bytes, _) = image(&[vec![b"a".to_vec()], vec![b"b".to_vec()]]);
        let other = Identity { epoch: 1, ..IDENTITY };
        assert!(scan(&bytes, Some(other)).groups.is_empty());
    }

    /// A body that holds a whole group, aligned to a block, is not taken for one when its carrier is damaged:
    /// it stands at another place than it was written for.
    #[test]
    fn body_with_a_group_inside() {
        let (inner, _) = image(&[vec![b"forged".to_vec()]]);
        let mut body = vec![b'x'; BLOCK as usize - GROUP_HEADER - RECORD_HEADER - 5];
        body.extend_from_slice(&inner[BLOCK as usize..]);
        let (mut bytes, starts) = image(&[vec![body], vec![b"after".to_vec()]]);
        bytes[starts[0] as usize + 300] ^= 1;
        let scanner = scan(&bytes, Some(IDENTITY));
        assert_eq!(places(&scanner), starts[1..]);
        assert_eq!(scanner.fragments, starts[..1]);
    }

    proptest! {
        /// One damaged byte costs exactly the group it stands in, and none when it stands in padding.
        #[test]
        fn damage_is_contained(
            groups in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6000), 0..4), 1..6),
            place in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let (mut bytes, starts) = image(&groups);
            let whole = scan(&bytes, Some(IDENTITY));
            let at = BLOCK as usize + place.index(bytes.len() - BLOCK as usize);
            bytes[at] ^= flip;
            let expected: Vec<u64> = whole.groups.iter()
                .filter(|group| {
                    let bytes_of = group.offset as usize..(group.offset + u64::from(group.header.length)) as usize;
                    !bytes_of.contains(&at)
                })
                .map(|group| group.offset)
                .collect();
            prop_assert!(starts.len() - expected.len() <= 1);
            prop_assert_eq!(places(&scan(&bytes, Some(IDENTITY))), expected);
        }

        /// Arbitrary bytes are walked to the end without a panic, and hold no group.
        #[test]
        fn noise(bytes in prop::collection::vec(any::<u8>(), 0..20_000)) {
            prop_assert!(scan(&bytes, None).groups.is_empty());
        }
    }
}
