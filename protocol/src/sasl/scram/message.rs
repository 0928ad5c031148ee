//! The messages of SCRAM (RFC 5802 section 7), parsed and written.

use super::keys::Key;
use super::{ITERATIONS_MAX, SALT_MAX};
use crate::sasl::base64::{decode, decode_array, encode};
use crate::sasl::{MESSAGE_MAX, Nonce};
use std::fmt;

/// Octets of a client's nonce.
const CLIENT_NONCE_MAX: usize = 256;
/// Octets of a nonce with the server's part.
const NONCE_MAX: usize = 512;

/// The octets are no message of SCRAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sasl) struct Malformed;

/// `gs2-cbind-flag`: what the client says of channel binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sasl) enum BindingFlag<'a> {
    /// `n`: it has none.
    No,
    /// `y`: it has one, and believes that the server has not.
    NotOffered,
    /// `p=NAME`: it is bound by the one of this name.
    Bound(&'a str),
}

impl fmt::Display for BindingFlag<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindingFlag::No => formatter.write_str("n"),
            BindingFlag::NotOffered => formatter.write_str("y"),
            BindingFlag::Bound(name) => write!(formatter, "p={name}"),
        }
    }
}

/// `client-first-message`.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::sasl) struct ClientFirst<'a> {
    pub(in crate::sasl) flag: BindingFlag<'a>,
    /// Whom the client asks to act as, if it is anybody in particular; not prepared.
    pub(in crate::sasl) authorization: Option<String>,
    /// Not prepared.
    pub(in crate::sasl) user: String,
    pub(in crate::sasl) nonce: &'a str,
    /// `gs2-header`, with its last comma.
    pub(in crate::sasl) header: &'a str,
    /// `client-first-message-bare`.
    pub(in crate::sasl) bare: &'a str,
}

impl<'a> ClientFirst<'a> {
    pub(in crate::sasl) fn parse(octets: &'a [u8]) -> Result<ClientFirst<'a>, Malformed> {
        let text = text(octets)?;
        let (flag, rest) = text.split_once(',').ok_or(Malformed)?;
        let (authorization, bare) = rest.split_once(',').ok_or(Malformed)?;
        let header = &text[..text.len() - bare.len()];
        let flag = match (flag, flag.strip_prefix("p=")) {
            ("n", _) => BindingFlag::No,
            ("y", _) => BindingFlag::NotOffered,
            (_, Some(name)) if !name.is_empty() => BindingFlag::Bound(name),
            _ => return Err(Malformed),
        };
        let authorization = match authorization {
            // An empty one is none of the grammar's; GNU SASL sends it where it is told to act as nobody in particular.
            "" | "a=" => None,
            given => Some(unescaped(value(Some(given), "a=")?)?),
        };
        // What begins with `m=` is an extension that must be understood: it fails here, for the name is first.
        let mut attributes = bare.split(',');
        let user = unescaped(value(attributes.next(), "n=")?)?;
        let nonce = nonce(value(attributes.next(), "r=")?, CLIENT_NONCE_MAX)?;
        extensions(attributes)?;
        Ok(ClientFirst { flag, authorization, user, nonce, header, bare })
    }
}

/// `client-first-message-bare` of a name that is prepared and escaped.
pub(in crate::sasl) fn client_first_bare(escaped_user: &str, nonce: &str) -> String {
    format!("n={escaped_user},r={nonce}")
}

/// `server-first-message`. Displays as such.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::sasl) struct ServerFirst<'a> {
    /// The client's and behind it the server's.
    pub(in crate::sasl) nonce: &'a str,
    pub(in crate::sasl) salt: Vec<u8>,
    /// At most [`ITERATIONS_MAX`] and one: more is not told apart.
    pub(in crate::sasl) iterations: u32,
}

impl<'a> ServerFirst<'a> {
    pub(in crate::sasl) fn parse(octets: &'a [u8]) -> Result<ServerFirst<'a>, Malformed> {
        let mut attributes = text(octets)?.split(',');
        let nonce = nonce(value(attributes.next(), "r=")?, NONCE_MAX)?;
        let salt = value(attributes.next(), "s=")?;
        let salt = decode(salt.as_bytes(), SALT_MAX).map_err(|_| Malformed)?;
        let iterations = value(attributes.next(), "i=")?;
        if salt.is_empty() || !iterations.starts_with(|first: char| ('1'..='9').contains(&first)) {
            return Err(Malformed);
        }
        if !iterations.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Malformed);
        }
        let iterations = iterations.parse().unwrap_or(u32::MAX).min(ITERATIONS_MAX + 1);
        extensions(attributes)?;
        Ok(ServerFirst { nonce, salt, iterations })
    }
}

