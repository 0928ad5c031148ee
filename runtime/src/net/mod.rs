//! Sockets: TCP and Unix streams with the same surface.

mod listener;
mod parts;
mod posting;
mod receive;
mod socket;
mod stream;

pub(crate) use listener::AcceptQueue;
pub use listener::{ListenOptions, TcpListener, UnixListener};
pub use parts::Parts;
pub(crate) use parts::VectoredSend;
pub(crate) use posting::PostQueue;
pub use posting::buffer;
pub use receive::Received;
pub(crate) use receive::{Piece, ReceiveQueue};
pub use socket::{interface_addresses, is_shortage};
pub use stream::{ConnectOptions, Stream, TcpStream, UnixStream};
