//! Mailboxes and reverse-paths (RFC 5321 section 4.1.2), parsed at the edge into types that cannot be wrong.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Octets of a path with its angle brackets (RFC 5321 section 4.5.3.1.3). This is the limit of a local part, too: SRS and VERP
/// make local parts of more than the 64 octets of section 4.5.3.1.1, which are in use, and no longer path is.
pub const PATH_MAX: usize = 256;

/// `local-part@domain`, as it was written.
///
/// Holds only printable ASCII, so it can stand between `<` and `>` in a command or in a header field. Comparison
/// is by octet: whoever treats domains alike uses [`Mailbox::domain_lower`]. It may be a slice of what it was parsed from.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mailbox<'a> {
    address: Cow<'a, str>,
    at: usize,
}

/// Why an address is none. The SMTP session answers 501 5.1.3 or 5.1.7; others show it to their user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `@domain`.
    #[error("no domain")]
    NoDomain,
    /// The local part is neither a dot-string nor a quoted string of printable ASCII.
    #[error("bad local part")]
    LocalPart,
    /// The domain is neither a host name nor an address literal.
    #[error("bad domain")]
    Domain,
    /// Over [`PATH_MAX`].
    #[error("too long")]
    TooLong,
}

impl<'a> Mailbox<'a> {
    /// Parses `local-part@domain` without angle brackets. Copies nothing.
    pub fn parse(address: &'a [u8]) -> Result<Mailbox<'a>, AddressError> {
        let at = local_part_end(address)?;
        let domain = address.get(at + 1..).unwrap_or_default();
        if at == address.len() {
            return Err(AddressError::NoDomain);
        }
        if address.len() + 2 > PATH_MAX {
            return Err(AddressError::TooLong);
        }
        if !is_domain(domain) && !is_address_literal(domain) {
            return Err(AddressError::Domain);
        }
        let address = str::from_utf8(address).map_err(|_| AddressError::LocalPart)?;
        Ok(Mailbox { address: address.into(), at })
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.address
    }

    /// The whole address, without a copy if it is no slice.
    pub fn into_string(self) -> String {
        self.address.into_owned()
    }

    /// The same, no slice of anything.
    pub fn into_owned(self) -> Mailbox<'static> {
        Mailbox { address: self.address.into_owned().into(), at: self.at }
    }

    /// The part before the `@`, with its quotes if it has any.
    pub fn local_part(&self) -> &str {
        &self.address[..self.at]
    }

    /// The part after the `@`, as given: a host name, or an address literal in brackets.
    pub fn domain(&self) -> &str {
        &self.address[self.at + 1..]
    }

    /// The domain in ASCII lower case, without a copy when it is so already.
    pub fn domain_lower(&self) -> Cow<'_, str> {
        let domain = self.domain();
        if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(domain.to_ascii_lowercase())
        } else {
            Cow::Borrowed(domain)
        }
    }
}

impl FromStr for Mailbox<'static> {
    type Err = AddressError;

    fn from_str(address: &str) -> Result<Self, Self::Err> {
        Mailbox::parse(address.as_bytes()).map(Mailbox::into_owned)
    }
}

impl fmt::Display for Mailbox<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.address)
    }
}

impl fmt::Debug for Mailbox<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "<{}>", self.address)
    }
}

/// Where a failure is reported to: a mailbox, or nobody (`<>`, RFC 5321 section 4.5.5).
///
/// Displays as the address without brackets, the null path as the empty string.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ReversePath<'a>(pub Option<Mailbox<'a>>);

impl ReversePath<'_> {
    /// The address, or the empty string for the null path.
    pub fn as_str(&self) -> &str {
        self.0.as_ref().map_or("", Mailbox::as_str)
    }

    /// The same, no slice of anything.
    pub fn into_owned(self) -> ReversePath<'static> {
        ReversePath(self.0.map(Mailbox::into_owned))
    }

    /// Whether this is `<>`: mail that must never cause a bounce.
    pub fn is_null(&self) -> bool {
        self.0.is_none()
    }
}

impl FromStr for ReversePath<'static> {
    type Err = AddressError;

    fn from_str(address: &str) -> Result<Self, Self::Err> {
        if address.is_empty() {
            Ok(ReversePath(None))
        } else {
            address.parse().map(|it| ReversePath(Some(it)))
        }
    }
}

impl fmt::Display for ReversePath<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The index of the `@` after a valid local part, or the length where the address ends without one.
fn local_part_end(address: &[u8]) -> Result<usize, AddressError> {
    if address.first() == Some(&b'"') {
        return quoted_string_end(address);
    }
    let mut previous = b'.';
    for (index, &byte) in address.iter().enumerate() {
        match byte {
            b'@' if previous != b'.' => return Ok(index),
            b'.' if previous != b'.' => {}
            _ if is_atext(byte) => {}
            _ => return Err(AddressError::LocalPart),
        }
        previous = byte;
    }
    if previous == b'.' { Err(AddressError::LocalPart) } else { Ok(address.len()) }
}

