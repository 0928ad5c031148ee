//! The servers to load and to read from, and TLS on the way to them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use chasqui_report::TlsMode;

/// A server.
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

impl Target {
    /// Whether it is on this machine, where a password can be shown in plaintext.
    pub(crate) fn is_here(&self) -> bool {
        let ip: IpAddr = self.address.ip();
        ip.to_canonical().is_loopback()
    }
}

/// A server of mailboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxServer {
    /// Where it is.
    pub target: Target,
    /// STARTTLS is STLS in POP3.
    pub tls: TlsMode,
}

impl MailboxServer {
    /// Whether it is spoken to in TLS, or on this machine.
    pub(crate) fn may_see_password(&self) -> bool {
        self.tls != TlsMode::Off || self.target.is_here()
    }
}

impl fmt::Display for MailboxServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.address.fmt(f)
    }
}

impl From<SocketAddr> for MailboxServer {
    /// In plaintext.
    fn from(address: SocketAddr) -> MailboxServer {
        MailboxServer { target: address.into(), tls: TlsMode::Off }
    }
}

/// TLS with all servers that are spoken to in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Whose certificates are taken.
    pub trust: TlsTrust,
    /// Sessions are resumed.
    pub resumption: bool,
}

impl Default for Tls {
    /// Certificates lead to a root of the system, and sessions are resumed.
    fn default() -> Tls {
        Tls { trust: TlsTrust::Verified(None), resumption: true }
    }
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
    /// Whether certificates are verified.
    pub(crate) fn verifies(&self) -> bool {
        matches!(self.trust, TlsTrust::Verified(_))
    }
}
