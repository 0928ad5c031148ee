//! What goes into the POP3 client and what comes out.

use thiserror::Error;

use crate::sasl::client::Failure;

/// Longest line of a reply that is read; RFC 2449 allows 512 octets, and challenges of SASL need more.
pub(super) const MAX_LINE: usize = 2048;
/// Longest user name or password that is sent.
pub(super) const MAX_CREDENTIAL: usize = 400;

/// A command whose reply is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// CAPA
    Capa,
    /// STLS
    Stls,
    /// AUTH
    Auth,
    /// USER
    User,
    /// PASS
    Pass,
    /// STAT
    Stat,
    /// LIST of the whole maildrop
    List,
    /// UIDL of the whole maildrop
    Uidl,
    /// RETR of a message number
    Retr(u32),
    /// TOP of a message number: the header section and so many lines of the body
    Top(u32, u32),
    /// DELE of a message number
    Dele(u32),
    /// RSET
    Rset,
    /// NOOP
    Noop,
    /// QUIT
    Quit,
}

/// What the input meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// All input is used up; send [`Client::output`](super::Client::output) and read on.
    NeedInput,
    /// STLS was answered +OK: go over to TLS, then [`Client::secured`](super::Client::secured).
    StartTls,
    /// Keys of SCRAM are wanted: [`Client::take_derivation`](super::Client::take_derivation), then
    /// [`Client::use_keys`](super::Client::use_keys).
    DeriveKeys,
    /// Logged in: commands may be given.
    Ready {
        /// The server takes commands before it has answered earlier ones (RFC 2449 section 6.6).
        pipelining: bool,
    },
    /// The greeting, STLS, AUTH, USER or PASS was answered -ERR. Close.
    LoginRefused {
        /// Another session has the maildrop locked: trying again later can help.
        in_use: bool,
        /// The server's text.
        text: String,
    },
    /// Answer to STAT.
    Stat {
        /// Messages not marked as deleted.
        messages: u32,
        /// Their octets.
        octets: u64,
    },
    /// A line of LIST.
    ListItem {
        /// Message number.
        number: u32,
        /// Octets of the message.
        size: u64,
    },
    /// LIST is complete.
    ListEnd,
    /// A line of UIDL.
    UidlItem {
        /// Message number.
        number: u32,
        /// Unique id.
        uid: String,
    },
    /// UIDL is complete.
    UidlEnd,
    /// RETR or TOP was answered +OK; pieces follow.
    MessageStart {
        /// Message number.
        number: u32,
    },
    /// A piece of the message, unstuffed, borrowed from the input.
    Body(&'a [u8]),
    /// The message is complete.
    MessageEnd {
        /// Message number.
        number: u32,
    },
    /// DELE was answered +OK.
    Deleted {
        /// Message number.
        number: u32,
    },
    /// NOOP was answered.
    Noop,
    /// RSET was answered.
    Reset,
    /// A command after the login was answered -ERR.
    Refused {
        /// The command.
        command: Command,
        /// The server's text.
        text: String,
    },
    /// QUIT was answered. Close.
    Goodbye {
        /// The deletions are done (+OK); false: some or all messages remain.
        committed: bool,
    },
}

/// The server does not speak POP3, or does not prove who it is. Whoever owns the connection closes it and counts it as failed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ClientError {
    /// A line of a reply was too long.
    #[error("the POP3 server sent a line of over {MAX_LINE} octets")]
    LineTooLong,
    /// A reply had neither +OK nor -ERR, or not the form that the command calls for.
    #[error("the POP3 server answered {command:?} with {line:?}")]
    Malformed {
        /// The command that was answered; none: the greeting.
        command: Option<Command>,
        /// The line.
        line: String,
    },
    /// There is more behind the +OK to STLS: it is not of the server that TLS will be with, perhaps.
    #[error("the POP3 server sent more behind its answer to STLS")]
    Early,
    /// The exchange of AUTH has failed.
    #[error("POP3 authentication: {0}")]
    Sasl(#[from] Failure),
    /// A reply to nothing.
    #[error("the POP3 server sent {0:?} without a command")]
    Unexpected(String),
}

/// User name or password cannot be sent in a POP3 command: too long, or with control characters.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("user names and passwords for POP3 have 1 to {MAX_CREDENTIAL} octets and no control characters")]
pub struct InvalidCredentials;