impl fmt::Display for ServerFirst<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "r={},s={},i={}", self.nonce, encode(&self.salt), self.iterations)
    }
}

/// `client-final-message`.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::sasl) struct ClientFinal<'a> {
    /// The header of the first message, and the data of the channel binding.
    pub(in crate::sasl) binding: Vec<u8>,
    pub(in crate::sasl) nonce: &'a str,
    pub(in crate::sasl) proof: Key,
    /// `client-final-message-without-proof`.
    pub(in crate::sasl) without_proof: &'a str,
}

impl<'a> ClientFinal<'a> {
    pub(in crate::sasl) fn parse(octets: &'a [u8]) -> Result<ClientFinal<'a>, Malformed> {
        let (without_proof, proof) = text(octets)?.rsplit_once(",p=").ok_or(Malformed)?;
        let proof = decode_array(proof.as_bytes()).map_err(|_| Malformed)?;
        let mut attributes = without_proof.split(',');
        let binding = value(attributes.next(), "c=")?;
        let binding = decode(binding.as_bytes(), MESSAGE_MAX).map_err(|_| Malformed)?;
        let nonce = nonce(value(attributes.next(), "r=")?, NONCE_MAX)?;
        extensions(attributes)?;
        Ok(ClientFinal { binding, nonce, proof, without_proof })
    }

    /// `client-final-message-without-proof`.
    pub(in crate::sasl) fn without_proof(header: &str, binding: &[u8], nonce: &str) -> String {
        format!("c={},r={nonce}", encode([header.as_bytes(), binding].concat()))
    }
}

/// `server-final-message`.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::sasl) enum ServerFinal<'a> {
    /// The proof that the server knows the user.
    Signature(Key),
    /// Why it refuses, in a word.
    Error(&'a str),
}

impl<'a> ServerFinal<'a> {
    pub(in crate::sasl) fn parse(octets: &'a [u8]) -> Result<ServerFinal<'a>, Malformed> {
        let mut attributes = text(octets)?.split(',');
        let first = attributes.next().ok_or(Malformed)?;
        extensions(attributes)?;
        if let Some(error) = first.strip_prefix("e=") {
            return Ok(ServerFinal::Error(error));
        }
        let signature = value(Some(first), "v=")?;
        decode_array(signature.as_bytes()).map(ServerFinal::Signature).map_err(|_| Malformed)
    }

    /// The message with a signature.
    pub(in crate::sasl) fn signed(signature: &Key) -> String {
        format!("v={}", encode(signature))
    }
}

/// The text of a nonce of ours.
pub(in crate::sasl) fn nonce_text(nonce: Nonce) -> String {
    encode(nonce.0)
}

/// `saslname`: a prepared name in which commas and equals signs are escaped.
pub(in crate::sasl) fn escaped(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

fn unescaped(name: &str) -> Result<String, Malformed> {
    let mut parts = name.split('=');
    let mut whole = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (sign, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => return Err(Malformed),
        };
        whole.push(sign);
        whole.push_str(rest);
    }
    if whole.is_empty() { Err(Malformed) } else { Ok(whole) }
}

fn text(octets: &[u8]) -> Result<&str, Malformed> {
    str::from_utf8(octets).ok().filter(|text| !text.contains('\0')).ok_or(Malformed)
}

fn value<'a>(attribute: Option<&'a str>, prefix: &str) -> Result<&'a str, Malformed> {
    let value = attribute.and_then(|attribute| attribute.strip_prefix(prefix));
    value.filter(|value| !value.is_empty()).ok_or(Malformed)
}

fn nonce(text: &str, max: usize) -> Result<&str, Malformed> {
    let is_printable = text.bytes().all(|byte| (0x21..=0x7e).contains(&byte));
    if is_printable && text.len() <= max { Ok(text) } else { Err(Malformed) }
}

