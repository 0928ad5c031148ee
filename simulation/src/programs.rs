//! What the nodes of sinks and load generator run, and what the relay is asked.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use chasqui_loadgen::{Counts, Hooks, Scenario};
use chasqui_protocol::control::{QueueLine, Request, answer};
use chasqui_runtime::channel::OneshotSender;
use chasqui_runtime::net::UnixStream;
use chasqui_runtime::{EngineKind, Instant, now, timeout};
use thiserror::Error;

use crate::addresses::{ARRIVALS, CONTROL, IMAP, POP3, SINK, SLACK, ZONE};

/// Why a program of the chain could not be started, or failed at its end.
#[derive(Debug, Error)]
#[error(transparent)]
pub(crate) enum ProgramError {
    Configuration(#[from] chasqui_relay::ConfigError),
    RelayStart(#[from] chasqui_relay::StartError),
    Relay(#[from] chasqui_relay::RunError),
    SinksStart(#[from] chasqui_sinks::StartError),
    Sinks(#[from] chasqui_sinks::RunError),
    LoadStart(#[from] chasqui_loadgen::StartError),
    Load(#[from] chasqui_loadgen::RunError),
    Killed(#[from] chasqui_runtime::sim::Killed),
}

/// The sinks' program: tells when it is ready, and runs until its node is killed.
pub(crate) async fn sinks(shards: usize, ready: OneshotSender<()>) -> Result<(), ProgramError> {
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
    let running = chasqui_sinks::launch(config).await?;
    // The scenario waits for it.
    let _ = ready.send(());
    running.ended().await?;
    Ok(())
}

/// What a load came to.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) ledger: Counts,
    pub(crate) notes: Vec<String>,
    /// The relay has listed its queue.
    pub(crate) relay_answered: bool,
    /// When the first message was due.
    pub(crate) begun: Option<Instant>,
}

/// The load generator's program.
pub(crate) async fn load(
    mut scenario: Scenario,
    generators: usize,
    sinks: usize,
) -> Result<Loaded, ProgramError> {
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
    let running = chasqui_loadgen::start(scenario, placement, hooks)?;
    let outcome = running.ended().await?;
    Ok(Loaded {
        ledger: outcome.ledger,
        notes: outcome.notes,
        relay_answered: outcome.relay_answered == Some(true),
        begun: begun.get().copied(),
    })
}

/// Asks the relay how many recipients are in its queue; a message whose envelope its disk does not give counts as one.
pub(crate) async fn queued() -> io::Result<u64> {
    let asking = async {
        let stream = UnixStream::connect(Path::new(CONTROL)).await?;
        stream.write_all(Request::Queue.encode()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"}\n") || !answer.windows(5).any(|octets| octets == b"\"end\"") {
            let piece = stream.read().await?;
            if piece.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&piece);
        }
        let end = answer.trim_ascii_end().rsplit(|octet| *octet == b'\n').next().unwrap_or_default();
        match answer::decode(end) {
            Ok(QueueLine::End(end)) => Ok(end.entries + end.unread.unwrap_or(0)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    };
    timeout(SLACK, asking).await.map_err(|_| io::ErrorKind::TimedOut)?
}
