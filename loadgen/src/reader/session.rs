//! What the sessions with a mailbox have in common: how they are connected, why they end, and what one leaves to the next.

use std::fmt;
use std::io;

use chasqui_protocol::sasl::client::{ClientKeys, Derivation};
use chasqui_protocol::{imap, pop3, sasl};
use chasqui_report::TlsMode;
use chasqui_runtime::{HashSet, spawn_blocking, timeout};
use chasqui_transport::Stream;
use chasqui_transport::tls::HandshakeError;

use super::{ANSWER_LIMIT, Mailbox, Reader};

/// Attempts at the first session, as long as the connection breaks off: the last one 0.6 s after the first.
const FIRST_ATTEMPTS: u32 = 4;

/// Connects to a mailbox's server, in TLS where TLS comes first.
pub(super) async fn connect(reader: &Reader, mailbox: &Mailbox) -> Result<Stream, SessionError> {
    let connecting = timeout(ANSWER_LIMIT, Stream::connect(mailbox.server.target.address, None));
    let mut stream = connecting.await.map_err(|_| SessionError::TimedOut)??;
    if mailbox.server.tls == TlsMode::Implicit {
        secure(reader, mailbox, &mut stream).await?;
    }
    Ok(stream)
}

/// Goes over to TLS, where it is wanted.
pub(super) async fn secure(
    reader: &Reader,
    mailbox: &Mailbox,
    stream: &mut Stream,
) -> Result<(), SessionError> {
    let Some(tls) = &reader.plan.tls else { return Ok(()) };
    let trust = reader.plan.trust();
    // Few sessions stand here at a time; none keeps room for it.
    let handshake =
        Box::pin(timeout(ANSWER_LIMIT, stream.connect_tls(tls, trust, &mailbox.server.target.name)));
    Ok(handshake.await.map_err(|_| SessionError::TimedOut)??)
}

/// Derives keys of SCRAM beside the shard, and keeps them for the mailbox's further logins.
pub(super) async fn derive(
    reader: &Reader,
    mailbox: &Mailbox,
    memory: &mut Memory,
    derivation: Derivation,
) -> ClientKeys {
    let keys = spawn_blocking(move || derivation.derive()).await;
    memory.keys = Some(keys.clone());
    if mailbox.account.is_none() {
        reader.keys.replace(Some(keys.clone()));
    }
    keys
}

/// Keys that a login of this mailbox may be able to use: its own, or of another one with the same password.
pub(super) fn known_keys(reader: &Reader, mailbox: &Mailbox, memory: &Memory) -> Option<ClientKeys> {
    let of_others = || if mailbox.account.is_none() { reader.keys.borrow().clone() } else { None };
    memory.keys.clone().or_else(of_others)
}

/// What is known of a mailbox from one session to the next.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// The first session is told of, or nobody waits for it.
    pub(crate) tried: bool,
    /// First sessions that broke off.
    pub(super) broken: u32,
    /// Messages told of in sessions whose deletions may not have been carried out: they are not told again.
    pub(crate) undeleted: HashSet<u64>,
    /// SCRAM: what was derived for the last login.
    pub(super) keys: Option<ClientKeys>,
    /// POP3: messages at the start of the maildrop that are left alone.
    pub(crate) kept: u32,
    /// IMAP: UIDVALIDITY that `uid_highest` belongs to.
    pub(crate) uid_validity: Option<u32>,
    /// IMAP: highest UID that was fetched.
    pub(crate) uid_highest: u32,
    /// IMAP: UIDs that are to be deleted.
    pub(crate) uids_read: Vec<u32>,
    /// IMAP: octets of those messages.
    pub(crate) octets_read: u64,
}

impl Memory {
    /// Tells the reader what came of the first session, unless it broke off and may be tried again.
    pub(super) fn tell_first(&mut self, reader: &Reader, mailbox: &Mailbox, failure: Option<&SessionError>) {
        if self.tried {
            return;
        }
        self.broken += 1;
        if self.broken == FIRST_ATTEMPTS || !failure.is_some_and(SessionError::is_break) {
            self.tried = true;
            reader.tried(mailbox, failure);
        }
    }
}

/// Why a session with a mail server ended before its end.
#[derive(Debug)]
pub(crate) enum SessionError {
    Io(io::Error),
    Closed,
    TimedOut,
    Refused(String),
    Tls(HandshakeError),
    Sasl(sasl::client::Failure),
    Pop3(pop3::client::ClientError),
    Imap(imap::client::ClientError),
}

impl SessionError {
    /// The connection stood, and broke off.
    fn is_break(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Io(error) => {
                matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            }
            _ => false,
        }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Closed => f.write_str("closed by the server"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Refused(text) => write!(f, "refused: {text}"),
            Self::Tls(error) => error.fmt(f),
            Self::Sasl(error) => write!(f, "authentication: {error}"),
            Self::Pop3(error) => error.fmt(f),
            Self::Imap(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for SessionError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<HandshakeError> for SessionError {
    fn from(error: HandshakeError) -> Self {
        Self::Tls(error)
    }
}

impl From<sasl::client::Failure> for SessionError {
    fn from(error: sasl::client::Failure) -> Self {
        Self::Sasl(error)
    }
}

impl From<pop3::client::ClientError> for SessionError {
    fn from(error: pop3::client::ClientError) -> Self {
        Self::Pop3(error)
    }
}

impl From<imap::client::ClientError> for SessionError {
    fn from(error: imap::client::ClientError) -> Self {
        Self::Imap(error)
    }
}