/// Extensions may be passed over, but not `m=`, which stands for what must be understood (RFC 5802 section 5.1).
fn extensions<'a>(mut attributes: impl Iterator<Item = &'a str>) -> Result<(), Malformed> {
    let is_optional = |attribute: &str| {
        let bytes = attribute.as_bytes();
        bytes.len() > 2 && bytes[0].is_ascii_alphabetic() && bytes[0] != b'm' && bytes[1] == b'='
    };
    if attributes.all(is_optional) { Ok(()) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_messages_are_taken_apart() {
        // Proves: header, names with escapes, nonce and extensions of a client's first message.
        let first = ClientFirst::parse(b"p=tls-exporter,a=b=3Dc,n=x=2Cy,r=abc,z=1").unwrap();
        assert_eq!(first.flag, BindingFlag::Bound("tls-exporter"));
        assert_eq!(first.authorization.as_deref(), Some("b=c"));
        assert_eq!((first.user.as_str(), first.nonce), ("x,y", "abc"));
        assert_eq!((first.header, first.bare), ("p=tls-exporter,a=b=3Dc,", "n=x=2Cy,r=abc,z=1"));
        assert_eq!(escaped("x,y=z"), "x=2Cy=3Dz");
        assert_eq!(unescaped(&escaped("=,=2C")), Ok("=,=2C".to_owned()));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        // Proves: missing, empty, misplaced and mandatory attributes, wrong escapes and control octets are malformed.
        for wrong in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=u",
            "n,,n=u,r=",
            "n,,n=,r=a",
            "n,,r=a,n=u",
            "n,,m=1,n=u,r=a",
            "n,,n=u,r=a,m=1",
            "n,,n=u,r=a,",
            "n,,n=u,r=a b",
            "n,b=x,n=u,r=a",
            "n,,n=u=2c,r=a",
            "n,,n=u=,r=a",
            "x,,n=u,r=a",
            "p=,,n=u,r=a",
            "nn,,n=u,r=a",
            "n,,n=u\0,r=a",
        ] {
            assert_eq!(ClientFirst::parse(wrong.as_bytes()), Err(Malformed), "{wrong:?}");
        }
        assert_eq!(ClientFirst::parse(b"n,,n=\xff,r=a"), Err(Malformed));
        let long = |octets: usize| format!("n,,n=u,r={}", "a".repeat(octets));
        assert!(ClientFirst::parse(long(CLIENT_NONCE_MAX).as_bytes()).is_ok());
        assert_eq!(ClientFirst::parse(long(CLIENT_NONCE_MAX + 1).as_bytes()), Err(Malformed));
        for wrong in [
            "r=a,s=AAAA",
            "r=a,s=AAAA,i=",
            "r=a,s=AAAA,i=0",
            "r=a,s=AAAA,i=-1",
            "r=a,s=AAA,i=1",
            "r=a,s=,i=1",
            "m=a,r=a,s=AAAA,i=1",
            "r=a,s=AAAA,i=+1",
        ] {
            assert_eq!(ServerFirst::parse(wrong.as_bytes()), Err(Malformed), "{wrong:?}");
        }
        for wrong in ["", "v=", "v=AAAA", "x=1", "v"] {
            assert_eq!(ServerFinal::parse(wrong.as_bytes()), Err(Malformed), "{wrong:?}");
        }
        let proof = encode([0; 32]);
        for wrong in ["c=biws,r=a", "c=biws,p=AAAA", "c=biws,r=a,p=AAAA", "r=a,c=biws,p=", "c=b,r=a,p="] {
            let wrong = if wrong.ends_with("p=") { format!("{wrong}{proof}") } else { wrong.to_owned() };
            assert_eq!(ClientFinal::parse(wrong.as_bytes()), Err(Malformed), "{wrong:?}");
        }
    }

    #[test]
    fn more_rounds_than_fit_are_too_many() {
        // Proves: a number of any length is taken, as one that is over the limit.
        let first = ServerFirst::parse(b"r=a,s=AAAA,i=99999999999999999999").unwrap();
        assert_eq!(first.iterations, ITERATIONS_MAX + 1);
        assert_eq!(ServerFirst::parse(b"r=a,s=AAAA,i=4096").unwrap().to_string(), "r=a,s=AAAA,i=4096");
    }
}
