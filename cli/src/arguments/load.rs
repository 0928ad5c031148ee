//! Options of the commands that make a load: `chasqui bench` and `chasqui load`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use chasqui_loadgen::{
    ArrivalProcess, Rate, RecipientDistribution, SizeDistribution, Target, TlsMode, Verify,
};
use chasqui_protocol::sasl::mechanism::Mechanism;
use chasqui_report::{Durability, Gate};
use chasqui_runtime::EngineChoice;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use ipnet::IpNet;

use crate::password::PasswordOptions;
use crate::values::{Cores, cores, count, duration, ip, mechanism, number, share, target};

/// What load is made and how it is judged: shared by `bench` and `load`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Load")]
pub(crate) struct LoadOptions {
    /// Messages a second, open loop; or `max`: closed loop, as fast as replies and arrivals come
    #[arg(long, value_name = "N|max", default_value = "2000")]
    pub(crate) rate: Rate,
    /// Process of arrivals at a fixed rate: constant or poisson
    #[arg(long, value_name = "PROCESS", default_value = "constant")]
    pub(crate) arrivals: ArrivalProcess,
    /// Accepted recipients that may be on their way at --rate max [default: 16 per connection]
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) outstanding: Option<usize>,
    /// Length of the measured window
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Load before the window, sent and verified but not measured
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(crate) warmup: Duration,
    /// After the window: longest wait without progress before what is missing is judged
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) drain: Duration,
    /// SMTP connections at a time
    #[arg(long, value_name = "N", default_value = "200", value_parser = count)]
    pub(crate) connections: usize,
    /// Messages after which a connection is ended and another opened at once; 1: each message has its own [default: they are
    /// kept open over the run]
    #[arg(long, value_name = "N", value_parser = count)]
    pub(crate) messages_per_connection: Option<usize>,
    /// Size of a message: 2KiB, 1KiB..64KiB (uniform), lognormal:median=8KiB,p99=100KiB, or 2KiB:90,1MiB:10 (weights)
    #[arg(long, value_name = "SIZE", default_value = "2KiB")]
    pub(crate) size: SizeDistribution,
    /// Recipients of a message, each in another mailbox: 3, 1..5 (uniform), or 1:90,10:10 (weights)
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) recipients: RecipientDistribution,
    /// Recipient domains d0, d1, … of the zone
    #[arg(long, value_name = "N", default_value = "10", value_parser = count)]
    pub(crate) domains: usize,
    /// Mailboxes u0, u1, … of each domain
    #[arg(long, value_name = "N", default_value = "10", value_parser = count)]
    pub(crate) mailboxes: usize,
    /// When messages are read back and checked: live (while the load runs), after (when the window is over), arrival
    /// (the receiver's checksum counts; those of `bench` then keep no messages), or none (only replies are measured, of
    /// any SMTP server) [default: live at a fixed rate, after at --rate max]
    #[arg(long, value_name = "WHEN")]
    pub(crate) verify: Option<Verify>,
    /// How often a live POP3 reader asks for new mail
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) poll_interval: Duration,
    /// Seed of arrivals, sizes, recipients and bodies: the same seed makes the same load
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number::<u64>)]
    pub(crate) seed: u64,
    /// Limit that the run must keep, such as "visible.p99 < 500ms"; repeat for more [default: none]
    #[arg(long = "gate", value_name = "EXPR")]
    pub(crate) gates: Vec<Gate>,
    /// Share of the sent recipients that may be answered 4xx or 5xx without failing the run, such as 0.01 or 1%
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    pub(crate) allow_rejected: f64,
    /// Share of the sent recipients that may end without a final reply
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    pub(crate) allow_unknown: f64,
    /// Share of the accepted recipients that may bounce
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    pub(crate) allow_bounced: f64,
    /// Share of the accepted recipients that may neither arrive nor bounce, where the server's queue is not seen
    #[arg(long, value_name = "SHARE", default_value = "0", value_parser = share)]
    pub(crate) allow_missing: f64,
    /// Share of the messages due in the window that the server may leave unsent; beyond it the run fails as a gate does
    #[arg(long, value_name = "SHARE", default_value = "0.01", value_parser = share)]
    pub(crate) allow_unsent: f64,
}

