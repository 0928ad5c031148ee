//! The bytes on disk: segment header, group header and record header. FORMAT.md draws them.
//!
//! Pure functions; little-endian throughout. What a header's checksum covers and where `magic`, checksum and
//! version of the segment header stand is the same in every version of the format.

use crc32c::{crc32c, crc32c_append};

/// Unit of writing: a group starts and ends on it, so that no group shares a block with an earlier one. The size of which
/// FORMAT.md, *What it assumes of disks*, says that a write damages no other.
pub(crate) const BLOCK: u64 = 4096;
/// Bytes of the smallest segment: room for two groups of mail and what is kept for tables.
pub(crate) const SEGMENT_MIN: u64 = 64 << 10;
/// The version this code writes.
pub(crate) const FORMAT_VERSION: u32 = 4;
/// The oldest version this code reads; what it has is in the newer ones too.
const FORMAT_OLDEST: u32 = 1;
/// Bytes of a group header.
pub(crate) const GROUP_HEADER: usize = 64;
/// Bytes of the largest group that a reader takes, padding included; a writer makes groups of at most half of that.
pub(crate) const GROUP_MAX: u64 = 4 << 20;
/// Bytes of a record header.
pub(crate) const RECORD_HEADER: usize = 48;
/// The first group of a segment starts behind the header block.
pub(crate) const FIRST_GROUP: u64 = BLOCK;

/// Highest sequence and incarnation: no spool comes to them, and whoever counts on from one cannot overflow.
pub(crate) const SEQUENCE_MAX: u64 = u64::MAX / 2;
const INCARNATION_MAX: u32 = u32::MAX / 2;
/// Largest ordinal of a segment: 8 PiB of mail in segments of the default size.
pub(crate) const ORDINAL_MAX: u32 = (1 << 26) - 1;

const SEGMENT_MAGIC: [u8; 8] = *b"CHASQSEG";
const GROUP_MAGIC: [u8; 8] = *b"CHASQGRP";
const RECORD_MAGIC: [u8; 4] = *b"CREC";

const _: () = assert!(GROUP_HEADER + RECORD_HEADER < BLOCK as usize);

/// `bytes` rounded up to whole blocks.
pub(crate) const fn padded(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK) * BLOCK
}

/// A segment is known by this pair: the ordinal is never used twice in a spool, the epoch is random, so that
/// neither bytes left from an earlier use nor a message's body can pass for this segment's groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    /// Position in the order in which segments of this spool were prepared, from 1.
    pub(crate) ordinal: u32,
    /// Random.
    pub(crate) epoch: u64,
}

/// The first block of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Random number of the spool (one directory) that this segment belongs to.
    pub(crate) spool: u64,
    /// Which segment this is.
    pub(crate) identity: Identity,
    /// Bytes of the file.
    pub(crate) length: u64,
    /// Shard whose directory it was made for.
    pub(crate) shard: u32,
}

/// Why a first block is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// Intact, but of a version this code does not know.
    UnknownVersion(u32),
    /// Torn, zeroed or foreign.
    Unreadable,
}

impl SegmentHeader {
    /// The block as written.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK as usize];
        block[0..8].copy_from_slice(&SEGMENT_MAGIC);
        block[12..16].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        block[16..24].copy_from_slice(&self.spool.to_le_bytes());
        block[24..32].copy_from_slice(&u64::from(self.identity.ordinal).to_le_bytes());
        block[32..40].copy_from_slice(&self.identity.epoch.to_le_bytes());
        block[40..48].copy_from_slice(&self.length.to_le_bytes());
        block[48..52].copy_from_slice(&self.shard.to_le_bytes());
        let crc = crc32c(&block[12..]);
        block[8..12].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Reads a first block.
    pub(crate) fn decode(block: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        if block.len() != BLOCK as usize
            || block[0..8] != SEGMENT_MAGIC
            || u32_at(block, 8) != crc32c(&block[12..])
        {
            return Err(HeaderFault::Unreadable);
        }
        let version = u32_at(block, 12);
        if !(FORMAT_OLDEST..=FORMAT_VERSION).contains(&version) {
            return Err(HeaderFault::UnknownVersion(version));
        }
        let ordinal = ordinal_at(block, 24).ok_or(HeaderFault::Unreadable)?;
        Ok(SegmentHeader {
            spool: u64_at(block, 16),
            identity: Identity { ordinal, epoch: u64_at(block, 32) },
            length: u64_at(block, 40),
            shard: u32_at(block, 48),
        })
    }
}

