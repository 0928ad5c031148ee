//! Which groups count at start, by their sequences and watermarks, and which records are missing: see FORMAT.md, *Recovery*,
//! 3 and 4.

use std::collections::BTreeMap;

use super::assembly::{Assembly, Fate, Finding, FindingKind, ScannedFile, Unsure, name};
use crate::spool::format::headers::FIRST_GROUP;
use crate::spool::format::scan::{Content, FoundGroup};
use crate::spool::format::table::{Cut, Hole};

/// A group that counts.
#[derive(Clone, Copy)]
pub(crate) struct KeptGroup<'a> {
    /// Index of its file.
    pub(crate) file: usize,
    pub(crate) group: &'a FoundGroup,
    /// A completed sync had covered all of it.
    pub(crate) promised: bool,
}

impl Assembly {
    /// Which groups count; their records in the order in which they were written.
    pub(crate) fn judge_groups<'a>(&mut self, files: &'a [ScannedFile]) -> Vec<KeptGroup<'a>> {
        let mut groups: Vec<KeptGroup<'a>> = Vec::new();
        for (index, (file, fate)) in files.iter().zip(&self.fates).enumerate() {
            let Fate::Live { identity, .. } = fate else { continue };
            let own = file.groups.iter().filter(|group| group.header.identity == *identity);
            groups.extend(own.map(|group| KeptGroup { file: index, group, promised: false }));
        }
        groups.sort_by_key(|KeptGroup { group: FoundGroup { header, .. }, .. }| {
            (header.incarnation, header.first_sequence, header.records > 0) // an empty group precedes its equal
        });
        let mut old_cuts = BTreeMap::new();
        for record in groups.iter().flat_map(|kept| &kept.group.records) {
            if let Content::Cuts(cuts) = &record.content {
                old_cuts.extend(cuts.iter().map(|cut| (cut.incarnation, cut.clone())));
            }
        }

        let beginnings = beginnings(files);
        let mut kept = Vec::with_capacity(groups.len());
        for incarnation in groups.chunk_by(|a, b| a.group.header.incarnation == b.group.header.incarnation) {
            let number = incarnation[0].group.header.incarnation;
            kept.extend(self.judge_incarnation(files, incarnation, old_cuts.get(&number), &beginnings));
        }
        for (file, fate) in files.iter().zip(self.fates.clone()) {
            let reported_before =
                file.groups.first().is_some_and(|group| old_cuts.contains_key(&group.header.incarnation));
            if matches!(fate, Fate::Live { .. }) && !reported_before {
                file.fragments.iter().for_each(|place| self.report_fragment(file, *place));
            }
        }
        kept
    }

    fn judge_incarnation<'a>(
        &mut self,
        files: &[ScannedFile],
        groups: &[KeptGroup<'a>],
        old: Option<&Cut>,
        beginnings: &BTreeMap<u32, u64>,
    ) -> Vec<KeptGroup<'a>> {
        let incarnation = groups[0].group.header.incarnation;
        let on_disk = groups.iter().map(|kept| kept.group.header.watermark).max().unwrap_or(0);
        let watermark = old.map_or(on_disk, |cut| cut.watermark.max(on_disk));
        let mut cut = Cut { incarnation, watermark, kept_through: watermark, holes: Vec::new() };
        if let Some(old) = old {
            cut.kept_through = cut.kept_through.max(old.kept_through);
            cut.holes.clone_from(&old.holes);
        }

        // An earlier recovery has synced what it kept.
        let durable = old.map_or(watermark, |old| old.kept_through.max(watermark));
        let mut kept: Vec<KeptGroup<'a>> = Vec::with_capacity(groups.len());
        for candidate in groups {
            let (first, next) = (candidate.group.header.first_sequence, candidate.group.next_sequence());
            if first > watermark && next > first && old.is_some_and(|old| old.is_void(first)) {
                continue;
            }
            let before = kept.last();
            let goes_on = before.is_some_and(|before| before.file == candidate.file);
            let lost_from = match before {
                Some(before) if goes_on => before.group.next_sequence(),
                // The log was cut off before it came to its next segment.
                Some(before) if successor(before.group).is_none() => before.group.next_sequence(),
                // Whole segments before this one may have been recycled; a loss at the start of it shows all the same.
                _ => candidate
                    .beginning(&cut, beginnings)
                    .unwrap_or_else(|| before.map_or(0, |before| before.group.next_sequence())),
            };
            if lost_from < first {
                let was_durable = lost_from <= durable;
                let hole = Hole { first: lost_from, last: first - 1, begins_segment: !goes_on, was_durable };
                self.lose(files, candidate.file, &mut cut, hole);
            }
            kept.push(KeptGroup { promised: next <= watermark + 1, ..*candidate });
            // An index is written when all that it tells of is durable.
            if next > durable + 1 && !files[candidate.file].indexed {
                let (offset, end) = (candidate.group.offset, candidate.group.end());
                self.unsure.push(Unsure { file: candidate.file, offset, end });
            }
            cut.kept_through = cut.kept_through.max(next - 1);
        }
        if let Some(last) = kept.last()
            && successor(last.group).is_none()
            && last.group.next_sequence() <= durable
        {
            let first = last.group.next_sequence();
            let hole = Hole { first, last: durable, begins_segment: false, was_durable: true };
            self.lose(files, last.file, &mut cut, hole);
        }
        // A segment without a group may have been the last one. It was not, when later records were durable.
        for (at, seal) in kept.iter().enumerate() {
            let first = seal.group.next_sequence();
            let last = kept.get(at + 1).map_or(durable, |next| next.group.header.first_sequence - 1);
            let empty = successor(seal.group).and_then(|ordinal| self.live_without(ordinal, &kept));
            if let Some(empty) = empty.filter(|_| first <= last) {
                let hole = Hole { first, last, begins_segment: false, was_durable: first <= durable };
                self.lose(files, empty, &mut cut, hole);
            }
        }
        self.cuts.push(cut);
        kept
    }

    /// The live file of a segment that has no group that counts.
    fn live_without(&self, ordinal: u32, kept: &[KeptGroup<'_>]) -> Option<usize> {
        let is_it = |fate: &Fate| matches!(fate, Fate::Live { identity, .. } if identity.ordinal == ordinal);
        let file = self.fates.iter().position(is_it)?;
        kept.iter().all(|kept| kept.file != file).then_some(file)
    }

    /// Sequences that ought to be there are not.
    fn lose(&mut self, files: &[ScannedFile], file: usize, cut: &mut Cut, hole: Hole) {
        let Hole { first, last, .. } = hole;
        let known = cut.holes.iter().find(|known| known.first <= first && last <= known.last);
        if let Fate::Live { damaged, .. } = &mut self.fates[file] {
            *damaged |= known.unwrap_or(&hole).was_durable;
        }
        if known.is_some() {
            return;
        }
        cut.holes.push(hole);
        let place = name(files[file].file);
        if !hole.was_durable {
            self.discard(format!(
                "{place}: records {first} to {last} were not synced and are not whole; discarded"
            ));
            return;
        }
        self.quarantine(format!(
            "{place}: records {first} to {last} were durable and are damaged or missing"
        ));
    }

    fn report_fragment(&mut self, file: &ScannedFile, place: u64) {
        let behind = file.groups.last().is_none_or(|last| place >= last.end());
        let line = format!("{}: the group at {place} is not whole", name(file.file));
        // Inside, the gap in the sequences has been counted already.
        if behind {
            self.discard(line + "; discarded");
        } else {
            self.report.push(Finding { kind: FindingKind::Detail, line });
        }
    }
}

