//! What a bench stands on: a spool on a disk, a private folder of sockets, receivers and a relay.

use super::journey::{self, Journey};
use super::placement::Placement;
use crate::arguments::Bench;
use crate::children::Child;
use crate::exit::Failure;
use crate::measure::Events;
use crate::mounts::Mount;
use crate::record;
use crate::values::Cores;
use chasqui_loadgen::{
    Authentication, MailboxServer, ReaderAccess, Scenario, Target, Tls, TlsMode, TlsTrust,
};
use chasqui_protocol::control::{RelayReady, SinkReady};
use chasqui_protocol::sasl::mechanism::Mechanisms;
use chasqui_report::Durability;
use chasqui_sinks::CertificateFiles;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Connections that the relay takes from one peer beyond those of the load: one that breaks is opened anew before the relay has
/// seen its end, and the load generator opens at most so many at once.
const CONNECTIONS_SPARE: usize = 64;

/// Longest folder that sockets are made in: 107 octets of an address, but for `/chasqui-bench-XXXXXX/arrivals.1000`.
const SOCKETS_PARENT_OCTETS_MAX: usize = 60;

/// What the relay calls itself.
const RELAY_HOST: &str = "relay.chasqui.test";
/// Where it listens.
const RELAY_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The spool's folder; gone with this value.
#[derive(Debug)]
pub(crate) struct Spool(TempDir);

impl Spool {
    /// Makes the folder where the options say, or else where an ordinary user has a disk.
    pub(crate) fn make(options: &Bench) -> Result<Spool, Failure> {
        let parent = match &options.spool {
            Some(parent) => parent.clone(),
            None => default_parent(options.durability)?,
        };
        let in_memory = Mount::of(&parent).is_some_and(|mount| mount.is_memory());
        if in_memory && options.durability == Durability::Synced {
            let place = parent.display();
            return Err(Failure::Usage(format!(
                "--spool {place}: is in memory, where nothing survives power loss; name a folder on a disk, or \
                 --durability buffered"
            )));
        }
        let folder = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&parent)
            .and_then(|()| tempfile::Builder::new().prefix("chasqui-spool-").tempdir_in(&parent));
        folder.map(Spool).map_err(|error| {
            Failure::Usage(format!(
                "--spool {}: {error}; name a folder that can be written",
                parent.display()
            ))
        })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// The system's temporary folder, or the current one when that is in memory and the class needs a disk.
fn default_parent(durability: Durability) -> Result<PathBuf, Failure> {
    let temporary = std::env::temp_dir();
    if durability != Durability::Synced || !Mount::of(&temporary).is_some_and(|mount| mount.is_memory()) {
        return Ok(temporary);
    }
    std::env::current_dir().map_err(|error| Failure::internal("current folder", error))
}

/// Refuses options that no load can be made from, before anything is started.
pub(crate) fn check(options: &Bench) -> Result<(), Failure> {
    journey::check(options)?;
    let somewhere = SocketAddr::from(([127, 0, 0, 1], 0));
    let scenario = Scenario {
        targets: vec![somewhere.into()],
        pop3: Some(somewhere.into()),
        imap: Some(somewhere.into()),
        arrival_streams: vec![PathBuf::from("arrivals")],
        ..record::scenario(&options.load)
    };
    scenario.check().map_err(|error| Failure::Usage(error.to_string()))
}

/// The children and where they listen.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) relay: Child,
    pub(crate) sinks: Child,
    sinks_ready: SinkReady,
    relay_ready: RelayReady,
    control: PathBuf,
    journey: Journey,
    /// Certificates of the authorities; none: there is no TLS.
    roots: Option<PathBuf>,
    sockets: TempDir,
}

impl Stage {
    /// Starts receivers, then a relay that asks their DNS authority.
    pub(crate) fn start(
        options: &Bench,
        spool: &Spool,
        placement: &Placement,
        events: &Events,
    ) -> Result<Stage, Failure> {
        // tempfile gives the folder to this user alone: so are the sockets in it.
        let sockets = tempfile::Builder::new()
            .prefix("chasqui-bench-")
            .tempdir_in(sockets_parent())
            .map_err(|error| Failure::internal("temporary folder", error))?;
        let journey = Journey::make(options, sockets.path(), RELAY_HOST, RELAY_ADDRESS)?;
        let arguments = sink_arguments(options, placement, sockets.path(), &journey);
        let mut sinks = Child::start("sink", arguments, events.child_watch())?;
        let sinks_ready: SinkReady = sinks.wait_ready()?;
        let roots = (options.tls != TlsMode::Off).then(|| journey.write_roots()).transpose()?;
        let dns = sinks_ready.dns.ok_or_else(|| lacks("sink", "DNS"))?;
        let config = sockets.path().join("relay.toml");
        std::fs::write(
            &config,
            relay_config(options, spool.path(), sockets.path(), &sinks_ready.smtp, dns, &journey),
        )
        .map_err(|error| Failure::internal(config.display(), error))?;
        let mut relay = Child::start("relay", relay_arguments(placement, &config), events.child_watch())?;
        let relay_ready: RelayReady = relay.wait_ready()?;
        let control = relay_ready.control.clone().ok_or_else(|| lacks("relay", "control socket"))?;
        Ok(Stage { relay, sinks, sinks_ready, relay_ready, control, journey, roots, sockets })
    }

    /// The relay's control socket.
    pub(crate) fn control(&self) -> &Path {
        &self.control
    }

    /// The sinks' control socket.
    pub(crate) fn sinks_control(&self) -> PathBuf {
        sinks_control(self.sockets.path())
    }

