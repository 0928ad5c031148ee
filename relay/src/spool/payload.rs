//! What records carry: envelopes, states, the table of segments, the cut of a recovery. Pure functions.

use chasqui_protocol::smtp::data::BodyForm;
use chasqui_protocol::smtp::dsn::{
    EnvelopeId, Notify, OriginalRecipient, Parameters, RcptParameters, Return,
};

use super::format::{Identity, ORDINAL_MAX, SEQUENCE_MAX, flag};

/// A message's envelope and what delivery has to know of its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Reverse-path without brackets; empty is the null reverse-path.
    pub reverse_path: String,
    /// Forward-paths without brackets. States speak of them by their index.
    pub recipients: Vec<String>,
    /// When the message was accepted: wall clock, milliseconds since the Unix epoch.
    pub arrived_ms: u64,
    /// How far the wall clock was then ahead of the relay's time, by which mail ages; 0 for about the same.
    pub lead_ms: i64,
    /// Octets of the message, unstuffed.
    pub size: u64,
    /// The message needs 8BITMIME.
    pub eight_bit: bool,
    /// How the body stands in the spool; [`BodyForm::Raw`] is refused.
    pub form: BodyForm,
    /// What the client said of notifications, if anything (RFC 3461).
    pub dsn: Option<Box<Parameters>>,
}

impl Envelope {
    /// What its record says of the body.
    pub(super) fn flags(&self) -> u8 {
        (if self.form.is_stuffed() { flag::STUFFED } else { 0 })
            | (if self.eight_bit { flag::EIGHT_BIT } else { 0 })
    }
}

/// What became of a recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The next hop has it.
    Delivered,
    /// Given up; the sender is told by a message of its own.
    Bounced,
    /// To be tried again.
    Deferred {
        /// Not before: wall clock, milliseconds since the Unix epoch.
        until_ms: u64,
        /// Attempts made.
        attempts: u32,
        /// The last reply or error; cut to 512 octets.
        reason: String,
        /// The time to warn the sender of a delay has come, and nothing more is to be told of it.
        warned: bool,
    },
}

impl State {
    /// Is nothing left to do for the recipient?
    pub fn is_final(&self) -> bool {
        !matches!(self, State::Deferred { .. })
    }
}

/// Octets of a deferral's reason that are kept.
pub(super) const REASON_MAX: usize = 512;

/// Envelope fields with a tag below this must be understood by a reader, others may be skipped.
const OPTIONAL_TAG: u8 = 128;
const TAG_REVERSE_PATH: u8 = 1;
const TAG_ARRIVED: u8 = 2;
const TAG_SIZE: u8 = 3;
const TAG_RECIPIENT: u8 = 4;
/// RET: 1 full, 2 headers.
const TAG_RETURN: u8 = 128;
/// ENVID, in xtext.
const TAG_ENVELOPE_ID: u8 = 129;
/// NOTIFY of the recipient before it: bit 0 success, bit 1 failure, bit 2 delay.
const TAG_NOTIFY: u8 = 130;
/// ORCPT of the recipient before it, in xtext.
const TAG_ORIGINAL_RECIPIENT: u8 = 131;
/// Of the wall clock before the relay's time when the message arrived, in milliseconds; only when it is not 0.
const TAG_LEAD: u8 = 132;

/// Payload of a message record: its envelope, and how much of the body stands in chunk records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MessageMeta {
    /// Chunk records that precede the body bytes in this record.
    pub(super) chunks: u32,
    /// Body bytes in them.
    pub(super) chunked_bytes: u64,
    /// The envelope; its flags are in the record header.
    pub(super) envelope: Envelope,
}

/// Bytes that [`encode_message`] will write at most.
pub(super) fn message_meta_max(envelope: &Envelope) -> usize {
    let paths =
        envelope.reverse_path.len() + envelope.recipients.iter().map(|path| path.len() + 3).sum::<usize>();
    12 + paths + 3 + 3 * 11 + envelope.dsn.as_ref().map_or(0, |dsn| dsn_max(dsn))
}

