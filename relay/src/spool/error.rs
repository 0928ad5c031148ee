//! Errors of the spool, one type per operation and reader.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use thiserror::Error;

/// The spool cannot be opened; for the operator, one line with the fix.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A configured value is refused.
    #[error(transparent)]
    Config(BadSize),
    /// Another process has the directory.
    #[error("spool {} is in use by another process: stop it, or choose another directory", .0.display())]
    Locked(PathBuf),
    /// Durability cannot be had there.
    #[error("spool {} is on tmpfs, which loses everything at a power loss: durability \"synced\" needs a disk; \
             move the spool or choose durability \"buffered\"", .0.display())]
    Volatile(PathBuf),
    /// Written by a later version.
    #[error("{} has format version {version}, this program reads version {}: start the program that wrote it \
             and drain the spool first", path.display(), super::format::headers::FORMAT_VERSION)]
    UnknownVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The operating system refused.
    #[error("spool: cannot {doing} {}: {error}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Sizes that do not go together; for who wrote the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadSize {
    /// Of a segment, in bytes.
    #[error("spool segment size {segment} is not a multiple of 4096 from {smallest} to {largest}")]
    Segment {
        /// As configured.
        segment: u64,
        /// Allowed.
        smallest: u64,
        /// Allowed.
        largest: u64,
    },
    /// Too little space for these segments.
    #[error(
        "spool space {space} is less than {least} segments of {segment}: raise it or use smaller segments"
    )]
    TooFewSegments {
        /// Bytes of a segment.
        segment: u64,
        /// Bytes of all of them.
        space: u64,
        /// How many there must be.
        least: usize,
    },
    /// A table of them all is too large for one.
    #[error("spool space {space} is too many segments of {segment}: use larger segments or less space")]
    TooManySegments {
        /// Bytes of a segment.
        segment: u64,
        /// Bytes of all of them.
        space: u64,
    },
    /// Message ids cannot tell them apart.
    #[error("a spool has at most {most} shards")]
    Shards {
        /// Allowed.
        most: usize,
    },
}

impl OpenError {
    /// Wraps a system error.
    pub(crate) fn io(doing: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> OpenError {
        move |error| OpenError::Io { doing, path: path.to_owned(), error }
    }
}

/// Has the file system no room?
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Why a log takes nothing more. Whoever meets it hands it to the log, which tells those who wait, and the operator.
#[derive(Debug, Error)]
pub(crate) enum Failure {
    /// Of a group, a table or a seal.
    #[error("write failed: {0}")]
    Write(io::Error),
    /// Nothing is known of what the disk holds.
    #[error("fdatasync failed: {0}")]
    Sync(io::Error),
    /// What is written now would not be found.
    #[error(
        "its directory was removed or replaced under the relay: what was in it is for a start to find, when it is back"
    )]
    DirectoryGone,
    /// Likewise.
    #[error("the segment that is written to was removed under the relay")]
    SegmentGone,
    /// At the end.
    #[error("there is no room for what has entered")]
    NoRoom,
    /// The first segment could not be begun.
    #[error(transparent)]
    Begin(OpenError),
    /// Another task has met it.
    #[error("{0}")]
    Known(Rc<str>),
}

/// A message or state cannot be stored; the session answers its client by it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SpoolError {
    /// No room: 452 4.3.1. The message is dropped.
    #[error("no space left in the spool")]
    NoSpace,
    /// No segment can be prepared because the disk fails, which was logged: 451 4.3.0. It is tried again.
    #[error("the disk of the spool fails: {0}")]
    DiskFails(Rc<str>),
    /// Envelope and states do not fit into one group: 452 4.5.3, fewer recipients.
    #[error("the envelope is too large for one record of the spool")]
    TooLarge,
    /// The body is no lines in wire form, and no record tells of another form yet: 554 5.6.1.
    #[error("the spool takes no raw bodies")]
    RawBody,
    /// A write or sync has failed; nothing is stored any more: 451 4.3.0.
    #[error("the spool has failed: {0}")]
    Failed(Rc<str>),
    /// The spool was closed: 421 4.3.2.
    #[error("the spool is closed")]
    Closed,
}
