//! The stamp that proves a message unchanged: the first header field that the load generator writes.
//!
//! ```text
//! X-Chasqui-Stamp: v=1; run=<16 hex>; seq=<decimal>; hdr=<8 hex>; hlen=<octets>; body=<8 hex>; blen=<octets>
//! ```
//! `hdr` is the CRC32C of everything between the stamp field and the body: the other header fields and the empty
//! line that ends the header section. `body` is the CRC32C of all after it. What relays prepend to the header
//! (trace fields) is before the stamp and not covered; every other byte of the message is.

use std::fmt;
use std::io::Write as _;

use memchr::memchr;

/// The field's name.
pub const FIELD_NAME: &str = "X-Chasqui-Stamp";
/// How far into a message the stamp is looked for, in octets.
pub const SEARCH_MAX: usize = 64 * 1024;
/// Octets of a header line that are looked at; a stamp field has at most 166.
const LINE_MAX: usize = 256;

/// Checksum and length of a part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest {
    /// CRC32C (Castagnoli).
    pub crc: u32,
    /// Octets.
    pub length: u64,
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut digest = Digest::default();
        digest.push(bytes);
        digest
    }

    /// Goes on with more bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.length += bytes.len() as u64;
    }
}

/// What a stamp field says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The run that made the message.
    pub run: u64,
    /// The message's number within the run.
    pub sequence: u64,
    /// Of the header fields after the stamp and the empty line.
    pub header: Digest,
    /// Of the body.
    pub body: Digest,
}

impl Stamp {
    /// Appends the field with its CRLF.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Stamp { run, sequence, header, body } = self;
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            "{FIELD_NAME}: v=1; run={run:016x}; seq={sequence}; hdr={:08x}; hlen={}; body={:08x}; blen={}\r\n",
            header.crc, header.length, body.crc, body.length
        );
    }

    /// Parses a field line, with or without its line end. `None` when it is not exactly what [`Stamp::write`]
    /// writes, apart from the case of the name and of hex digits.
    pub fn parse(line: &[u8]) -> Option<Stamp> {
        let line = str::from_utf8(line).ok()?.trim_end_matches(['\r', '\n']);
        let (name, value) = line.split_once(':')?;
        if !name.eq_ignore_ascii_case(FIELD_NAME) {
            return None;
        }
        let mut items = value.split(';');
        if items.next()?.trim() != "v=1" {
            return None;
        }
        let mut item = |key: &str| items.next()?.strip_prefix(' ')?.strip_prefix(key)?.strip_prefix('=');
        let run = hex(item("run")?, 16)?;
        let sequence = decimal(item("seq")?)?;
        let header = Digest { crc: hex(item("hdr")?, 8)? as u32, length: decimal(item("hlen")?)? };
        let body = Digest { crc: hex(item("body")?, 8)? as u32, length: decimal(item("blen")?)? };
        items.next().is_none().then_some(Stamp { run, sequence, header, body })
    }
}

/// The stamp field of a message: `header` is the header fields that follow it with the empty line that ends
/// them, `body` all after that. The whole message is field + `header` + `body`.
pub fn write(run: u64, sequence: u64, header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut field = Vec::with_capacity(LINE_MAX);
    Stamp { run, sequence, header: Digest::of(header), body: Digest::of(body) }.write(&mut field);
    field
}

/// The reverse-path of a generated message, without brackets: `<run>.<sequence>@<zone>`.
pub fn reverse_path(run: u64, sequence: u64, zone: &str) -> String {
    Sender { run, sequence, zone }.to_string()
}

/// Displays as [`reverse_path`], for who has memory for the text already.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The run.
    pub run: u64,
    /// The message's sequence in it.
    pub sequence: u64,
    /// The zone that bounces go to.
    pub zone: &'a str,
}

impl fmt::Display for Sender<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}.{}@{}", self.run, self.sequence, self.zone)
    }
}

/// Run and sequence of an address made by [`reverse_path`], whatever its zone.
pub fn parse_reverse_path(address: &str) -> Option<(u64, u64)> {
    let (local, _zone) = address.split_once('@')?;
    let (run, sequence) = local.split_once('.')?;
    Some((hex(run, 16)?, decimal(sequence)?))
}

