//! The command line: every option with its default and what it does.

use crate::password::PasswordOptions;
use crate::values::{Cores, ValueError, address, cores, count, duration, ip, number, share};
use chasqui_loadgen::{ArrivalProcess, ByteSize, Rate, SizeDistribution, Verify};
use chasqui_relay::spool::MessageId;
use chasqui_report::{Durability, Gate};
use chasqui_runtime::EngineChoice;
use chasqui_runtime::sim::PlantedFault;
use chasqui_sinks::CertificateSource;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// An SMTP relay, the internet behind it, and the load that measures both, message by message, at the mailbox.
#[derive(Debug, Parser)]
#[command(name = "chasqui", version, max_term_width = 110)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Measure the whole chain on this machine: start DNS, receivers and a relay, load them, verify every message
    #[command(after_help = EXIT_CODES)]
    Bench(Box<Bench>),
    /// Run the SMTP relay
    Relay(Relay),
    /// Have a running relay try deferred messages now: all, or those of a site or domain, or one
    Retry(Retry),
    /// Run the receiving internet: SMTP receivers, mailboxes behind POP3 and IMAP, and a DNS authority
    Sink(Box<Sink>),
    /// Load an SMTP server and account for every message
    #[command(after_help = EXIT_CODES)]
    Load(Box<Load>),
    /// Look into a relay's spool: list, check, or write messages out. Changes nothing, also while the relay runs
    Spool(Spool),
    /// Print a user's line for a users file: the name, and what is kept of the password that is asked for
    Password(NewPassword),
    /// For developers of Chasqui: run the whole chain in the deterministic simulator, in search of lost mail
    #[command(after_help = SIMULATE_CODES)]
    Simulate(Simulate),
    /// Print what a shell needs to complete commands and options
    Completions(Completions),
    /// Print the manual page, or write those of all commands
    Man(Man),
}

const EXIT_CODES: &str = "Exit codes: 0 pass, 1 internal error, 2 usage, configuration, or an instrument that does not \
work, 3 gate failed or load not taken, 4 mail lost, duplicated without cause, corrupted, phantom or pending, or more of it \
rejected, unknown, bounced or missing than is allowed, 5 run invalid: it did not measure what it set out to.";

const SIMULATE_CODES: &str =
    "Exit codes: 0 every seed kept the promise, 1 internal error, 2 usage, 4 some did not.";

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
    /// SMTP connections, kept open over the run
    #[arg(long, value_name = "N", default_value = "200", value_parser = count)]
    pub(crate) connections: usize,
    /// Size of a message: 2KiB, 1KiB..64KiB (uniform), lognormal:median=8KiB,p99=100KiB, or 2KiB:90,1MiB:10 (weights)
    #[arg(long, value_name = "SIZE", default_value = "2KiB")]
    pub(crate) size: SizeDistribution,
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
}

/// Options of a command that runs shards and may be a child of `bench`.
#[derive(Debug, Args)]
pub(crate) struct ShardOptions {
    /// I/O engine: uring, glommio (for kernels before Linux 6.1), or auto, which takes uring where the kernel has what
    /// it needs
    #[arg(long, value_name = "ENGINE", default_value_t = EngineChoice::Auto)]
    pub(crate) engine: EngineChoice,
    /// End when this process ends
    #[arg(long, value_name = "PID", hide = true)]
    pub(crate) exit_with_parent: Option<u32>,
}

/// Options of `chasqui relay`.
#[derive(Debug, Args)]
pub(crate) struct Relay {
    /// Configuration (TOML); relay/relay.example.toml names every key
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Check the configuration, and whether the machine would let it start, and end; starts nothing and changes nothing
    #[arg(long)]
    pub(crate) check: bool,
    /// Cores to run on, one shard each, such as 0,2 or 0-3 [default: every core]
    #[arg(long, value_name = "LIST", value_parser = cores)]
    pub(crate) cores: Option<Cores>,
    #[command(flatten)]
    pub(crate) shards: ShardOptions,
}

/// Options of `chasqui retry`.
#[derive(Debug, Args)]
pub(crate) struct Retry {
    /// The relay's control socket: control.socket of its configuration
    #[arg(long, value_name = "PATH")]
    pub(crate) control: PathBuf,
    /// What was tried at this site, by the name that the control socket's `sites` lists [default: every site]
    #[arg(long, value_name = "NAME", group = "scope")]
    pub(crate) site: Option<String>,
    /// What waits for recipients in this domain [default: every domain]
    #[arg(long, value_name = "NAME", group = "scope")]
    pub(crate) domain: Option<String>,
    /// The message with this id [default: every message]
    #[arg(long, value_name = "ID", group = "scope")]
    pub(crate) message: Option<String>,
}

