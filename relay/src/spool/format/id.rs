//! Message ids, and states by message.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::headers::ORDINAL_MAX;
use super::state::State;

/// Names a message of a spool for ever: ids are unique over all shards and never used again.
///
/// From the top: shard (10 bits), ordinal of the segment that was active (26 bits), count (28 bits). Ordinals are
/// durable before they are used and rise with every start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub(crate) u64);

impl MessageId {
    /// Largest count; at half of it a new segment is begun.
    pub(crate) const COUNT_MAX: u32 = (1 << 28) - 1;
    /// See [`super::headers::ORDINAL_MAX`].
    pub(crate) const ORDINAL_MAX: u32 = ORDINAL_MAX;

    /// The id number `count` of those given while segment `ordinal` was active.
    pub(crate) fn new(shard: u32, ordinal: u32, count: u32) -> MessageId {
        assert!(count <= Self::COUNT_MAX && ordinal <= Self::ORDINAL_MAX, "a new segment is begun in time");
        MessageId((u64::from(shard) << 54) | (u64::from(ordinal) << 28) | u64::from(count))
    }

    /// The shard in whose directory the message is.
    pub(crate) fn shard(self) -> u32 {
        (self.0 >> 54) as u32
    }
}

#[cfg(test)]
impl From<u64> for MessageId {
    fn from(number: u64) -> MessageId {
        MessageId(number)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Not 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a message id is 16 hexadecimal digits")]
pub struct BadId;

impl FromStr for MessageId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<MessageId, BadId> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = is_hex.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        number.map(MessageId).ok_or(BadId)
    }
}

/// What became of some recipients of one message.
#[derive(Clone, Debug)]
pub struct StateChange<'a> {
    /// The message.
    pub id: MessageId,
    /// Indices of the recipients in its envelope.
    pub recipients: &'a [u32],
    /// Their state.
    pub state: State,
}
