//! SASL (RFC 4422) as state machines without IO: who a client is, for SMTP AUTH (RFC 4954), IMAP AUTHENTICATE (RFC 9051) and POP3
//! AUTH (RFC 5034), at both ends.
//!
//! Responses and challenges are octets; the protocols put them into base64 and lines of their own, with [`base64`]. Nothing here
//! takes long but three things that say so, [`stored::Stored::verify`], [`stored::Stored::argon2id`] and what derives the keys of
//! SCRAM ([`client::Derivation::derive`], [`scram::ScramVerifier::derive`]): they belong off the shards.
//!
//! | file | job |
//! |---|---|
//! | [`mechanism`] | the mechanisms, and sets of them |
//! | [`prepare`] | names and passwords as SASLprep has them |
//! | [`secret`] | text that is wiped and never shown |
//! | [`binding`] | what binds an exchange to its TLS connection |
//! | [`base64`] | octets to text and back, within limits |
//! | [`mod@line`] | the lines of IMAP and POP3 between command and outcome |
//! | [`scram`] | the messages, keys and verifiers of SCRAM |
//! | [`server`] | the server's side of an exchange |
//! | [`client`] | the client's side of an exchange |
//! | [`stored`] | what a server keeps of a password, and what stands for users that there are not |
//! | [`accounts`] | names and passwords of clients, one a line |
//! | [`mistake`] | what is wrong with a line of a file |

pub mod accounts;
pub mod base64;
pub mod binding;
pub mod client;
pub mod line;
pub mod mechanism;
pub mod mistake;
pub mod prepare;
pub mod scram;
pub mod secret;
pub mod server;
pub mod stored;
#[cfg(test)]
mod tests;

/// Octets of a challenge or response, decoded. RFC 4954 section 4.3 has lines of 12288 octets, in base64.
pub const MESSAGE_MAX: usize = 12 * 1024;

/// What makes an exchange of SCRAM unlike all others: 18 octets that nobody can guess, of the caller's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; 18]);