impl KeptGroup<'_> {
    /// The first sequence of its segment that is not known to be lost already, if that can be told: from the segment's
    /// first group, from the seal before, or from what an earlier recovery has recorded.
    fn beginning(&self, cut: &Cut, beginnings: &BTreeMap<u32, u64>) -> Option<u64> {
        let first = self.group.header.first_sequence;
        if self.group.offset == FIRST_GROUP {
            return Some(first);
        }
        let recorded = || cut.holes.iter().any(|hole| hole.begins_segment && hole.last + 1 == first);
        let begins = beginnings.get(&self.group.header.identity.ordinal).copied();
        begins.or_else(|| recorded().then_some(first))
    }
}

impl Cut {
    /// Did an earlier recovery discard this sequence?
    fn is_void(&self, sequence: u64) -> bool {
        sequence > self.kept_through
            || self.holes.iter().any(|hole| (hole.first..=hole.last).contains(&sequence))
    }
}

/// The segment that a seal names as the next: the newest in its table.
fn successor(group: &FoundGroup) -> Option<u32> {
    group.records.iter().find_map(|record| match &record.content {
        Content::Table(entries, true) => entries.iter().map(|entry| entry.identity.ordinal).max(),
        _ => None,
    })
}

/// With which sequence segments begin, as the seals before them tell. Those of free segments tell it too: a table that frees
/// one may be in the segment whose first groups were torn.
fn beginnings(files: &[ScannedFile]) -> BTreeMap<u32, u64> {
    let groups = files.iter().flat_map(|file| &file.groups);
    groups.filter_map(|group| Some((successor(group)?, group.next_sequence()))).collect()
}