fn dsn_max(dsn: &Parameters) -> usize {
    let id = dsn.mail.envelope_id.as_ref().map_or(0, |id| id.as_xtext().len());
    let original = |it: &RcptParameters| it.original.as_ref().map_or(0, |it| it.as_xtext().len());
    4 + 3 + id + dsn.recipients.iter().map(|it| 4 + 3 + original(it)).sum::<usize>()
}

/// Writes the payload of a message record before the body.
pub(super) fn encode_message(into: &mut Vec<u8>, chunks: u32, chunked_bytes: u64, envelope: &Envelope) {
    into.extend_from_slice(&chunks.to_le_bytes());
    into.extend_from_slice(&chunked_bytes.to_le_bytes());
    field(into, TAG_REVERSE_PATH, envelope.reverse_path.as_bytes());
    field(into, TAG_ARRIVED, &envelope.arrived_ms.to_le_bytes());
    field(into, TAG_SIZE, &envelope.size.to_le_bytes());
    if envelope.lead_ms != 0 {
        field(into, TAG_LEAD, &envelope.lead_ms.to_le_bytes());
    }
    if let Some(dsn) = &envelope.dsn {
        if let Some(ret) = dsn.mail.ret {
            field(into, TAG_RETURN, &[if ret == Return::Full { 1 } else { 2 }]);
        }
        if let Some(id) = &dsn.mail.envelope_id {
            field(into, TAG_ENVELOPE_ID, id.as_xtext().as_bytes());
        }
    }
    for (index, recipient) in envelope.recipients.iter().enumerate() {
        field(into, TAG_RECIPIENT, recipient.as_bytes());
        let Some(said) = envelope.dsn.as_ref().and_then(|dsn| dsn.recipient(index)) else { continue };
        if let Some(notify) = said.notify {
            field(into, TAG_NOTIFY, &[notify.to_bits()]);
        }
        if let Some(original) = &said.original {
            field(into, TAG_ORIGINAL_RECIPIENT, original.as_xtext().as_bytes());
        }
    }
}

/// Can every path of the envelope be written?
pub(super) fn is_encodable(envelope: &Envelope) -> bool {
    let fits = |path: &String| path.len() <= usize::from(u16::MAX);
    fits(&envelope.reverse_path) && envelope.recipients.iter().all(fits)
}

fn field(into: &mut Vec<u8>, tag: u8, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("checked by is_encodable");
    into.push(tag);
    into.extend_from_slice(&length.to_le_bytes());
    into.extend_from_slice(value);
}

/// Reads what [`encode_message`] wrote.
pub(super) fn decode_message(meta: &[u8], eight_bit: bool, stuffed: bool) -> Option<MessageMeta> {
    let mut envelope = Envelope { eight_bit, form: BodyForm::Lines { stuffed }, ..Envelope::default() };
    let mut dsn = Parameters::default();
    let counts = MessageCounts::read(meta, |field| match field {
        Field::ReversePath(path) => envelope.reverse_path = path.to_owned(),
        Field::Arrived(ms) => envelope.arrived_ms = ms,
        Field::Size(size) => envelope.size = size,
        Field::Lead(ms) => envelope.lead_ms = ms,
        Field::Recipient(path) => envelope.recipients.push(path.to_owned()),
        Field::Return(ret) => dsn.mail.ret = Some(if ret == 1 { Return::Full } else { Return::Headers }),
        Field::EnvelopeId(id) => dsn.mail.envelope_id = EnvelopeId::parse(id),
        Field::Notify(bits) => said_of_last(&envelope, &mut dsn).notify = Notify::from_bits(bits),
        Field::OriginalRecipient(original) => {
            said_of_last(&envelope, &mut dsn).original = OriginalRecipient::parse(original);
        }
    })?;
    envelope.dsn = (dsn != Parameters::default()).then(|| Box::new(dsn));
    Some(MessageMeta { chunks: counts.chunks, chunked_bytes: counts.chunked_bytes, envelope })
}

