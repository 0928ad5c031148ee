//! SIGINT and SIGTERM, and the bond to the process that started this one.
//!
//! Threads: the helpers here and in `children` block on a pipe for as long as the process lives. They are the
//! command's own, outside every shard and never part of a simulated run, so they are plain threads.

use crate::exit::Failure;
use chasqui_runtime::process;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Starts a named helper thread.
pub(crate) fn helper(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(body).map(drop).map_err(|error| Failure::internal("cannot start a thread", error))
}

/// Calls `deliver` for every SIGINT and SIGTERM as long as the process lives.
pub(crate) fn on_signals(mut deliver: impl FnMut() + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| Failure::internal("signals", error))?;
    helper("signals", move || signals.forever().for_each(|_| deliver()))
}

/// A server's signals: the first begins the drain, the second ends the process at once. With `parent`, the end of
/// that process, even by SIGKILL, counts as a signal.
pub(crate) fn drain_on_signals(
    drain: impl Fn() + Send + 'static,
    parent: Option<u32>,
) -> Result<(), Failure> {
    let mut draining = false;
    on_signals(move || {
        if draining {
            eprintln!("chasqui: a second signal: ended without draining");
            std::process::exit(1);
        }
        draining = true;
        drain();
    })?;
    parent.map_or(Ok(()), |parent| {
        process::end_with_parent(parent).map_err(|error| Failure::internal("cannot watch the parent", error))
    })
}
