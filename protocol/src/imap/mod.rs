//! IMAP4rev1 (RFC 3501) as state machines without IO, over the grammar of `imap-codec`: [`server::Commands`] turns
//! a client's bytes into commands, [`client::Client`] drives a session as a reader. Message bodies never pass
//! through the grammar: the client hands them on in pieces, a server writes them between its own lines.

pub mod client;
pub mod flags;
mod nested;
pub mod server;
pub mod set;

pub use imap_codec::imap_types as types;
