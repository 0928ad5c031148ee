//! The records that sinks stream to the load generator, one per recipient of every message that arrived.
//!
//! ```text
//! offset  0        8          16          24        32       36     37        38     40
//!         run u64  sequence   recipient   time_ns   size u32 kind   verdict   flags=0
//! ```
//! All little-endian. In the other direction, on the same socket, go barrier tokens of 8 bytes each; the sinks
//! answer a token with a [`Kind::Barrier`] record once every earlier arrival has been queued on that stream.

use crate::stamp::Verdict;

/// Octets of a record.
pub const RECORD_SIZE: usize = 40;
/// Octets of a barrier token.
pub const BARRIER_TOKEN_SIZE: usize = 8;

/// What a record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A message arrived for a recipient.
    Delivery = 0,
    /// A bounce came back that names a recipient as failed.
    Bounce = 1,
    /// Everything before this has been told; `sequence` is the barrier's token.
    Barrier = 2,
    /// A message made room for another one before anybody had read it: `run`, `sequence`, `recipient` and `size` are those of its
    /// delivery, the time is when it was dropped. It may be told on another stream than the delivery, and before it.
    Dropped = 3,
}

/// One arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The run of the message, 0 when it has no stamp.
    pub run: u64,
    /// The message's number within its run; in a barrier the token.
    pub sequence: u64,
    /// [`crate::stamp::recipient_hash`] of the recipient's address.
    pub recipient: u64,
    /// When, on CLOCK_MONOTONIC in nanoseconds.
    pub time_ns: u64,
    /// Unstuffed octets of the message.
    pub size: u32,
    /// What this record tells.
    pub kind: Kind,
    /// Whether the message was intact.
    pub verdict: Verdict,
}

/// Bytes that are no record: the peer speaks something else. The reader closes the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an arrival record")]
pub struct DecodeError;

impl Record {
    /// A barrier's record that also says which stream this is, counted from 0, and how many the sink has: whoever reads
    /// only some of them misses arrivals.
    pub fn of_stream(self, index: u32, count: u32) -> Record {
        Record { recipient: u64::from(index) << 32 | u64::from(count), ..self }
    }

    /// Which stream a barrier's record has come from, and how many there are; `None` where the sink does not say.
    pub fn stream(&self) -> Option<(u32, u32)> {
        let (index, count) = ((self.recipient >> 32) as u32, self.recipient as u32);
        (self.kind == Kind::Barrier && count > 0).then_some((index, count))
    }

    /// The answer to a barrier token.
    pub fn barrier(token: u64, time_ns: u64) -> Record {
        let (kind, verdict) = (Kind::Barrier, Verdict::Unchecked);
        Record { run: 0, sequence: token, recipient: 0, time_ns, size: 0, kind, verdict }
    }

    /// Appends the record's [`RECORD_SIZE`] bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; RECORD_SIZE];
        bytes[0..8].copy_from_slice(&self.run.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.recipient.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.time_ns.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.size.to_le_bytes());
        bytes[36] = self.kind as u8;
        bytes[37] = self.verdict as u8;
        out.extend_from_slice(&bytes);
    }

    /// The record in these bytes.
    pub fn decode(bytes: &[u8; RECORD_SIZE]) -> Result<Record, DecodeError> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let kind = match bytes[36] {
            0 => Kind::Delivery,
            1 => Kind::Bounce,
            2 => Kind::Barrier,
            3 => Kind::Dropped,
            _ => return Err(DecodeError),
        };
        let verdict = match bytes[37] {
            0 => Verdict::Intact,
            1 => Verdict::HeaderChanged,
            2 => Verdict::BodyChanged,
            3 => Verdict::NoStamp,
            4 => Verdict::Unchecked,
            _ => return Err(DecodeError),
        };
        if bytes[38..40] != [0, 0] {
            return Err(DecodeError);
        }
        let size = u32::from_le_bytes(std::array::from_fn(|index| bytes[32 + index]));
        let (run, sequence, recipient, time_ns) = (word(0), word(8), word(16), word(24));
        Ok(Record { run, sequence, recipient, time_ns, size, kind, verdict })
    }
}

#[cfg(test)]
mod tests {
    //! A record survives its wire form, and its layout is the documented one.
    use super::*;

    #[test]
    fn round_trip_and_layout() {
        let record = Record {
            run: 0x0102_0304_0506_0708,
            sequence: 9,
            recipient: u64::MAX,
            time_ns: 77,
            size: 2048,
            kind: Kind::Bounce,
            verdict: Verdict::BodyChanged,
        };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        assert_eq!(bytes[..9], [8, 7, 6, 5, 4, 3, 2, 1, 9]);
        assert_eq!(bytes[32..], [0, 8, 0, 0, 1, 2, 0, 0]);
        let bytes: [u8; RECORD_SIZE] = bytes.try_into().unwrap();
        assert_eq!(Record::decode(&bytes), Ok(record));
        for (at, wrong) in [(36, 4), (37, 5), (38, 1), (39, 1)] {
            let mut broken = bytes;
            broken[at] = wrong;
            assert_eq!(Record::decode(&broken), Err(DecodeError));
        }
    }

    #[test]
    fn a_barrier_carries_its_token() {
        let mut bytes = Vec::new();
        Record::barrier(42, 7).encode(&mut bytes);
        let record = Record::decode(&bytes.try_into().unwrap()).unwrap();
        assert_eq!((record.kind, record.sequence, record.time_ns), (Kind::Barrier, 42, 7));
    }
}
