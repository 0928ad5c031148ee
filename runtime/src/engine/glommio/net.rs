//! Sockets: calls that do not block, and the waits between them.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ::glommio::io::PollableFd;
use ::glommio::timer::Timer;
use socket2::{SockAddr, SockRef};

use super::{Event, Gain, Shared, code, plain};
use crate::net::VectoredSend;

/// Connections taken at one time, so that those who have some already get their turn.
const ACCEPTS: usize = 64;
/// Receives at one time, for the same reason.
const RECEIVES: usize = 4;
/// Pause before a connect to a Unix socket whose backlog is full: nothing tells when it no longer is.
const BACKLOG_PAUSE: Duration = Duration::from_millis(1);

/// What a send reads. Lives in the operation's slot until the completion, and nothing is sent after that.
pub(crate) enum Outgoing {
    Bytes(*const u8, usize),
    Message(*const libc::msghdr),
}

impl Outgoing {
    pub(crate) fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.as_ptr(), bytes.len())
    }

    pub(crate) fn message(message: &VectoredSend) -> Self {
        Self::Message(message.header())
    }
}

/// Sends what there is room for.
///
/// # Safety
///
/// What `bytes` points to is there and does not change during the call.
pub(super) unsafe fn send_now(socket: &OwnedFd, bytes: &Outgoing) -> io::Result<usize> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    retried(|| {
        // SAFETY: the caller's promise. The kernel only reads, and gives EFAULT where a mapping has no bytes.
        let sent = unsafe {
            match *bytes {
                Outgoing::Bytes(start, length) => libc::send(socket.as_raw_fd(), start.cast(), length, flags),
                Outgoing::Message(header) => libc::sendmsg(socket.as_raw_fd(), header, flags),
            }
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    })
}

/// Sends when there is room.
///
/// # Safety
///
/// What `bytes` points to is there and does not change until the future has ended or was dropped.
pub(super) async unsafe fn send(socket: Arc<OwnedFd>, bytes: Outgoing) -> i32 {
    let sending = async {
        let socket = PollableFd::new(socket).map_err(plain)?;
        loop {
            socket.writable().await.map_err(plain)?;
            // SAFETY: the future is there.
            match unsafe { send_now(socket.get_ref(), &bytes) } {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
        }
    };
    code(sending.await)
}

/// Begins to connect; `is_under_way` tells which errors are none.
pub(super) fn connect_now(socket: &OwnedFd, address: &SockAddr) -> io::Result<()> {
    let socket = SockRef::from(socket);
    socket.set_nonblocking(true)?;
    socket.connect(address)
}

/// The connection is being made, or the backlog of a Unix socket is full.
pub(super) fn is_under_way(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINPROGRESS | libc::EAGAIN))
}

/// Goes on with a connect that is under way.
pub(super) async fn connect(socket: Arc<OwnedFd>, address: SockAddr) -> i32 {
    let connecting = async {
        if address.is_unix() {
            loop {
                Timer::new(BACKLOG_PAUSE).await;
                match connect_now(&socket, &address) {
                    Err(error) if is_under_way(&error) => {}
                    outcome => return outcome.map(|()| 0),
                }
            }
        }
        let socket = PollableFd::new(socket).map_err(plain)?;
        socket.writable().await.map_err(plain)?;
        SockRef::from(socket.get_ref()).take_error()?.map_or(Ok(0), Err)
    };
    code(connecting.await)
}

/// Receives for as long as there is something; the pieces go to the operation's queue.
pub(super) async fn receive(shared: Rc<Shared>, user_data: u64, socket: Arc<OwnedFd>) -> i32 {
    let receiving = async {
        let socket = PollableFd::new(socket).map_err(plain)?;
        loop {
            socket.readable().await.map_err(plain)?;
            for _ in 0..RECEIVES {
                let mut scratch = shared.scratch.borrow_mut();
                let length = match receive_now(socket.get_ref().as_raw_fd(), &mut scratch) {
                    Ok(0) => return Ok(0),
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
                let full = length == scratch.len();
                let gain = Gain::Received(scratch[..length].to_vec());
                shared.push(Event { user_data, result: length as i32, more: true, gain });
                if !full {
                    break;
                }
            }
        }
    };
    code(receiving.await)
}

fn receive_now(socket: RawFd, scratch: &mut [u8]) -> io::Result<usize> {
    retried(|| {
        // SAFETY: the kernel writes at most the slice's length into it.
        let length =
            unsafe { libc::recv(socket, scratch.as_mut_ptr().cast(), scratch.len(), libc::MSG_DONTWAIT) };
        usize::try_from(length).map_err(|_| io::Error::last_os_error())
    })
}

/// Accepts for as long as it works; the connections go to the operation's queue.
pub(super) async fn accept(shared: Rc<Shared>, user_data: u64, socket: Arc<OwnedFd>) -> i32 {
    let accepting = async {
        SockRef::from(&*socket).set_nonblocking(true)?;
        let socket = PollableFd::new(socket).map_err(plain)?;
        loop {
            socket.readable().await.map_err(plain)?;
            for _ in 0..ACCEPTS {
                match retried(|| SockRef::from(socket.get_ref()).accept()) {
                    Ok((connection, _)) => {
                        let gain = Gain::Connection(connection.into());
                        shared.push(Event { user_data, result: 0, more: true, gain });
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
    };
    code(accepting.await)
}

fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
