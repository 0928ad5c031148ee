//! Telling what is no mail protocol: a browser or a TLS client can be led to a mail server's port, and what it was made
//! to send must not be taken for commands ("cross-protocol scripting").
//!
//! A server ends the session at an HTTP request line, at an octet that no command line begins with, and at more than
//! [`UNKNOWN_MAX`] unknown commands before the client has shown that it speaks the protocol: the header fields of a
//! request are such lines.

use memchr::memrchr;

/// Unknown commands that a client may send before its first proper one.
pub const UNKNOWN_MAX: usize = 3;

/// HTTP's methods (RFC 9110 section 9, RFC 5789) and the start of HTTP/2's preface (RFC 9113 section 3.4).
const METHODS: [&[u8]; 10] =
    [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"CONNECT", b"PATCH", b"TRACE", b"PRI"];

/// Whether a command line may begin with this octet. The first one of a TLS record (22) or of an SSLv2 hello (128 and up)
/// does not.
pub fn can_begin_line(octet: u8) -> bool {
    matches!(octet, b' '..=b'~' | b'\t' | b'\r' | b'\n')
}

/// Whether a line, with or without its end, is an HTTP request line: `method target HTTP/1.1`, whatever the method.
pub fn is_request_line(line: &[u8]) -> bool {
    let line = line.trim_ascii_end();
    let last = memrchr(b' ', line).map_or(&[][..], |space| &line[space + 1..]);
    last.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"HTTP/"))
}

/// Whether a verb is an HTTP method: for protocols whose command lines begin with the verb.
pub fn is_method(verb: &[u8]) -> bool {
    METHODS.iter().any(|method| verb.eq_ignore_ascii_case(method))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Request lines of HTTP are known whatever their method and end, command lines of mail are none.
    #[test]
    fn request_lines() {
        for line in [
            "GET / HTTP/1.1",
            "POST /a?b HTTP/1.0\r",
            "EHLO x http/1.1",
            "NOOP / HTTP/1.1\r\n",
            "PRI * HTTP/2.0",
        ] {
            assert!(is_request_line(line.as_bytes()), "{line}");
        }
        for line in ["", "HTTP/1.1", "EHLO HTTP", "MAIL FROM:<HTTP/1.1@a.test>", "NOOP HTTP/1.1 x", "a1 NOOP"]
        {
            assert!(!is_request_line(line.as_bytes()), "{line}");
        }
        assert!(is_method(b"get") && is_method(b"OPTIONS") && !is_method(b"HELP") && !is_method(b""));
    }

    /// No text begins like a TLS record.
    #[test]
    fn first_octets() {
        assert!(b"EHLO \t\r\n-~".iter().all(|&octet| can_begin_line(octet)));
        assert!([0, 0x16, 0x1f, 0x7f, 0x80, 0xff].iter().all(|&octet| !can_begin_line(octet)));
    }
}
