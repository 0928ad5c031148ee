//! The command line: every option with its default and what it does.

mod load;
mod sink;

use crate::values::{Cores, ValueError, cores, count, number};
use chasqui_relay::spool::MessageId;
use chasqui_runtime::EngineChoice;
use chasqui_runtime::sim::PlantedFault;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

pub(crate) use load::{Bench, Load, LoadOptions, OutputOptions, TlsOptions};
pub(crate) use sink::{ANY_PORT, Certificate, Sink, SmtpAuth};

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
