//! Names and passwords as SASLprep has them (RFC 4013), so that two ways of typing the same text are one.

use super::secret::Secret;
use stringprep::saslprep;

/// Octets of a name, before and after it is prepared (RFC 4616 section 2).
pub const NAME_MAX: usize = 255;
/// Octets of a password before it is prepared: passphrases have room, and preparing stays short.
pub const PASSWORD_MAX: usize = 1024;

/// Why a name or password cannot be one. Says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unprepared {
    /// There is nothing, or nothing is left of it.
    #[error("is empty")]
    Empty,
    /// Over [`NAME_MAX`] or [`PASSWORD_MAX`].
    #[error("is too long")]
    TooLong,
    /// The octets are no UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// There is a control character, or one that RFC 4013 prohibits or does not know, or directions of writing are mixed.
    #[error("has a character that RFC 4013 (SASLprep) does not allow")]
    Prohibited,
}

/// A password, prepared. Wiped when it is dropped, and not shown by Debug.
#[derive(Debug, Clone)]
pub struct Password(Secret);

impl Password {
    /// Prepares what was typed or sent.
    pub fn prepare(octets: &[u8]) -> Result<Password, Unprepared> {
        prepared(octets, PASSWORD_MAX).map(|text| Password(Secret::new(text)))
    }

    /// The octets that are hashed.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_str().as_bytes()
    }
}

/// A user's name, prepared: at most [`NAME_MAX`] octets, at least one, no control characters.
pub fn name(octets: &[u8]) -> Result<String, Unprepared> {
    let name = prepared(octets, NAME_MAX)?;
    if name.len() > NAME_MAX { Err(Unprepared::TooLong) } else { Ok(name) }
}

fn prepared(octets: &[u8], max: usize) -> Result<String, Unprepared> {
    if octets.len() > max {
        return Err(Unprepared::TooLong);
    }
    let text = str::from_utf8(octets).map_err(|_| Unprepared::NotUtf8)?;
    let prepared = saslprep(text).map_err(|_| Unprepared::Prohibited)?;
    if prepared.is_empty() { Err(Unprepared::Empty) } else { Ok(prepared.into_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_4013() {
        // Proves: section 3 of RFC 4013, row by row.
        for (input, output) in [
            ("I\u{ad}X", Ok("IX")),
            ("user", Ok("user")),
            ("USER", Ok("USER")),
            ("\u{aa}", Ok("a")),
            ("\u{2168}", Ok("IX")),
            ("\u{7}", Err(Unprepared::Prohibited)),
            ("\u{627}1", Err(Unprepared::Prohibited)),
        ] {
            assert_eq!(name(input.as_bytes()).as_deref(), output.as_ref().copied(), "{input:?}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        // Proves: empty, too long before or after, and not UTF-8 are told apart.
        assert_eq!(name(b""), Err(Unprepared::Empty));
        assert_eq!(name("\u{ad}".as_bytes()), Err(Unprepared::Empty));
        assert_eq!(name(&[b'a'; NAME_MAX]).map(|name| name.len()), Ok(NAME_MAX));
        assert_eq!(name(&[b'a'; NAME_MAX + 1]), Err(Unprepared::TooLong));
        assert_eq!(name("\u{2168}\u{3a3}".repeat(51).as_bytes()).map(|name| name.len()), Ok(51 * 4));
        assert_eq!(name("\u{fdfa}".repeat(85).as_bytes()), Err(Unprepared::TooLong));
        assert_eq!(name(b"\xff"), Err(Unprepared::NotUtf8));
        assert_eq!(Password::prepare(&[b'a'; PASSWORD_MAX + 1]).unwrap_err(), Unprepared::TooLong);
        assert_eq!(Password::prepare("a\u{a0}b".as_bytes()).unwrap().as_bytes(), b"a b");
    }
}
