//! Why sinks do not start, or do not end well. Whoever started the process acts on it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::certificate::CertificateError;
use crate::dns::DnsError;

/// Why the sinks could not start: one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Two settings contradict each other, or one has no meaning.
    #[error("{0}")]
    Config(String),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// A socket of the arrivals cannot be listened on.
    #[error("cannot listen on {}: {error}", path.display())]
    Arrivals {
        /// Where it was to be.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file with the last UIDVALIDITY cannot be read or written.
    #[error("the state in {} cannot be kept: {error}", path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// There is no certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The DNS authority could not be set up.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// A shard panicked before it served; the panic's message is on stderr.
    #[error("a shard of the sinks panicked")]
    Panicked,
    /// The shards could not be started at all.
    #[error(transparent)]
    Shards(#[from] chasqui_runtime::StartError),
}

/// Why the sinks did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A shard panicked; the panic's message is on stderr.
    #[error("shard {0} of the sinks panicked")]
    Panicked(usize),
}
