//! Connections from a listening socket.

use std::fmt;
use std::io;
use std::time::Duration;

use chasqui_runtime::net::{TcpListener, UnixListener};
use chasqui_runtime::{Seldom, sleep, spawn, timeout};
use futures_lite::future::or;

use crate::drain::Drain;
use crate::stream::Stream;
use crate::task_tracker::TaskTracker;

/// Pause after an accept failed for a reason that is not the connection's: long enough that a failure that stays costs nothing,
/// short enough that nobody's connect times out. The lack of descriptors is waited out by the runtime.
const FAULT_PAUSE: Duration = Duration::from_millis(100);
/// How long a pause in arrivals shows, at the end, that the backlog is empty.
const BACKLOG_PAUSE: Duration = Duration::from_millis(20);
/// Connections refused at the end; whoever keeps calling is cut off. Many more than any backlog holds.
const LAST_REFUSED_MAX: usize = 100_000;
/// What a line takes to leave, as a rule.
const REFUSAL_PAUSE: Duration = Duration::from_millis(1);
/// How long the line to a connection that is not served may take.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Gives a socket's connections until a drain begins.
#[derive(Debug)]
pub struct Acceptor {
    listener: Listener,
    drain: Drain,
    refusals: Refusals,
    faults: Seldom,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Acceptor {
    /// Accepts on a TCP socket. Connections that are refused are counted by `refusals`.
    pub fn tcp(listener: TcpListener, drain: Drain, refusals: Refusals) -> Acceptor {
        Acceptor { listener: Listener::Tcp(listener), drain, refusals, faults: Seldom::default() }
    }

    /// Accepts on a Unix socket for as long as it lives; connections that are not served are closed without a word.
    pub fn unix(listener: UnixListener) -> Acceptor {
        let (drain, refusals) = (Drain::default(), Refusals::new(0));
        Acceptor { listener: Listener::Unix(listener), drain, refusals, faults: Seldom::default() }
    }

    /// Waits for the next connection; none: the drain has begun. Waits out what makes an accept fail, and says so in the log
    /// now and then.
    pub async fn next(&self) -> Option<Stream> {
        self.refusals.let_go().await;
        while !self.drain.has_begun() {
            let drained = async {
                self.drain.notified().await;
                None
            };
            match or(async { Some(self.listener.accept().await) }, drained).await? {
                Ok(stream) => return Some(stream),
                Err(error) => self.wait_out(&error).await,
            }
        }
        None
    }

    /// Closes a connection with this line as its last words.
    pub fn refuse(&self, stream: Stream, line: Vec<u8>) {
        self.refusals.refuse(stream, line);
    }

    /// Refuses, at the end, what is in the backlog, since closing the socket would reset it.
    pub async fn refuse_backlog(&self, line: &[u8]) {
        for _ in 0..LAST_REFUSED_MAX {
            let Ok(Ok(stream)) = timeout(BACKLOG_PAUSE, self.listener.accept()).await else { return };
            self.refuse(stream, line.to_vec());
            self.refusals.let_go().await;
        }
    }

    async fn wait_out(&self, error: &io::Error) {
        if let Some(times) = self.faults.happened() {
            log::warn!("cannot accept on {self} ({times} times): {error}");
        }
        sleep(FAULT_PAUSE).await;
    }
}

/// Where it listens.
impl fmt::Display for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.listener {
            Listener::Tcp(listener) => write!(f, "{}", listener.local_addr()),
            Listener::Unix(listener) => write!(f, "{}", listener.path().display()),
        }
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => listener.accept().await.map(|(stream, _)| stream.into()),
            Listener::Unix(listener) => listener.accept().await.map(Stream::from),
        }
    }
}

/// The connections that are being told that they are not served. Clones share one state.
#[derive(Clone, Debug)]
pub struct Refusals {
    tasks: TaskTracker,
    /// At a time; further ones are closed without a word.
    max: usize,
}

impl Refusals {
    /// At most `max` at a time: each holds a descriptor.
    pub fn new(max: usize) -> Refusals {
        Refusals { tasks: TaskTracker::default(), max }
    }

    /// Waits until there are none.
    pub async fn empty(&self) {
        self.tasks.empty().await;
    }

    fn refuse(&self, stream: Stream, line: Vec<u8>) {
        if self.tasks.count() >= self.max {
            return;
        }
        let guard = self.tasks.track();
        spawn(async move {
            // Whoever does not take the line is closed all the same.
            let _unheard = timeout(REFUSAL_TIMEOUT, stream.write_all(line)).await;
            stream.shutdown();
            drop(guard);
        });
    }

    /// While there are as many as there may be, gives their last words a moment to leave.
    async fn let_go(&self) {
        if self.max > 0 && self.tasks.count() >= self.max {
            sleep(REFUSAL_PAUSE).await;
        }
    }
}
