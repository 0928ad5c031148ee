//! Connections between the runtime and the products: byte streams, their acceptance, and the two ends of SMTP.
//!
//! | file | job |
//! |---|---|
//! | [`stream`] | a connected byte stream, plain or in TLS, and how one that is given up is closed |
//! | [`tls`] | handshakes, records, certificates, whom to trust: all that knows of rustls |
//! | [`acceptor`] | connections from a listening socket, until a drain; those that are refused get a line |
//! | [`connection_limiter`] | how many connections there may be, in all and of one peer |
//! | [`task_tracker`] | how many tasks of a kind there are, and when the last has ended |
//! | [`drain`] | that an end has begun |
//! | [`smtp_server`], [`smtp_client`] | a stream and a state machine of `protocol::smtp`: events out, time limits kept |
//!
//! Everything here is asked and calls nobody: whoever uses it keeps the decisions.

pub mod acceptor;
pub mod connection_limiter;
pub mod drain;
pub mod smtp_client;
pub mod smtp_server;
pub mod stream;
pub mod task_tracker;
pub mod tls;

pub use acceptor::{Acceptor, Refusals};
pub use connection_limiter::{ConnectionLimiter, ConnectionLimits, Permit};
pub use drain::Drain;
pub use stream::Stream;
pub use task_tracker::{TaskGuard, TaskTracker};
