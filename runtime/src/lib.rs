//! Thread-per-core runtime of Chasqui: shards, tasks, time, sockets, files and channels between shards.
//!
//! Every shard is one OS thread, pinned to one core, with a ring, buffers, timers and tasks of its own.
//! Code above this crate is ordinary `async fn`; it takes clocks, randomness, threads and the iteration
//! order of maps from here alone, so that the same code can run under a simulated engine.
//!
//! This is the only crate of the workspace in which `unsafe` is allowed.

mod blocking;
pub mod channel;
#[cfg(feature = "count-allocations")]
pub mod counting;
mod descriptor;
mod engine;
mod executor;
pub mod fs;
mod handshake;
mod map;
pub mod net;
mod prefetch;
pub mod process;
mod rng;
mod room;
mod seldom;
mod shard;
pub mod sim;
pub mod sync;
mod time;
mod wheel;

/// The atomics of [`handshake`], which its test takes from loom.
mod atomic {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

pub use blocking::spawn_blocking;
pub use engine::uring::{RingCounts, ring_counts};
pub use engine::{EngineChoice, EngineKind, UnknownEngine};
pub use executor::{JoinHandle, spawn, yield_now};
pub use map::{HashMap, HashSet, Seeded};
pub use rng::{Rng, SeededRng, rng, secret};
pub use seldom::Seldom;
pub use shard::{Config, Shards, StartError, available_cores, run, shard, shard_count, shard_local};
pub use time::{
    Elapsed, Instant, Sleep, Timeout, now, sleep, sleep_until, timeout, timeout_at, turn_time, wall_clock,
};
