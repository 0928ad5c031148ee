//! The chain of a simulation: addresses, names, and its nodes' programs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chasqui_loadgen::{Counts, Hooks, Scenario};
use chasqui_protocol::control::Request;
use chasqui_protocol::control::answer::{self, End};
use chasqui_relay::route::{Resolver, SimulatedAnswer};
use chasqui_runtime::mailbox::OneshotSender;
use chasqui_runtime::net::UnixStream;
use chasqui_runtime::{EngineKind, Instant, now, rng, timeout};

use super::behaviour::Habits;
use super::draw::{Domain, Draw};
use super::front::Fronts;

/// Where the relay listens.
pub(super) const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1)), 25);
/// Where the sinks do.
pub(super) const SINK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1)), 25);
/// The sinks' POP3 and IMAP.
const POP3: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1)), 110);
const IMAP: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 3, 1)), 143);
/// The relay's control socket.
pub(super) const CONTROL: &str = "/control";
/// The sockets of the arrivals, with the shard's number behind.
const ARRIVALS: &str = "/arrivals";
/// The zone.
const ZONE: &str = "chasqui.test";
/// What anything may take beyond what was drawn for it.
pub(super) const SLACK: Duration = Duration::from_secs(60);
/// How long the DNS takes to say that it knows nothing.
const LOOKUP_LIMIT: Duration = Duration::from_secs(15);

/// A scenario with the addresses of the chain.
pub(super) fn endpoints() -> Scenario {
    Scenario {
        zone: ZONE.into(),
        targets: vec![RELAY],
        pop3: Some(POP3),
        imap: Some(IMAP),
        relay_control: Some(CONTROL.into()),
        ..Scenario::default()
    }
}

/// The domain of an address of the zone: a number, or `None` for bounces and strangers.
pub(super) fn domain_of(address: &str) -> Option<usize> {
    let (_, domain) = address.rsplit_once('@')?;
    domain_number(domain)
}

fn domain_number(domain: &str) -> Option<usize> {
    domain.strip_suffix(ZONE)?.strip_suffix('.')?.strip_prefix('d')?.parse().ok()
}

/// Where the receiver of a domain is; the bounce domain's is the one behind the last.
fn receiver(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, 1 + number as u8)
}

/// Where the second host of a domain is.
fn second_receiver(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 2, 101 + number as u8)
}

/// A host of receivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Host {
    /// `None` is the bounce domain.
    pub(super) domain: Option<usize>,
    /// It is the preferred one of two.
    pub(super) is_preferred: bool,
}

fn has_second(habits: &Habits, number: usize) -> bool {
    habits.host(number).is_some_and(|host| host.first_of_two.is_some())
}

/// What the fronts of a node listen on.
pub(super) fn front_addresses(draw: &Draw, front: usize) -> Vec<(SocketAddr, Host)> {
    let count = draw.domains.len();
    let at = |address: Ipv4Addr| SocketAddr::new(address.into(), 25);
    let served =
        |number: &usize| number % draw.fronts == front && draw.domains.get(*number) != Some(&Domain::Deaf);
    let mut addresses = Vec::new();
    for number in (0..=count).filter(served) {
        let (domain, is_preferred) =
            (Some(number).filter(|it| *it < count), has_second(&draw.habits, number));
        addresses.push((at(receiver(number)), Host { domain, is_preferred }));
        if is_preferred {
            addresses.push((at(second_receiver(number)), Host { domain, is_preferred: false }));
        }
    }
    addresses
}

