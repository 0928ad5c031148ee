//! The header of the PROXY protocol, versions 1 and 2, with which a proxy tells whose connection it passes on.
//!
//! The source is haproxy's proxy-protocol.txt. What a header says is parsed by the crate proxy-header, which is given exactly one
//! header. Where it ends, and what may be one at all, is decided here octet by octet, so that a header says the same in whatever pieces
//! it comes, and not one octet behind it is taken.

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use memchr::memchr;
use proxy_header::{ParseConfig, Protocol, ProxyHeader};

/// What version 1 begins with, and its longest line (section 2.1).
const V1_BEGIN: &[u8] = b"PROXY ";
const V1_MAX: usize = 107;
/// What version 2 begins with; behind it version and command, the family, and the length of the rest (section 2.2).
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const V2_FIXED: usize = V2_BEGIN.len() + 4;
/// The longest header of version 2 that is taken. Its fields could have 64 KiB. Addresses take 232 octets, and the longest fields
/// that proxies send, a name of SNI, a unique id and what a client's certificate says, some hundred each.
const V2_MAX: usize = 2048;
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The client's address; none: the connection is the proxy's own (LOCAL, as health checks are), or the proxy does not know or
    /// cannot say whose it is (UNKNOWN, UNSPEC, a Unix socket).
    pub client: Option<IpAddr>,
}

/// Why there is no header. Whoever listens closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// It begins as no header does.
    #[error("no PROXY header")]
    NoHeader,
    /// It begins as one, and goes on as none does.
    #[error("a malformed PROXY header")]
    Malformed,
    /// It is longer than a header may be.
    #[error("a PROXY header that is too long")]
    TooLong,
}

/// Takes a header in pieces.
#[derive(Debug, Default)]
pub struct HeaderReader {
    /// What of it has come: at most [`V2_MAX`] octets.
    begun: Vec<u8>,
}

impl HeaderReader {
    /// Whether nothing has come yet.
    pub fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// Takes the next octets: how many of them are the header's, and what it says once it is complete. The rest is the client's.
    /// After an error or a complete header there is nothing more to take.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<(usize, Option<Header>), HeaderError> {
        let before = self.begun.len();
        let room = V2_MAX - before;
        self.begun.extend_from_slice(&input[..input.len().min(room)]);
        let Some(length) = length(&self.begun)? else { return Ok((input.len(), None)) };
        match self.begun.get(..length) {
            Some(header) => Ok((length - before, Some(parse(header)?))),
            None => Ok((input.len(), None)),
        }
    }
}

/// How long a header is, once it tells.
fn length(begun: &[u8]) -> Result<Option<usize>, HeaderError> {
    let is_one = |begin: &[u8]| begun.iter().zip(begin).all(|(octet, expected)| octet == expected);
    if is_one(V1_BEGIN) {
        let line = &begun[..begun.len().min(V1_MAX)];
        match memchr(b'\n', line) {
            Some(end) => Ok(Some(end + 1)),
            None if line.len() == V1_MAX => Err(HeaderError::TooLong),
            None => Ok(None),
        }
    } else if is_one(V2_BEGIN) {
        if !matches!(begun.get(V2_BEGIN.len()), None | Some(&(V2_LOCAL | V2_PROXY))) {
            return Err(HeaderError::Malformed);
        }
        let Some(&[high, low]) = begun.get(V2_FIXED - 2..V2_FIXED) else { return Ok(None) };
        let length = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
        if length > V2_MAX { Err(HeaderError::TooLong) } else { Ok(Some(length)) }
    } else {
        Err(HeaderError::NoHeader)
    }
}

/// What a complete header says.
fn parse(header: &[u8]) -> Result<Header, HeaderError> {
    // Whatever else it says is to be passed over (section 2.2); the crate would look at it.
    if header.get(V2_BEGIN.len()) == Some(&V2_LOCAL) && header.starts_with(V2_BEGIN) {
        return Ok(Header { client: None });
    }
    let (said, taken) =
        ProxyHeader::parse(header, ParseConfig::default()).map_err(|_| HeaderError::Malformed)?;
    let client = match said.proxied_address() {
        // A connection of ours came in no datagrams.
        Some(address) if address.protocol != Protocol::Stream => return Err(HeaderError::Malformed),
        Some(address) => Some(address.source.ip().to_canonical()),
        None => None,
    };
    if taken == header.len() { Ok(Header { client }) } else { Err(HeaderError::Malformed) }
}