/// A field of a message record.
enum Field<'a> {
    ReversePath(&'a str),
    Arrived(u64),
    Size(u64),
    Lead(i64),
    Recipient(&'a str),
    Return(u8),
    EnvelopeId(&'a [u8]),
    /// Of the recipient before it; there is one.
    Notify(u8),
    /// Of the recipient before it; there is one.
    OriginalRecipient(&'a [u8]),
}

/// What recovery has to know of a message record besides its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MessageCounts {
    /// Recipients in the envelope.
    pub(super) recipients: u32,
    /// See [`MessageMeta::chunks`].
    pub(super) chunks: u32,
    /// See [`MessageMeta::chunked_bytes`].
    pub(super) chunked_bytes: u64,
}

impl MessageCounts {
    /// Of a payload that [`decode_message`] reads. Allocates nothing.
    pub(super) fn decode(meta: &[u8]) -> Option<MessageCounts> {
        MessageCounts::read(meta, |_| ())
    }

    fn read<'a>(meta: &'a [u8], mut take: impl FnMut(Field<'a>)) -> Option<MessageCounts> {
        let mut reader = Reader(meta);
        let (chunks, chunked_bytes) = (reader.u32()?, reader.u64()?);
        let mut recipients = 0;
        while !reader.0.is_empty() {
            let tag = reader.u8()?;
            let length = usize::from(reader.u16()?);
            let mut value = Reader(reader.bytes(length)?);
            take(match tag {
                TAG_REVERSE_PATH => Field::ReversePath(str::from_utf8(value.0).ok()?),
                TAG_ARRIVED => Field::Arrived(value.u64()?),
                TAG_SIZE => Field::Size(value.u64()?),
                TAG_LEAD => Field::Lead(value.u64()?.cast_signed()),
                TAG_RECIPIENT => {
                    recipients += 1;
                    Field::Recipient(str::from_utf8(value.0).ok()?)
                }
                TAG_RETURN => Field::Return(value.u8()?),
                TAG_ENVELOPE_ID => Field::EnvelopeId(value.0),
                TAG_NOTIFY | TAG_ORIGINAL_RECIPIENT if recipients == 0 => return None,
                TAG_NOTIFY => Field::Notify(value.u8()?),
                TAG_ORIGINAL_RECIPIENT => Field::OriginalRecipient(value.0),
                tag if tag >= OPTIONAL_TAG => continue,
                _ => return None,
            });
        }
        Some(MessageCounts { recipients, chunks, chunked_bytes })
    }
}

/// What is said of the recipient that was read last.
fn said_of_last<'a>(envelope: &Envelope, dsn: &'a mut Parameters) -> &'a mut RcptParameters {
    dsn.recipients.resize(envelope.recipients.len(), RcptParameters::default());
    dsn.recipients.last_mut().expect("there is one before it")
}

/// Payload of a state record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StateMeta {
    /// Indices of the recipients.
    pub(super) recipients: Vec<u32>,
    /// What became of them.
    pub(super) state: State,
}

/// Bytes that [`encode_state`] writes.
pub(super) fn state_meta_length(recipients: &[u32], state: &State) -> usize {
    let detail = match state {
        State::Deferred { reason, .. } => 14 + cut(reason).len(),
        State::Delivered | State::Bounced => 0,
    };
    1 + detail + 4 * recipients.len()
}

/// Writes the payload of a state record.
pub(super) fn encode_state(into: &mut Vec<u8>, recipients: &[u32], state: &State) {
    match state {
        State::Delivered => into.push(1),
        State::Bounced => into.push(2),
        State::Deferred { until_ms, attempts, reason, warned } => {
            let reason = cut(reason);
            into.push(if *warned { 4 } else { 3 });
            into.extend_from_slice(&until_ms.to_le_bytes());
            into.extend_from_slice(&attempts.to_le_bytes());
            into.extend_from_slice(&(reason.len() as u16).to_le_bytes());
            into.extend_from_slice(reason.as_bytes());
        }
    }
    for index in recipients {
        into.extend_from_slice(&index.to_le_bytes());
    }
}

