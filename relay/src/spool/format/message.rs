//! What the records of a message carry: its envelope, and the place of a chunk. Pure functions.

use chasqui_protocol::smtp::data::BodyForm;
use chasqui_protocol::smtp::dsn::{
    EnvelopeId, Notify, OriginalRecipient, Parameters, RcptParameters, Return,
};

use super::headers::flag;
use super::reader::Reader;

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
    pub(crate) fn flags(&self) -> u8 {
        (if self.form.is_stuffed() { flag::STUFFED } else { 0 })
            | (if self.eight_bit { flag::EIGHT_BIT } else { 0 })
    }
}

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
pub(crate) struct MessageMeta {
    /// Chunk records that precede the body bytes in this record.
    pub(crate) chunks: u32,
    /// Body bytes in them.
    pub(crate) chunked_bytes: u64,
    /// The envelope; its flags are in the record header.
    pub(crate) envelope: Envelope,
}

/// Bytes that [`encode_message`] will write at most.
pub(crate) fn message_meta_max(envelope: &Envelope) -> usize {
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
pub(crate) fn encode_message(into: &mut Vec<u8>, chunks: u32, chunked_bytes: u64, envelope: &Envelope) {
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
pub(crate) fn is_encodable(envelope: &Envelope) -> bool {
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
pub(crate) fn decode_message(meta: &[u8], eight_bit: bool, stuffed: bool) -> Option<MessageMeta> {
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
pub(crate) struct MessageCounts {
    /// Recipients in the envelope.
    pub(crate) recipients: u32,
    /// See [`MessageMeta::chunks`].
    pub(crate) chunks: u32,
    /// See [`MessageMeta::chunked_bytes`].
    pub(crate) chunked_bytes: u64,
}

impl MessageCounts {
    /// Of a payload that [`decode_message`] reads. Allocates nothing.
    pub(crate) fn decode(meta: &[u8]) -> Option<MessageCounts> {
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

/// Bytes of the meta part of a chunk record.
pub(crate) const CHUNK_META: u32 = 4;

/// Payload of a chunk record: its place among the message's chunks.
pub(crate) fn decode_chunk(meta: &[u8]) -> Option<u32> {
    Some(u32::from_le_bytes(meta.try_into().ok()?))
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
}
