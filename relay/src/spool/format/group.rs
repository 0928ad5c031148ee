//! A group under construction: records gathered in one reused buffer, finished when its place is known. Large bodies stay
//! in the buffers that they came in.

use crc32c::{crc32c, crc32c_append};
use smallvec::SmallVec;

use super::headers::{BLOCK, GROUP_HEADER, GroupHeader, Identity, Kind, RECORD_HEADER, RecordHeader, padded};

/// Records of one group, without what is known only at the write: sequence, epoch, place.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Room for the group header, then the records without the bodies that are kept apart. Empty or at least
    /// [`GROUP_HEADER`] long.
    bytes: Vec<u8>,
    records: Vec<Record>,
    /// Those that are kept apart, each with its place in `bytes`.
    bodies: Vec<(usize, Vec<u8>)>,
    /// Their bytes.
    apart: usize,
    /// Of `bytes` before the padding, once finished.
    length: usize,
    /// See [`RecordHeader::indexed_length`]; of all records.
    indexed_bytes: usize,
}

#[derive(Debug)]
struct Record {
    /// Where its header is in `bytes`.
    at: u32,
    payload_crc: u32,
}

/// What a group is made of, in order.
pub(crate) type Pieces<'a> = SmallVec<[&'a [u8]; 7]>;

/// Where and when a group is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    /// The segment.
    pub(crate) identity: Identity,
    /// Offset in it, a whole number of blocks.
    pub(crate) offset: u64,
    /// Sequence of the first record.
    pub(crate) first_sequence: u64,
    /// See [`GroupHeader::watermark`].
    pub(crate) watermark: u64,
    /// See [`GroupHeader::incarnation`].
    pub(crate) incarnation: u32,
}

/// How much of a group there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    bytes: usize,
    records: usize,
    bodies: usize,
    apart: usize,
    indexed_bytes: usize,
}

impl Group {
    /// Adds a record; `meta` writes the first part of the payload. Returns the record's offset in the group and
    /// the length of its meta part.
    pub(crate) fn push(
        &mut self,
        kind: Kind,
        flags: u8,
        id: u64,
        meta: impl FnOnce(&mut Vec<u8>),
        body: &[u8],
    ) -> (u32, u32) {
        let place = self.begin(kind, flags, id, meta, body);
        self.bytes.extend_from_slice(body);
        place
    }

    /// Adds a record as [`Group::push`] does, whose body is written from where it is: a copy of a large one costs more
    /// than one piece more to write.
    pub(crate) fn push_apart(
        &mut self,
        kind: Kind,
        flags: u8,
        id: u64,
        meta: impl FnOnce(&mut Vec<u8>),
        body: Vec<u8>,
    ) -> (u32, u32) {
        let place = self.begin(kind, flags, id, meta, &body);
        self.apart += body.len();
        self.bodies.push((self.bytes.len(), body));
        place
    }

    /// All of a record but the body, which is to follow.
    fn begin(
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
        let at = self.bytes.len();
        self.bytes.resize(at + RECORD_HEADER, 0);
        meta(&mut self.bytes);
        let payload = at + RECORD_HEADER;
        let meta_length = self.bytes.len() - payload;
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
        header.encode(&mut self.bytes[at..], 0);
        let payload_crc = crc32c_append(crc32c(&self.bytes[payload..]), body);
        self.records.push(Record { at: at as u32, payload_crc });
        self.indexed_bytes += header.indexed_length() as usize;
        ((at + self.apart) as u32, meta_length as u32)
    }

    /// Bytes so far, header included.
    pub(crate) fn len(&self) -> usize {
        (self.bytes.len() + self.apart).max(GROUP_HEADER)
    }

    /// Bytes it will take in the segment.
    pub(crate) fn padded_len(&self) -> u64 {
        padded(self.len() as u64)
    }

    /// Number of records.
    pub(crate) fn records(&self) -> usize {
        self.records.len()
    }

