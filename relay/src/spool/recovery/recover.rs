//! What counts of the segments found at start. Pure: files were scanned before, decisions are carried out after.
//!
//! The rules, in the order in which they are applied here, stand in FORMAT.md, *Recovery*.

use std::collections::BTreeMap;

use super::assembly::{Assembly, Fate, ScannedFile};
use super::files::newest_table;
use crate::spool::format::headers::Identity;

/// Decides what counts.
pub(crate) fn assemble(files: &[ScannedFile]) -> Assembly {
    let mut assembly = Assembly { spool: spool_of(files), ..Assembly::default() };
    let table = newest_table(files);
    assembly.judge_files(files, &table);
    for (file, fate) in files.iter().zip(&assembly.fates) {
        if let Fate::Live { identity, .. } = fate
            && file.indexed
        {
            assembly.indexed.insert(identity.ordinal);
        }
    }
    let kept = assembly.judge_groups(files);
    assembly.collect_messages(&kept);
    assembly
}

/// The number that most headers carry.
fn spool_of(files: &[ScannedFile]) -> Option<u64> {
    let mut votes = BTreeMap::<u64, usize>::new();
    for header in files.iter().filter_map(|file| file.header.as_ref().ok()) {
        *votes.entry(header.spool).or_default() += 1;
    }
    votes.into_iter().max_by_key(|(_, count)| *count).map(|(spool, _)| spool)
}

/// Files that were read by an index and whose header another file has too. An index says what was written, not what is
/// there, so which of them is the segment shows when their groups are looked at.
pub(crate) fn rivals(files: &[ScannedFile]) -> Vec<usize> {
    let mut claims = BTreeMap::<Identity, usize>::new();
    for header in files.iter().filter_map(|file| file.header.as_ref().ok()) {
        *claims.entry(header.identity).or_default() += 1;
    }
    let is_rival = |file: &ScannedFile| {
        file.indexed && file.header.as_ref().is_ok_and(|header| claims[&header.identity] > 1)
    };
    (0..files.len()).filter(|index| is_rival(&files[*index])).collect()
}
