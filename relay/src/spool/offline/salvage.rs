//! What is left of messages that recovery gives up: in damaged segments and in files moved to quarantine.
//!
//! Recovery takes groups, whole or not at all. Here every record stands for itself, found by its magic and the
//! segment's epoch, which no message's body can know; one whose checksum is wrong is taken as it lies. Nothing says that
//! such a message was not delivered: what became of it may have stood in segments that were overwritten since.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::{Deferred, EmlWriter, Message, MessageError, RecipientState, SegmentState, Shard, survey};
use crate::spool::disk::{Entry, classify};
use crate::spool::format::headers::{
    BLOCK, GROUP_MAX, Kind, RECORD_HEADER, RecordHeader, flag, record_is_whole,
};
use crate::spool::format::id::MessageId;
use crate::spool::format::message::{MessageMeta, decode_chunk, decode_message};
use crate::spool::format::state::{State, StateMeta, decode_state};

/// Bytes searched at once: the memory that it holds, whatever the size of a file.
const WINDOW: usize = 1 << 20;
const MAGIC: &[u8] = b"CREC";

/// What is left of a message.
#[derive(Debug)]
pub struct Salvaged {
    /// Its id.
    pub id: MessageId,
    /// Envelope and what is known of its recipients, if its record was found.
    pub message: Option<Message>,
    /// All of the body is there, and every checksum is right.
    pub complete: bool,
    /// The files that it was found in.
    pub sources: Vec<PathBuf>,
    pieces: Vec<Found>,
    files: BTreeMap<usize, File>,
}

/// Looks through quarantine, and through the segments of a shard that has damage, for messages that are not queued.
pub fn salvage(shard: &Shard) -> io::Result<Vec<Salvaged>> {
    let aside = shard.set_aside.iter().filter(|path| {
        let name = path.with_extension("");
        matches!(classify(&name), Entry::Segment(_))
    });
    let mut sources: Vec<Source> = aside.map(|path| Source { path: path.clone(), suspect: true }).collect();
    sources.extend(shard.segments.iter().filter_map(|segment| match segment.state {
        SegmentState::Live => Some(Source { path: segment.path.clone(), suspect: false }),
        SegmentState::Damaged | SegmentState::Refused => {
            Some(Source { path: segment.path.clone(), suspect: true })
        }
        SegmentState::Free | SegmentState::Spare => None,
    }));
    if !sources.iter().any(|source| source.suspect) {
        return Ok(Vec::new());
    }
    let mut remains = BTreeMap::<u64, Remains>::new();
    for (index, source) in sources.iter().enumerate() {
        search(index, &source.path, &mut remains)?;
    }
    shard.messages().for_each(|queued| drop(remains.remove(&queued.id().0)));
    remains.into_iter().filter_map(|(id, remains)| remains.finish(id, &sources).transpose()).collect()
}

struct Source {
    path: PathBuf,
    /// Something in it is lost.
    suspect: bool,
}

/// A piece of a body: in which source, where, and whether its record is whole.
#[derive(Clone, Copy, Debug)]
struct Found {
    source: usize,
    offset: u64,
    length: u32,
    whole: bool,
}

#[derive(Default)]
struct Remains {
    commit: Option<(MessageMeta, Found)>,
    chunks: BTreeMap<u32, Found>,
    states: Vec<StateMeta>,
}

/// Takes every record of this file that speaks of a message.
fn search(source: usize, path: &std::path::Path, remains: &mut BTreeMap<u64, Remains>) -> io::Result<()> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let Some(epoch) = survey::epoch_of(&file, length) else { return Ok(()) };
    // An index has the heads of the same records, without what they carry.
    let length = survey::index_offset(&file, length, epoch).unwrap_or(length);
    let mut window = Vec::new();
    let mut at = BLOCK;
    while at + (RECORD_HEADER as u64) < length {
        window.resize(WINDOW.min((length - at) as usize), 0);
        survey::read_blocks(&file, &mut window, at);
        // A header that the window cuts is found in the next one.
        let places = window.len() - RECORD_HEADER + 1;
        let candidates = window[..places + MAGIC.len() - 1].windows(MAGIC.len());
        let mut next = at + places as u64;
        for (index, _) in candidates.enumerate().filter(|(_, bytes)| *bytes == MAGIC) {
            let Some((header, crc)) = RecordHeader::decode(&window[index..]) else { continue };
            let start = at + index as u64;
            let body = start + RECORD_HEADER as u64;
            if header.epoch != epoch
                || header.payload_length() > GROUP_MAX
                || body + header.payload_length() > length
            {
                continue;
            }
            let mut payload = vec![0; header.payload_length() as usize];
            survey::read_blocks(&file, &mut payload, body);
            let whole = record_is_whole(&window[index..index + RECORD_HEADER], &payload, crc);
            take(source, &header, body, &payload, whole, remains);
            if whole {
                next = body + header.payload_length();
                break;
            }
        }
        at = next;
    }
    Ok(())
}