/// FNV-1a 64 over the address in ASCII lower case: how arrival records name recipients.
pub fn recipient_hash(address: &str) -> u64 {
    address.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn hex(text: &str, digits: usize) -> Option<u64> {
    let valid = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if valid { u64::from_str_radix(text, 16).ok() } else { None }
}

fn decimal(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// What became of a message, numbered as in arrival records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Every byte after the stamp is as it was written.
    Intact = 0,
    /// The header section after the stamp differs.
    HeaderChanged = 1,
    /// The header section is intact and the body differs, or bytes were lost or added at the end.
    BodyChanged = 2,
    /// No stamp in the header section's first [`SEARCH_MAX`] octets, or an unreadable one.
    NoStamp = 3,
    /// Nobody looked.
    Unchecked = 4,
}

/// What a [`Verifier`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verification {
    /// The run in the stamp, 0 without one.
    pub run: u64,
    /// The sequence in the stamp, 0 without one.
    pub sequence: u64,
    /// Never [`Verdict::Unchecked`].
    pub verdict: Verdict,
}

/// Checks a message against its stamp, piece by piece, in bounded memory.
///
/// Takes unstuffed bytes. Only the first stamp field of the header section counts: one in the body, or a second
/// one, is content like any other.
#[derive(Debug, Default)]
pub struct Verifier {
    state: State,
    /// The start of a header line that a piece ended in.
    line: Vec<u8>,
    searched: usize,
    header: Digest,
    body: Digest,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Searching,
    Found(Stamp),
    NoStamp,
}

impl Verifier {
    /// A verifier for one message.
    pub fn new() -> Verifier {
        Verifier::default()
    }

    /// The message's next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while matches!(self.state, State::Searching) && !rest.is_empty() {
            rest = self.search(rest);
        }
        if let State::Found(stamp) = self.state {
            let missing = stamp.header.length - self.header.length;
            let in_header = usize::try_from(missing).unwrap_or(usize::MAX).min(rest.len());
            self.header.push(&rest[..in_header]);
            self.body.push(&rest[in_header..]);
        }
    }

    /// The verdict on what was pushed; the verifier is as new afterwards.
    pub fn finish(&mut self) -> Verification {
        if matches!(self.state, State::Searching) && !self.line.is_empty() {
            let line = std::mem::take(&mut self.line);
            self.judge_line(&line);
        }
        let verification = match self.state {
            State::Found(stamp) => Verification {
                run: stamp.run,
                sequence: stamp.sequence,
                verdict: if self.header != stamp.header {
                    Verdict::HeaderChanged
                } else if self.body != stamp.body {
                    Verdict::BodyChanged
                } else {
                    Verdict::Intact
                },
            },
            State::Searching | State::NoStamp => {
                Verification { run: 0, sequence: 0, verdict: Verdict::NoStamp }
            }
        };
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        *self = Verifier { line, ..Verifier::default() };
        verification
    }

    /// Looks at one header line or a part of one; returns what follows it.
    fn search<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (part, rest, ended) = match memchr(b'\n', bytes) {
            Some(end) => (&bytes[..=end], &bytes[end + 1..], true),
            None => (bytes, &[][..], false),
        };
        self.searched += part.len();
        if self.searched > SEARCH_MAX {
            self.state = State::NoStamp;
        } else if ended && self.line.is_empty() {
            self.judge_line(part);
        } else {
            let room = LINE_MAX.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if ended {
                let mut line = std::mem::take(&mut self.line);
                self.judge_line(&line);
                line.clear();
                self.line = line;
            }
        }
        rest
    }

    fn judge_line(&mut self, line: &[u8]) {
        let is_stamp = line.len() > FIELD_NAME.len()
            && line[FIELD_NAME.len()] == b':'
            && line[..FIELD_NAME.len()].eq_ignore_ascii_case(FIELD_NAME.as_bytes());
        if is_stamp {
            self.state = Stamp::parse(line).map_or(State::NoStamp, State::Found);
        } else if line == b"\r\n" || line == b"\n" {
            self.state = State::NoStamp;
        }
    }
}

/// The verdict on a whole unstuffed message.
pub fn verify(message: &[u8]) -> Verification {
    let mut verifier = Verifier::new();
    verifier.push(message);
    verifier.finish()
}

#[cfg(test)]
mod tests;
