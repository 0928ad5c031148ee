//! Reads a shard's directory in rounds until what was read fits together.
//!
//! A relay that runs writes behind the last group of its active segment, seals it and goes on in another, and
//! overwrites free segments, beginning with their header. So:
//! - a segment that was read without a gap up to its seal, and whose header is the same afterwards, is as it was read;
//! - a group was whole before a later group with a watermark that covers it was written. Whoever has seen the later
//!   one and finds the earlier one not whole in a *second* reading, in a file whose header has stayed, has found damage;
//! - a file that is missing, or is another segment than the newest table says, was read between two changes when
//!   names or headers differ after the round, and is damage when they do not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::holder::holder;
use super::{LiveFile, ReadError, SegmentInfo, SegmentState, Shard};
use crate::spool::disk::{Entry, classify, quarantine_dir};
use crate::spool::format::headers::{BLOCK, HeaderFault, Identity, RECORD_HEADER, SegmentHeader};
use crate::spool::format::index::IndexPlace;
use crate::spool::format::message::CHUNK_META;
use crate::spool::format::scan::{Content, FoundGroup, Scanner};
use crate::spool::recovery::assembly::{Assembly, Fate, Finding, FindingKind, FoundMessage, ScannedFile};
use crate::spool::recovery::recover::assemble;

/// Rounds before the relay is declared too fast. The first reads everything; each further one what changed meanwhile.
const ROUNDS_MAX: usize = 20;

/// The files as they were read, in order of their numbers.
#[derive(Default)]
struct Survey {
    readings: Vec<Reading>,
    scanned: Vec<ScannedFile>,
}

/// A file that was read.
struct Reading {
    path: PathBuf,
    file: File,
    /// Nothing is appended to it any more.
    sealed: bool,
    /// Of blocks that the disk refuses to give.
    faults: Vec<String>,
}

/// Reads one shard's directory.
pub(super) fn read_shard(number: u32, dir: &Path) -> Result<Shard, ReadError> {
    let in_use_by = holder(dir);
    let mut survey = Survey::default();
    let mut findings_before: Option<Vec<Finding>> = None;
    let mut round = 1;
    loop {
        let names = list(dir)?;
        survey = survey.renew(&names)?;
        let mut assembly = assemble(&survey.scanned);
        for line in survey.readings.iter().flat_map(|reading| &reading.faults).chain(&names.odd) {
            assembly.quarantine(line.clone());
        }
        let stayed = survey.stays() && list(dir)?.segments == names.segments;
        let findings = std::mem::take(&mut assembly.report);
        let settled = stayed
            && match &findings_before {
                Some(before) => findings.iter().all(|it| is_no_damage(it) || before.contains(it)),
                None => findings.is_empty(),
            };
        if settled || round == ROUNDS_MAX {
            // What is on its way, or was torn by a crash, is told of when it has stayed as it was.
            let before = findings_before.unwrap_or_default();
            assembly.report = findings.into_iter().filter(|it| before.contains(it)).collect();
            let head = Shard {
                number,
                dir: dir.to_owned(),
                in_use_by,
                settled,
                incarnation: assembly.incarnation - 1,
                watermark: assembly.cuts.last().map_or(0, |cut| cut.watermark),
                groups: 0,
                segments: Vec::new(),
                findings: Vec::new(),
                set_aside: set_aside(dir)?,
                files: BTreeMap::new(),
                messages: Vec::new(),
            };
            return Ok(fill(head, survey, assembly));
        }
        findings_before = Some(findings);
        round += 1;
    }
}

fn is_no_damage(finding: &Finding) -> bool {
    finding.kind != FindingKind::Quarantined
}

/// The names in a shard's directory.
struct Names {
    segments: BTreeMap<u32, PathBuf>,
    /// Files with a segment's name that are too short for one; a line each.
    odd: Vec<String>,
}

fn list(dir: &Path) -> Result<Names, ReadError> {
    let mut names = Names { segments: BTreeMap::new(), odd: Vec::new() };
    for entry in std::fs::read_dir(dir).map_err(ReadError::io(dir))? {
        let path = entry.map_err(ReadError::io(dir))?.path();
        let Entry::Segment(number) = classify(&path) else { continue };
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() && metadata.len() > BLOCK => {
                names.segments.insert(number, path);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(_) | Err(_) => {
                names.odd.push(format!("{}: not a segment; the next start moves it aside", path.display()))
            }
        }
    }
    Ok(names)
}

