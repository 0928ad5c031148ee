//! What a server keeps of a password for SCRAM.

use super::keys::{Key, Salted};
use super::{ITERATIONS_MAX, ITERATIONS_MIN};
use crate::sasl::prepare::Password;
use std::fmt;
use subtle::ConstantTimeEq;

/// `StoredKey` and `ServerKey` with their salt and rounds (RFC 5802 section 3). Who has it can play the server, not the user.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// Rounds of PBKDF2.
    pub(in crate::sasl) iterations: u32,
    /// Octets that make equal passwords differ.
    pub(in crate::sasl) salt: Box<[u8]>,
    pub(in crate::sasl) stored_key: Key,
    pub(in crate::sasl) server_key: Key,
}

impl ScramVerifier {
    /// The verifier of a password, with rounds brought within [`ITERATIONS_MIN`] and [`ITERATIONS_MAX`]. Takes milliseconds.
    pub fn derive(password: &Password, salt: &[u8], iterations: u32) -> ScramVerifier {
        let iterations = iterations.clamp(ITERATIONS_MIN, ITERATIONS_MAX);
        let salted = Salted::derive(password, salt, iterations);
        let (stored_key, server_key) = (salted.stored_key(), salted.server_key());
        ScramVerifier { iterations, salt: salt.into(), stored_key, server_key }
    }

    /// Whether this is the verifier of `password`. Takes as long as making it.
    pub fn verify(&self, password: &Password) -> bool {
        let salted = Salted::derive(password, &self.salt, self.iterations);
        salted.stored_key().ct_eq(&self.stored_key).into()
    }

    /// Rounds of PBKDF2.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ScramVerifier({} iterations, ..)", self.iterations)
    }
}
