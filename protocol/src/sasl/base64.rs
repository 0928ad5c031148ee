//! Octets to the text of a protocol's line and back (RFC 4648 section 4).

use ::base64::Engine as _;
use ::base64::engine::general_purpose::STANDARD;

/// Why a text is not taken. SMTP answers 501 5.5.2 and 500 5.5.6 (RFC 4954 section 4), IMAP BAD, POP3 -ERR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Base64Error {
    /// A character, the length or the padding is wrong, or bits are set that mean nothing.
    #[error("it is no base64")]
    Invalid,
    /// It has more octets than are allowed.
    #[error("it is too long")]
    TooLong,
}

/// The text of `octets`, with padding, on one line.
pub fn encode(octets: impl AsRef<[u8]>) -> String {
    STANDARD.encode(octets)
}

/// The octets of a text, at most `max` of them. A text that is too long is not looked at.
pub fn decode(text: &[u8], max: usize) -> Result<Vec<u8>, Base64Error> {
    if text.len() > max.div_ceil(3) * 4 {
        return Err(Base64Error::TooLong);
    }
    let octets = STANDARD.decode(text).map_err(|_| Base64Error::Invalid)?;
    if octets.len() > max { Err(Base64Error::TooLong) } else { Ok(octets) }
}

/// The octets of a text of exactly `N`.
pub fn decode_array<const N: usize>(text: &[u8]) -> Result<[u8; N], Base64Error> {
    decode(text, N)?.try_into().map_err(|_| Base64Error::Invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_true_form_is_taken() {
        // Proves: what encode writes is read back, and no other writing of the same octets is.
        assert_eq!(encode(b"\0user\0pass"), "AHVzZXIAcGFzcw==");
        assert_eq!(decode(b"AHVzZXIAcGFzcw==", 10).as_deref(), Ok(&b"\0user\0pass"[..]));
        assert_eq!(decode(b"", 0).as_deref(), Ok(&b""[..]));
        for wrong in ["AHVzZXIAcGFzcw", "AHVzZXIAcGFzcx==", "AHVz ZXI=", "=", "*", "A===", "_-8="] {
            assert_eq!(decode(wrong.as_bytes(), 100), Err(Base64Error::Invalid), "{wrong}");
        }
    }

    #[test]
    fn limits_are_exact() {
        // Proves: as many octets as are allowed are taken, and not one more.
        for length in 0..20 {
            let text = encode(vec![7; length]);
            assert_eq!(decode(text.as_bytes(), length).map(|octets| octets.len()), Ok(length));
            if length > 0 {
                assert_eq!(decode(text.as_bytes(), length - 1), Err(Base64Error::TooLong));
            }
        }
        assert_eq!(decode_array(b"AQID"), Ok([1, 2, 3]));
        assert_eq!(decode_array::<4>(b"AQID"), Err(Base64Error::Invalid));
    }
}
