//! Why a shard could not begin or end.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use chasqui_transport::tls::{CertificateError, RootsError};
use thiserror::Error;

use crate::spool::OpenError;
use crate::suspensions::LoadError;

/// Why there is no TLS: the operator mends the configuration, or the file that is named.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    #[error("tls.certificates: {0}")]
    Certificates(#[from] CertificateError),
    #[error("tls.roots: {0}")]
    Roots(#[from] RootsError),
    #[error("TLS: {0}")]
    Library(#[from] chasqui_transport::tls::Error),
}

/// Why clients cannot tell who they are: the operator mends the file that is named.
#[derive(Debug, Error)]
pub(crate) enum AuthError {
    #[error("auth.users {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("auth.credentials {}: {error}", path.display())]
    CredentialsUnreadable { path: PathBuf, error: io::Error },
    #[error("{}:{line}: {what}{}", path.display(), more_mistakes(*more))]
    Mistake { path: PathBuf, line: usize, what: String, more: usize },
    #[error("{}: {error}", path.display())]
    Secret { path: PathBuf, error: io::Error },
    #[error("auth: a thread cannot be started: {0}")]
    Thread(io::Error),
}

fn more_mistakes(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" (and {more} more lines)") }
}

/// Why a relay cannot be set up, before its shards begin.
#[derive(Debug, Error)]
pub(crate) enum SetupError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// Why a shard could not begin or end, as one line for the operator. A start fails with the first of these, and a relay that ends
/// names each.
#[derive(Debug, Error)]
pub(crate) enum ShardError {
    /// The operator looks at the disk, or at the configuration.
    #[error(transparent)]
    Spool(#[from] OpenError),
    #[error(transparent)]
    Suspensions(#[from] LoadError),
    #[error("cannot listen on {address}: {error}; free it or change `listen`")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("cannot open {}: {error}; change `control.socket`", path.display())]
    Control { path: PathBuf, error: io::Error },
    /// Its own error stands before this one.
    #[error("another shard could not be started")]
    Other,
    #[error("the shard was started twice")]
    Twice,
    #[error("shard {0} panicked")]
    Panicked(usize),
    /// The text, as a spool's errors stay on their shard. What was answered 250 in class `synced` is on the disk nevertheless.
    #[error("the spool could not be flushed: {0}")]
    Flush(String),
}