/// What stands before the records of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    /// Header and records, without the padding.
    pub(crate) length: u32,
    /// Segment that the group was written to.
    pub(crate) identity: Identity,
    /// Sequence of the first record, or of the next one to come when there is none.
    pub(crate) first_sequence: u64,
    /// Highest sequence of this incarnation that a completed sync covered when the group was written.
    pub(crate) watermark: u64,
    /// Number of records.
    pub(crate) records: u32,
    /// Counts the starts of this spool; sequences are counted within one.
    pub(crate) incarnation: u32,
    /// Offset in the segment, in blocks: a group read elsewhere than where it was written is no group.
    pub(crate) block: u32,
}

impl GroupHeader {
    /// Writes the header into the first [`GROUP_HEADER`] bytes; `crc` comes from [`GroupHeader::checksum`].
    pub(crate) fn encode(&self, into: &mut [u8], crc: u32) {
        self.encode_body(&mut into[..GROUP_HEADER]);
        into[8..12].copy_from_slice(&crc.to_le_bytes());
    }

    fn encode_body(&self, into: &mut [u8]) {
        into[0..8].copy_from_slice(&GROUP_MAGIC);
        into[12..16].copy_from_slice(&self.length.to_le_bytes());
        into[16..24].copy_from_slice(&u64::from(self.identity.ordinal).to_le_bytes());
        into[24..32].copy_from_slice(&self.identity.epoch.to_le_bytes());
        into[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        into[40..48].copy_from_slice(&self.watermark.to_le_bytes());
        into[48..52].copy_from_slice(&self.records.to_le_bytes());
        into[52..56].copy_from_slice(&self.incarnation.to_le_bytes());
        into[56..60].copy_from_slice(&self.block.to_le_bytes());
        into[60..64].fill(0);
    }

    /// Start of the group's checksum: this header. The record headers are appended to it in order; each of
    /// them holds the checksum of its payload, so that the group's covers every byte with one pass over them.
    pub(crate) fn checksum(&self) -> u32 {
        let mut bytes = [0; GROUP_HEADER];
        self.encode_body(&mut bytes);
        crc32c(&bytes[12..])
    }

    /// Reads a header and its checksum; `None` when magic or fixed fields are not those of a group.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(GroupHeader, u32)> {
        if bytes.len() < GROUP_HEADER || bytes[0..8] != GROUP_MAGIC || u32_at(bytes, 60) != 0 {
            return None;
        }
        let header = GroupHeader {
            length: u32_at(bytes, 12),
            identity: Identity { ordinal: ordinal_at(bytes, 16)?, epoch: u64_at(bytes, 24) },
            first_sequence: u64_at(bytes, 32),
            watermark: u64_at(bytes, 40),
            records: u32_at(bytes, 48),
            incarnation: u32_at(bytes, 52),
            block: u32_at(bytes, 56),
        };
        let counts = (1..=SEQUENCE_MAX).contains(&header.first_sequence)
            && header.watermark <= SEQUENCE_MAX
            && header.incarnation <= INCARNATION_MAX;
        counts.then(|| (header, u32_at(bytes, 8)))
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Envelope and the (rest of the) body of one message: its commit record.
    Message = 1,
    /// A piece of a streamed body, valid only with the message's commit record.
    Chunk = 2,
    /// What became of some recipients of one message.
    State = 3,
    /// All segments of the spool; the newest one counts.
    Table = 4,
    /// The last record of a segment: a table that names the successor.
    Seal = 5,
    /// What a recovery kept of earlier incarnations.
    Cut = 6,
}

impl Kind {
    fn from_u8(kind: u8) -> Option<Kind> {
        Some(match kind {
            1 => Kind::Message,
            2 => Kind::Chunk,
            3 => Kind::State,
            4 => Kind::Table,
            5 => Kind::Seal,
            6 => Kind::Cut,
            _ => return None,
        })
    }
}

/// What stands before the payload (first `meta_length`, then `body_length` bytes) of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// What the payload is.
    pub(crate) kind: Kind,
    /// [`flag`] bits.
    pub(crate) flags: u8,
    /// Bytes of envelope, state or table.
    pub(crate) meta_length: u32,
    /// Bytes of body in wire form.
    pub(crate) body_length: u32,
    /// Position in the incarnation's order of records, from 1.
    pub(crate) sequence: u64,
    /// The message it speaks of, 0 for none.
    pub(crate) id: u64,
    /// The segment's epoch.
    pub(crate) epoch: u64,
}

/// Bits of [`RecordHeader::flags`].
pub(crate) mod flag {
    /// The body has dot-stuffed lines.
    pub(in crate::spool) const STUFFED: u8 = 1;
    /// The body came with BODY=8BITMIME or has octets above 127.
    pub(in crate::spool) const EIGHT_BIT: u8 = 2;
}

