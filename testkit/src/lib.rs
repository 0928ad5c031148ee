//! What tests of several crates need: an SMTP client that says what it is told to, and a receiver that does what its script
//! says. Both work on the runtime's sockets, under the simulator too, and on sockets of the standard library, for tests whose
//! relay is another process or whose own thread is no shard.

pub mod client;
pub mod receiver;
mod stream;

use std::time::Duration;

pub use client::Client;
pub use receiver::{Answer, Receiver, Stage, Transaction};
pub use stream::Stream;

/// Longest wait of a thread for anything; a test that works never comes near.
pub const PATIENCE: Duration = Duration::from_secs(60);
