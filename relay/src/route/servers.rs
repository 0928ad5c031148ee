//! The name servers: who is asked, in which order, and what counts as an answer. Runs on the resolver's control thread.
//!
//! hickory's pool takes the first error that comes for the answer, so each server has a hickory of its own here, and which
//! of them is believed is decided by these rules:
//!
//! 1. Servers are asked in the configured order; the next one when a server errs, and when it has been silent for a
//!    while (a hedge: the first may still answer). Everything but NOERROR and NXDOMAIN is an error, and so are a referral
//!    and an answer without records that proves nothing (no SOA).
//! 2. A server that could not tell what another one told is asked last for 1 to 30 s. When all of them fail, it is the name
//!    that is at fault, and no server rests.
//! 3. Servers that stay silent or answer SERVFAIL are asked again, the others are not (RFC 9520, section 3.1).
//! 4. FORMERR, NOTIMP and BADVERS to a question with EDNS are asked again without it (RFC 6891, section 7), and so is
//!    silence: a FORMERR may lack the question, and then it cannot be told from a forged answer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chasqui_runtime::net::is_shortage;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverOpts};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::budget::Budget;
use super::config::ResolverConfig;
use super::question::Failure;

/// Name servers that are asked; those behind are left out.
const SERVERS_MAX: usize = 8;
/// Questions under way on one TCP connection to a name server (hickory's own default is 32).
const TCP_REQUESTS_MAX: usize = 1024;
/// How long a server that could not tell what another one told is asked last; twice as long each time in a row.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);
/// How long a server that understood a question without EDNS alone is asked without.
const PLAIN_FOR: Duration = Duration::from_secs(60);

/// What the name servers say of a name and a type.
#[derive(Debug)]
pub(super) enum Answer {
    /// Records of the type are among them, behind the CNAMEs that lead there.
    Records(Lookup),
    /// NXDOMAIN, with the SOA's negative TTL where there was one.
    NoSuchName { ttl: Option<Duration> },
    /// No such record, proven by the SOA.
    NoData { ttl: Duration },
    /// Every server says NOERROR without records, SOA or NS. RFC 2308, section 2.2, has it as NODATA, but it proves nothing.
    Unproven,
}

/// The process's name servers.
#[derive(Debug)]
pub(super) struct Servers {
    servers: Vec<Server>,
    /// After so long without an answer the next server is asked too.
    hedge: Duration,
    /// Times that a silent server is asked again.
    attempts: usize,
    /// Limit of a lookup, whatever happens inside.
    limit: Duration,
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    with_edns: TokioResolver,
    without_edns: TokioResolver,
    standing: Mutex<Standing>,
}

/// What one server says.
#[derive(Debug)]
enum Verdict {
    Answer(Answer),
    Error(Fault),
}

#[derive(Debug)]
enum Fault {
    Silence,
    Code(ResponseCode),
    Referral,
    /// Nothing there, and nothing that proves it.
    Unproven,
    /// It was not asked, for lack of something that is ours.
    Lacking(String),
    Other(String),
}

/// Why no server has answered.
#[derive(Debug)]
pub(super) struct Unanswered {
    reason: String,
    is_ours: bool,
}

impl Unanswered {
    /// The failure of a lookup.
    pub(super) fn of(self, lookup: &str) -> Failure {
        let reason = format!("{lookup}: {}", self.reason);
        if self.is_ours { Failure::Lacking { reason } } else { Failure::Temporary { reason } }
    }
}

/// How a lookup goes.
struct Progress {
    name: Name,
    kind: RecordType,
    /// Servers in the order in which they were asked, of all rounds.
    asked: Vec<usize>,
    /// The last fault of each server; none while it has not answered.
    faults: Vec<Option<Fault>>,
}