impl RecordHeader {
    /// Writes the header into the first [`RECORD_HEADER`] bytes, finishing the checksum that was begun over
    /// the payload.
    ///
    /// The payload comes first in the checksum because it is known before sequence and epoch are.
    pub(crate) fn encode(&self, into: &mut [u8], payload_crc: u32) {
        into[0..4].copy_from_slice(&RECORD_MAGIC);
        into[8] = self.kind as u8;
        into[9] = self.flags;
        into[10..12].fill(0);
        into[12..16].fill(0);
        into[16..20].copy_from_slice(&self.meta_length.to_le_bytes());
        into[20..24].copy_from_slice(&self.body_length.to_le_bytes());
        into[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        into[32..40].copy_from_slice(&self.id.to_le_bytes());
        into[40..48].copy_from_slice(&self.epoch.to_le_bytes());
        let crc = crc32c_append(payload_crc, &into[8..RECORD_HEADER]);
        into[4..8].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a header and its checksum.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(RecordHeader, u32)> {
        if bytes.len() < RECORD_HEADER || bytes[0..4] != RECORD_MAGIC || bytes[10..16] != [0; 6] {
            return None;
        }
        let header = RecordHeader {
            kind: Kind::from_u8(bytes[8])?,
            flags: bytes[9],
            meta_length: u32_at(bytes, 16),
            body_length: u32_at(bytes, 20),
            sequence: u64_at(bytes, 24),
            id: u64_at(bytes, 32),
            epoch: u64_at(bytes, 40),
        };
        Some((header, u32_at(bytes, 4)))
    }

    /// Bytes of payload that stand in the index of a segment too: all but those of mail.
    pub(crate) fn indexed_length(&self) -> u64 {
        match self.kind {
            Kind::Message | Kind::Chunk => u64::from(self.meta_length),
            Kind::State | Kind::Table | Kind::Seal | Kind::Cut => self.payload_length(),
        }
    }

    /// Bytes of payload.
    pub(crate) fn payload_length(&self) -> u64 {
        u64::from(self.meta_length) + u64::from(self.body_length)
    }
}

/// Does a record's checksum agree with its header (its encoded bytes) and payload?
pub(crate) fn record_is_whole(header: &[u8], payload: &[u8], crc: u32) -> bool {
    crc32c_append(crc32c(payload), &header[8..RECORD_HEADER]) == crc
}

fn ordinal_at(bytes: &[u8], at: usize) -> Option<u32> {
    u32::try_from(u64_at(bytes, at)).ok().filter(|ordinal| *ordinal <= ORDINAL_MAX)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: SegmentHeader = SegmentHeader {
        spool: 7,
        identity: Identity { ordinal: 9, epoch: 0x0123_4567_89ab_cdef },
        length: 65536,
        shard: 3,
    };

    /// A segment header reads back as written, and every single flipped bit in it is noticed.
    #[test]
    fn segment_header_round_trip() {
        let block = HEADER.encode();
        assert_eq!(SegmentHeader::decode(&block), Ok(HEADER));
        for bit in 0..block.len() * 8 {
            let mut damaged = block.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&damaged), Err(HeaderFault::Unreadable), "bit {bit}");
        }
    }

    /// An intact header of a later version is told from a torn one; earlier versions are read.
    #[test]
    fn versions() {
        let of_version = |version| {
            let mut block = HEADER.encode();
            block[12] = version;
            let crc = crc32c(&block[12..]);
            block[8..12].copy_from_slice(&crc.to_le_bytes());
            SegmentHeader::decode(&block)
        };
        for known in FORMAT_OLDEST as u8..=FORMAT_VERSION as u8 {
            assert_eq!(of_version(known), Ok(HEADER));
        }
        for unknown in [0, FORMAT_VERSION as u8 + 1] {
            assert_eq!(of_version(unknown), Err(HeaderFault::UnknownVersion(unknown.into())));
        }
    }

    /// Record headers read back as written.
    #[test]
    fn record_header_round_trip() {
        let header = RecordHeader {
            kind: Kind::State,
            flags: flag::STUFFED,
            meta_length: 3,
            body_length: 2,
            sequence: 5,
            id: 6,
            epoch: 7,
        };
        let mut bytes = [0; RECORD_HEADER];
        header.encode(&mut bytes, crc32c(b"hello"));
        let (read, crc) = RecordHeader::decode(&bytes).expect("a record header");
        assert_eq!(read, header);
        assert!(record_is_whole(&bytes, b"hello", crc));
        assert!(!record_is_whole(&bytes, b"hellO", crc));
    }
}
