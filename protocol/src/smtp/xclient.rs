//! XCLIENT: what a proxy or filter tells of the client that it speaks for (Postfix's XCLIENT_README).
//!
//! ADDR and NAME are offered, because they mean something here: an address decides over everything that an address decides over, and
//! the Received field has both. PORT, PROTO, HELO, DESTADDR and DESTPORT would change nothing, since the client says EHLO again.
//! LOGIN would make a network the proof of who a user is; a user proves that by AUTH, which a proxy passes on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::is_domain;
use super::dsn::decoded_xtext;

/// What is offered behind the keyword.
pub(super) const ATTRIBUTES: &str = "NAME ADDR";
/// Octets of a host's name.
const NAME_MAX: usize = 255;
/// What begins an IPv6 address.
const IPV6: &str = "IPV6:";

/// What XCLIENT says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct XclientRequest {
    /// ADDR
    pub address: Said<IpAddr>,
    /// NAME: a host's name, fit for a trace field.
    pub name: Said<Box<str>>,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Said<T> {
    /// The attribute is not there: what was known stays.
    #[default]
    Nothing,
    /// `[UNAVAILABLE]` or `[TEMPUNAVAIL]`: there is no value, or none is known.
    Unknown,
    /// This value.
    Value(T),
}

impl XclientRequest {
    /// Parses the arguments: attributes, each once and at least one. `None`: they are malformed, or one is not offered.
    pub(super) fn parse(arguments: &[u8]) -> Option<XclientRequest> {
        let mut request = XclientRequest::default();
        let mut attributes =
            arguments.split(|&octet| octet == b' ').filter(|word| !word.is_empty()).peekable();
        attributes.peek()?;
        for attribute in attributes {
            let equals = memchr::memchr(b'=', attribute)?;
            let (keyword, value) = (&attribute[..equals], decoded_xtext(&attribute[equals + 1..])?);
            match keyword.to_ascii_uppercase().as_slice() {
                b"ADDR" => request.address.say(&value, address)?,
                b"NAME" => request.name.say(&value, name)?,
                // That there is no user is no claim.
                b"LOGIN" if is_unknown(&value) => {}
                _ => return None,
            }
        }
        Some(request)
    }
}

impl<T> Said<T> {
    fn say(&mut self, value: &str, parse: impl Fn(&str) -> Option<T>) -> Option<()> {
        let said = match is_unknown(value) {
            true => Said::Unknown,
            false => Said::Value(parse(value)?),
        };
        matches!(std::mem::replace(self, said), Said::Nothing).then_some(())
    }
}

fn is_unknown(value: &str) -> bool {
    ["[UNAVAILABLE]", "[TEMPUNAVAIL]"].iter().any(|unknown| value.eq_ignore_ascii_case(unknown))
}

fn address(value: &str) -> Option<IpAddr> {
    match value.split_at_checked(IPV6.len()) {
        Some((tag, address)) if tag.eq_ignore_ascii_case(IPV6) => {
            address.parse::<Ipv6Addr>().ok().map(|address| IpAddr::V6(address).to_canonical())
        }
        _ => value.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

fn name(value: &str) -> Option<Box<str>> {
    (value.len() <= NAME_MAX && is_domain(value.as_bytes())).then(|| value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Option<XclientRequest> {
        XclientRequest::parse(arguments.as_bytes())
    }

    fn is(text: &str) -> Said<IpAddr> {
        Said::Value(text.parse().expect("an address"))
    }

    /// Addresses of both families and names, in xtext or not, whatever the case of the keyword.
    #[test]
    fn attributes() {
        for (arguments, address, name) in [
            ("ADDR=192.0.2.7", is("192.0.2.7"), Said::Nothing),
            ("addr=IPV6:2001:db8::7", is("2001:db8::7"), Said::Nothing),
            ("ADDR=ipv6:::ffff:192.0.2.7", is("192.0.2.7"), Said::Nothing),
            ("ADDR=+31+39+32.0.2.7", is("192.0.2.7"), Said::Nothing),
            ("ADDR=[UNAVAILABLE]", Said::Unknown, Said::Nothing),
            ("ADDR=[tempunavail] NAME=[TEMPUNAVAIL]", Said::Unknown, Said::Unknown),
            ("NAME=mx.example.org", Said::Nothing, Said::Value("mx.example.org".into())),
            ("ADDR=192.0.2.7  LOGIN=[UNAVAILABLE] NAME=[UNAVAILABLE]", is("192.0.2.7"), Said::Unknown),
        ] {
            assert_eq!(parse(arguments), Some(XclientRequest { address, name }), "{arguments}");
        }
    }

    /// What is malformed, said twice, or not offered.
    #[test]
    fn what_is_not_taken() {
        for arguments in [
            "",
            "ADDR",
            "ADDR=",
            "=192.0.2.7",
            "ADDR=192.0.2",
            "ADDR=2001:db8::7",
            "ADDR=IPV6:192.0.2.7",
            "ADDR=IPV6:",
            "ADDR=192.0.2.7+",
            "ADDR=+3q",
            "ADDR=192.0.2.7+00",
            "ADDR=192.0.2.7 ADDR=192.0.2.7",
            "ADDR=[UNAVAILABLE] ADDR=192.0.2.7",
            "NAME=a+20b",
            "NAME=a)b",
            "NAME=a+0D+0Ab",
            "NAME=-",
            "NAME=\u{e9}",
            "LOGIN=ann",
            "PORT=25",
            "HELO=a.test",
            "PROTO=SMTP",
            "DESTADDR=192.0.2.7",
            "DESTPORT=25",
            "ADDR=192.0.2.7 FROB=1",
        ] {
            assert_eq!(parse(arguments), None, "{arguments}");
        }
        let labels = format!("NAME={}", "a".repeat(63) + &".b".repeat(96));
        assert!(parse(&labels).is_some() && parse(&(labels + ".b")).is_none());
    }
}