/// Options of `chasqui sink`.
#[derive(Debug, Args)]
pub(crate) struct Sink {
    /// Address of an SMTP receiver; repeat for more [default: 127.0.1.1]
    #[arg(long = "smtp-address", value_name = "HOST", value_parser = ip)]
    pub(crate) smtp_addresses: Vec<IpAddr>,
    /// Port of the SMTP receivers, the same on every address; 0: a free one
    #[arg(long, value_name = "PORT", default_value_t = 0, value_parser = number::<u16>)]
    pub(crate) smtp_port: u16,
    /// Where POP3 listens; port 0: a free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = ANY_PORT, value_parser = address)]
    pub(crate) pop3: SocketAddr,
    /// Where IMAP listens; port 0: a free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = ANY_PORT, value_parser = address)]
    pub(crate) imap: SocketAddr,
    /// Where POP3 in TLS listens, for which --certificate is needed [default: a free port where there is a certificate]
    #[arg(long, value_name = "HOST:PORT", value_parser = address, requires = "certificate", conflicts_with = "discard")]
    pub(crate) pop3s: Option<SocketAddr>,
    /// Where IMAP in TLS listens, for which --certificate is needed [default: a free port where there is a certificate]
    #[arg(long, value_name = "HOST:PORT", value_parser = address, requires = "certificate", conflicts_with = "discard")]
    pub(crate) imaps: Option<SocketAddr>,
    /// Where the DNS authority listens, UDP and TCP; port 0: a free one
    #[arg(long, value_name = "HOST:PORT", default_value_t = ANY_PORT, value_parser = address)]
    pub(crate) dns: SocketAddr,
    /// Address that the zone names in place of an --smtp-address or --dns that stands for all of the machine's [default: another
    /// one that is listened on]
    #[arg(long, value_name = "HOST", value_parser = ip)]
    pub(crate) publish: Option<IpAddr>,
    /// Zone that the authority serves and the receivers accept mail for
    #[arg(long, value_name = "NAME", default_value = "chasqui.test")]
    pub(crate) zone: String,
    /// Mail domains d0, d1, … in the zone
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number::<u32>)]
    pub(crate) domains: u32,
    /// Name in the receivers' greeting
    #[arg(long, value_name = "NAME", default_value = "sink.chasqui.test")]
    pub(crate) hostname: String,
    /// Offer STARTTLS, in POP3 and IMAP too, and these two in TLS from the start: with a certificate of an authority made at the start (self-signed), or from PEM files (CHAIN,KEY)
    /// [default: no TLS]
    #[arg(long, value_name = "self-signed|CHAIN,KEY")]
    pub(crate) certificate: Option<Certificate>,
    /// File that the certificate of that authority is written to, for those who verify [default: none]
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub(crate) root: Option<PathBuf>,
    /// Take mail for every recipient in every domain; each has a mailbox [default: the zone's alone]
    #[arg(long)]
    pub(crate) catch_all: bool,
    /// Take messages with lines over 998 octets [default: they get 554]
    #[arg(long)]
    pub(crate) allow_long_lines: bool,
    /// Messages kept in all mailboxes together: the oldest makes room for a new one [default: as many as there is memory for,
    /// then new ones get 452]
    #[arg(long, value_name = "N", value_parser = count, conflicts_with = "discard")]
    pub(crate) keep_messages: Option<usize>,
    /// Memory for the messages in mailboxes, such as 512MiB: the oldest make room for a new one [default: 8GiB, then new ones get
    /// 452]
    #[arg(long, value_name = "SIZE", conflicts_with = "discard")]
    pub(crate) keep_memory: Option<ByteSize>,
    /// Serve SMTP clients that do not wait for a reply that they must wait for [default: they get 554]
    #[arg(long)]
    pub(crate) allow_early_talkers: bool,
    #[command(flatten)]
    pub(crate) password: PasswordOptions,
    /// Verify and count messages, keep none: POP3 and IMAP are off
    #[arg(long)]
    pub(crate) discard: bool,
    /// File that keeps the last UIDVALIDITY, one for each sink: the next is higher even if the clock was set back. Without it the
    /// clock alone tells the mailboxes of two starts apart [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) state: Option<PathBuf>,
    /// Unix sockets that stream arrivals to a load generator: PATH.0 and so on, one a shard [default: none]
    #[arg(long, value_name = "PATH")]
    pub(crate) arrivals: Option<PathBuf>,
    /// Unix socket that answers each line with the counts of the process's rings as JSON [default: none]
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
    /// Cores to run on, one shard each, such as 0,2 or 0-3 [default: every core]
    #[arg(long, value_name = "LIST", value_parser = cores)]
    pub(crate) cores: Option<Cores>,
    #[command(flatten)]
    pub(crate) shards: ShardOptions,
}

