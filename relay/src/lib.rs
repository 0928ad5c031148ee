//! The SMTP relay: listen → session → spool → queue → route → deliver.
//!
//! A message's way: a session of `server` writes it into the [`spool`] and answers 250 when it is committed; `delivery` asks
//! for a [`route`], puts it into the `queue`, sends it on from the spool's pages, and records its end in the spool. Each shard does
//! all of this with sockets, spool, queue and connections of its own.

mod admin;
mod clock;
pub mod config;
mod context;
mod credentials;
mod delivery;
mod descriptors;
mod dsn;
mod error;
mod lifecycle;
mod metrics;
pub mod preflight;
mod process;
mod queue;
pub mod route;
mod server;
pub mod spool;
mod suspensions;
#[cfg(test)]
mod tests;
mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use chasqui_runtime::net::PortClaims;
use chasqui_runtime::process::raise_open_files;
use chasqui_runtime::{EngineKind, Shards, channel};
use futures_lite::future::block_on;

pub use chasqui_protocol::control::RelayReady;
pub use config::{Config, ConfigError};
pub use metrics::{RelayStats, RouteStats, ShardStats, metrics};

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use credentials::fuzz as fuzz_credentials;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use spool::fuzzing::recover as fuzz_recovery;

use descriptors::Fit;
use error::ShardError;
use process::Process;
use route::{Resolver, ResolverConfig};

/// Where the relay runs.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The engine under the runtime.
    pub engine: EngineKind,
    /// One shard per entry, pinned to that core.
    pub cores: Vec<usize>,
}

/// The relay could not be started: one line that says what is wrong and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartError(String);

/// The relay did not end as it should: one line per shard that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}
impl std::error::Error for RunError {}

/// A relay that runs.
#[derive(Debug)]
pub struct Running {
    process: Arc<Process>,
    shards: Shards<Result<(), Arc<ShardError>>>,
    ready: RelayReady,
}

/// Ends a relay from any thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Process>);

impl Stopper {
    /// As [`Running::shutdown`].
    pub fn shutdown(&self) {
        self.0.shut_down();
    }
}

/// Reloads what a relay reads at its start, from any thread.
#[derive(Debug, Clone)]
pub struct Reloader(Arc<Process>);

impl Reloader {
    /// Reads the certificates of the listeners and the users again; connections stay. Blocks the thread. An error is one line, and leaves those from
    /// before.
    pub fn reload(&self) -> Result<(), StartError> {
        self.0.reload().map_err(|error| StartError(error.to_string()))
    }
}

/// Starts a relay, and waits until its spool is recovered and every shard listens. Blocks the thread.
pub fn start(config: Config, placement: Placement) -> Result<Running, StartError> {
    let files =
        raise_open_files().map_err(|error| StartError(format!("the limit of open files: {error}")))?;
    let names = ResolverConfig { servers: config.dns.servers.clone(), ..ResolverConfig::for_files(files) };
    let resolver = Resolver::start(names).map_err(|error| StartError(error.to_string()))?;
    block_on(launch(config, placement, resolver))
}

/// As [`start`] without blocking, with names that are resolved as `resolver` does.
pub async fn launch(
    mut config: Config,
    placement: Placement,
    resolver: Resolver,
) -> Result<Running, StartError> {
    for warning in config.warnings() {
        log::warn!("{warning}");
    }
    let addresses: Vec<SocketAddr> = config.listeners().iter().map(|listener| listener.address).collect();
    let claims = PortClaims::take(&addresses)
        .map_err(|(address, error)| StartError(ShardError::Listen { address, error }.to_string()))?;
    let count = placement.cores.len();
    let fit = fit_open_files(&mut config, count);
    let (reports, mut outcomes) = channel::bounded(count);
    let process = Process::new(config, resolver, count, fit.backlog, reports);
    let process = Arc::new(process.map_err(|error| StartError(error.to_string()))?);
    let runtime =
        chasqui_runtime::Config { name: "relay".into(), engine: placement.engine, cores: placement.cores };
    let for_shards = process.clone();
    let shards = Shards::start(runtime, move || lifecycle::run(for_shards.clone()))
        .map_err(|error| StartError(error.to_string()))?;
    let mut listen = Vec::new();
    let mut failure = None;
    // Every shard reports once; when one fails, those that wait for it are told to end and report that.
    for _ in 0..count {
        match outcomes.recv().await {
            Some((0, Ok(addresses))) => listen = addresses,
            Some((_, Ok(_))) => {}
            Some((_, Err(error))) => {
                failure.get_or_insert(error);
                process.shut_down();
            }
            None => break,
        }
    }
    drop(claims);
    if let Some(cause) = failure {
        shards.ended().await;
        return Err(StartError(cause.to_string()));
    }
    let control = process.config.control.socket.clone();
    let ready = RelayReady { listen, control, pid: chasqui_runtime::process::id() };
    Ok(Running { process, shards, ready })
}

/// Lowers the limits on connections to what the limit on open files allows.
fn fit_open_files(config: &mut Config, shards: usize) -> Fit {
    // A limit that nobody tells limits nothing.
    let limit = chasqui_runtime::process::open_files_max().unwrap_or(u64::MAX);
    let fit = Fit::new(config, shards, limit);
    if let Some(warning) = fit.apply(config, limit) {
        log::warn!("{warning}");
    }
    fit
}

impl Running {
    /// Where the relay listens.
    pub fn ready(&self) -> RelayReady {
        self.ready.clone()
    }

    /// A handle that reloads certificates from another thread.
    pub fn reloader(&self) -> Reloader {
        Reloader(self.process.clone())
    }

    /// A handle that ends the relay from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.process.clone())
    }

    /// Begins the end: no new connections, transactions under way are finished within `limits.drain`, the spool is
    /// flushed. Returns at once; [`Running::join`] waits. Calling it again does no harm.
    pub fn shutdown(&self) {
        self.process.shut_down();
    }

    /// Waits until every shard has ended. Blocks the thread.
    pub fn join(self) -> Result<(), RunError> {
        block_on(self.ended())
    }

    /// Waits until every shard has ended.
    pub async fn ended(self) -> Result<(), RunError> {
        let outcomes = self.shards.ended().await;
        let failures: Vec<String> = outcomes
            .into_iter()
            .enumerate()
            .filter_map(|(shard, outcome)| match outcome {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(format!("shard {shard}: {error}")),
                Err(_) => Some(format!("shard {shard} panicked")),
            })
            .collect();
        if failures.is_empty() { Ok(()) } else { Err(RunError(failures.join("\n"))) }
    }
}