impl Servers {
    /// One hickory with EDNS and one without for each server; connections are made when they are needed.
    pub(super) fn new(servers: Vec<NameServerConfig>, config: &ResolverConfig) -> Result<Servers, NetError> {
        if let Some(left_out) = servers.get(SERVERS_MAX) {
            log::warn!(
                "more than {SERVERS_MAX} name servers: {} and those behind are not asked",
                left_out.ip
            );
        }
        let servers = servers.into_iter().take(SERVERS_MAX).map(|server| {
            Ok(Server {
                address: SocketAddr::new(server.ip, server.connections.first().map_or(53, |udp| udp.port)),
                with_edns: hickory(server.clone(), config, true)?,
                without_edns: hickory(server, config, false)?,
                standing: Mutex::default(),
            })
        });
        let servers = servers.collect::<Result<Vec<_>, NetError>>()?;
        let rounds = u32::try_from(config.attempts).unwrap_or(u32::MAX).saturating_add(1);
        let hedges = u32::try_from(servers.len()).unwrap_or(u32::MAX);
        // A round ends with the silence of the server asked last. One time more is for TCP.
        let limit = config.timeout.saturating_mul(rounds.saturating_add(1)) + config.hedge * hedges;
        Ok(Servers { servers, hedge: config.hedge, attempts: config.attempts, limit })
    }

    /// Limit of one lookup.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Asks until one server gives an answer. Errors say in one line what each server did.
    pub(super) async fn lookup(
        self: &Arc<Self>,
        name: Name,
        kind: RecordType,
        budget: &Budget,
    ) -> Result<Answer, Unanswered> {
        let faults = self.servers.iter().map(|_| None).collect();
        let mut progress = Progress { name, kind, asked: Vec::new(), faults };
        // For the one server that is always asked; the time of the lookup begins with it.
        let _permit = budget.permit().await;
        match timeout(self.limit, self.rounds(&mut progress, budget)).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) | Err(_) => self.without_answer(progress),
        }
    }

    async fn rounds(self: &Arc<Self>, progress: &mut Progress, budget: &Budget) -> Option<Answer> {
        let mut order = self.order();
        for round in 0..=self.attempts {
            if let Some(answer) = self.round(progress, budget, order.clone()).await {
                return Some(answer);
            }
            order.retain(|&index| progress.faults[index].as_ref().is_none_or(Fault::may_pass));
            if order.is_empty() || round == self.attempts {
                break;
            }
            if order.iter().any(|&index| matches!(progress.faults[index], Some(Fault::Code(_)))) {
                sleep(self.hedge).await;
            }
        }
        None
    }

    /// Asks every server of `order` unless one before it gives an answer.
    async fn round(
        self: &Arc<Self>,
        progress: &mut Progress,
        budget: &Budget,
        order: Vec<usize>,
    ) -> Option<Answer> {
        let mut order = VecDeque::from(order);
        // Dropped with the round: then nobody waits for those that were overtaken.
        let mut waiting = JoinSet::new();
        loop {
            // Beside one that is still silent only as far as there is leave for one more.
            let permit = if waiting.is_empty() { None } else { budget.try_permit() };
            if (waiting.is_empty() || permit.is_some())
                && let Some(index) = order.pop_front()
            {
                progress.asked.push(index);
                let was_silent = matches!(progress.faults[index], Some(Fault::Silence));
                let (servers, name, kind) = (self.clone(), progress.name.clone(), progress.kind);
                waiting.spawn(async move {
                    let _permit = permit;
                    (index, servers.servers[index].ask(name, kind, was_silent).await)
                });
            }
            let joined = if order.is_empty() {
                waiting.join_next().await?
            } else {
                match timeout(self.hedge, waiting.join_next()).await {
                    Ok(Some(joined)) => joined,
                    Ok(None) | Err(_) => continue,
                }
            };
            match joined {
                Ok((index, Verdict::Answer(answer))) => {
                    self.believe(index, progress);
                    return Some(answer);
                }
                Ok((index, Verdict::Error(fault))) => progress.faults[index] = Some(fault),
                Err(error) => log::error!("a lookup broke off: {error}"),
            }
        }
    }

    /// The order in which to ask now: as configured, but those that rest last.
    fn order(&self) -> Vec<usize> {
        let now = Instant::now();
        let (mut order, resting): (Vec<_>, Vec<_>) =
            (0..self.servers.len()).partition(|&index| self.servers[index].standing().is_fit(now));
        order.extend(resting);
        order
    }

    /// Whoever erred, or was asked before `winner` and has not answered, rests.
    fn believe(&self, winner: usize, progress: &Progress) {
        let now = Instant::now();
        let overtaken = progress.asked.iter().take_while(|&&index| index != winner);
        for (index, server) in self.servers.iter().enumerate() {
            if index == winner {
                server.standing().answered();
            } else if progress.faults[index].is_some() || overtaken.clone().any(|&asked| asked == index) {
                server.standing().overtaken(now);
            }
        }
    }

    fn without_answer(&self, progress: Progress) -> Result<Answer, Unanswered> {
        if progress.faults.iter().all(|fault| matches!(fault, Some(Fault::Unproven))) {
            return Ok(Answer::Unproven);
        }
        let told = self.servers.iter().zip(&progress.faults).map(|(server, fault)| {
            let fault = fault.as_ref().unwrap_or(&Fault::Silence);
            format!("name server {} {fault}", server.address)
        });
        let is_ours = progress.faults.iter().any(|fault| matches!(fault, Some(Fault::Lacking(_))));
        Err(Unanswered { reason: told.collect::<Vec<_>>().join(", "), is_ours })
    }
}

