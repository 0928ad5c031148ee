//! Reads a spool without changing it: for tools that list, check and export, also while a relay uses it.
//!
//! Nothing is locked, written, renamed or removed. Files are opened for reading alone, and recovery's own rules
//! (`recover`) say what counts, so that a tool and the relay's next start agree.
//!
//! A relay that runs appends, frees and overwrites segments meanwhile. What such a reader sees is made whole by
//! reading in rounds (`survey`): a sealed segment whose header is still the same cannot have changed, so each
//! round reads only what can, and damage is told of only when two readings of unchanged files agree on it. The
//! answer is the spool's state at some moment of the last round.

mod holder;
mod record;
mod salvage;
mod survey;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chasqui_protocol::smtp::data::{Unstuff, unstuff};
use thiserror::Error;

pub use self::salvage::{Salvaged, salvage};

use self::record::{Fault, Place, read_record};
use super::format::{Identity, Kind, RECORD_HEADER};
use super::id::MessageId;
use super::notes::Word;
use super::payload::{CHUNK_META, Envelope, REASON_OFFSET};
use super::recover::{Deferral, Finding, FoundMessage, Piece};

/// A spool cannot be read; for the user, one line with the fix.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is no `shard-N` in the directory.
    #[error("{} holds no spool: name the directory that the relay has as spool.directory", .0.display())]
    NoSpool(PathBuf),
    /// Written by a later version.
    #[error("{} has format version {version}, which this program does not read: use the one that wrote it", path.display())]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The operating system refused.
    #[error("cannot read {}: {error}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl ReadError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> ReadError {
        move |error| ReadError::Io { path: path.to_owned(), error }
    }
}

/// A message cannot be given any more.
#[derive(Debug, Error)]
pub enum MessageError {
    /// The relay has finished with it since the spool was read.
    #[error("finished by the relay meanwhile")]
    Gone,
    /// A record of it is not what it was when the spool was read.
    #[error("damaged: {0}")]
    Damaged(String),
    /// The spool's disk refused.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// Whoever takes the bytes refused.
    #[error("cannot be written: {0}")]
    Write(io::Error),
}

/// One shard's directory as it was read.
#[derive(Debug)]
pub struct Shard {
    /// Its number.
    pub number: u32,
    /// Its directory.
    pub dir: PathBuf,
    /// The process that has locked it, as far as the system tells: a relay that runs.
    pub in_use_by: Option<u32>,
    /// The files held still for long enough. Otherwise the relay was faster than the reading: what is told is true,
    /// and there may be damage that is not told of.
    pub settled: bool,
    /// How often the spool was started.
    pub incarnation: u32,
    /// Highest sequence of that incarnation that is known to be durable.
    pub watermark: u64,
    /// Whole groups read.
    pub groups: u64,
    /// In order of their files' numbers.
    pub segments: Vec<SegmentInfo>,
    /// What recovery would say of damage, and what an earlier one has said already and is still there.
    pub findings: Vec<Finding>,
    /// Files that earlier starts have moved to quarantine.
    pub set_aside: Vec<PathBuf>,
    files: BTreeMap<u32, LiveFile>,
    messages: Vec<FoundMessage>,
}

/// A segment file.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    /// Its path.
    pub path: PathBuf,
    /// Number in its name.
    pub file: u32,
    /// Which segment it is: ordinal and epoch. `None` when its header cannot be read and nothing else tells.
    pub identity: Option<(u32, u64)>,
    /// What it is to the spool.
    pub state: SegmentState,
    /// Its length.
    pub bytes: u64,
    /// Bytes of records of queued messages.
    pub live_bytes: u64,
    /// Queued messages with a piece in it.
    pub messages: u64,
}

/// What a segment file is to its spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// It counts.
    Live,
    /// It counts, and something durable in it is lost.
    Damaged,
    /// It may be overwritten.
    Free,
    /// Prepared, and not yet used.
    Spare,
    /// The next start moves it to quarantine.
    Refused,
}

impl SegmentState {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            SegmentState::Live => "live",
            SegmentState::Damaged => "damaged",
            SegmentState::Free => "free",
            SegmentState::Spare => "spare",
            SegmentState::Refused => "refused",
        }
    }
}

#[derive(Debug)]
struct LiveFile {
    file: File,
    identity: Identity,
}

/// What is known of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientState {
    /// Not yet tried, or the attempt is not yet recorded.
    Open,
    /// To be tried again.
    Deferred(Deferred),
    /// The next hop has it.
    Delivered,
    /// Given up; the sender was told by a message of its own.
    Bounced,
    /// Of a damaged segment: what became of it stood elsewhere.
    Unknown,
}

/// When a recipient is to be tried again, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deferred {
    /// Not before: wall clock, milliseconds since the Unix epoch.
    pub until_ms: u64,
    /// Attempts made.
    pub attempts: u32,
    /// The last reply or error.
    pub reason: String,
    /// Nothing more is to be told of the delay.
    pub warned: bool,
}

/// A message with all that the spool says of it but the body.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its id.
    pub id: MessageId,
    /// Its envelope.
    pub envelope: Envelope,
    /// One for each recipient of the envelope.
    pub recipients: Vec<RecipientState>,
}

