//! A simulation from its seed to its end.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use super::options::Options;
use super::world::World;

/// A simulation that has not begun.
#[derive(Debug)]
pub struct Simulation {
    seed: u64,
    options: Options,
}

/// How a simulation went.
#[derive(Clone, Debug)]
pub struct Outcome<T> {
    /// What the control returned.
    pub value: T,
    /// Hash over every choice and event: two runs with one trace took the same steps.
    pub trace: u64,
    /// Polls and events.
    pub events: u64,
    /// Virtual time that passed.
    pub elapsed: Duration,
}

/// Why a simulation did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// More events than [`Options::events_max`].
    #[error("seed {seed}: stuck after {events} events and {elapsed:?} of virtual time; busiest: {busiest}")]
    Stuck {
        /// The seed.
        seed: u64,
        /// Polls and events until then.
        events: u64,
        /// Virtual time that had passed.
        elapsed: Duration,
        /// As [`Outcome::trace`].
        trace: u64,
        /// The node whose tasks ran most often, and how often.
        busiest: String,
    },
    /// The control waits, and nothing is left that could happen.
    #[error(
        "seed {seed}: nothing is left that could happen after {events} events and {elapsed:?} of virtual time"
    )]
    Idle {
        /// The seed.
        seed: u64,
        /// Polls and events until then.
        events: u64,
        /// Virtual time that had passed.
        elapsed: Duration,
        /// As [`Outcome::trace`].
        trace: u64,
    },
}

impl Simulation {
    /// A simulation whose every choice follows from `seed`.
    pub fn new(seed: u64, options: Options) -> Self {
        Self { seed, options }
    }

    /// Runs `control` as a node of its own until it ends, whatever else still runs then. A panic of any task goes
    /// on to the caller.
    pub fn run<F, Fut, T>(self, control: F) -> Result<Outcome<T>, Failure>
    where
        F: FnOnce() -> Fut + 'static,
        Fut: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let world = World::new(self.seed, self.options);
        let installed = world.install();
        let run = || {
            let node = world.add_node("control");
            let (process, mut result) = world.start_process(node, async move { control().await });
            let ended = turn(&world, || !world.is_alive(process));
            world.end_everything();
            let value =
                futures_lite::future::block_on(futures_lite::future::poll_once(&mut result)).flatten();
            (ended, value)
        };
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok((ended, value)) => {
                let (events, trace) = (world.steps(), world.trace());
                let elapsed = Duration::from_nanos(world.elapsed_ns());
                drop(installed);
                let seed = self.seed;
                match ended {
                    Ended::Over => {
                        let value = value.expect("the control's process ends with its result");
                        Ok(Outcome { value, trace, events, elapsed })
                    }
                    Ended::Stuck => {
                        let busiest = world.busiest();
                        Err(Failure::Stuck { seed, events, elapsed, trace, busiest })
                    }
                    Ended::Idle => Err(Failure::Idle { seed, events, elapsed, trace }),
                }
            }
            Err(panic) => {
                // What the panic has left half done must not run again, not even to be dropped.
                std::mem::forget(world.clone());
                drop(installed);
                resume_unwind(panic)
            }
        }
    }
}

enum Ended {
    Over,
    Stuck,
    Idle,
}

/// The simulator's loop: due events first, then timers, then one task; with nothing to run, the clock jumps.
fn turn(world: &Rc<World>, over: impl Fn() -> bool) -> Ended {
    loop {
        world.carry_out_endings();
        if over() {
            return Ended::Over;
        }
        if world.steps() > world.options.events_max {
            return Ended::Stuck;
        }
        if let Some(event) = world.take_due_event() {
            world.happen(event);
            continue;
        }
        let timer = world.expire_timers();
        if let Some(picked) = world.pick() {
            world.run(picked);
            world.advance_to(world.now() + world.between(&world.options.poll_ns));
            continue;
        }
        match (world.next_event_at(), timer) {
            (Some(event), Some(timer)) => world.advance_to(event.min(timer)),
            (Some(at), None) | (None, Some(at)) => world.advance_to(at),
            (None, None) => return Ended::Idle,
        }
    }
}
