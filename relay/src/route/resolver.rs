//! The process's one resolver: hickory on a control thread, asked by the shards through a channel; in the simulator,
//! made-up names.

use std::fmt;
use std::thread;
use std::time::Duration;

use chasqui_runtime::channel::{OneshotReceiver, oneshot};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
use tokio::sync::mpsc;

use super::config::ResolverConfig;
use super::question::{Outcome, Question};
use super::schedule::{Request, Schedule};
use super::servers::Servers;
use super::simulated::{Names, SimulatedAnswer};

/// Questions on their way to the control thread, of all shards together.
const QUEUE_MAX: usize = 65_536;
/// Why the resolver could not start: one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// No name servers in the configuration, and none in the system's.
    #[error("no name servers: /etc/resolv.conf: {0}; name some under dns.servers")]
    NoServers(String),
    /// The control thread or its runtime failed to start.
    #[error("cannot start the resolver: {0}")]
    Thread(String),
}

/// Handle to what resolves names, from any thread. hickory's control thread ends with the last handle.
#[derive(Clone)]
pub struct Resolver(Source);

#[derive(Clone)]
enum Source {
    Hickory(mpsc::Sender<Request>),
    Simulated(Names),
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

impl Resolver {
    /// Starts the control thread.
    pub fn start(config: ResolverConfig) -> Result<Resolver, ResolverError> {
        let servers = name_servers(&config)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ResolverError::Thread(error.to_string()))?;
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        thread::Builder::new()
            .name("dns-resolver".to_owned())
            .spawn(move || runtime.block_on(serve(queue, servers, config)))
            .map_err(|error| ResolverError::Thread(error.to_string()))?;
        Ok(Resolver(Source::Hickory(requests)))
    }

    /// Names of a simulation: `answers` says what is known of a domain, and how long the answer takes.
    pub fn simulated(
        answers: impl Fn(&str) -> (Duration, SimulatedAnswer) + Send + Sync + 'static,
    ) -> Resolver {
        Resolver(Source::Simulated(Names::new(answers)))
    }

    /// Asks a question; `None` when too many are on their way. The future gives `None` if the thread died. `has_failed`: the
    /// last lookup of the same name was a temporary failure.
    pub(super) fn ask(&self, question: Question, has_failed: bool) -> Option<OneshotReceiver<Outcome>> {
        match &self.0 {
            Source::Hickory(requests) => {
                let (reply, answered) = oneshot();
                requests.try_send(Request::new(question, has_failed, reply)).ok()?;
                Some(answered)
            }
            Source::Simulated(names) => Some(names.ask(question)),
        }
    }
}

fn name_servers(config: &ResolverConfig) -> Result<Vec<NameServerConfig>, ResolverError> {
    if config.servers.is_empty() {
        let (system, _) = hickory_resolver::system_conf::read_system_conf()
            .map_err(|error| ResolverError::NoServers(error.to_string()))?;
        return Ok(system.name_servers);
    }
    let servers = config.servers.iter().map(|server| {
        let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
        udp.port = server.port();
        tcp.port = server.port();
        NameServerConfig::new(server.ip(), true, vec![udp, tcp])
    });
    Ok(servers.collect())
}

async fn serve(queue: mpsc::Receiver<Request>, servers: Vec<NameServerConfig>, config: ResolverConfig) {
    match Servers::new(servers, &config) {
        Ok(servers) => Schedule::new(servers, config.in_flight_max.max(1)).serve(queue).await,
        Err(error) => log::error!("the resolver cannot work: {error}"),
    }
}
