//! The index of a sealed segment: its groups without the mail's bodies, so that a start needs to read no more.
//!
//! It is gathered while the segment is written, and written itself once all that it tells of is durable, behind the
//! mail and without a sync: who finds it whole can trust it, and who does not reads the segment.

use crc32c::{crc32c, crc32c_append};

use super::group::Group;
use super::headers::{
    BLOCK, FIRST_GROUP, GROUP_HEADER, GroupHeader, Identity, RECORD_HEADER, RecordHeader, padded,
};
use super::scan::{FoundGroup, FoundRecord, is_seal};

/// Bytes that end the index, and the segment.
const TRAILER: usize = 64;
const MAGIC: [u8; 8] = *b"CHASQIDX";
/// An index is at most this part of its segment: where bodies are small, reading the segment takes little longer.
const SHARE: u64 = 8;

/// Bytes of the largest index of a segment.
pub(crate) const fn index_max(segment_length: u64) -> u64 {
    segment_length / SHARE / BLOCK * BLOCK
}

/// What the index of the active segment will hold.
#[derive(Debug)]
pub(crate) struct Index {
    /// `None` when it has become too large: it will not be written.
    bytes: Option<Vec<u8>>,
    max: u64,
}

impl Index {
    /// Of a fresh segment.
    pub(crate) fn new(segment_length: u64) -> Index {
        Index { bytes: Some(Vec::new()), max: index_max(segment_length) }
    }

    /// Bytes to keep for it at the end of the segment if groups are added that take `more` bytes in it.
    pub(crate) fn room(&self, more: usize) -> u64 {
        let length = |bytes: &Vec<u8>| padded((bytes.len() + more + TRAILER) as u64);
        self.bytes.as_ref().map(length).filter(|length| *length <= self.max).unwrap_or(0)
    }

    /// What was kept for it is needed for something else: it will not be written.
    pub(crate) fn give_up(&mut self) {
        self.bytes = None;
    }

    /// Adds a group that was written.
    pub(crate) fn add(&mut self, group: &Group) {
        if self.room(group.index_length()) == 0 {
            self.give_up();
        }
        if let Some(bytes) = &mut self.bytes {
            group.append_to_index(bytes);
        }
    }

    /// The bytes to be written at the end of the segment, whole blocks; `None` if it is not worth it.
    pub(crate) fn finish(self, identity: Identity) -> Option<Vec<u8>> {
        let mut bytes = self.bytes?;
        let trailer = Trailer { identity, length: bytes.len() as u32 };
        let crc = trailer.checksum(&bytes);
        bytes.resize(padded((bytes.len() + TRAILER) as u64) as usize, 0);
        let at = bytes.len() - TRAILER;
        trailer.encode(&mut bytes[at..], crc);
        Some(bytes)
    }
}

/// What an index ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trailer {
    /// Of the segment.
    identity: Identity,
    /// Bytes of the groups in it.
    length: u32,
}

impl Trailer {
    fn encode(&self, into: &mut [u8], crc: u32) {
        into[0..8].copy_from_slice(&MAGIC);
        into[8..12].copy_from_slice(&crc.to_le_bytes());
        into[12..16].copy_from_slice(&self.length.to_le_bytes());
        into[16..24].copy_from_slice(&u64::from(self.identity.ordinal).to_le_bytes());
        into[24..32].copy_from_slice(&self.identity.epoch.to_le_bytes());
        into[32..TRAILER].fill(0);
    }

    fn checksum(&self, index: &[u8]) -> u32 {
        let mut bytes = [0; TRAILER];
        self.encode(&mut bytes, 0);
        crc32c_append(crc32c(&bytes[12..]), index)
    }
}

/// Where the index of a segment is, by its last block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexPlace {
    /// Offset in the segment.
    pub(crate) offset: u64,
    /// Bytes to the end of the segment.
    pub(crate) length: usize,
    trailer: Trailer,
    crc: u32,
}

impl IndexPlace {
    /// `None`: the segment has none, or none of this use of the segment.
    pub(crate) fn find(last_block: &[u8], identity: Identity, segment_length: u64) -> Option<IndexPlace> {
        IndexPlace::of_any(last_block, segment_length).filter(|place| place.identity() == identity)
    }

    /// Of any use of the segment.
    pub(crate) fn of_any(last_block: &[u8], segment_length: u64) -> Option<IndexPlace> {
        let bytes = last_block.get(last_block.len().checked_sub(TRAILER)?..)?;
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let identity = Identity { ordinal: u32::try_from(u64_at(16)).ok()?, epoch: u64_at(24) };
        let (trailer, crc) = (Trailer { identity, length: u32_at(12) }, u32_at(8));
        let mut expected = [0; TRAILER];
        trailer.encode(&mut expected, crc);
        let length = padded(u64::from(trailer.length) + TRAILER as u64);
        if *bytes != expected || length > index_max(segment_length) {
            return None;
        }
        Some(IndexPlace { offset: segment_length - length, length: length as usize, trailer, crc })
    }

    /// Which segment it is of.
    pub(crate) fn identity(&self) -> Identity {
        self.trailer.identity
    }

    /// The groups of the segment; `None` when the index is not whole. `bytes` are those of this place.
    pub(crate) fn groups(&self, bytes: &[u8]) -> Option<Vec<FoundGroup>> {
        let index = bytes.get(..self.trailer.length as usize)?;
        if self.trailer.checksum(index) != self.crc {
            return None;
        }
        let mut walk = Walk { index, at: 0, place: self.offset, segment_offset: FIRST_GROUP };
        let mut groups = Vec::new();
        while walk.at < index.len() {
            groups.push(walk.group(self.trailer.identity)?);
        }
        // It is written behind the seal.
        let sealed = groups.last().is_some_and(|last| last.records.iter().any(is_seal));
        (sealed && walk.segment_offset <= self.offset).then_some(groups)
    }
}

