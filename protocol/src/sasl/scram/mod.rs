//! What both ends of SCRAM-SHA-256 share (RFC 5802, RFC 7677): messages, keys, and what a server keeps of a password.

mod keys;
mod message;
mod verifier;

pub(super) use keys::{Key, Salted, auth_message, client_proof, is_proof, server_signature};
pub(super) use message::{
    BindingFlag, ClientFinal, ClientFirst, Malformed, ServerFinal, ServerFirst, client_first_bare, escaped,
    nonce_text,
};
pub use verifier::ScramVerifier;

/// The fewest rounds that are taken from a server or a file (RFC 7677 section 4): with fewer, who catches one exchange guesses
/// passwords at leisure.
pub const ITERATIONS_MIN: u32 = 4096;
/// Rounds of a new verifier: the rule of thumb of RFC 7677 section 4.
pub const ITERATIONS_DEFAULT: u32 = 15_000;
/// The most rounds that are taken: half a second of one core, so that a server cannot ask for hours.
pub const ITERATIONS_MAX: u32 = 1_000_000;
/// Octets of a salt that are taken.
pub const SALT_MAX: usize = 128;