/// The index after the closing quote of a quoted string that must be followed by `@` or the end.
fn quoted_string_end(address: &[u8]) -> Result<usize, AddressError> {
    let mut bytes = address.iter().enumerate().skip(1);
    while let Some((index, &byte)) = bytes.next() {
        match byte {
            b'"' => match address.get(index + 1) {
                None | Some(b'@') => return Ok(index + 1),
                Some(_) => return Err(AddressError::LocalPart),
            },
            b'\\' => match bytes.next() {
                Some((_, 0x20..=0x7e)) => {}
                _ => return Err(AddressError::LocalPart),
            },
            0x20..=0x7e => {}
            _ => return Err(AddressError::LocalPart),
        }
    }
    Err(AddressError::LocalPart)
}

/// Host names of letters, digits, hyphens and, since such domains receive mail, underscores; labels of 1 to 63.
pub(super) fn is_domain(domain: &[u8]) -> bool {
    let mut label = 0;
    let mut previous = b'.';
    for &byte in domain {
        match byte {
            b'.' if label > 0 && previous != b'-' => label = 0,
            b'-' if label > 0 => label += 1,
            b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => label += 1,
            _ => return false,
        }
        if label > 63 {
            return false;
        }
        previous = byte;
    }
    label > 0 && previous != b'-'
}

/// `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3); no other tag is registered.
fn is_address_literal(domain: &[u8]) -> bool {
    let Some(inner) = domain.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")) else {
        return false;
    };
    let Ok(inner) = str::from_utf8(inner) else { return false };
    match inner.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => address.parse::<Ipv6Addr>().is_ok(),
        _ => inner.parse::<Ipv4Addr>().is_ok(),
    }
}

/// Whether an octet is `atext` of RFC 5322 section 3.2.3.
pub(super) fn is_atext(byte: u8) -> bool {
    ATEXT[usize::from(byte)]
}

/// `atext` of RFC 5322 section 3.2.3.
static ATEXT: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let character = byte as u8;
        table[byte] = character.is_ascii_alphanumeric()
            || matches!(
                character,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'/'
                    | b'='
                    | b'?'
                    | b'^'
                    | b'_'
            )
            || matches!(character, b'`' | b'{' | b'|' | b'}' | b'~');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    //! What is a mailbox, and what is none.
    use super::*;

    #[test]
    fn parts_of_valid_addresses() {
        for (address, local, domain) in [
            ("a@b", "a", "b"),
            ("u12@d3.chasqui.test", "u12", "d3.chasqui.test"),
            ("Smith+tag@Example.ORG", "Smith+tag", "Example.ORG"),
            ("\"a b@c>\\\"\"@example.org", "\"a b@c>\\\"\"", "example.org"),
            ("x@[192.0.2.1]", "x", "[192.0.2.1]"),
            ("x@[ipv6:2001:db8::1]", "x", "[ipv6:2001:db8::1]"),
            ("x@under_score.example", "x", "under_score.example"),
            (&format!("{}@b.c", "a".repeat(250)), &"a".repeat(250), "b.c"),
            (&format!("a@b{}", ".b".repeat(125)), "a", &format!("b{}", ".b".repeat(125))),
        ] {
            let mailbox: Mailbox = address.parse().unwrap();
            assert_eq!((mailbox.local_part(), mailbox.domain()), (local, domain));
            assert_eq!(mailbox.to_string(), address);
        }
        assert_eq!("x@Example.ORG".parse::<Mailbox>().unwrap().domain_lower(), "example.org");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let long_local = format!("{}@b", "a".repeat(253));
        let long_domain = format!("a@{}b", "b.".repeat(127));
        let long_label = format!("a@{}", "b".repeat(64));
        for (address, error) in [
            ("", AddressError::LocalPart),
            ("a", AddressError::NoDomain),
            ("a@", AddressError::Domain),
            ("@b", AddressError::LocalPart),
            (".a@b", AddressError::LocalPart),
            ("a.@b", AddressError::LocalPart),
            ("a..c@b", AddressError::LocalPart),
            ("a b@c", AddressError::LocalPart),
            ("a\r\n@c", AddressError::LocalPart),
            ("\"a\r\"@c", AddressError::LocalPart),
            ("\"a\\", AddressError::LocalPart),
            ("\"a\"b@c", AddressError::LocalPart),
            ("ü@c", AddressError::LocalPart),
            ("a@b..c", AddressError::Domain),
            ("a@b.", AddressError::Domain),
            ("a@-b", AddressError::Domain),
            ("a@b-.c", AddressError::Domain),
            ("a@ü", AddressError::Domain),
            ("a@b@c", AddressError::Domain),
            ("a@[192.0.2]", AddressError::Domain),
            ("a@[IPv6:x]", AddressError::Domain),
            ("a@[x", AddressError::Domain),
            (&long_local, AddressError::TooLong),
            (&long_domain, AddressError::TooLong),
            (&long_label, AddressError::Domain),
        ] {
            assert_eq!(address.parse::<Mailbox>(), Err(error), "{address:?}");
        }
    }

    #[test]
    fn the_null_reverse_path_is_empty() {
        assert!("".parse::<ReversePath>().unwrap().is_null());
        assert_eq!(ReversePath(None).to_string(), "");
        assert_eq!("a@b".parse::<ReversePath>().unwrap().to_string(), "a@b");
    }
}