/// At most [`REASON_MAX`] octets of a reason, whole characters.
fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_MAX)]
}

/// Where the reason of a deferral begins in the payload of its record.
pub(super) const REASON_OFFSET: usize = 1 + 8 + 4 + 2;

/// Reads what [`encode_state`] wrote.
pub(super) fn decode_state(meta: &[u8]) -> Option<StateMeta> {
    let mut reader = Reader(meta);
    let kind = reader.u8()?;
    let state = match kind {
        1 => State::Delivered,
        2 => State::Bounced,
        3 | 4 => {
            let until_ms = reader.u64()?;
            let attempts = reader.u32()?;
            let length = usize::from(reader.u16()?);
            let reason = Reader(reader.bytes(length)?).text()?;
            State::Deferred { until_ms, attempts, reason, warned: kind == 4 }
        }
        _ => return None,
    };
    let mut recipients = Vec::with_capacity(reader.0.len() / 4);
    while !reader.0.is_empty() {
        recipients.push(reader.u32()?);
    }
    Some(StateMeta { recipients, state })
}

/// Bytes of one segment in [`write_homes`].
pub(super) const HOME: usize = 4;

/// Writes the body of a state record that finishes recipients: the segments with copies of its message. When the
/// record's own segment is cleaned, it tells whether the state still counts.
pub(super) fn write_homes(into: &mut Vec<u8>, homes: &[u32]) {
    homes.iter().for_each(|ordinal| into.extend_from_slice(&ordinal.to_le_bytes()));
}

/// What [`write_homes`] writes, in memory of its own.
pub(super) fn encode_homes(homes: &[u32]) -> Vec<u8> {
    let mut body = Vec::with_capacity(HOME * homes.len());
    write_homes(&mut body, homes);
    body
}

/// Reads what [`write_homes`] wrote; of records of a version without it nothing.
pub(super) fn decode_homes(body: &[u8]) -> Vec<u32> {
    let (homes, _) = body.as_chunks::<4>();
    homes.iter().map(|ordinal| u32::from_le_bytes(*ordinal)).collect()
}

/// One line of the table of segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableEntry {
    /// Number in the file name; for the report, a segment is known by its identity.
    pub(super) file: u32,
    /// Which segment.
    pub(super) identity: Identity,
    /// Whether it counts.
    pub(super) status: Status,
}

/// What a segment is to its spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    /// Records in it count.
    Live = 0,
    /// Nothing in it counts any more: it may be overwritten.
    Free = 1,
    /// Nothing in it counts any more, and it is to be kept for inspection because it is damaged.
    Damaged = 2,
}

/// Bytes of one encoded [`TableEntry`].
pub(super) const TABLE_ENTRY: usize = 17;

/// Writes the payload of a table record.
pub(super) fn encode_table(into: &mut Vec<u8>, entries: impl IntoIterator<Item = TableEntry>) {
    for entry in entries {
        into.push(entry.status as u8);
        into.extend_from_slice(&entry.file.to_le_bytes());
        into.extend_from_slice(&entry.identity.ordinal.to_le_bytes());
        into.extend_from_slice(&entry.identity.epoch.to_le_bytes());
    }
}

/// Reads what [`encode_table`] wrote.
pub(super) fn decode_table(meta: &[u8]) -> Option<Vec<TableEntry>> {
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
pub(super) struct Cut {
    /// Which incarnation.
    pub(super) incarnation: u32,
    /// Highest sequence that a completed sync had covered: what is lost up to it is corruption.
    pub(super) watermark: u64,
    /// Highest sequence kept; everything kept was synced before this was written. What lies beyond is void.
    pub(super) kept_through: u64,
    /// Sequences up to it that were not there, already reported. Those beyond the watermark are void, should they turn
    /// up again.
    pub(super) holes: Vec<Hole>,
}

/// Consecutive sequences that were not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) first: u64,
    pub(super) last: u64,
    /// The segment that goes on behind it has nothing before it. The segment before may be gone one day, and then
    /// nothing else tells that this one has lost no more than this.
    pub(super) begins_segment: bool,
    /// What was there had been durable.
    pub(super) was_durable: bool,
}