/// `--certificate`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certificate(pub(crate) CertificateSource);

impl FromStr for Certificate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "self-signed" {
            return Ok(Certificate(CertificateSource::SelfSigned { root: None }));
        }
        match text.split_once(',') {
            Some((chain, key)) if !chain.is_empty() && !key.is_empty() => {
                Ok(Certificate(CertificateSource::Files { chain: chain.into(), key: key.into() }))
            }
            _ => Err("write self-signed, or two PEM files: CHAIN,KEY".to_owned()),
        }
    }
}

pub(crate) const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Options of `chasqui load`.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// SMTP server to load, as IP:PORT or NAME:PORT; repeat to spread the connections
    #[arg(long = "target", value_name = "HOST:PORT", required = true, value_parser = address)]
    pub(crate) targets: Vec<SocketAddr>,
    /// Network outside the loopback that --target may lie in; repeat for more [default: none]
    #[arg(long = "allow-target", value_name = "CIDR")]
    pub(crate) allow_targets: Vec<IpNet>,
    /// Sockets that a `chasqui sink` behind the server streams arrivals from, as its ready line names them; repeat for
    /// each. Without them, what was accepted cannot be followed [default: none]
    #[arg(long = "arrivals-from", value_name = "PATH")]
    pub(crate) arrival_streams: Vec<PathBuf>,
    /// POP3 server to read messages back from [default: none]
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub(crate) pop3: Option<SocketAddr>,
    /// IMAP server to read messages back from [default: none]
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    pub(crate) imap: Option<SocketAddr>,
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
    pub(crate) output: OutputOptions,
}

/// Options of `chasqui spool`.
#[derive(Debug, Args)]
pub(crate) struct Spool {
    #[command(subcommand)]
    pub(crate) action: SpoolAction,
}

/// What is to be done with a spool.
#[derive(Debug, Subcommand)]
pub(crate) enum SpoolAction {
    /// List segments, messages, and the state of every recipient
    #[command(after_help = LIVE_LIST)]
    Inspect(Inspect),
    /// Read everything, bodies too, and tell what is damaged
    #[command(after_help = LIVE_CHECK)]
    Verify(Check),
    /// Write messages to files: ID.eml as it was received, ID.json with its envelope
    #[command(after_help = LIVE_EXPORT)]
    Export(Export),
}

const LIVE_LIST: &str = "Beside a relay that runs, the list is the spool at one moment of the reading: what was accepted or \
finished later is not in it. `settled no` says that the relay was too fast for such a moment to be caught; then messages \
may be missing that were moved meanwhile. Exit codes: 0 listed, 1 internal error, 2 usage.";

const LIVE_CHECK: &str = "Beside a relay that runs, damage is told of only when two readings of a file that was not rewritten \
between them agree; what is being written is no damage. Exit codes: 0 nothing durable is damaged or missing, 1 internal \
error, 2 usage, 4 something durable is damaged or missing. `discarded` is what no client was told 250 for, and `set aside` \
what an earlier start moved to quarantine: both leave the code 0.";

const LIVE_EXPORT: &str = "Beside a relay that runs, a message that it finishes before it is written out is left out and \
counted as gone; one that was written out may be delivered by the relay all the same. Exit codes: 0 exported, 1 internal \
error, 2 usage, 4 a message is damaged.";

/// Which messages: all conditions that are given must hold.
#[derive(Debug, Args)]
pub(crate) struct Selection {
    /// The message with this id; repeat for more [default: all]
    #[arg(long = "id", value_name = "ID", help_heading = "Messages")]
    pub(crate) ids: Vec<MessageId>,
    /// Those with this reverse-path; <> for the null reverse-path [default: any]
    #[arg(long, value_name = "ADDRESS", help_heading = "Messages")]
    pub(crate) sender: Option<String>,
    /// Those with this recipient, in whatever state [default: any]
    #[arg(long, value_name = "ADDRESS", help_heading = "Messages")]
    pub(crate) recipient: Option<String>,
    /// Those with a recipient in this domain [default: any]
    #[arg(long, value_name = "NAME", help_heading = "Messages")]
    pub(crate) domain: Option<String>,
}

