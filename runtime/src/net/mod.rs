//! Sockets: TCP and Unix streams with the same surface.

mod claims;
pub mod datagram;
mod listener;
mod parts;
mod posting;
mod receive;
mod socket;
mod stream;
mod unix;

use std::time::Duration;

pub use claims::{PortClaims, when_free};
pub(crate) use listener::AcceptQueue;
pub use listener::{ListenOptions, TcpListener, UnixListener};
pub use parts::Parts;
pub(crate) use parts::VectoredSend;
pub(crate) use posting::PostQueue;
pub use posting::{buffer, keep_buffer};
pub use receive::Received;
pub(crate) use receive::{Piece, ReceiveQueue};
pub use socket::{interface_addresses, is_shortage};
pub use stream::{ConnectOptions, Stream, TcpStream, UnixStream};
pub use unix::listen_unix;

/// A process that was killed holds its sockets until the kernel has taken its ring apart, a little after its death.
const FREE_WITHIN: Duration = Duration::from_secs(2);