fn set_aside(dir: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let dir = quarantine_dir(dir);
    let entries = match std::fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(ReadError::io(&dir))?,
    };
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()
        .map_err(ReadError::io(&dir))?;
    // A pipe would be waited for.
    paths.retain(|path| path.is_file());
    paths.sort();
    Ok(paths)
}

impl Survey {
    /// Reads what is new or can have changed since it was read.
    fn renew(self, names: &Names) -> Result<Survey, ReadError> {
        let mut renewed = Survey::default();
        let mut old = self.readings.into_iter().zip(self.scanned).peekable();
        for (number, path) in &names.segments {
            while old.next_if(|(_, scanned)| scanned.file < *number).is_some() {}
            let known = old.next_if(|(_, scanned)| scanned.file == *number);
            // By its path: another file may have taken the name.
            let file = match File::open(path) {
                // Seen when the names are compared after the round.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.map_err(ReadError::io(path))?,
            };
            let header = header_of(&file);
            let (reading, scanned) = match known {
                Some((reading, scanned))
                    if reading.sealed
                        && is_gapless(&scanned)
                        && header.is_ok()
                        && scanned.header == header =>
                {
                    (reading, scanned)
                }
                _ => scan(*number, path, file, header)?,
            };
            renewed.readings.push(reading);
            renewed.scanned.push(scanned);
        }
        Ok(renewed)
    }

    /// Is every file still the segment that it was when it was read?
    fn stays(&self) -> bool {
        self.readings
            .iter()
            .zip(&self.scanned)
            .all(|(reading, scanned)| header_of(&reading.file) == scanned.header)
    }
}

fn scan(
    number: u32,
    path: &Path,
    file: File,
    header: Result<SegmentHeader, HeaderFault>,
) -> Result<(Reading, ScannedFile), ReadError> {
    if let Err(HeaderFault::UnknownVersion(version)) = header {
        return Err(ReadError::UnknownVersion { path: path.to_owned(), version });
    }
    let length = file.metadata().map_err(ReadError::io(path))?.len();
    let mut faults = Vec::new();
    let mut scanner = Scanner::new(header.ok().map(|header| header.identity), length);
    while let Some((offset, length)) = scanner.window() {
        let mut bytes = vec![0; length];
        read_blocks_or(&file, &mut bytes, offset, |at, error| {
            faults.push(format!("{}: block at {at} cannot be read: {error}", path.display()));
        });
        scanner.feed(&bytes);
    }
    let Scanner { groups, fragments, .. } = scanner;
    let records = groups.iter().flat_map(|group| &group.records);
    let sealed = records.into_iter().any(|record| matches!(record.content, Content::Table(_, true)));
    let scanned =
        ScannedFile { file: number, length, header, whole: groups.len(), groups, fragments, indexed: false };
    Ok((Reading { path: path.to_owned(), file, sealed, faults }, scanned))
}

/// Reads bytes; blocks that the disk refuses to give are zeros, and `refused` is told where they are.
fn read_blocks_or(file: &File, into: &mut [u8], offset: u64, mut refused: impl FnMut(u64, io::Error)) {
    if file.read_exact_at(into, offset).is_ok() {
        return;
    }
    for (block, at) in into.chunks_mut(BLOCK as usize).zip((offset..).step_by(BLOCK as usize)) {
        if let Err(error) = file.read_exact_at(block, at) {
            block.fill(0);
            refused(at, error);
        }
    }
}

/// Reads bytes; blocks that the disk refuses to give are zeros.
pub(super) fn read_blocks(file: &File, into: &mut [u8], offset: u64) {
    read_blocks_or(file, into, offset, |_, _| ());
}

/// The epoch of a segment by its header; else that of most whole groups in it.
pub(super) fn epoch_of(file: &File, length: u64) -> Option<u64> {
    if let Some(identity) = identity_of(file) {
        return Some(identity.epoch);
    }
    let mut scanner = Scanner::new(None, length);
    while let Some((offset, length)) = scanner.window() {
        let mut bytes = vec![0; length];
        read_blocks(file, &mut bytes, offset);
        scanner.feed(&bytes);
    }
    let mut votes = BTreeMap::<u64, usize>::new();
    for group in &scanner.groups {
        *votes.entry(group.header.identity.epoch).or_default() += 1;
    }
    votes.into_iter().max_by_key(|(_, count)| *count).map(|(epoch, _)| epoch)
}