/// Options of `chasqui spool inspect`.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The spool: spool.directory of the relay's configuration
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// List at most this many messages of each shard [default: all]
    #[arg(long, value_name = "N", help_heading = "Messages", value_parser = number::<usize>)]
    pub(crate) limit: Option<usize>,
    /// Print one JSON object a line: a shard, its segments, its messages, and at the end the sums
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `chasqui spool verify`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The spool: spool.directory of the relay's configuration
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Print one JSON object in place of lines
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `chasqui spool export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The spool: spool.directory of the relay's configuration
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Folder for the files, made if it is not there; refused when not empty
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Write also what is left of messages that the relay gives up, to OUT/quarantine: from damaged segments and from
    /// files that were moved to quarantine. They may be incomplete, and may have been delivered
    #[arg(long, help_heading = "Messages")]
    pub(crate) quarantine: bool,
    /// Print the sums as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Options of `chasqui password`.
#[derive(Debug, Args)]
pub(crate) struct NewPassword {
    /// The user's name, as its mail client sends it
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// What is kept of the password: argon2id costs who steals the file most, but its users have to send their passwords (PLAIN,
    /// LOGIN); with scram-sha-256 they can prove them as well
    #[arg(long, value_name = "SCHEME", value_enum, default_value_t = Scheme::Argon2id)]
    pub(crate) scheme: Scheme,
    /// Rounds of scram-sha-256: each costs who steals the file, and the user's mail client, the same [default: 15000]
    #[arg(long, value_name = "N", value_parser = number::<u32>)]
    pub(crate) iterations: Option<u32>,
    /// Read the password from standard input, its first line, as happens when that is no terminal [default: it is asked for]
    #[arg(long)]
    pub(crate) stdin: bool,
}

/// What is kept of a password.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Scheme {
    Argon2id,
    #[value(name = "scram-sha-256")]
    ScramSha256,
}

/// Options of `chasqui completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Options of `chasqui man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Folder for the pages of all commands, such as /usr/local/share/man/man1; made if it is not there [default: the page of
    /// chasqui is printed]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

/// Options of `chasqui simulate`.
#[derive(Debug, Args)]
pub(crate) struct Simulate {
    /// Seeds to play
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = seeds)]
    pub(crate) seeds: u64,
    /// The first of them
    #[arg(long, value_name = "SEED", default_value_t = 1, value_parser = number::<u64>)]
    pub(crate) from: u64,
    /// A fault to plant, which the seeds are to find [default: none]
    #[arg(long, value_name = "NAME", value_parser = bug)]
    pub(crate) bug: Option<PlantedFault>,
    /// List the faults that can be planted, one a line, between tabs: its name, what is wrong then, what finds it
    #[arg(long)]
    pub(crate) list_bugs: bool,
    /// End with the first seed that fails
    #[arg(long)]
    pub(crate) first: bool,
    /// In place of seeds: one quiet run of 200 messages, then again with a crash at every STEP-th operation of the
    /// relay's disk; `--from` is the seed of all of them [default: seeds are played]
    #[arg(long, value_name = "STEP", value_parser = seeds, conflicts_with_all = ["seeds", "bug"])]
    pub(crate) every_disk_operation: Option<u64>,
    /// Play quiet seeds, in which nothing goes wrong: 200 messages each, such as to count instructions [default: seeds
    /// draw their trouble]
    #[arg(long, conflicts_with_all = ["every_disk_operation", "bug"])]
    pub(crate) quiet: bool,
    /// Play each seed twice, without and with receivers that answer a tenth of the senders 421 or 451 or close on them,
    /// and compare the delay of everybody else's mail, from when it is due until its receiver has it, pooled over the
    /// seeds. Exit code 4 when its p99 is more than doubled, or mail is lost
    #[arg(long, conflicts_with_all = ["every_disk_operation", "quiet", "first"])]
    pub(crate) neighbours: bool,
    /// Log what the nodes do to stderr
    #[arg(long)]
    pub(crate) verbose: bool,
}

fn durability() -> impl TypedValueParser<Value = Durability> {
    PossibleValuesParser::new(Durability::ALL.map(Durability::name))
        .map(|name| Durability::from_name(&name).expect("one of the names"))
}

fn seeds(text: &str) -> Result<u64, ValueError> {
    count(text).map(|count| count as u64)
}

fn bug(text: &str) -> Result<PlantedFault, ValueError> {
    let known = PlantedFault::ALL.iter().copied().find(|fault| fault.name() == text);
    known.ok_or_else(|| {
        let names: Vec<&str> = PlantedFault::ALL.iter().map(|fault| fault.name()).collect();
        ValueError(format!("there is no planted fault `{text}`: name one of {}", names.join(", ")))
    })
}
