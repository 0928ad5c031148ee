//! What keeps one POP3 or IMAP session from holding up the others of its shard, and how one is ended.

use std::time::Duration;

use chasqui_runtime::{now, turn_time, yield_now};
use chasqui_transport::Stream;

/// A session that has work without end lets the others run after so long.
const TURN_MAX: Duration = Duration::from_millis(2);

/// Ends a connection whose last words are sent. A client that `may_send` is read on until it has heard them: to close on what it
/// sends would reset the connection, and take them from it.
pub(crate) async fn hang_up(stream: &Stream, may_send: bool) {
    match may_send {
        true => stream.linger().await,
        false => stream.shutdown(),
    }
}

/// Lets the other tasks of the shard run when its turn has lasted long. Call it after each command, and after each batch of a
/// command over many messages.
pub(crate) async fn let_others_run() {
    if now() - turn_time() > TURN_MAX {
        yield_now().await;
    }
}
