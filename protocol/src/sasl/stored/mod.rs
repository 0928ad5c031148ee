//! What a server keeps of a password, in the forms that others write and read too.
//!
//! | form | of |
//! |---|---|
//! | `$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH` | Argon2 (RFC 9106), a PHC string; Dovecot's `{ARGON2ID}` may stand before it |
//! | `SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY` | SCRAM (RFC 5803 in the form of PostgreSQL) |
//! | `{SCRAM-SHA-256}ITERATIONS,SALT,STORED_KEY,SERVER_KEY` | the same, as Dovecot writes it; read, not written |
//!
//! A user with Argon2 can show its password (PLAIN, LOGIN), not prove it: for SCRAM it is one that there is not, so
//! [`Fake::scram`] stands for it. A user with a verifier of SCRAM can do both.

mod argon2;
mod fake;
mod text;

use super::prepare::Password;
use super::scram::ScramVerifier;
pub use argon2::{Argon2Hash, Argon2Options};
pub use fake::Fake;
use std::fmt;
use std::str::FromStr;

/// What is kept of one password. Displays as its line in a file has it; Debug shows nothing of it but how costly it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// The Argon2id hash. Slow to guess, and as slow to verify.
    Argon2(Argon2Hash),
    /// The verifier of SCRAM-SHA-256.
    Scram(ScramVerifier),
}

/// Why a text is nothing stored. Holds nothing of the text; shown to the owner of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoredError {
    /// Its beginning names no scheme that is known.
    #[error("begins with neither $argon2id$ nor SCRAM-SHA-256$")]
    Scheme,
    /// Parts are missing, too many, or no base64 or numbers.
    #[error("is cut off or damaged")]
    Damaged,
    /// Argon2 of an older version than 1.3 (`v=19`).
    #[error("is of an old version of Argon2: v=19 is wanted")]
    Version,
    /// Costs, or lengths of salt and hash, that are not taken.
    #[error("has costs, a salt or a hash out of bounds")]
    Bounds,
}

impl Stored {
    /// What is kept of a new password. The salt has to be random. Takes tens of milliseconds, and the memory of `options`.
    pub fn argon2id(
        password: &Password,
        options: Argon2Options,
        salt: [u8; 16],
    ) -> Result<Stored, StoredError> {
        Argon2Hash::derive(password, options, &salt).map(Stored::Argon2)
    }

    /// The same for SCRAM, with rounds as [`ScramVerifier::derive`] takes them.
    pub fn scram(password: &Password, iterations: u32, salt: [u8; 16]) -> Stored {
        Stored::Scram(ScramVerifier::derive(password, &salt, iterations))
    }

    /// Whether this is what is kept of `password`. Takes as long as making it, whatever the answer.
    pub fn verify(&self, password: &Password) -> bool {
        match self {
            Stored::Argon2(hash) => hash.verify(password),
            Stored::Scram(verifier) => verifier.verify(password),
        }
    }

    /// The verifier for SCRAM, if there is one.
    pub fn as_scram(&self) -> Option<&ScramVerifier> {
        match self {
            Stored::Argon2(_) => None,
            Stored::Scram(verifier) => Some(verifier),
        }
    }

    /// Whether a text begins as something stored does, so that it must not be shown to anybody.
    pub fn looks_like(text: &str) -> bool {
        text.starts_with(['$', '{']) || text.starts_with(text::SCRAM)
    }
}

impl FromStr for Stored {
    type Err = StoredError;

    fn from_str(text: &str) -> Result<Stored, StoredError> {
        match text.strip_prefix("{ARGON2ID}").unwrap_or(text) {
            phc if phc.starts_with("$argon2id$") => phc.parse().map(Stored::Argon2),
            _ => text::parse_scram(text).map(Stored::Scram),
        }
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stored::Argon2(hash) => hash.fmt(formatter),
            Stored::Scram(verifier) => text::write_scram(verifier, formatter),
        }
    }
}

#[cfg(test)]
mod tests;
