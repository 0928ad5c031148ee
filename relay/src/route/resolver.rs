//! The process's one resolver: hickory on a control thread, asked by the shards through a channel; in the simulator,
//! made-up names.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use chasqui_runtime::mailbox::{OneshotReceiver, OneshotSender, oneshot};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
use tokio::sync::{Semaphore, mpsc};

use super::lookup::{Failure, Outcome, Question, answer};
use super::servers::Servers;
use super::simulated::{Names, SimulatedAnswer};

/// Questions that may wait for the resolver, of all shards together.
const QUEUE_MAX: usize = 65_536;

/// How to resolve names.
#[derive(Clone, Debug)]
pub struct ResolverConfig {
    /// The name servers, which resolve recursively; when empty, those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// Limit of one attempt at one question to one name server, retransmissions included.
    pub timeout: Duration,
    /// How long a name server may be silent before the next one is asked too.
    pub hedge: Duration,
    /// Further attempts with name servers that were silent or answered SERVFAIL.
    pub attempts: usize,
    /// Domains that are looked up at the same time; others wait.
    pub in_flight_max: usize,
}

impl Default for ResolverConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(3),
            hedge: Duration::from_millis(500),
            attempts: 2,
            in_flight_max: 256,
        }
    }
}

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

struct Request {
    question: Question,
    reply: OneshotSender<Outcome>,
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

    /// Asks a question; `None` when too many wait already. The future gives `None` if the thread died.
    pub(super) fn ask(&self, question: Question) -> Option<OneshotReceiver<Outcome>> {
        match &self.0 {
            Source::Hickory(requests) => {
                let (reply, answered) = oneshot();
                requests.try_send(Request { question, reply }).ok()?;
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

async fn serve(mut queue: mpsc::Receiver<Request>, servers: Vec<NameServerConfig>, config: ResolverConfig) {
    let servers = match Servers::new(servers, &config) {
        Ok(servers) => Arc::new(servers),
        Err(error) => {
            log::error!("the resolver cannot work: {error}");
            return;
        }
    };
    let in_flight = Arc::new(Semaphore::new(config.in_flight_max.max(1)));
    // One lookup for the MX, two for the addresses, and some more: whatever happens inside, a question ends.
    let limit = servers.limit() * 4;
    while let Some(Request { question, reply }) = queue.recv().await {
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        let servers = servers.clone();
        tokio::spawn(async move {
            let outcome = tokio::time::timeout(limit, answer(&servers, question)).await;
            let outcome = outcome.unwrap_or_else(|_elapsed| {
                Err(Failure::Temporary { reason: "the name servers took too long".to_owned() })
            });
            // A shard that ended meanwhile does not want it any more.
            let _ = reply.send(outcome);
            drop(permit);
        });
    }
}