impl Server {
    fn standing(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, name: Name, kind: RecordType, was_silent: bool) -> Verdict {
        let plain = self.standing().is_plain(Instant::now());
        if !plain && !was_silent {
            let verdict = read(self.with_edns.lookup(name.clone(), kind).await, kind);
            if !matches!(&verdict, Verdict::Error(fault) if fault.is_of_edns()) {
                return verdict;
            }
        }
        let verdict = read(self.without_edns.lookup(name, kind).await, kind);
        if !plain && matches!(verdict, Verdict::Answer(_)) {
            self.standing().understood_plain(Instant::now());
        }
        verdict
    }
}

/// Who is asked when, as far as it depends on what a server did before.
#[derive(Debug, Default)]
struct Standing {
    /// Times in a row that another server told what this one could not.
    overtaken: u32,
    rests_until: Option<Instant>,
    /// One question is with it, to see whether it has recovered; the others still ask it last.
    on_trial: bool,
    plain_until: Option<Instant>,
}

impl Standing {
    /// Whether it is asked in its turn. The first question after a rest is its trial.
    fn is_fit(&mut self, now: Instant) -> bool {
        match self.rests_until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                self.on_trial = true;
                self.rests_until = Some(now + REST_MIN);
                true
            }
        }
    }

    fn answered(&mut self) {
        (self.overtaken, self.rests_until, self.on_trial) = (0, None, false);
    }

    fn overtaken(&mut self, now: Instant) {
        // Questions that were under way when its rest began tell nothing new.
        if !self.on_trial && self.rests_until.is_some_and(|until| now < until) {
            return;
        }
        let rest = REST_MIN.saturating_mul(2_u32.pow(self.overtaken.min(8)));
        self.overtaken = self.overtaken.saturating_add(1);
        self.rests_until = Some(now + rest.min(REST_MAX));
        self.on_trial = false;
    }

    fn is_plain(&self, now: Instant) -> bool {
        self.plain_until.is_some_and(|until| now < until)
    }

    fn understood_plain(&mut self, now: Instant) {
        self.plain_until = Some(now + PLAIN_FOR);
    }
}

impl Fault {
    /// Whether to ask the same server again.
    fn may_pass(&self) -> bool {
        matches!(self, Fault::Silence | Fault::Code(ResponseCode::ServFail))
    }

