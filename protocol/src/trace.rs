//! Trace fields: the Received field that a relay prepends (RFC 5321 section 4.4), and counting those that others
//! did (section 6.3), so that loops end.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use memchr::memchr;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// What a Received field tells.
#[derive(Debug, Clone, Copy)]
pub struct Received<'a> {
    /// What the client called itself in HELO or EHLO.
    pub helo: &'a str,
    /// Where it came from.
    pub peer: IpAddr,
    /// The name of that host, if somebody has told it who knows.
    pub name: Option<&'a str>,
    /// What we call ourselves.
    pub host: &'a str,
    /// Whether it said EHLO.
    pub esmtp: bool,
    /// The connection is in TLS: its version and cipher suite, as in `TLS1.3` and IANA's name (RFC 8314 section 4.3).
    pub tls: Option<(&'a str, &'a str)>,
    /// The client has told who it is (RFC 3848).
    pub authenticated: bool,
    /// Our name for the message.
    pub id: &'a str,
    /// When, since the Unix epoch.
    pub time: Duration,
}

impl Received<'_> {
    /// Appends the field with its CRLF, folded so that no line exceeds 998 octets.
    pub fn write(&self, out: &mut Vec<u8>) {
        let protocol = match (self.esmtp, self.tls, self.authenticated) {
            (_, Some(_), true) => "ESMTPSA",
            (_, None, true) => "ESMTPA",
            (true, Some(_), false) => "ESMTPS",
            (true, None, false) => "ESMTP",
            // There is no word for it with TLS: STARTTLS is an extension, and the clause below tells the rest.
            (false, _, false) => "SMTP",
        };
        // Writing to a Vec cannot fail.
        let _ = write!(out, "Received: from {} (", self.helo);
        let _ = self.name.map_or(Ok(()), |name| write!(out, "{name} "));
        let _ = match self.peer.to_canonical() {
            IpAddr::V4(address) => write!(out, "[{address}]"),
            IpAddr::V6(address) => write!(out, "[IPv6:{address}]"),
        };
        let _ = write!(out, ")\r\n\tby {} with {protocol} id {}", self.host, self.id);
        if let Some((version, cipher)) = self.tls {
            let _ = write!(out, "\r\n\ttls {cipher} ({version})");
        }
        out.extend_from_slice(b";\r\n\t");
        write_date(out, self.time);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends a date and time of RFC 5322 section 3.3 in UTC, as in `Fri, 21 Nov 2025 21:05:00 +0000`.
///
/// Times past the year 9999 are shown as the epoch.
pub fn write_date(out: &mut Vec<u8>, since_epoch: Duration) {
    let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(0);
    let date = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    // RFC 5322 knows the years 1900 to 9999, which is what the line above yields, and a Vec takes all bytes.
    let _ = date.format_into(out, &Rfc2822);
}

/// Counts the Received fields of a header section, piece by piece, in constant memory; apart, those that a host has added
/// itself, by what stands behind their `by`.
///
/// Takes a message in wire form or unstuffed: no line that starts with a dot is a Received field or goes on with one.
#[derive(Debug, Clone, Copy, Default)]
pub struct HopCounter {
    state: Line,
    hops: u32,
    own_hops: u32,
}

/// What is known of the current line.
#[derive(Debug, Clone, Copy)]
enum Line {
    /// So many octets of `Received:` have been seen, and nothing else.
    Name(u16),
    /// Only a CR has been seen.
    Cr,
    /// Within a Received field.
    Received(Word),
    /// Behind a line of a Received field, which may go on in the next one.
    Folded(Word),
    /// Some other line.
    Other,
    /// The header section is over.
    Over,
}

/// What is known of the current word of a Received field.
#[derive(Debug, Clone, Copy)]
enum Word {
    /// So many octets of `by` have been seen, and nothing else.
    By(u16),
    /// A word that is not `by`.
    Other,
    /// Behind `by`, so many octets of the host's name have been seen, and nothing else.
    Host(u16),
    /// The host that the field is of is known.
    Known,
}

impl Default for Line {
    fn default() -> Self {
        Line::Name(0)
    }
}

const RECEIVED: &[u8] = b"received:";
const BY: &[u8] = b"by";

impl HopCounter {
    /// A counter at a message's start.
    pub fn new() -> HopCounter {
        HopCounter::default()
    }

    /// The message's next bytes, where `host` is who is asking. Costs nothing once the header section is over.
    pub fn push(&mut self, bytes: &[u8], host: &str) {
        let mut rest = bytes;
        while let Some((&byte, after)) = rest.split_first() {
            (self.state, rest) = match (self.state, byte) {
                (Line::Over, _) => return,
                (Line::Other, _) => match memchr(b'\n', rest) {
                    Some(end) => (Line::Name(0), &rest[end + 1..]),
                    None => return,
                },
                (Line::Received(Word::Known), _) => match memchr(b'\n', rest) {
                    Some(end) => (Line::Folded(Word::Known), &rest[end + 1..]),
                    None => return,
                },
                (Line::Received(word), b'\n') => (Line::Folded(self.word(word, byte, host)), after),
                (Line::Received(word), _) => (Line::Received(self.word(word, byte, host)), after),
                (Line::Folded(word), b' ' | b'\t') => (Line::Received(word), after),
                (Line::Folded(_), _) => (Line::Name(0), rest),
                (Line::Cr | Line::Name(0), b'\n') => (Line::Over, after),
                (Line::Name(0), b'\r') => (Line::Cr, after),
                (Line::Name(seen), _) if byte.to_ascii_lowercase() == RECEIVED[usize::from(seen)] => {
                    if usize::from(seen) + 1 < RECEIVED.len() {
                        (Line::Name(seen + 1), after)
                    } else {
                        self.hops = self.hops.saturating_add(1);
                        (Line::Received(Word::By(0)), after)
                    }
                }
                (Line::Name(_) | Line::Cr, _) => (Line::Other, rest),
            };
        }
    }

    /// The next octet of a Received field.
    fn word(&mut self, word: Word, byte: u8, host: &str) -> Word {
        let host = host.as_bytes();
        let blank = byte.is_ascii_whitespace();
        let is_next = |text: &[u8], seen: u16| {
            text.get(usize::from(seen)).is_some_and(|expected| expected.eq_ignore_ascii_case(&byte))
        };
        match word {
            Word::Known => Word::Known,
            Word::By(seen) if usize::from(seen) == BY.len() && blank => Word::Host(0),
            Word::By(_) | Word::Other if blank => Word::By(0),
            Word::By(seen) if is_next(BY, seen) => Word::By(seen + 1),
            Word::By(_) | Word::Other => Word::Other,
            Word::Host(0) if blank => Word::Host(0),
            Word::Host(seen) if is_next(host, seen) && seen < u16::MAX => Word::Host(seen + 1),
            Word::Host(seen) => {
                let ends = blank || matches!(byte, b';' | b'(');
                if ends && usize::from(seen) == host.len() {
                    self.own_hops = self.own_hops.saturating_add(1);
                }
                Word::Known
            }
        }
    }

    /// Received fields seen so far.
    pub fn hops(&self) -> usize {
        self.hops as usize
    }

    /// Received fields seen so far that say `by` the host that is asking.
    pub fn own_hops(&self) -> usize {
        self.own_hops as usize
    }

    /// Whether more bytes can still change the count.
    pub fn is_in_header(&self) -> bool {
        !matches!(self.state, Line::Over)
    }
}

#[cfg(test)]
mod tests {
    //! The Received field has RFC 5321's form, and hops are counted whatever the pieces.
    use super::*;

    #[test]
    fn received_field() {
        let received = Received {
            helo: "client.example",
            peer: "192.0.2.1".parse().unwrap(),
            name: None,
            host: "relay.example",
            esmtp: true,
            tls: None,
            authenticated: false,
            id: "abc",
            time: Duration::new(784_903_526, 999_999_999),
        };
        let mut out = Vec::new();
        received.write(&mut out);
        Received { peer: "2001:db8::1".parse().unwrap(), esmtp: false, ..received }.write(&mut out);
        let expected = "Received: from client.example ([192.0.2.1])\r\n\tby relay.example with ESMTP id abc;\r\n\
                        \tTue, 15 Nov 1994 12:45:26 +0000\r\n\
                        Received: from client.example ([IPv6:2001:db8::1])\r\n\tby relay.example with SMTP id abc;\r\n\
                        \tTue, 15 Nov 1994 12:45:26 +0000\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        Received { name: Some("mx.example"), ..received }.write(&mut out);
        assert!(out.starts_with(b"Received: from client.example (mx.example [192.0.2.1])\r\n"));
        // RFC 3848 has a word for each; the rest is told by RFC 8314's clause.
        let tls = Some(("TLS1.3", "TLS_AES_128_GCM_SHA256"));
        for (tls, authenticated, esmtp, with) in [
            (tls, false, true, "ESMTPS id abc\r\n\ttls TLS_AES_128_GCM_SHA256 (TLS1.3);\r\n"),
            (tls, true, true, "ESMTPSA id abc\r\n\ttls TLS_AES_128_GCM_SHA256 (TLS1.3);\r\n"),
            (None, true, true, "ESMTPA id abc;\r\n"),
            (tls, false, false, "SMTP id abc\r\n\ttls TLS_AES_128_GCM_SHA256 (TLS1.3);\r\n"),
        ] {
            let mut out = Vec::new();
            Received { tls, authenticated, esmtp, ..received }.write(&mut out);
            assert!(String::from_utf8(out).unwrap().contains(with), "{with}");
        }
    }

    #[test]
    fn no_time_panics_or_leaves_the_date_out() {
        for seconds in [0, 1 << 33, 253_402_300_799, 253_402_300_800, u64::MAX] {
            let mut out = Vec::new();
            write_date(&mut out, Duration::from_secs(seconds));
            assert!(out.ends_with(b" +0000"), "{seconds}");
        }
    }

    #[test]
    fn hops_of_the_header_section_only_at_every_split() {
        let message =
            b"RECEIVED: a\r\n\tReceived: folded\r\nReceived:\r\nReceivedX: no\r\nX-Received: no\r\n\
                        received: b\r\n\r\nReceived: body\r\n";
        for split in 0..=message.len() {
            let mut counter = HopCounter::new();
            counter.push(&message[..split], "relay.example");
            counter.push(&message[split..], "relay.example");
            assert_eq!((counter.hops(), counter.own_hops()), (3, 0), "{split}");
            assert!(!counter.is_in_header());
        }
    }

    #[test]
    fn a_line_feed_in_a_partial_name_starts_a_new_line() {
        let mut counter = HopCounter::new();
        counter.push(b"Rec\nReceived: a\r\n", "relay.example");
        assert_eq!(counter.hops(), 1);
        assert!(counter.is_in_header());
    }

    /// Our own fields, and those that say the same in another way, are told from those of others at every split.
    #[test]
    fn own_hops_are_those_by_the_host() {
        let mut message = Vec::new();
        Received {
            helo: "relay.example",
            peer: "192.0.2.1".parse().unwrap(),
            name: None,
            host: "relay.example",
            esmtp: true,
            tls: None,
            authenticated: false,
            id: "abc",
            time: Duration::ZERO,
        }
        .write(&mut message);
        message.extend_from_slice(
            b"Received: by\r\n\t Relay.Example; x\r\nreceived:from by by relay.example\r\n\
              Received: from relay.example by other.example by relay.example\r\n\
              Received: by relay.example.org\r\nReceived: by relay\r\nReceived: nearby relay.example\r\n\
              Received: from a\r\nby relay.example\r\nX: by relay.example\r\n\r\nReceived: by relay.example\r\n",
        );
        for split in 0..=message.len() {
            let mut counter = HopCounter::new();
            counter.push(&message[..split], "relay.example");
            counter.push(&message[split..], "relay.example");
            assert_eq!((counter.hops(), counter.own_hops()), (8, 2), "{split}");
        }
    }
}
