//! Starting and ending a sink process's parts.

use std::sync::{Arc, Mutex, PoisonError};

use chasqui_protocol::control::SinkReady;
use chasqui_runtime::net::PortClaims;
use chasqui_runtime::{Shards, channel, shard, sim, wall_clock};
use futures_lite::future::block_on;
use serde::Serialize;

use crate::certificate::server_tls;
use crate::config::{Config, Storage};
use crate::dns::{Authority, DnsStats};
use crate::error::{RunError, StartError};
use crate::incarnation::Incarnation;
use crate::mailbox::{Login, Store};
use crate::ports::Places;
use crate::receiver::{ReceiverStats, Senders};
use crate::shard::{self as shard_main, Setup, arrivals_path};
use crate::zone::Zone;

/// What the sinks did.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Summary {
    /// The SMTP receivers of all shards.
    pub smtp: ReceiverStats,
    /// The DNS authority.
    pub dns: DnsStats,
}

/// Sinks that run. Dropped, they shut down without being waited for.
pub struct Running {
    ready: SinkReady,
    stopper: Stopper,
    shards: Shards<ReceiverStats>,
    dns: Option<Authority>,
}

/// Shuts the sinks down from another thread.
#[derive(Clone)]
pub struct Stopper(Arc<[channel::Sender<()>]>);

impl Stopper {
    /// Stops accepting, lets messages under way finish, and ends. Returns at once; again is no harm.
    pub fn shutdown(&self) {
        for stop in self.0.iter() {
            // Full or closed: the shard has been told, or is gone.
            let _ = stop.send(());
        }
    }
}

/// Starts everything in `config`; returns when everything listens. Blocks the thread.
pub fn start(config: Config) -> Result<Running, StartError> {
    block_on(launch(config))
}

/// As [`start`] without blocking. In the simulator ports are not 0 and there is no DNS.
pub async fn launch(config: Config) -> Result<Running, StartError> {
    let mut config = config.checked()?;
    let open_files_max = chasqui_runtime::process::open_files_max().unwrap_or(u64::MAX);
    if let Some(line) = config.fit_open_files(open_files_max) {
        log::info!("{line}");
    }
    let config = Arc::new(config);
    let places = Places::choose(&config)?;
    let claims =
        PortClaims::take(&places.all()).map_err(|(address, error)| StartError::Listen { address, error })?;
    let dns = config.dns.map(|address| {
        let zone = Zone::new(&config.zone, config.domains);
        Authority::start(address, zone, &config.smtp_addresses, config.publish, config.dns_ttl_s)
    });
    let dns = dns.transpose()?;
    let incarnation = match &config.state {
        Some(path) => Incarnation::by_state(wall_clock(), path)?,
        None => Incarnation::by_clock(wall_clock()),
    };
    let store = (config.storage == Storage::Mailboxes)
        .then(|| Store::with_uid_validity(config.mailbox_limits(), incarnation.uid_validity));
    let wait = Some(incarnation.wait).filter(|_| store.is_some() && !sim::is_running());
    let certificate = config.certificate.as_ref();
    let tls = certificate.map(|source| server_tls(source, config.certified())).transpose()?;
    let setup = Arc::new(Setup {
        config: config.clone(),
        places: places.clone(),
        senders: config.smtp_users.as_ref().map(Senders::new).transpose()?.map(Arc::new),
        login: login(&config),
        tls,
        store,
        wait,
        _claim: incarnation.claim,
    });
    let (shards, stopper) = start_shards(setup).await?;
    drop(claims);
    let arrivals = config.arrivals.iter();
    let Places { smtp, smtps, mailboxes: [pop3, imap, pop3s, imaps] } = places;
    let ready = SinkReady {
        smtp,
        smtps,
        pop3,
        imap,
        pop3s,
        imaps,
        dns: dns.as_ref().map(Authority::address),
        arrivals: arrivals
            .flat_map(|prefix| (0..config.cores.len()).map(|shard| arrivals_path(prefix, shard)))
            .collect(),
        pid: chasqui_runtime::process::id(),
    };
    Ok(Running { ready, stopper, shards, dns })
}

fn login(config: &Config) -> Login {
    match config.catch_all {
        true => Login::any(&config.password),
        false => Login::within(&config.zone, &config.password),
    }
}

async fn start_shards(setup: Arc<Setup>) -> Result<(Shards<ReceiverStats>, Stopper), StartError> {
    let config = chasqui_runtime::Config {
        name: "sink".to_owned(),
        engine: setup.config.engine,
        cores: setup.config.cores.clone(),
    };
    let shard_count = config.cores.len();
    let (stops, stopped): (Vec<_>, Vec<_>) =
        (0..shard_count).map(|_| channel::bounded(1)).map(|(stop, stopped)| (stop, Some(stopped))).unzip();
    let stopper = Stopper(stops.into());
    let stopped = Mutex::new(stopped);
    let (report, mut reports) = channel::bounded(shard_count);
    let shards = Shards::start(config, move || {
        let mut stopped = stopped.lock().unwrap_or_else(PoisonError::into_inner);
        // Each shard runs this once, and takes its own.
        let stop = stopped.get_mut(shard()).and_then(Option::take);
        let (setup, report) = (setup.clone(), report.clone());
        async move {
            match stop {
                Some(stop) => shard_main::main(setup, report, stop).await,
                None => ReceiverStats::default(),
            }
        }
    })?;
    // The channel closes early only when a shard ended without a report: it panicked.
    for _ in 0..shard_count {
        let report = reports.recv().await.unwrap_or(Err(StartError::Panicked));
        if let Err(error) = report {
            stopper.shutdown();
            shards.ended().await;
            return Err(error);
        }
    }
    Ok((shards, stopper))
}

impl Running {
    /// What listens where.
    pub fn ready(&self) -> &SinkReady {
        &self.ready
    }

    /// What the DNS authority was asked so far.
    pub fn dns_stats(&self) -> DnsStats {
        self.dns.as_ref().map(Authority::stats).unwrap_or_default()
    }

    /// A handle for the thread that waits for signals.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// See [`Stopper::shutdown`].
    pub fn shutdown(&self) {
        self.stopper.shutdown();
    }

    /// Waits until everything has ended. Blocks the thread.
    pub fn join(self) -> Result<Summary, RunError> {
        block_on(self.ended())
    }

    /// Waits until everything has ended.
    pub async fn ended(self) -> Result<Summary, RunError> {
        let Running { stopper, shards, dns, .. } = self;
        let mut summary = Summary::default();
        let mut panicked = None;
        for (shard, ended) in shards.ended().await.into_iter().enumerate() {
            match ended {
                Ok(stats) => summary.smtp.add(&stats),
                Err(_panic) => panicked = panicked.or(Some(shard)),
            }
        }
        // The shards end when their last stopper is gone: it must not be before.
        drop(stopper);
        summary.dns = dns.as_ref().map(Authority::stats).unwrap_or_default();
        match panicked {
            Some(shard) => Err(RunError::Panicked(shard)),
            None => Ok(summary),
        }
    }
}
