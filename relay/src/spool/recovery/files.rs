//! Which files are segments that count: see FORMAT.md, *Recovery*, 2.

use std::collections::{BTreeMap, BTreeSet};

use super::assembly::{Assembly, Fate, ScannedFile, name};
use crate::spool::format::headers::{BLOCK, Identity, SEGMENT_MIN, SegmentHeader};
use crate::spool::format::scan::Content;
use crate::spool::format::table::{Status, TableEntry};

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
pub(crate) struct NewestTable {
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

pub(crate) fn newest_table(files: &[ScannedFile]) -> NewestTable {
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
    pub(crate) fn judge_files(&mut self, files: &[ScannedFile], table: &NewestTable) {
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
