//! SIGINT and SIGTERM, the signals that end nothing, and the bond to the process that started this one.
//!
//! Threads: the helpers here and in `children` block on a pipe for as long as the process lives. They are the
//! command's own, outside every shard and never part of a simulated run, so they are plain threads.

use crate::exit::Failure;
use chasqui_runtime::{now, process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Starts a named helper thread.
pub(crate) fn helper(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(body).map(drop).map_err(|error| Failure::internal("cannot start a thread", error))
}

/// A signal that comes this soon after the first is the same one, sent twice: by a supervisor to the process and to its
/// group, or by a parent that also ends.
const SAME_WITHIN: Duration = Duration::from_secs(1);

/// What SIGHUP asks for, where it asks for anything.
static ON_HANGUP: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// Has SIGHUP call `reload`, on a thread of its own. Called once.
pub(crate) fn on_hangup(reload: impl Fn() + Send + Sync + 'static) {
    let _once = ON_HANGUP.set(Box::new(reload));
}

/// Keeps SIGHUP, SIGUSR1 and SIGUSR2 from ending the process: the first does what [`on_hangup`] was given, the others mean
/// nothing. To be called first, because by default they kill.
pub(crate) fn outlive_others() -> Result<(), Failure> {
    let mut signals =
        Signals::new([SIGHUP, SIGUSR1, SIGUSR2]).map_err(|error| Failure::internal("signals", error))?;
    helper("signals-others", move || {
        for signal in signals.forever() {
            match ON_HANGUP.get() {
                Some(reload) if signal == SIGHUP => reload(),
                None if signal == SIGHUP => log::warn!("SIGHUP: nothing is reloaded here; restart"),
                _ => {}
            }
        }
    })
}

/// Keeps SIGXFSZ from ending the process: a file that may not grow any more, by `ulimit -f`, is an error of that file, as a
/// full disk is.
pub(crate) fn outlive_size_limit() -> Result<(), Failure> {
    let nobody_asks = Arc::default();
    signal_hook::flag::register(SIGXFSZ, nobody_asks)
        .map(drop)
        .map_err(|error| Failure::internal("signals", error))
}

/// Calls `deliver` for every SIGINT and SIGTERM as long as the process lives, but not for one that repeats the first.
pub(crate) fn on_signals(mut deliver: impl FnMut() + Send + 'static) -> Result<(), Failure> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(|error| Failure::internal("signals", error))?;
    let mut first = None;
    helper("signals", move || {
        signals.forever().for_each(|_| {
            let came = now();
            match first {
                Some(first) if came.saturating_sub(first) < SAME_WITHIN => {}
                _ => {
                    first.get_or_insert(came);
                    deliver();
                }
            }
        });
    })
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
            // Nobody is left to tell when stderr is gone.
            let _ = writeln!(std::io::stderr(), "chasqui: a second signal: ended without draining");
            std::process::exit(1);
        }
        draining = true;
        drain();
    })?;
    parent.map_or(Ok(()), |parent| {
        process::end_with_parent(parent).map_err(|error| Failure::internal("cannot watch the parent", error))
    })
}