    /// Completes all headers and checksums; returns the bytes to write, whole blocks.
    pub(crate) fn finish(&mut self, stamp: &Stamp) -> Pieces<'_> {
        if self.bytes.is_empty() {
            self.bytes.resize(GROUP_HEADER, 0);
        }
        self.length = self.bytes.len();
        let header = GroupHeader {
            length: self.len() as u32,
            identity: stamp.identity,
            first_sequence: stamp.first_sequence,
            watermark: stamp.watermark,
            records: self.records.len() as u32,
            incarnation: stamp.incarnation,
            block: (stamp.offset / BLOCK) as u32,
        };
        let mut crc = header.checksum();
        for (Record { at, payload_crc }, sequence) in self.records.iter().zip(stamp.first_sequence..) {
            let at = *at as usize;
            let bytes = &mut self.bytes[at..at + RECORD_HEADER];
            let (mut record, _) = RecordHeader::decode(bytes).expect("written by push");
            record.sequence = sequence;
            record.epoch = stamp.identity.epoch;
            record.encode(bytes, *payload_crc);
            crc = crc32c_append(crc, bytes);
        }
        header.encode(&mut self.bytes, crc);
        let padding = self.padded_len() as usize - self.len();
        self.bytes.resize(self.length + padding, 0);
        self.pieces()
    }

    fn pieces(&self) -> Pieces<'_> {
        let mut pieces = Pieces::new();
        let mut from = 0;
        for (at, body) in &self.bodies {
            pieces.push(&self.bytes[from..*at]);
            pieces.push(body);
            from = *at;
        }
        pieces.push(&self.bytes[from..]);
        pieces
    }

    /// Where the next record would start; see [`Group::rewind`].
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            bytes: self.bytes.len(),
            records: self.records.len(),
            bodies: self.bodies.len(),
            apart: self.apart,
            indexed_bytes: self.indexed_bytes,
        }
    }

    /// Takes back the records that were added after the mark.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.bytes.truncate(mark.bytes);
        self.records.truncate(mark.records);
        self.bodies.truncate(mark.bodies);
        self.apart = mark.apart;
        self.indexed_bytes = mark.indexed_bytes;
    }

    /// Bytes that a group of the records added after the mark would take in the segment.
    pub(crate) fn padded_since(&self, mark: Mark) -> u64 {
        let before = (mark.bytes + mark.apart).max(GROUP_HEADER);
        padded((GROUP_HEADER + self.len() - before) as u64)
    }

    /// Takes back what [`Group::finish`] has added: more records may follow.
    pub(crate) fn reopen(&mut self) {
        self.bytes.truncate(self.length);
    }

    /// Bytes it takes in the index of its segment.
    pub(crate) fn index_length(&self) -> usize {
        GROUP_HEADER + RECORD_HEADER * self.records.len() + self.indexed_bytes
    }

    /// Appends what stands of it in the index of its segment: all but the bodies of mail. After [`Group::finish`].
    pub(crate) fn append_to_index(&self, index: &mut Vec<u8>) {
        index.reserve(self.index_length());
        index.extend_from_slice(&self.bytes[..GROUP_HEADER]);
        for Record { at, .. } in &self.records {
            let record = &self.bytes[*at as usize..];
            let (header, _) = RecordHeader::decode(record).expect("written by push");
            index.extend_from_slice(&record[..RECORD_HEADER + header.indexed_length() as usize]);
        }
    }

    /// Gives up the bodies that were kept apart: the group is written.
    pub(crate) fn take_bodies(&mut self) -> impl Iterator<Item = Vec<u8>> {
        self.bodies.drain(..).map(|(_, body)| body)
    }

    /// Forgets everything but the memory, of which it keeps at most `keep_bytes`.
    pub(crate) fn clear(&mut self, keep_bytes: usize) {
        self.bytes.clear();
        self.bytes.shrink_to(keep_bytes);
        self.records.clear();
        self.bodies.clear();
        self.apart = 0;
        self.indexed_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        identity: Identity { ordinal: 3, epoch: 0xfeed },
        offset: 5 * BLOCK,
        first_sequence: 40,
        watermark: 39,
        incarnation: 2,
    };

    /// Adds a record of a message, one in three to stay out of the group's own buffer if `apart`.
    fn push(group: &mut Group, number: u8, apart: bool) -> (u32, u32) {
        let (id, body) = (u64::from(number), vec![number; 1000 * usize::from(number)]);
        let meta = |into: &mut Vec<u8>| into.resize(into.len() + usize::from(number), b'm');
        match apart && number.is_multiple_of(3) {
            true => group.push_apart(Kind::Chunk, 0, id, meta, body),
            false => group.push(Kind::Chunk, 0, id, meta, &body),
        }
    }

    /// What a group says of itself, then its bytes and what stands of it in the index.
    fn finished(group: &mut Group) -> (usize, u64, usize, Vec<u8>, Vec<u8>) {
        let (length, padded) = (group.len(), group.padded_len());
        let bytes = group.finish(&STAMP).concat();
        let mut index = Vec::new();
        group.append_to_index(&mut index);
        (length, padded, group.index_length(), bytes, index)
    }

    /// Where a body is kept makes no difference to what is written: nor when records are taken back, nor when the write
    /// fails and more records follow.
    #[test]
    fn bodies_apart() {
        let (mut copied, mut apart) = (Group::default(), Group::default());
        let mut places = Vec::new();
        for number in 0..=7 {
            places.push(push(&mut copied, number, false));
            assert_eq!(places.last(), Some(&push(&mut apart, number, true)));
        }
        assert_eq!((copied.bodies.len(), apart.bodies.len()), (0, 3));
        let (first_mark, second_mark) = (copied.mark(), apart.mark());
        for number in [8, 9, 12] {
            push(&mut copied, number, false);
            push(&mut apart, number, true);
        }
        assert_eq!(copied.padded_since(first_mark), apart.padded_since(second_mark));
        copied.rewind(first_mark);
        apart.rewind(second_mark);
        assert_eq!(finished(&mut copied), finished(&mut apart));
        copied.reopen();
        apart.reopen();
        assert_eq!(push(&mut copied, 15, false), push(&mut apart, 15, true));
        let (length, padded, index_length, bytes, index) = finished(&mut apart);
        assert_eq!((bytes.len() as u64, index.len()), (padded, index_length));
        assert_eq!(finished(&mut copied), (length, padded, index_length, bytes.clone(), index));
        for ((start, meta_length), number) in places.into_iter().zip(0u8..) {
            let body = start as usize + RECORD_HEADER + meta_length as usize;
            let expected = vec![number; 1000 * usize::from(number)];
            assert_eq!(bytes[body..][..expected.len()], expected, "{number}");
        }
        assert_eq!(apart.take_bodies().map(|body| body.len()).sum::<usize>(), apart.apart);
        apart.clear(0);
        assert_eq!((apart.len(), apart.mark().apart), (GROUP_HEADER, 0));
    }
}