/// Beside a sequence, which never comes to this: of the last one of a hole, that it begins a segment, of the first one, that
/// it had been durable.
const FLAG: u64 = 1 << 63;
const _: () = assert!(SEQUENCE_MAX < FLAG);

/// Writes the payload of a cut record.
pub(super) fn encode_cuts(into: &mut Vec<u8>, cuts: &[Cut]) {
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
pub(super) fn decode_cuts(meta: &[u8]) -> Option<Vec<Cut>> {
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

/// Bytes of the meta part of a chunk record.
pub(super) const CHUNK_META: u32 = 4;

/// Payload of a chunk record: its place among the message's chunks.
pub(super) fn decode_chunk(meta: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(meta.try_into().ok()?))
}

/// Takes fixed fields off the front of a payload.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

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

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.bytes(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.bytes(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<String> {
        let text = str::from_utf8(self.0).ok()?.to_owned();
        self.0 = &[];
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use chasqui_protocol::smtp::dsn::MailParameters;

    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            reverse_path: "sender@example.org".into(),
            recipients: vec!["one@example.net".into(), "zwei@bücher.example".into()],
            arrived_ms: 1_700_000_000_000,
            lead_ms: 0,
            size: 2048,
            eight_bit: true,
            form: BodyForm::default(),
            dsn: None,
        }
    }

    /// An envelope reads back as written, and no shortened one is read.
    #[test]
    fn message_round_trip() {
        let dsn = Parameters {
            mail: MailParameters { ret: Some(Return::Headers), envelope_id: EnvelopeId::parse(b"a+2Bb") },
            recipients: vec![
                RcptParameters::default(),
                RcptParameters {
                    notify: Some(Notify::NEVER),
                    original: OriginalRecipient::parse(b"rfc822;z@example.net"),
                },
            ],
        };
        for (lead_ms, dsn) in [(0, None), (-86_400_000, Some(Box::new(dsn)))] {
            let envelope = Envelope { lead_ms, dsn, ..envelope() };
            let mut meta = Vec::new();
            encode_message(&mut meta, 3, 99, &envelope);
            assert!(meta.len() <= message_meta_max(&envelope));
            let expected = MessageMeta { chunks: 3, chunked_bytes: 99, envelope };
            assert_eq!(decode_message(&meta, true, false), Some(expected.clone()));
            let counts = MessageCounts { recipients: 2, chunks: 3, chunked_bytes: 99 };
            assert_eq!(MessageCounts::decode(&meta), Some(counts));
            for length in 0..meta.len() {
                let read = decode_message(&meta[..length], true, false);
                assert_ne!(read, Some(expected.clone()), "{length} octets");
            }
        }
    }

    /// States read back as written; a long reason is cut between characters.
    #[test]
    fn state_round_trip() {
        let long = "é".repeat(REASON_MAX);
        for state in [
            State::Delivered,
            State::Bounced,
            State::Deferred { until_ms: 5, attempts: 2, reason: "451 4.7.1 later".into(), warned: true },
            State::Deferred { until_ms: 5, attempts: 2, reason: long, warned: false },
        ] {
            let mut meta = Vec::new();
            encode_state(&mut meta, &[0, 7], &state);
            assert_eq!(meta.len(), state_meta_length(&[0, 7], &state));
            let read = decode_state(&meta).expect("a state");
            assert_eq!(read.recipients, [0, 7]);
            match (&read.state, &state) {
                (State::Deferred { reason: read, .. }, State::Deferred { reason, .. }) => {
                    assert!(reason.starts_with(read.as_str()) && read.len() <= REASON_MAX);
                }
                (read, state) => assert_eq!(read, state),
            }
        }
    }

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
