//! The servers to load, and TLS on the way to them.

use std::net::SocketAddr;
use std::path::PathBuf;

use chasqui_report::TlsMode;

/// An SMTP server to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name, or the address, that its certificate must have.
    pub name: String,
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target { address, name: address.ip().to_string() }
    }
}

/// TLS on the connections to the targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// From the first octet (RFC 8314), in place of STARTTLS.
    pub implicit: bool,
    /// Whose certificates are taken.
    pub trust: TlsTrust,
    /// Sessions are resumed.
    pub resumption: bool,
}

/// Whose certificates are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsTrust {
    /// Anybody's.
    Any,
    /// One for the target's name that leads to a root: of this PEM file, or of the system.
    Verified(Option<PathBuf>),
}

impl Tls {
    /// As the record tells it.
    pub(crate) fn mode(&self) -> TlsMode {
        if self.implicit { TlsMode::Implicit } else { TlsMode::Starttls }
    }

    /// Whether certificates are verified.
    pub(crate) fn verifies(&self) -> bool {
        matches!(self.trust, TlsTrust::Verified(_))
    }
}
