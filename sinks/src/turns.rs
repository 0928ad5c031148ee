//! What keeps one session from holding up the others of its shard, and what ends all of them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::net::TcpStream;
use chasqui_runtime::sync::{Notified, Notify};
use chasqui_runtime::{now, timeout, turn_time, yield_now};

/// A session that has work without end lets the others run after so long.
const TURN_MAX: Duration = Duration::from_millis(2);

/// How long is read what a client goes on to send after its session was ended.
const LINGER: Duration = Duration::from_secs(5);

/// Ends a connection whose last words are sent. A client that `may_send` is read on until it has heard them: to close on what it
/// sends would reset the connection, and take them from it.
pub(crate) async fn hang_up(stream: &TcpStream, may_send: bool) {
    stream.shutdown();
    if may_send {
        let unheard = async { while stream.read().await.is_ok_and(|piece| !piece.is_empty()) {} };
        let _slow = timeout(LINGER, unheard).await;
    }
}

/// Lets the other tasks of the shard run when its turn has lasted long. Call it after each command, and after each batch of a
/// command over many messages.
pub(crate) async fn let_others_run() {
    if now() - turn_time() > TURN_MAX {
        yield_now().await;
    }
}

/// Tells the POP3 and IMAP sessions of a shard that it shuts down. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Closing(Rc<State>);

#[derive(Debug, Default)]
struct State {
    begun: Cell<bool>,
    changed: Notify,
}

impl Closing {
    /// Ends the sessions when they wait for their clients.
    pub(crate) fn begin(&self) {
        self.0.begun.set(true);
        self.0.changed.notify_all();
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.0.begun.get()
    }

    /// One session's ear: ready when it has begun after the first poll.
    pub(crate) fn notified(&self) -> Notified {
        self.0.changed.notified()
    }
}
