//! What goes into the IMAP client and what comes out.

use std::borrow::Cow;

use imap_codec::imap_types::sequence::{SeqOrUid, Sequence, SequenceSet};
use thiserror::Error;

use crate::imap::flags::Flags;
use crate::sasl::client::Failure;

/// Longest response that is held, bodies apart. A SEARCH response names every message it found.
pub(super) const MAX_RESPONSE: usize = 8 * 1024 * 1024;

/// A command whose completion is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// CAPABILITY
    Capability,
    /// STARTTLS
    StartTls,
    /// AUTHENTICATE
    Authenticate,
    /// LOGIN
    Login,
    /// SELECT
    Select,
    /// EXAMINE
    Examine,
    /// UID FETCH
    Fetch,
    /// UID STORE
    Store,
    /// UID SEARCH
    Search,
    /// EXPUNGE
    Expunge,
    /// UID EXPUNGE (RFC 4315)
    UidExpunge,
    /// NOOP
    Noop,
    /// IDLE (RFC 2177)
    Idle,
    /// CLOSE
    Close,
    /// LOGOUT
    Logout,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// Refused.
    No,
    /// Not understood.
    Bad,
}

/// A range of unique identifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UidRange {
    /// From here; 0 counts as 1.
    pub first: u32,
    /// To here, inclusive. None is `*`, the last message: `n:*` names the last message even when its identifier is
    /// below n.
    pub last: Option<u32>,
}

/// What the input meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// All input is used up; send [`Client::output`](super::Client::output) and read on.
    NeedInput,
    /// Keys of SCRAM are wanted: [`Client::take_derivation`](super::Client::take_derivation), then
    /// [`Client::use_keys`](super::Client::use_keys).
    DeriveKeys,
    /// The server is there.
    Greeting,
    /// IDLE is in force.
    Idling,
    /// The mailbox has so many messages.
    Exists(u32),
    /// So many of them are new to all sessions.
    Recent(u32),
    /// The message of this sequence number is gone; those after it moved up.
    Expunged(u32),
    /// UIDVALIDITY of the selected mailbox.
    UidValidity(u32),
    /// The next unique identifier, predicted at selection.
    UidNext(u32),
    /// Result of a search.
    Search(Vec<u32>),
    /// Data of a message without a body.
    Fetch {
        /// Sequence number.
        seq: u32,
        /// Unique identifier, if the server said it.
        uid: Option<u32>,
        /// RFC822.SIZE, if asked for.
        size: Option<u32>,
        /// The flags, if the server said them.
        flags: Option<Flags>,
    },
    /// A message's body begins.
    BodyStart {
        /// Sequence number.
        seq: u32,
        /// Unique identifier, if it came before the body.
        uid: Option<u32>,
        /// Octets of the body.
        size: u32,
    },
    /// A piece of the body.
    Body(Cow<'a, [u8]>),
    /// The body is complete.
    BodyEnd {
        /// Sequence number.
        seq: u32,
        /// Unique identifier, if the server said it.
        uid: Option<u32>,
    },
    /// A command is complete.
    Completed {
        /// The command.
        command: Command,
        /// How it ended.
        status: Status,
        /// The server's text.
        text: String,
    },
    /// The server is about to close the connection.
    Bye(String),
}

/// The server does not speak IMAP, or does not prove who it is. Whoever owns the connection closes it and counts it as failed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ClientError {
    /// A response without end.
    #[error("the IMAP server sent a response of over {MAX_RESPONSE} octets")]
    ResponseTooLong,
    /// There is more behind the OK to STARTTLS: it is not of the server that TLS will be with, perhaps.
    #[error("the IMAP server sent more behind its answer to STARTTLS")]
    Early,
    /// The exchange of AUTHENTICATE has failed.
    #[error("IMAP authentication: {0}")]
    Sasl(#[from] Failure),
    /// A response that is none.
    #[error("the IMAP server sent {0:?}")]
    Malformed(String),
}

/// A user name, password or mailbox name that an IMAP command cannot carry on one line.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("user names, passwords and mailbox names for IMAP are plain ASCII text")]
pub struct InvalidArgument;

impl UidRange {
    pub(super) fn into_set(self) -> SequenceSet {
        let number = |value: u32| SeqOrUid::Value(value.try_into().unwrap_or(std::num::NonZeroU32::MIN));
        let last = self.last.map_or(SeqOrUid::Asterisk, number);
        SequenceSet::from(Sequence::Range(number(self.first), last))
    }
}
