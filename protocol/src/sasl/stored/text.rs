//! Verifiers of SCRAM as text.

use super::StoredError;
use crate::sasl::base64::{decode, decode_array, encode};
use crate::sasl::scram::{ITERATIONS_MAX, ITERATIONS_MIN, SALT_MAX, ScramVerifier};
use std::fmt;

/// PostgreSQL's: `SCRAM-SHA-256$iterations:salt$stored_key:server_key`.
pub(super) const SCRAM: &str = "SCRAM-SHA-256$";
/// Dovecot's: `{SCRAM-SHA-256}iterations,salt,stored_key,server_key`.
const DOVECOT: &str = "{SCRAM-SHA-256}";

pub(super) fn parse_scram(text: &str) -> Result<ScramVerifier, StoredError> {
    let parts: Vec<&str> = if let Some(rest) = text.strip_prefix(DOVECOT) {
        rest.split(',').collect()
    } else {
        let rest = text.strip_prefix(SCRAM).ok_or(StoredError::Scheme)?;
        let (first, last) = rest.split_once('$').ok_or(StoredError::Damaged)?;
        first.split(':').chain(last.split(':')).collect()
    };
    let [iterations, salt, stored_key, server_key] = parts[..] else { return Err(StoredError::Damaged) };
    let iterations: u32 = iterations.parse().map_err(|_| StoredError::Damaged)?;
    let salt = decode(salt.as_bytes(), SALT_MAX).map_err(|_| StoredError::Damaged)?;
    if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) || salt.is_empty() {
        return Err(StoredError::Bounds);
    }
    let key = |text: &str| decode_array(text.as_bytes()).map_err(|_| StoredError::Damaged);
    let (stored_key, server_key) = (key(stored_key)?, key(server_key)?);
    Ok(ScramVerifier { iterations, salt: salt.into(), stored_key, server_key })
}

pub(super) fn write_scram(verifier: &ScramVerifier, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    let ScramVerifier { iterations, salt, stored_key, server_key } = verifier;
    let (salt, stored_key, server_key) = (encode(salt), encode(stored_key), encode(server_key));
    write!(formatter, "{SCRAM}{iterations}:{salt}${stored_key}:{server_key}")
}
