//! What a log says of its segments: the table of all of them, and the cut of a recovery. Pure functions.

use super::headers::{Identity, ORDINAL_MAX, SEQUENCE_MAX};
use super::reader::Reader;

/// One line of the table of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableEntry {
    /// Number in the file name; for the report, a segment is known by its identity.
    pub(crate) file: u32,
    /// Which segment.
    pub(crate) identity: Identity,
    /// Whether it counts.
    pub(crate) status: Status,
}

/// What a segment is to its spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    /// Records in it count.
    Live = 0,
    /// Nothing in it counts any more: it may be overwritten.
    Free = 1,
    /// Nothing in it counts any more, and it is to be kept for inspection because it is damaged.
    Damaged = 2,
}

/// Bytes of one encoded [`TableEntry`].
pub(crate) const TABLE_ENTRY: usize = 17;

/// Writes the payload of a table record.
pub(crate) fn encode_table(into: &mut Vec<u8>, entries: impl IntoIterator<Item = TableEntry>) {
    for entry in entries {
        into.push(entry.status as u8);
        into.extend_from_slice(&entry.file.to_le_bytes());
        into.extend_from_slice(&entry.identity.ordinal.to_le_bytes());
        into.extend_from_slice(&entry.identity.epoch.to_le_bytes());
    }
}

/// Reads what [`encode_table`] wrote.
pub(crate) fn decode_table(meta: &[u8]) -> Option<Vec<TableEntry>> {
    let mut reader = Reader(meta);
    let mut entries = Vec::with_capacity(meta.len() / TABLE_ENTRY);
    while !reader.0.is_empty() {
        let status = match reader.u8()? {
            0 => Status::Live,
            1 => Status::Free,
            2 => Status::Damaged,
            _ => return None,
        };
        let file = reader.u32()?;
        let identity = Identity { ordinal: reader.u32()?, epoch: reader.u64()? };
        if identity.ordinal > ORDINAL_MAX {
            return None;
        }
        entries.push(TableEntry { file, identity, status });
    }
    Some(entries)
}

/// What a recovery kept of one earlier incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Which incarnation.
    pub(crate) incarnation: u32,
    /// Highest sequence that a completed sync had covered: what is lost up to it is corruption.
    pub(crate) watermark: u64,
    /// Highest sequence kept; everything kept was synced before this was written. What lies beyond is void.
    pub(crate) kept_through: u64,
    /// Sequences up to it that were not there, already reported. Those beyond the watermark are void, should they turn
    /// up again.
    pub(crate) holes: Vec<Hole>,
}

/// Consecutive sequences that were not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// The segment that goes on behind it has nothing before it. The segment before may be gone one day, and then
    /// nothing else tells that this one has lost no more than this.
    pub(crate) begins_segment: bool,
    /// What was there had been durable.
    pub(crate) was_durable: bool,
}

/// Beside a sequence, which never comes to this: of the last one of a hole, that it begins a segment, of the first one, that
/// it had been durable.
const FLAG: u64 = 1 << 63;
const _: () = assert!(SEQUENCE_MAX < FLAG);

/// Writes the payload of a cut record.
pub(crate) fn encode_cuts(into: &mut Vec<u8>, cuts: &[Cut]) {
    for cut in cuts {
        into.extend_from_slice(&cut.incarnation.to_le_bytes());
        into.extend_from_slice(&cut.watermark.to_le_bytes());
        into.extend_from_slice(&cut.kept_through.to_le_bytes());
        into.extend_from_slice(&(cut.holes.len() as u32).to_le_bytes());
        for Hole { first, last, begins_segment, was_durable } in &cut.holes {
            let flagged = |sequence: u64, flag: bool| if flag { sequence | FLAG } else { sequence };
            into.extend_from_slice(&flagged(*first, *was_durable).to_le_bytes());
            into.extend_from_slice(&flagged(*last, *begins_segment).to_le_bytes());
        }
    }
}

/// Reads what [`encode_cuts`] wrote.
pub(crate) fn decode_cuts(meta: &[u8]) -> Option<Vec<Cut>> {
    let mut reader = Reader(meta);
    let mut cuts = Vec::new();
    while !reader.0.is_empty() {
        let incarnation = reader.u32()?;
        let (watermark, kept_through) = (reader.u64()?, reader.u64()?);
        let count = reader.u32()? as usize;
        if count > reader.0.len() / 16 {
            return None;
        }
        let holes = (0..count).map(|_| reader.hole(watermark)).collect::<Option<Vec<_>>>()?;
        let is_range = |hole: &Hole| hole.first <= hole.last;
        if watermark.max(kept_through) > SEQUENCE_MAX || !holes.iter().all(is_range) {
            return None;
        }
        cuts.push(Cut { incarnation, watermark, kept_through, holes });
    }
    Some(cuts)
}

impl Reader<'_> {
    fn hole(&mut self, watermark: u64) -> Option<Hole> {
        let (flagged_first, flagged_last) = (self.u64()?, self.u64()?);
        let first = flagged_first & !FLAG;
        Some(Hole {
            first,
            last: flagged_last & !FLAG,
            begins_segment: flagged_last & FLAG != 0,
            // Before version 4 the flag was not there.
            was_durable: flagged_first & FLAG != 0 || first <= watermark,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables and cuts read back as written.
    #[test]
    fn table_and_cut_round_trip() {
        let entries = vec![
            TableEntry { file: 1, identity: Identity { ordinal: 4, epoch: 5 }, status: Status::Live },
            TableEntry { file: 2, identity: Identity { ordinal: 3, epoch: 9 }, status: Status::Free },
        ];
        let mut meta = Vec::new();
        encode_table(&mut meta, entries.iter().copied());
        assert_eq!(meta.len(), entries.len() * TABLE_ENTRY);
        assert_eq!(decode_table(&meta), Some(entries));

        let holes = vec![
            Hole { first: 3, last: 4, begins_segment: true, was_durable: true },
            Hole { first: 9, last: 9, begins_segment: false, was_durable: false },
        ];
        let cuts = vec![
            Cut { incarnation: 1, watermark: 8, kept_through: 10, holes },
            Cut { incarnation: 2, watermark: 0, kept_through: 0, holes: vec![] },
        ];
        let mut meta = Vec::new();
        encode_cuts(&mut meta, &cuts);
        assert_eq!(decode_cuts(&meta), Some(cuts));
    }
}