    /// The load that the options ask for, against this relay.
    pub(crate) fn scenario(&self, options: &Bench) -> Scenario {
        let SinkReady { pop3, imap, pop3s, imaps, .. } = &self.sinks_ready;
        let (pop3, imap) = if options.tls == TlsMode::Implicit { (pop3s, imaps) } else { (pop3, imap) };
        let server = |address: SocketAddr| MailboxServer { tls: options.tls, ..address.into() };
        let (accounts, mechanisms) = (self.journey.accounts.as_slice(), Mechanisms::ALL);
        let authentication = options.auth.then(|| Authentication { accounts: accounts.into(), mechanisms });
        Scenario {
            targets: self.relay_ready.listen.iter().copied().map(Target::from).collect(),
            target_tls: options.tls,
            tls: Tls { trust: TlsTrust::Verified(self.roots.clone()), resumption: !options.no_resumption },
            reader: ReaderAccess {
                mechanisms: options.auth.then_some(mechanisms),
                ..ReaderAccess::default()
            },
            authentication,
            pop3: pop3.map(server),
            imap: imap.map(server),
            arrival_streams: self.sinks_ready.arrivals.clone(),
            relay_control: Some(self.control.clone()),
            ..record::scenario(&options.load)
        }
    }

    /// What to tell of the child `name` that ended early.
    pub(crate) fn death(&mut self, name: &str) -> Failure {
        if name == "relay" { self.relay.death() } else { self.sinks.death() }
    }

    /// Lets the relay drain and end, then the receivers.
    pub(crate) fn stop(mut self) -> Result<(), Failure> {
        self.relay.stop()?;
        self.sinks.stop()
    }
}

fn lacks(child: &str, what: &str) -> Failure {
    Failure::Internal(format!("the {child} that was started has no {what}"))
}

/// Where sockets may stand: the temporary folder, unless its path is too long for the address of a socket.
fn sockets_parent() -> PathBuf {
    let temporary = std::env::temp_dir();
    if temporary.as_os_str().len() <= SOCKETS_PARENT_OCTETS_MAX { temporary } else { PathBuf::from("/tmp") }
}

fn sinks_control(sockets: &Path) -> PathBuf {
    sockets.join("sinks-control")
}

fn sink_arguments(
    options: &Bench,
    placement: &Placement,
    sockets: &Path,
    journey: &Journey,
) -> Vec<OsString> {
    let mut arguments = vec![
        "sink".into(),
        format!("--domains={}", options.load.domains).into(),
        format!("--engine={}", placement.engine).into(),
        format!("--cores={}", Cores(placement.sinks.clone())).into(),
        "--arrivals".into(),
        sockets.join("arrivals").into(),
        "--control".into(),
        sinks_control(sockets).into(),
    ];
    if options.tls != TlsMode::Off {
        // The relay takes any, as it does by default; the readers do not.
        arguments.extend(["--certificate=self-signed".into(), "--root".into(), journey.sinks_root().into()]);
    }
    if !record::scenario(&options.load).verify().reads() {
        // Nobody reads the mailboxes.
        arguments.push("--discard".into());
    }
    arguments
}

fn relay_arguments(placement: &Placement, config: &Path) -> Vec<OsString> {
    vec![
        "relay".into(),
        "--config".into(),
        config.into(),
        format!("--engine={}", placement.engine).into(),
        format!("--cores={}", Cores(placement.relay.clone())).into(),
    ]
}

/// The relay's configuration: its defaults, but for places, ports, and limits that this load would run into.
fn relay_config(
    options: &Bench,
    spool: &Path,
    sockets: &Path,
    receivers: &[SocketAddr],
    dns: SocketAddr,
    journey: &Journey,
) -> String {
    // TOML's basic strings escape as JSON's do.
    let quoted = |path: PathBuf| serde_json::Value::from(path.to_string_lossy()).to_string();
    let CertificateFiles { chain, key, .. } = journey.certificate();
    let tls = match options.tls {
        TlsMode::Off => String::new(),
        _ => format!("[[tls.certificates]]\nchain = {}\nkey = {}\n", quoted(chain), quoted(key)),
    };
    let kind = if options.tls == TlsMode::Implicit { "submissions" } else { "submission" };
    let (listen, auth) = if options.auth {
        let listener = format!("[[listener]]\naddress = \"{RELAY_ADDRESS}:0\"\nkind = \"{kind}\"\n");
        (String::new(), format!("[auth]\nusers = {}\n{listener}", quoted(journey.users())))
    } else {
        (format!("\"{RELAY_ADDRESS}:0\""), String::new())
    };
    format!(
        "hostname = \"{RELAY_HOST}\"\n\
         listen = [{listen}]\n\
         networks = [\"127.0.0.0/8\"]\n\
         [spool]\n\
         directory = {spool}\n\
         class = \"{class}\"\n\
         [delivery]\n\
         port = {port}\n\
         [dns]\n\
         servers = [\"{dns}\"]\n\
         [retry]\n\
         first = \"1s\"\n\
         [limits]\n\
         connections = {connections}\n\
         connections_per_peer = {connections}\n\
         drain = \"2s\"\n\
         [control]\n\
         socket = {control}\n\
         {tls}{auth}",
        spool = quoted(spool.to_owned()),
        class = options.durability.name(),
        port = receivers.first().map_or(0, SocketAddr::port),
        // Those who must log in are strangers until then, to whom the last quarter is closed.
        connections = (options.load.connections + CONNECTIONS_SPARE) * if options.auth { 2 } else { 1 },
        control = quoted(sockets.join("control")),
    )
}