/// Where the index of a segment starts, if it has one.
pub(super) fn index_offset(file: &File, length: u64, epoch: u64) -> Option<u64> {
    let mut block = vec![0; BLOCK as usize];
    read_blocks(file, &mut block, length.checked_sub(BLOCK)?);
    let place = IndexPlace::of_any(&block, length)?;
    (place.identity().epoch == epoch).then_some(place.offset)
}

fn header_of(file: &File) -> Result<SegmentHeader, HeaderFault> {
    let mut block = vec![0; BLOCK as usize];
    file.read_exact_at(&mut block, 0).map_err(|_| HeaderFault::Unreadable)?;
    SegmentHeader::decode(&block)
}

/// Do the groups join from the first one on? Where they do not, an earlier one may have been read before it was written.
fn is_gapless(scanned: &ScannedFile) -> bool {
    let mut end = BLOCK;
    let joins = |group: &FoundGroup| std::mem::replace(&mut end, group.end()) == group.offset;
    scanned.fragments.is_empty() && scanned.groups.iter().all(joins)
}

/// Which segment a file is now.
pub(super) fn identity_of(file: &File) -> Option<Identity> {
    header_of(file).ok().map(|header| header.identity)
}

/// Joins what was read with what it comes to.
fn fill(mut shard: Shard, survey: Survey, assembly: Assembly) -> Shard {
    let Assembly { fates, messages, report, .. } = assembly;
    shard.findings = report;
    for ((reading, scanned), fate) in survey.readings.into_iter().zip(survey.scanned).zip(fates) {
        let Reading { path, file, .. } = reading;
        let in_header = scanned.header.ok().map(|header| header.identity);
        let (state, identity) = match fate {
            Fate::Live { identity, damaged: false } => (SegmentState::Live, Some(identity)),
            Fate::Live { identity, damaged: true } => (SegmentState::Damaged, Some(identity)),
            Fate::Fresh(identity) => (SegmentState::Spare, Some(identity)),
            Fate::Free(identity) => (SegmentState::Free, identity),
            Fate::Quarantined(_) => (SegmentState::Refused, in_header),
        };
        shard.segments.push(SegmentInfo {
            path,
            file: scanned.file,
            identity: identity.map(|it| (it.ordinal, it.epoch)),
            state,
            bytes: scanned.length,
            live_bytes: 0,
            messages: 0,
        });
        if let (SegmentState::Live | SegmentState::Damaged, Some(identity)) = (state, identity) {
            shard.groups += scanned.groups.len() as u64;
            shard.findings.extend(known_losses(&scanned));
            shard.files.insert(identity.ordinal, LiveFile { file, identity });
        }
    }
    count_live(&mut shard.segments, &messages);
    shard.messages = messages;
    shard
}

/// Losses that an earlier start has found and reported are no news to recovery, and losses all the same.
fn known_losses(file: &ScannedFile) -> Vec<Finding> {
    let records = file.groups.iter().flat_map(|group| &group.records);
    let cuts = records.flat_map(|record| match &record.content {
        Content::Cuts(cuts) => &**cuts,
        _ => &[],
    });
    let lost = cuts.flat_map(|cut| {
        let durable = cut.holes.iter().filter(|hole| hole.was_durable);
        durable.map(|hole| (cut.incarnation, hole.first, hole.last))
    });
    let say = |(start, first, last)| Finding {
        kind: FindingKind::Quarantined,
        line: format!("records {first} to {last} of start {start} are lost, as a later start has reported"),
    };
    lost.map(say).collect()
}

fn count_live(segments: &mut [SegmentInfo], messages: &[FoundMessage]) {
    let of_ordinal: BTreeMap<u32, usize> = segments
        .iter()
        .enumerate()
        .filter(|(_, segment)| matches!(segment.state, SegmentState::Live | SegmentState::Damaged))
        .filter_map(|(index, segment)| Some((segment.identity?.0, index)))
        .collect();
    for message in messages {
        let mut counted = BTreeSet::new();
        let chunks = message.chunks.iter().map(|chunk| (chunk, CHUNK_META));
        for (piece, meta) in chunks.chain([(&message.head, message.meta_length)]) {
            let segment = &mut segments[of_ordinal[&piece.ordinal]];
            segment.live_bytes += u64::from(piece.length) + u64::from(meta) + RECORD_HEADER as u64;
            segment.messages += u64::from(counted.insert(piece.ordinal));
        }
    }
}
