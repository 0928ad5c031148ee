//! POP3 (RFC 1939, with CAPA of RFC 2449) as state machines without IO: [`server::Session`] answers for one
//! connection of a maildrop, [`client::Client`] drives one as a reader. [`dots`] holds the byte-stuffing of
//! multi-line responses (RFC 1939 section 3).

pub mod client;
pub mod dots;
mod listing;
pub mod server;
