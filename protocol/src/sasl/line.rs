//! The lines of an exchange, as SMTP (RFC 4954 section 4), IMAP (RFC 9051 section 6.2.2) and POP3 (RFC 5034 section 4) have them:
//! base64, or `*`.

use super::MESSAGE_MAX;
use super::base64::{self, Base64Error};

/// Octets of a line with the longest message.
pub const LINE_MAX: usize = MESSAGE_MAX.div_ceil(3) * 4;

/// Why a line is no response. The exchange is over; SMTP answers 501 or 500, IMAP BAD, POP3 -ERR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoResponse {
    /// The client gives up: `*`.
    #[error("the authentication is cancelled")]
    Cancelled,
    /// It is no base64.
    #[error("the response is no base64")]
    Malformed,
    /// Over [`MESSAGE_MAX`].
    #[error("the response is too long")]
    TooLong,
}

/// What a line without its end answers to a challenge.
pub fn response(line: &[u8]) -> Result<Vec<u8>, NoResponse> {
    if line == b"*" {
        return Err(NoResponse::Cancelled);
    }
    base64::decode(line, MESSAGE_MAX).map_err(|error| match error {
        Base64Error::Invalid => NoResponse::Malformed,
        Base64Error::TooLong => NoResponse::TooLong,
    })
}

/// The initial response in a command: `=` is one of no octets.
pub fn initial(text: &[u8]) -> Result<Vec<u8>, NoResponse> {
    if text == b"=" { Ok(Vec::new()) } else { response(text) }
}

/// An initial response as a command has it.
pub fn initial_text(octets: &[u8]) -> String {
    if octets.is_empty() { "=".to_owned() } else { base64::encode(octets) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_responses_or_none() {
        // Proves: an empty line is a response of no octets, `=` one in a command alone, and `*` takes the exchange back.
        assert_eq!(response(b""), Ok(Vec::new()));
        assert_eq!(response(b"AHUAcA=="), Ok(b"\0u\0p".to_vec()));
        assert_eq!(response(b"="), Err(NoResponse::Malformed));
        assert_eq!(response(b"*"), Err(NoResponse::Cancelled));
        assert_eq!(response(b"AHUAcA== "), Err(NoResponse::Malformed));
        assert_eq!(response(&vec![b'A'; LINE_MAX]).map(|octets| octets.len()), Ok(MESSAGE_MAX));
        assert_eq!(response(&vec![b'A'; LINE_MAX + 4]), Err(NoResponse::TooLong));
        for octets in [&b""[..], b"\0u\0p"] {
            assert_eq!(initial(initial_text(octets).as_bytes()).as_deref(), Ok(octets));
        }
    }
}