/// Reads every shard's directory under `dir`, in order of their numbers.
pub fn read(dir: &Path) -> Result<Vec<Shard>, ReadError> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(ReadError::io(dir))? {
        let name = entry.map_err(ReadError::io(dir))?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("shard-")?.parse::<u32>().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    if numbers.is_empty() {
        return Err(ReadError::NoSpool(dir.to_owned()));
    }
    numbers
        .into_iter()
        .map(|number| survey::read_shard(number, &dir.join(format!("shard-{number}"))))
        .collect()
}

impl Shard {
    /// Its messages with recipients left, in order of their ids: oldest first.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = Queued<'_>> {
        self.messages.iter().map(|found| Queued { shard: self, found })
    }
}

/// A queued message of a [`Shard`].
#[derive(Clone, Copy, Debug)]
pub struct Queued<'a> {
    shard: &'a Shard,
    found: &'a FoundMessage,
}

impl Queued<'_> {
    /// Its id.
    pub fn id(&self) -> MessageId {
        MessageId(self.found.id)
    }

    /// Reads its envelope.
    pub fn message(&self) -> Result<Message, MessageError> {
        let FoundMessage { id, finished, deferrals, head, meta_length, notes, .. } = self.found;
        let bounced =
            |index| notes.iter().any(|it| it.word == Word::Bounced && it.recipients.contains(&index));
        let record = self.record(Kind::Message, *head, *meta_length)?;
        let envelope = record.envelope().ok_or_else(|| MessageError::Damaged("its envelope".into()))?;
        let state_of = |index: u32| {
            Ok(match deferrals.binary_search_by_key(&index, |(index, _)| *index) {
                _ if finished.has(index) && bounced(index) => RecipientState::Bounced,
                _ if finished.has(index) => RecipientState::Delivered,
                Ok(at) => RecipientState::Deferred(self.deferred(&deferrals[at].1)?),
                Err(_) => RecipientState::Open,
            })
        };
        let count = envelope.recipients.len() as u32;
        let recipients = (0..count).map(state_of).collect::<Result<_, MessageError>>()?;
        Ok(Message { id: MessageId(*id), envelope, recipients })
    }

    fn deferred(&self, deferral: &Deferral) -> Result<Deferred, MessageError> {
        let Deferral { until_ms, attempts, warned, reason } = deferral;
        let record = self.record(Kind::State, *reason, REASON_OFFSET as u32)?;
        let reason = record.payload.get(REASON_OFFSET..REASON_OFFSET + reason.length as usize);
        let reason = String::from_utf8_lossy(reason.unwrap_or_default()).into_owned();
        Ok(Deferred { until_ms: *until_ms, attempts: *attempts, reason, warned: *warned })
    }

    /// Writes the message as it was received, behind the Received field that the relay put before it: unstuffed, with
    /// CRLF. One record, at most 1 MiB of body, is in memory at a time. Returns the octets written.
    pub fn write_eml(&self, out: &mut dyn Write) -> Result<u64, MessageError> {
        let FoundMessage { chunks, head, meta_length, .. } = self.found;
        // What is stuffed is told by the message record alone.
        let last = self.record(Kind::Message, *head, *meta_length)?;
        let mut eml = EmlWriter::new(out, last.is_stuffed());
        for chunk in chunks {
            eml.write(self.record(Kind::Chunk, *chunk, CHUNK_META)?.body())?;
        }
        eml.write(last.body())?;
        Ok(eml.written)
    }

    /// The record that has `piece` behind `before` bytes of its payload.
    fn record(&self, kind: Kind, piece: Piece, before: u32) -> Result<record::Record, MessageError> {
        let live = self.shard.files.get(&piece.ordinal).expect("pieces are in live segments");
        let start = u64::from(piece.offset) - u64::from(before) - RECORD_HEADER as u64;
        let place = Place { start, kind, id: self.found.id, epoch: live.identity.epoch };
        read_record(&live.file, &place).map_err(|fault| match fault {
            Fault::Read(error) => MessageError::Read(error),
            Fault::Damaged if survey::identity_of(&live.file) == Some(live.identity) => {
                MessageError::Damaged(format!("segment {}, record at {start}", live.identity.ordinal))
            }
            // A relay took the segment into use again, which it does when all messages in it are finished.
            Fault::Damaged => MessageError::Gone,
        })
    }
}

/// Takes the pieces of a body in wire form and writes them as a message.
struct EmlWriter<'a> {
    out: &'a mut dyn Write,
    stuffing: Option<Unstuff>,
    plain: Vec<u8>,
    written: u64,
}

impl<'a> EmlWriter<'a> {
    fn new(out: &'a mut dyn Write, stuffed: bool) -> EmlWriter<'a> {
        let stuffing = stuffed.then(Unstuff::default);
        EmlWriter { out, stuffing, plain: Vec::new(), written: 0 }
    }

    fn write(&mut self, wire: &[u8]) -> Result<(), MessageError> {
        let plain = match &mut self.stuffing {
            None => wire,
            Some(state) => {
                self.plain.clear();
                unstuff(state, wire, &mut self.plain);
                &self.plain
            }
        };
        self.out.write_all(plain).map_err(MessageError::Write)?;
        self.written += plain.len() as u64;
        Ok(())
    }
}
