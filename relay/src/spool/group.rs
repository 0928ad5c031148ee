//! A group under construction: records gathered in one reused buffer, finished when its place is known.

use crc32c::{crc32c, crc32c_append};

use super::format::{BLOCK, GROUP_HEADER, GroupHeader, Identity, Kind, RECORD_HEADER, RecordHeader, padded};

/// Records of one group, without what is known only at the write: sequence, epoch, place.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Room for the group header, then the records. Empty or at least [`GROUP_HEADER`] long.
    bytes: Vec<u8>,
    /// Where each record starts in `bytes`, and the checksum of its payload.
    records: Vec<(u32, u32)>,
    /// Bytes before the padding, once finished.
    length: usize,
    /// See [`RecordHeader::indexed_length`]; of all records.
    indexed_bytes: usize,
}

/// Where and when a group is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    /// The segment.
    pub(super) identity: Identity,
    /// Offset in it, a whole number of blocks.
    pub(super) offset: u64,
    /// Sequence of the first record.
    pub(super) first_sequence: u64,
    /// See [`GroupHeader::watermark`].
    pub(super) watermark: u64,
    /// See [`GroupHeader::incarnation`].
    pub(super) incarnation: u32,
}

/// How much of a group there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    bytes: usize,
    records: usize,
    indexed_bytes: usize,
}

impl Group {
    /// Adds a record; `meta` writes the first part of the payload. Returns the record's offset in the group and
    /// the length of its meta part.
    pub(super) fn push(
        &mut self,
        kind: Kind,
        flags: u8,
        id: u64,
        meta: impl FnOnce(&mut Vec<u8>),
        body: &[u8],
    ) -> (u32, u32) {
        if self.bytes.is_empty() {
            self.bytes.resize(GROUP_HEADER, 0);
        }
        let start = self.bytes.len();
        self.bytes.resize(start + RECORD_HEADER, 0);
        meta(&mut self.bytes);
        let payload = start + RECORD_HEADER;
        let meta_length = self.bytes.len() - payload;
        self.bytes.extend_from_slice(body);
        // Sequence and epoch are filled in by `finish`, which completes the checksum.
        let header = RecordHeader {
            kind,
            flags,
            meta_length: meta_length as u32,
            body_length: body.len() as u32,
            sequence: 0,
            id,
            epoch: 0,
        };
        header.encode(&mut self.bytes[start..], 0);
        self.records.push((start as u32, crc32c(&self.bytes[payload..])));
        self.indexed_bytes += header.indexed_length() as usize;
        (start as u32, meta_length as u32)
    }

    /// Bytes so far, header included.
    pub(super) fn len(&self) -> usize {
        self.bytes.len().max(GROUP_HEADER)
    }

    /// Bytes it will take in the segment.
    pub(super) fn padded_len(&self) -> u64 {
        padded(self.len() as u64)
    }

    /// Number of records.
    pub(super) fn records(&self) -> usize {
        self.records.len()
    }

    /// Completes all headers and checksums; returns the bytes to write, whole blocks.
    pub(super) fn finish(&mut self, stamp: &Stamp) -> &[u8] {
        if self.bytes.is_empty() {
            self.bytes.resize(GROUP_HEADER, 0);
        }
        self.length = self.bytes.len();
        let header = GroupHeader {
            length: self.bytes.len() as u32,
            identity: stamp.identity,
            first_sequence: stamp.first_sequence,
            watermark: stamp.watermark,
            records: self.records.len() as u32,
            incarnation: stamp.incarnation,
            block: (stamp.offset / BLOCK) as u32,
        };
        let mut crc = header.checksum();
        for ((start, payload_crc), sequence) in self.records.iter().zip(stamp.first_sequence..) {
            let at = *start as usize;
            let bytes = &mut self.bytes[at..at + RECORD_HEADER];
            let (mut record, _) = RecordHeader::decode(bytes).expect("written by push");
            record.sequence = sequence;
            record.epoch = stamp.identity.epoch;
            record.encode(bytes, *payload_crc);
            crc = crc32c_append(crc, bytes);
        }
        header.encode(&mut self.bytes, crc);
        self.bytes.resize(padded(self.bytes.len() as u64) as usize, 0);
        &self.bytes
    }

    /// Where the next record would start; see [`Group::rewind`].
    pub(super) fn mark(&self) -> Mark {
        Mark { bytes: self.bytes.len(), records: self.records.len(), indexed_bytes: self.indexed_bytes }
    }

    /// Takes back the records that were added after the mark.
    pub(super) fn rewind(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.records.truncate(mark.records);
        self.indexed_bytes = mark.indexed_bytes;
    }

    /// Bytes that a group of the records added after the mark would take in the segment.
    pub(super) fn padded_since(&self, mark: Mark) -> u64 {
        padded((GROUP_HEADER + self.bytes.len().saturating_sub(mark.bytes.max(GROUP_HEADER))) as u64)
    }

    /// Takes back what [`Group::finish`] has added: more records may follow.
    pub(super) fn reopen(&mut self) {
        self.bytes.truncate(self.length);
    }

    /// Bytes it takes in the index of its segment.
    pub(super) fn index_length(&self) -> usize {
        GROUP_HEADER + RECORD_HEADER * self.records.len() + self.indexed_bytes
    }

    /// Appends what stands of it in the index of its segment: all but the bodies of mail. After [`Group::finish`].
    pub(super) fn append_to_index(&self, index: &mut Vec<u8>) {
        index.reserve(self.index_length());
        index.extend_from_slice(&self.bytes[..GROUP_HEADER]);
        for (start, _) in &self.records {
            let record = &self.bytes[*start as usize..];
            let (header, _) = RecordHeader::decode(record).expect("written by push");
            index.extend_from_slice(&record[..RECORD_HEADER + header.indexed_length() as usize]);
        }
    }

    /// Forgets everything but the memory, of which it keeps at most `keep_bytes`.
    pub(super) fn clear(&mut self, keep_bytes: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep_bytes);
        self.records.clear();
        self.indexed_bytes = 0;
    }
}