/// The names of the chain, with the trouble that looking them up is. Domains 4 and 5 have one receiver: they are one
/// site.
pub(super) fn names(fronts: &Fronts) -> Resolver {
    let (domains, share, habits) = (fronts.domains.clone(), fronts.trouble.lookup, fronts.habits.clone());
    let calm = fronts.calm.clone();
    Resolver::simulated(move |domain| {
        let after = Duration::from_micros(rng().below(50_000));
        if !calm.load(Ordering::Relaxed) && rng().unit() < share {
            return match rng().below(2) {
                0 => (after, SimulatedAnswer::Temporary("SERVFAIL")),
                _ => (LOOKUP_LIMIT, SimulatedAnswer::Temporary("no answer")),
            };
        }
        let number = match domain_number(domain) {
            Some(number) if number < domains.len() => number,
            Some(_) => return (after, SimulatedAnswer::NoSuchDomain),
            None => domains.len(),
        };
        match domains.get(number) {
            Some(Domain::ServFail) => (after, SimulatedAnswer::Temporary("SERVFAIL")),
            Some(Domain::Silent) => (LOOKUP_LIMIT, SimulatedAnswer::Temporary("no answer")),
            Some(Domain::Unknown) => (after, SimulatedAnswer::NoSuchDomain),
            _ => {
                let receiver_number = if number == 5 { 4 } else { number };
                let addresses = vec![receiver(receiver_number).into()];
                let mut hosts = vec![(10, format!("mx{receiver_number}.{ZONE}"), addresses)];
                if has_second(&habits, number) {
                    hosts.push((20, format!("second{number}.{ZONE}"), vec![second_receiver(number).into()]));
                }
                (after, SimulatedAnswer::Hosts { hosts, ttl: Duration::from_secs(1 + rng().below(300)) })
            }
        }
    })
}

/// The sinks' program: tells when it is ready, and runs until its node is killed.
pub(super) async fn sinks(shards: usize, ready: OneshotSender<()>) -> Result<(), String> {
    let config = chasqui_sinks::Config {
        cores: (0..shards).collect(),
        zone: ZONE.into(),
        smtp_addresses: vec![SINK.ip()],
        smtp_port: SINK.port(),
        pop3: Some(POP3),
        imap: Some(IMAP),
        dns: None,
        arrivals: Some(ARRIVALS.into()),
        ..chasqui_sinks::Config::default()
    };
    let running = chasqui_sinks::launch(config).await.map_err(|error| error.to_string())?;
    // The scenario waits for it.
    let _ = ready.send(());
    running.ended().await.map(drop).map_err(|error| error.to_string())
}

/// What a load came to.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) ledger: Counts,
    pub(super) notes: Vec<String>,
    /// The relay has listed its queue.
    pub(super) relay_answered: bool,
    /// When the first message was due.
    pub(super) begun: Option<Instant>,
}

/// The load generator's program.
pub(super) async fn load(mut scenario: Scenario, generators: usize, sinks: usize) -> Result<Loaded, String> {
    scenario.arrival_streams = (0..sinks).map(|shard| format!("{ARRIVALS}.{shard}").into()).collect();
    let placement = chasqui_loadgen::Placement {
        engine: EngineKind::Uring, // of no consequence here
        generators: (0..generators).collect(),
        readers: vec![0],
    };
    let begun = Arc::new(OnceLock::new());
    let beginning = begun.clone();
    let window_start: Box<dyn FnOnce() + Send> = Box::new(move || {
        let _ = beginning.set(now()); // it is called once
    });
    let hooks = Hooks { window_start: Some(window_start), window_end: None };
    let running = chasqui_loadgen::start(scenario, placement, hooks).map_err(|error| error.to_string())?;
    let outcome = running.ended().await.map_err(|error| error.to_string())?;
    Ok(Loaded {
        ledger: outcome.ledger,
        notes: outcome.notes,
        relay_answered: outcome.relay_answered == Some(true),
        begun: begun.get().copied(),
    })
}

/// Asks the relay how many recipients are in its queue; a message whose envelope its disk does not give counts as one.
pub(super) async fn queued() -> io::Result<u64> {
    let asking = async {
        let stream = UnixStream::connect(Path::new(CONTROL)).await?;
        stream.write_all(Request::Queue.encode()).await?;
        let mut lines = Vec::new();
        while !lines.ends_with(b"}\n") || !lines.windows(5).any(|octets| octets == b"\"end\"") {
            let piece = stream.read().await?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            lines.extend_from_slice(&piece);
        }
        let end = lines.trim_ascii_end().rsplit(|octet| *octet == b'\n').next().unwrap_or_default();
        let end: End = answer::decode(end).map_err(io::Error::other)?;
        Ok(end.entries + end.unread.unwrap_or(0))
    };
    timeout(SLACK, asking).await.map_err(|_| io::ErrorKind::TimedOut)?
}
