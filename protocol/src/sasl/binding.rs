//! What binds an exchange to the TLS connection that it runs on, so that a man in the middle cannot pass it on.

use std::fmt;

/// The label under which TLS exports [`ChannelBinding::TlsExporter`]; the context is there and empty (RFC 9266 section 2).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// A channel binding of the TLS connection, as the caller has it from its TLS library.
#[derive(Clone, PartialEq, Eq)]
pub enum ChannelBinding {
    /// `tls-exporter` (RFC 9266): keying material under [`EXPORTER_LABEL`]. For TLS 1.3, and for TLS 1.2 with extended master
    /// secret.
    TlsExporter([u8; 32]),
    /// `tls-server-end-point` (RFC 5929 section 4): the hash of the server's certificate, by its signature's hash function, with
    /// SHA-256 for MD5 and SHA-1. For TLS 1.2 without an exporter that binds.
    TlsServerEndPoint(Box<[u8]>),
}

impl ChannelBinding {
    /// The registered name.
    pub fn name(&self) -> &'static str {
        match self {
            ChannelBinding::TlsExporter(_) => "tls-exporter",
            ChannelBinding::TlsServerEndPoint(_) => "tls-server-end-point",
        }
    }

    /// The octets that both ends have to have.
    pub fn data(&self) -> &[u8] {
        match self {
            ChannelBinding::TlsExporter(data) => data,
            ChannelBinding::TlsServerEndPoint(data) => data,
        }
    }
}

impl fmt::Debug for ChannelBinding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
