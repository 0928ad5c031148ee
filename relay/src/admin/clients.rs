//! Who is connected to the control socket: nobody who is silent keeps others from being answered.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use chasqui_protocol::deadline::ReadDeadline;
use chasqui_runtime::sync::{Notify, Permit, Semaphore};
use chasqui_runtime::{timeout, turn_time};
use chasqui_transport::Stream;
use futures_lite::future::or;

/// Clients connected at a time; the next are closed at once.
const CLIENTS_MAX: usize = 1024;
/// Clients answered at a time; the next wait for their answer.
const ANSWERED_MAX: usize = 32;
/// Clients that have asked nothing, or not all of it; of more, the one that has been silent longest is closed.
const SILENT_MAX: usize = 32;
/// Octets of a request.
const REQUEST_MAX: usize = 4096;
/// Time a client may take for a whole request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// The clients of the control socket.
pub(super) struct Clients {
    count: Cell<usize>,
    answers: Semaphore,
    /// By the order in which the wait for their requests began.
    silent: RefCell<BTreeMap<u64, Notify>>,
    waits: Cell<u64>,
}

/// A client's place, given back when dropped.
pub(super) struct Client {
    clients: Rc<Clients>,
    /// What came behind the last request.
    unread: Vec<u8>,
}

/// What a client says.
pub(super) enum Request {
    /// A line, with its end.
    Line(Vec<u8>),
    /// It is too long to be one.
    TooLong,
    /// The client has left, or has made way.
    End,
}

impl Clients {
    pub(super) fn new() -> Rc<Clients> {
        Rc::new(Clients {
            count: Cell::new(0),
            answers: Semaphore::new(ANSWERED_MAX),
            silent: RefCell::default(),
            waits: Cell::new(0),
        })
    }

    /// `None`: there are too many.
    pub(super) fn enter(self: &Rc<Self>) -> Option<Client> {
        let count = self.count.get();
        if count >= CLIENTS_MAX {
            return None;
        }
        self.count.set(count + 1);
        Some(Client { clients: self.clone(), unread: Vec::new() })
    }
}

impl Client {
    /// The next request, awaited for a minute at most.
    pub(super) async fn request(&mut self, stream: &Stream) -> io::Result<Request> {
        let wait = self.clients.waits.replace(self.clients.waits.get() + 1);
        let outcome = self.read(stream, wait).await;
        self.clients.silent.borrow_mut().remove(&wait);
        outcome
    }

    async fn read(&mut self, stream: &Stream, wait: u64) -> io::Result<Request> {
        let mut deadline = ReadDeadline::new(REQUEST_TIMEOUT);
        loop {
            if let Some(end) = self.unread.iter().position(|&byte| byte == b'\n') {
                let rest = self.unread.split_off(end + 1);
                return Ok(Request::Line(std::mem::replace(&mut self.unread, rest)));
            }
            if self.unread.len() > REQUEST_MAX {
                return Ok(Request::TooLong);
            }
            let leave = self.clients.fall_silent(wait);
            let begun = turn_time();
            let left = async {
                leave.notified().await;
                None
            };
            let piece = timeout(deadline.left(), or(async { Some(stream.read().await) }, left)).await;
            let Some(piece) = piece.map_err(|_| io::ErrorKind::TimedOut)? else { return Ok(Request::End) };
            let piece = piece?;
            if piece.is_empty() {
                return Ok(Request::End);
            }
            deadline.waited(turn_time() - begun);
            self.unread.extend_from_slice(&piece);
        }
    }

    /// The turn to be answered.
    pub(super) async fn turn(&self) -> Permit {
        self.clients.answers.acquire(1).await
    }
}

impl Clients {
    /// Counts a client among the silent ones; it is told when it has to go.
    fn fall_silent(&self, wait: u64) -> Notify {
        let mut silent = self.silent.borrow_mut();
        let leave = silent.entry(wait).or_default().clone();
        if silent.len() > SILENT_MAX
            && let Some((_, longest)) = silent.pop_first()
        {
            longest.notify_one();
        }
        leave
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.clients.count.set(self.clients.count.get() - 1);
    }
}
