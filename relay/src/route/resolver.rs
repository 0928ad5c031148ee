//! The process's one resolver: hickory on a control thread, asked by the shards through a channel; in the simulator,
//! made-up names.

use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use chasqui_runtime::mailbox::{OneshotReceiver, OneshotSender, oneshot};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::lookup::{Failure, Outcome, Question, answer};
use super::servers::Servers;
use super::simulated::{Names, SimulatedAnswer};

/// Questions that may wait for the resolver, of all shards together.
const QUEUE_MAX: usize = 65_536;

/// A lookup that takes longer than this gives its place to the next one and goes on among the slow ones, so that domains
/// whose name servers are silent hold up nobody else.
const SLOW_AFTER: Duration = Duration::from_millis(1500);
/// Places among the slow ones for each place among the others; who finds none ends without an answer.
const SLOW_PLACES: usize = 2;

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
    /// Domains that are looked up at the same time; others wait. Twice as many more go on when they take long.
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
    let places = config.in_flight_max.max(1);
    let (quick, slow) =
        (Arc::new(Semaphore::new(places)), Arc::new(Semaphore::new(places.saturating_mul(SLOW_PLACES))));
    while let Some(Request { question, reply }) = queue.recv().await {
        let Ok(place) = quick.clone().acquire_owned().await else { return };
        let (servers, slow) = (servers.clone(), slow.clone());
        tokio::spawn(async move {
            // A shard that ended meanwhile does not want it any more.
            let _ = reply.send(answer_in_time(&servers, question, place, slow).await);
        });
    }
}

/// Answers within bounded time, and keeps `place` for the beginning of it.
async fn answer_in_time(
    servers: &Arc<Servers>,
    question: Question,
    place: OwnedSemaphorePermit,
    slow: Arc<Semaphore>,
) -> Outcome {
    // One lookup for the MX, two for the addresses, and some more: whatever happens inside, a question ends.
    let mut answer = pin!(timeout(servers.limit() * 4, answer(servers, question)));
    let outcome = match timeout(SLOW_AFTER, &mut answer).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let Ok(_slow_place) = slow.try_acquire_owned() else {
                return Err(Failure::Temporary { reason: "too many slow lookups are under way".to_owned() });
            };
            drop(place);
            answer.await
        }
    };
    outcome.unwrap_or_else(|_elapsed| {
        Err(Failure::Temporary { reason: "the name servers took too long".to_owned() })
    })
}
