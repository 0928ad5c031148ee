//! SMTP (RFC 5321) with the extensions of [`extensions`].
//!
//! | file | job |
//! |---|---|
//! | [`address`] | mailboxes and reverse-paths, parsed once at the edge |
//! | [`command`] | a command line to a [`command::Command`], or the reply it deserves |
//! | [`extensions`] | the list of service extensions: advertised, parsed, used |
//! | [`reply`] | replies and enhanced status codes |
//! | [`dsn`] | the parameters of delivery status notifications |
//! | [`data`] | the DATA scanner, dot-stuffing and its inverse |
//! | [`xclient`] | what a proxy says of its client |
//! | [`server`] | the receiving side of a connection |
//! | [`client`] | the sending side of a connection |

pub mod address;
pub mod client;
pub mod command;
pub mod data;
pub mod dsn;
pub mod extensions;
pub mod reply;
mod reply_reader;
pub mod server;
mod transaction;
pub mod xclient;