/// A walk over the groups of an index.
struct Walk<'a> {
    index: &'a [u8],
    at: usize,
    /// Of the index in the segment.
    place: u64,
    /// Of the next group in the segment.
    segment_offset: u64,
}

impl<'a> Walk<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.index.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn group(&mut self, identity: Identity) -> Option<FoundGroup> {
        let (header, group_crc) = GroupHeader::decode(self.take(GROUP_HEADER)?)?;
        let offset = self.segment_offset;
        if header.identity != identity || u64::from(header.block) * BLOCK != offset {
            return None;
        }
        let mut crc = header.checksum();
        let mut records = Vec::with_capacity((header.records as usize).min(self.index.len() / RECORD_HEADER));
        let mut at = offset + GROUP_HEADER as u64;
        for _ in 0..header.records {
            let head_offset = self.place + self.at as u64;
            let head = self.take(RECORD_HEADER)?;
            let (record, _) = RecordHeader::decode(head)?;
            let told = self.take(usize::try_from(record.indexed_length()).ok()?)?;
            let meta = told.get(..record.meta_length as usize)?;
            crc = crc32c_append(crc, head);
            records.push(FoundRecord::new(&record, meta, at, head_offset, identity.ordinal)?);
            at += RECORD_HEADER as u64 + record.payload_length();
        }
        if crc != group_crc || at != offset + u64::from(header.length) {
            return None;
        }
        self.segment_offset += padded(u64::from(header.length));
        Some(FoundGroup { offset, header, records })
    }
}

#[cfg(test)]
mod tests {
    use super::super::group::Stamp;
    use super::super::headers::Kind;
    use super::super::scan::Scanner;
    use super::super::state::{State, encode_state};
    use super::super::table::encode_table;
    use super::*;

    const IDENTITY: Identity = Identity { ordinal: 2, epoch: 0xfeed };
    const LENGTH: u64 = 256 << 10;

    /// A sealed segment with its index.
    fn image() -> Vec<u8> {
        let mut bytes = vec![0; BLOCK as usize];
        let mut index = Index::new(LENGTH);
        for sequence in 1..=20 {
            let mut group = Group::default();
            match sequence {
                5 => {}
                20 => _ = group.push(Kind::Seal, 0, 0, |into| encode_table(into, []), &[]),
                _ if sequence % 2 == 0 => {
                    _ = group.push(
                        Kind::State,
                        0,
                        sequence,
                        |into| encode_state(into, &[1], &State::Bounced),
                        &[7],
                    )
                }
                _ => _ = group.push(Kind::Chunk, 0, sequence, |into| into.extend([0; 4]), &[7; 5000]),
            }
            let offset = bytes.len() as u64;
            let first_sequence = if sequence > 5 { sequence - 1 } else { sequence };
            let stamp = Stamp { identity: IDENTITY, offset, first_sequence, watermark: 0, incarnation: 1 };
            bytes.extend(group.finish(&stamp).concat());
            let expected = index.room(group.index_length());
            index.add(&group);
            assert_eq!((index.room(0), index.room(1) >= expected), (expected, true));
        }
        let index = index.finish(IDENTITY).expect("it is small");
        bytes.resize(LENGTH as usize - index.len(), 0);
        bytes.extend(index);
        bytes
    }

    fn find(bytes: &[u8], identity: Identity) -> Option<IndexPlace> {
        IndexPlace::find(&bytes[bytes.len() - BLOCK as usize..], identity, bytes.len() as u64)
    }

    fn read(bytes: &[u8]) -> Option<Vec<FoundGroup>> {
        let place = find(bytes, IDENTITY)?;
        place.groups(&bytes[place.offset as usize..])
    }

    /// The index tells of a segment what reading all of it tells, but for where heads are read; and those are read
    /// there.
    #[test]
    fn as_the_segment() {
        let bytes = image();
        let mut scanner = Scanner::new(Some(IDENTITY), LENGTH);
        while let Some((offset, length)) = scanner.window() {
            scanner.feed(&bytes[offset as usize..][..length]);
        }
        let mut indexed = read(&bytes).expect("an index");
        assert_eq!(indexed.len(), 20);
        for (indexed, scanned) in indexed.iter_mut().zip(&scanner.groups) {
            for (indexed, scanned) in indexed.records.iter_mut().zip(&scanned.records) {
                let length = RECORD_HEADER + scanned.meta_length as usize;
                let at = |offset: u32| &bytes[offset as usize..][..length];
                assert_eq!(at(indexed.head_offset), at(scanned.head_offset));
                indexed.head_offset = scanned.head_offset;
            }
        }
        assert_eq!(format!("{indexed:?}"), format!("{:?}", scanner.groups));
    }

    /// Any damaged byte of an index is noticed; so is an index of another use of the segment.
    #[test]
    fn damage_is_noticed() {
        let bytes = image();
        let place = find(&bytes, IDENTITY).expect("an index");
        assert!(find(&bytes, Identity { epoch: 1, ..IDENTITY }).is_none());
        let content = place.offset as usize..place.offset as usize + place.trailer.length as usize;
        for at in content.chain(bytes.len() - TRAILER..bytes.len()) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(read(&damaged).is_none(), "{at}");
        }
    }

    /// An index that would take too much of its segment is not written.
    #[test]
    fn given_up() {
        let mut index = Index::new(LENGTH);
        let mut group = Group::default();
        group.push(Kind::State, 0, 1, |into| into.resize(LENGTH as usize / 8, 0), &[]);
        assert_eq!(index.room(group.index_length()), 0);
        index.add(&group);
        assert_eq!(index.room(0), 0);
        assert!(index.finish(IDENTITY).is_none());
    }
}
