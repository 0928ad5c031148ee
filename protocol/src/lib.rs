//! Mail protocols as state machines without sockets or clocks, and the stamp that proves a message unchanged.
//!
//! Bytes and decisions go in (`handle_*`), bytes and events come out (`output`, `poll_*`). Whatever comes from
//! the network is bounded here: line lengths, reply lengths, recipients, errors, header sections searched.

pub mod arrival;
pub mod control;
pub mod deadline;
pub mod durability;
pub mod foreign;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod imap;
pub mod peer;
pub mod pop3;
pub mod proxy;
pub mod sasl;
pub mod smtp;
pub mod stamp;
pub mod trace;
pub mod users;

/// Octets of output at which a server's session parses no more input until they are taken, so that a client that does not read
/// costs little. With one reply more they fit into 8 KiB.
pub const OUTPUT_MAX: usize = 7 * 1024;