    /// Whether it may be EDNS that the server does not understand.
    fn is_of_edns(&self) -> bool {
        matches!(
            self,
            Fault::Code(
                ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS | ResponseCode::BADSIG
            )
        )
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Silence => f.write_str("did not answer"),
            Fault::Code(code) => write!(f, "answered {code}"),
            Fault::Referral => f.write_str("answered with a referral"),
            Fault::Unproven => f.write_str("answered nothing and proved nothing"),
            Fault::Lacking(error) => write!(f, "could not be asked: {error}"),
            Fault::Other(error) => write!(f, "failed: {error}"),
        }
    }
}

fn hickory(server: NameServerConfig, config: &ResolverConfig, edns: bool) -> Result<TokioResolver, NetError> {
    let mut options = ResolverOpts::default();
    options.timeout = config.timeout;
    // Who is asked again is decided here.
    options.attempts = 0;
    options.edns0 = edns;
    options.max_active_requests = TCP_REQUESTS_MAX;
    // The shards' caches are the only ones, so that their counters and TTLs are the truth.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    // CNAMEs stay in the answer: their TTLs count too.
    options.preserve_intermediates = true;
    let alone = hickory_resolver::config::ResolverConfig::from_name_servers(vec![server]);
    let mut builder = TokioResolver::builder_with_config(alone, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build()
}

fn read(result: Result<Lookup, NetError>, kind: RecordType) -> Verdict {
    let no_records = match result {
        Ok(lookup) => return read_records(lookup, kind),
        Err(NetError::Dns(DnsError::NoRecordsFound(no_records))) => no_records,
        Err(NetError::Dns(DnsError::ResponseCode(code))) => return Verdict::Error(Fault::Code(code)),
        Err(NetError::Timeout) => return Verdict::Error(Fault::Silence),
        Err(NetError::Io(error)) if is_shortage(&error) => {
            return Verdict::Error(Fault::Lacking(error.to_string()));
        }
        Err(other) => return Verdict::Error(Fault::Other(other.to_string())),
    };
    let ttl = no_records.negative_ttl.map(|ttl_s| Duration::from_secs(u64::from(ttl_s)));
    match (no_records.response_code, ttl) {
        (ResponseCode::NXDomain, ttl) => Verdict::Answer(Answer::NoSuchName { ttl }),
        (ResponseCode::NoError, Some(ttl)) => Verdict::Answer(Answer::NoData { ttl }),
        (ResponseCode::NoError, None) if no_records.ns.is_some() => Verdict::Error(Fault::Referral),
        (ResponseCode::NoError, None) => Verdict::Error(Fault::Unproven),
        (code, _) => Verdict::Error(Fault::Code(code)),
    }
}

/// hickory lets codes pass that it does not know, and records of the type outside the answer section.
fn read_records(lookup: Lookup, kind: RecordType) -> Verdict {
    match lookup.message().metadata.response_code {
        ResponseCode::NoError if lookup.answers().iter().any(|record| record.record_type() == kind) => {
            Verdict::Answer(Answer::Records(lookup))
        }
        ResponseCode::NoError => Verdict::Error(Fault::Unproven),
        code => Verdict::Error(Fault::Code(code)),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Proves that a lookup for which we have no socket is told from one that no server has answered.
    #[test]
    fn our_own_shortage_is_no_answer() {
        let failure = |code| {
            let error = NetError::Io(io::Error::from_raw_os_error(code).into());
            let Verdict::Error(fault) = read(Err(error), RecordType::MX) else { panic!("no answer") };
            let is_ours = matches!(fault, Fault::Lacking(_));
            Unanswered { reason: fault.to_string(), is_ours }.of("MX lookup of a.test")
        };
        const TOO_MANY_FILES: i32 = 24;
        const REFUSED: i32 = 111;
        assert!(matches!(failure(TOO_MANY_FILES), Failure::Lacking { .. }));
        assert!(matches!(failure(REFUSED), Failure::Temporary { .. }));
    }
}
