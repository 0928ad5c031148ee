//! TLS on a connected stream: the only place that knows of rustls.
//!
//! | file | job |
//! |---|---|
//! | `carrier` | bytes of a connection in and out of records, in the buffers that the stream uses anyway |
//! | [`certificates`] | chains and keys from PEM files, chosen by the name that a client asks for |
//! | `server` | what a server's connections share: certificates that can be changed while it runs, one ticketer |
//! | `client` | what a client's connections share: whom it trusts, and the sessions it can resume |
//! | `sessions` | those sessions, as many of a host as connections to it are opened at a time |
//! | `any_certificate` | the check of a handshake whose certificate may be anybody's |
//!
//! TLS 1.2 and 1.3; the cipher suites and groups of the provider, aws-lc-rs. There is one provider in the program.

mod any_certificate;
mod carrier;
pub mod certificates;
mod client;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod server;
mod sessions;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustls::ProtocolVersion;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

pub(crate) use carrier::Tls;
pub use certificates::{CertificateError, Certificates};
pub use rustls::Error;

pub use client::{ClientTls, RootsError, Trust};
pub use server::ServerTls;

/// Octets of keying material for channel binding (RFC 9266).
pub const EXPORTED_OCTETS: usize = 32;

/// What a handshake may take at most: two round trips, as slow as they come, and some computing beside a peer that is overloaded.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(60);

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// Why there is no TLS on a connection, which is of no more use then.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed, or the peer closed it.
    #[error("TLS handshake: {0}")]
    Connection(#[from] io::Error),
    /// The two could not agree, or one did not trust the other.
    #[error("TLS handshake: {0}")]
    Tls(#[from] rustls::Error),
    /// The name cannot be asked for: neither a host name nor an address.
    #[error("no host name: {0:?}")]
    Name(String),
}

/// What was agreed on for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// As in a Received field: `TLS1.3`, `TLS1.2`.
    pub version: &'static str,
    /// The cipher suite's name in IANA's registry (RFC 8314 section 4.3 asks for it).
    pub cipher: &'static str,
    /// An earlier session was resumed.
    pub resumed: bool,
}

fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    if version == Some(ProtocolVersion::TLSv1_2) { "TLS1.2" } else { "TLS1.3" }
}
