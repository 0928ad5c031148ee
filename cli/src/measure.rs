//! One run of the load generator, watched: progress, Ctrl-C, and the death of a child.

use crate::exit::Failure;
use crate::progress::Display;
use crate::signals::on_signals;
use chasqui_loadgen::{Hooks, Outcome, Placement, RunError, Scenario, StartError};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

/// What may happen while a run goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// SIGINT or SIGTERM.
    Signal,
    /// A child process ended, though nobody asked it to.
    ChildEnded(&'static str),
}

/// Where events come together.
#[derive(Debug)]
pub(crate) struct Events {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

impl Events {
    /// Starts to listen for signals.
    pub(crate) fn listen() -> Result<Events, Failure> {
        let (sender, receiver) = channel();
        let signals = sender.clone();
        on_signals(move || {
            // Nobody listens once the command is over.
            let _ = signals.send(Event::Signal);
        })?;
        Ok(Events { sender, receiver })
    }

    /// Reports the end of a child.
    pub(crate) fn child_watch(&self) -> impl FnOnce(&'static str) + Send + 'static {
        let sender = self.sender.clone();
        move |name| {
            // Nobody listens once the run is over, when children are asked to end.
            let _ = sender.send(Event::ChildEnded(name));
        }
    }
}

/// Why a run came to no outcome.
#[derive(Debug)]
pub(crate) enum Cut {
    /// A child ended early; its owner knows its last words.
    ChildEnded(&'static str),
    /// Everything else.
    Failed(Failure),
}

/// Makes the load and waits for its end, looking at it ten times a second: then `watch` is called too. The first
/// signal ends the sending early, the second everything.
pub(crate) fn run(
    scenario: Scenario,
    placement: Placement,
    hooks: Hooks,
    events: &Events,
    display: &mut Display,
    mut watch: impl FnMut(),
) -> Result<Outcome, Cut> {
    let running = chasqui_loadgen::start(scenario, placement, hooks).map_err(|error| {
        Cut::Failed(match error {
            StartError::Shards(_) => Failure::internal("load generator", error),
            _ => Failure::Usage(error.to_string()),
        })
    })?;
    let mut signals = 0;
    while !running.is_finished() {
        match events.receiver.recv_timeout(Display::EVERY) {
            Ok(Event::Signal) if signals == 0 => {
                signals = 1;
                display.say("stopping: draining what was sent; once more to abort");
                running.stop();
            }
            Ok(Event::Signal) => {
                return Err(Cut::Failed(Failure::Internal("aborted by a second signal".into())));
            }
            Ok(Event::ChildEnded(name)) => return Err(Cut::ChildEnded(name)),
            Err(RecvTimeoutError::Timeout) => {
                display.show(&running.progress());
                watch();
            }
            Err(RecvTimeoutError::Disconnected) => unreachable!("`events` holds a sender"),
        }
    }
    display.show(&running.progress());
    running.join().map_err(|error| {
        Cut::Failed(match error {
            RunError::NotBegun(reason) => Failure::Usage(reason),
            _ => Failure::internal("load generator", error),
        })
    })
}