fn take(
    source: usize,
    header: &RecordHeader,
    offset: u64,
    payload: &[u8],
    whole: bool,
    remains: &mut BTreeMap<u64, Remains>,
) {
    let (meta, body) = payload.split_at(header.meta_length as usize);
    let offset = offset + meta.len() as u64;
    let found = Found { source, offset, length: body.len() as u32, whole };
    let has = |flag| header.flags & flag != 0;
    match header.kind {
        Kind::Message => {
            let decoded = decode_message(meta, has(flag::EIGHT_BIT), has(flag::STUFFED));
            let Some(meta) = decoded else { return };
            let commit = &mut remains.entry(header.id).or_default().commit;
            // A whole one is not replaced by a damaged copy.
            if whole || !commit.as_ref().is_some_and(|(_, found)| found.whole) {
                *commit = Some((meta, found));
            }
        }
        Kind::Chunk => {
            let Some(index) = decode_chunk(meta) else { return };
            let chunks = &mut remains.entry(header.id).or_default().chunks;
            if whole || !chunks.get(&index).is_some_and(|found| found.whole) {
                chunks.insert(index, found);
            }
        }
        Kind::State if whole => {
            let states = &mut remains.entry(header.id).or_default().states;
            states.extend(decode_state(meta));
        }
        Kind::State | Kind::Table | Kind::Seal | Kind::Cut => {}
    }
}

impl Remains {
    /// `None` when there is nothing to be had, or nothing was lost.
    fn finish(self, id: u64, sources: &[Source]) -> io::Result<Option<Salvaged>> {
        let Remains { commit, chunks, states } = self;
        let expected = commit.as_ref().map(|(meta, _)| (meta.chunks, meta.chunked_bytes));
        let head = commit.as_ref().map(|(_, found)| *found);
        let pieces: Vec<Found> = match expected {
            Some((count, _)) => chunks.range(..count).map(|(_, found)| *found).chain(head).collect(),
            None => chunks.values().copied().collect(),
        };
        let bytes: u64 = pieces.iter().map(|piece| u64::from(piece.length)).sum();
        let all_there = expected.is_some_and(|(count, chunked)| {
            let last = head.map_or(0, |head| u64::from(head.length));
            pieces.len() as u64 == u64::from(count) + 1 && bytes == chunked + last
        });
        let complete = all_there && pieces.iter().all(|piece| piece.whole);
        let touched = pieces.iter().any(|piece| sources[piece.source].suspect);
        let message = commit.map(|(meta, _)| {
            let recipients = recipient_states(meta.envelope.recipients.len(), &states);
            Message { id: MessageId(id), envelope: meta.envelope, recipients }
        });
        let finished = message.as_ref().is_some_and(|message| {
            let is_final =
                |state: &RecipientState| matches!(state, RecipientState::Delivered | RecipientState::Bounced);
            message.recipients.iter().all(is_final)
        });
        // Without its message record a message that only sound segments have was never received to its end.
        if pieces.is_empty() || finished || !(touched || message.is_some() && !complete) {
            return Ok(None);
        }
        let used: BTreeSet<usize> = pieces.iter().map(|piece| piece.source).collect();
        let files = used.iter().map(|index| Ok((*index, File::open(&sources[*index].path)?)));
        let files = files.collect::<io::Result<_>>()?;
        let sources = used.iter().map(|index| sources[*index].path.clone()).collect();
        Ok(Some(Salvaged { id: MessageId(id), message, complete, sources, pieces, files }))
    }
}

fn recipient_states(count: usize, states: &[StateMeta]) -> Vec<RecipientState> {
    let mut of = vec![RecipientState::Unknown; count];
    for StateMeta { recipients, state } in states {
        for index in recipients {
            let Some(known) = of.get_mut(*index as usize) else { continue };
            match state {
                State::Delivered => *known = RecipientState::Delivered,
                State::Bounced => *known = RecipientState::Bounced,
                State::Deferred { until_ms, attempts, reason, warned } => {
                    // The order of states in different files is not known here; an end is one in any order.
                    if !matches!(known, RecipientState::Delivered | RecipientState::Bounced) {
                        let (until_ms, attempts, warned) = (*until_ms, *attempts, *warned);
                        *known = RecipientState::Deferred(Deferred {
                            until_ms,
                            attempts,
                            reason: reason.clone(),
                            warned,
                        });
                    }
                }
            }
        }
    }
    of
}

impl Salvaged {
    /// Writes what there is of the message, unstuffed; pieces that are missing are left out. Returns the octets written.
    pub fn write_eml(&self, out: &mut dyn Write) -> Result<u64, MessageError> {
        // Most clients' mail has no line that begins with a dot; without the record that tells, it is assumed to have.
        let stuffed = self.message.as_ref().is_none_or(|message| message.envelope.form.is_stuffed());
        let mut eml = EmlWriter::new(out, stuffed);
        for piece in &self.pieces {
            let mut wire = vec![0; piece.length as usize];
            self.files[&piece.source].read_exact_at(&mut wire, piece.offset).map_err(MessageError::Read)?;
            eml.write(&wire)?;
        }
        Ok(eml.written)
    }
}