/// Where the results go: shared by `bench` and `load`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Results")]
pub(crate) struct OutputOptions {
    /// Folder for the run's files; refused when not empty [default: a new one under results/runs/]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Print run.json alone on stdout, in place of the summary
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `chasqui bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    /// What the relay does before it answers 250: synced (on disk, survives power loss), buffered (in the page
    /// cache, survives the death of the process) or memory (nothing: it is written when it has to wait)
    #[arg(long, value_name = "CLASS", default_value = "synced", value_parser = durability(), help_heading = "Relay")]
    pub(crate) durability: Durability,
    /// Shards of the relay, one core each [default: half of the cores, at least 1]
    #[arg(long, value_name = "N", value_parser = count, help_heading = "Relay")]
    pub(crate) shards: Option<usize>,
    /// Let --shards be more than there are cores: shards then take turns
    #[arg(long, help_heading = "Relay")]
    pub(crate) oversubscribe: bool,
    /// Where the relay's spool is made, and removed after the run; `synced` needs a disk [default: the system's
    /// temporary folder, or the current folder when that one is in memory]
    #[arg(long, value_name = "DIR", help_heading = "Relay")]
    pub(crate) spool: Option<PathBuf>,
    /// I/O engine of relay, receivers and load generator: uring, glommio (for kernels before Linux 6.1), or auto, which
    /// takes uring where the kernel has what it needs
    #[arg(long, value_name = "ENGINE", default_value_t = EngineChoice::Auto, help_heading = "Relay")]
    pub(crate) engine: EngineChoice,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
    /// TLS from end to end: load and readers verify certificates of authorities made for the run, and the relay goes over to TLS
    /// with the receivers. starttls: by STARTTLS and STLS, as on ports 587, 110 and 143; implicit: from the first octet, as on
    /// 465, 995 and 993; --tls alone is starttls
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_value_t = TlsMode::Off,
        default_missing_value = "starttls", help_heading = "TLS")]
    pub(crate) tls: TlsMode,
    /// Have load and readers make a full handshake for every connection
    #[arg(long, requires = "tls", help_heading = "TLS")]
    pub(crate) no_resumption: bool,
    /// Have the load log in at the relay, whose users have passwords made for the run, and the readers at their mailboxes by SASL;
    /// needs --tls
    #[arg(long, requires = "tls", help_heading = "TLS")]
    pub(crate) auth: bool,
}

/// TLS on the connections to the targets and the mailboxes, and who logs in.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS and accounts")]
pub(crate) struct TlsOptions {
    /// TLS on the connections to the targets: off, starttls, or implicit (from the first octet, as on port 465); --tls alone is
    /// starttls. Nothing is sent without the TLS that is asked for
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, default_value_t = TlsMode::Off,
        default_missing_value = "starttls")]
    pub(crate) tls: TlsMode,
    /// TLS with --pop3 and --imap: off, or starttls (STLS in POP3); --pop3s and --imaps are in TLS anyway [default: as --tls, off
    /// where that is off]
    #[arg(long, value_name = "MODE")]
    pub(crate) reader_tls: Option<TlsMode>,
    /// PEM file with the authorities by which certificates are verified; they must have the name, or the address, of --target,
    /// --pop3 and so on as it is written [default: the system's]
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub(crate) ca: Option<PathBuf>,
    /// Take any certificate
    #[arg(long)]
    pub(crate) insecure: bool,
    /// Make a full handshake for every connection
    #[arg(long)]
    pub(crate) no_resumption: bool,
    /// File of accounts, one user:password a line: connections to the targets log in with them in turn, and a mailbox that is named
    /// is read by SASL with its own password, as all are then. Passwords are shown in TLS, or to servers on this machine [default:
    /// nobody logs in to send]
    #[arg(long, value_name = "FILE", conflicts_with = "auth_user")]
    pub(crate) auth: Option<PathBuf>,
    /// User that all connections to the targets log in as; CHASQUI_AUTH_PASSWORD has the password, or it is asked for [default:
    /// nobody logs in to send]
    #[arg(long, value_name = "NAME")]
    pub(crate) auth_user: Option<String>,
    /// Mechanism of SASL that may be used: SCRAM-SHA-256-PLUS, SCRAM-SHA-256, PLAIN or LOGIN; repeat for more [default: the best that a
    /// server offers]
    #[arg(long = "auth-mechanism", value_name = "NAME", value_parser = mechanism)]
    pub(crate) auth_mechanisms: Vec<Mechanism>,
}

/// Options of `chasqui load`.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// SMTP server to load, as IP:PORT or NAME:PORT; repeat to spread the connections
    #[arg(long = "target", value_name = "HOST:PORT", required = true, value_parser = target)]
    pub(crate) targets: Vec<Target>,
    /// Network outside the loopback that --target may lie in; repeat for more [default: none]
    #[arg(long = "allow-target", value_name = "CIDR")]
    pub(crate) allow_targets: Vec<IpNet>,
    /// Address of this machine that connections come from; repeat for more, which are used in turn [default: the system chooses]
    #[arg(long = "source", value_name = "HOST", value_parser = ip)]
    pub(crate) sources: Vec<IpAddr>,
    /// Sockets that a `chasqui sink` behind the server streams arrivals from, as its ready line names them; repeat for
    /// each. Without them, what was accepted cannot be followed [default: none]
    #[arg(long = "arrivals-from", value_name = "PATH")]
    pub(crate) arrival_streams: Vec<PathBuf>,
    /// POP3 server to read messages back from [default: none]
    #[arg(long, value_name = "HOST:PORT", value_parser = target)]
    pub(crate) pop3: Option<Target>,
    /// The same in TLS from the first octet, as on port 995 [default: none]
    #[arg(long, value_name = "HOST:PORT", value_parser = target, conflicts_with = "pop3")]
    pub(crate) pop3s: Option<Target>,
    /// IMAP server to read messages back from [default: none]
    #[arg(long, value_name = "HOST:PORT", value_parser = target)]
    pub(crate) imap: Option<Target>,
    /// The same in TLS from the first octet, as on port 993 [default: none]
    #[arg(long, value_name = "HOST:PORT", value_parser = target, conflicts_with = "imap")]
    pub(crate) imaps: Option<Target>,
    #[command(flatten)]
    pub(crate) password: PasswordOptions,
    /// Control socket of a `chasqui relay` under test, which tells what is still queued [default: none]
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
    /// Zone of the recipients' domains
    #[arg(long, value_name = "NAME", default_value = "chasqui.test")]
    pub(crate) zone: String,
    /// Domain of the reverse-paths, where bounces go [default: bounce.ZONE]
    #[arg(long, value_name = "NAME")]
    pub(crate) bounce_zone: Option<String>,
    #[command(flatten)]
    pub(crate) load: LoadOptions,
    /// Cores of the load generator, one shard each, such as 0,2 or 0-3 [default: one core]
    #[arg(long, value_name = "LIST", value_parser = cores, help_heading = "Load")]
    pub(crate) cores: Option<Cores>,
    /// I/O engine of the load generator: uring, glommio (for kernels before Linux 6.1), or auto, which takes uring where
    /// the kernel has what it needs
    #[arg(long, value_name = "ENGINE", default_value_t = EngineChoice::Auto, help_heading = "Load")]
    pub(crate) engine: EngineChoice,
    #[command(flatten)]
    pub(crate) tls: TlsOptions,
    #[command(flatten)]
    pub(crate) output: OutputOptions,
}

fn durability() -> impl TypedValueParser<Value = Durability> {
    PossibleValuesParser::new(Durability::ALL.map(Durability::name))
        .map(|name| Durability::from_name(&name).expect("one of the names"))
}
