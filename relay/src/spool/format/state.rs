//! What became of recipients, and the record that says so. Pure functions.

use super::place::Piece;
use super::reader::Reader;

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

/// When a recipient is to be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deferral {
    /// Not before: wall clock, milliseconds since the Unix epoch.
    pub until_ms: u64,
    /// Attempts made.
    pub attempts: u32,
    /// Nothing more is to be told of the delay.
    pub warned: bool,
    /// Where the last reply or error stands.
    pub(crate) reason: Piece,
}

/// Octets of a deferral's reason that are kept: a reply line has no more (RFC 5321, 4.5.3.1.5).
pub(crate) const REASON_MAX: usize = 512;

/// Payload of a state record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StateMeta {
    /// Indices of the recipients.
    pub(crate) recipients: Vec<u32>,
    /// What became of them.
    pub(crate) state: State,
}

/// Bytes that [`encode_state`] writes.
pub(crate) fn state_meta_length(recipients: &[u32], state: &State) -> usize {
    let detail = match state {
        State::Deferred { reason, .. } => 14 + cut(reason).len(),
        State::Delivered | State::Bounced => 0,
    };
    1 + detail + 4 * recipients.len()
}

/// Writes the payload of a state record.
pub(crate) fn encode_state(into: &mut Vec<u8>, recipients: &[u32], state: &State) {
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
pub(crate) const REASON_OFFSET: usize = 1 + 8 + 4 + 2;

/// Reads what [`encode_state`] wrote.
pub(crate) fn decode_state(meta: &[u8]) -> Option<StateMeta> {
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

/// Bytes of one segment in [`write_references`].
pub(crate) const REFERENCE: usize = 4;

/// Writes the body of a state record that finishes recipients: the segments with copies of its message. When the
/// record's own segment is cleaned, it tells whether the state still counts.
pub(crate) fn write_references(into: &mut Vec<u8>, references: &[u32]) {
    references.iter().for_each(|ordinal| into.extend_from_slice(&ordinal.to_le_bytes()));
}

/// What [`write_references`] writes, in memory of its own.
pub(crate) fn encode_references(references: &[u32]) -> Vec<u8> {
    let mut body = Vec::with_capacity(REFERENCE * references.len());
    write_references(&mut body, references);
    body
}

/// Reads what [`write_references`] wrote; of records of a version without it nothing.
pub(crate) fn decode_references(body: &[u8]) -> Vec<u32> {
    let (references, _) = body.as_chunks::<4>();
    references.iter().map(|ordinal| u32::from_le_bytes(*ordinal)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
