//! `chasqui`: an SMTP relay, the internet behind it, and the load that measures both.
//!
//! This crate holds arguments, configuration, processes and exit codes; mail is handled by the crates below.

mod accounts;
mod arguments;
mod bench;
mod children;
mod exit;
mod load;
mod logging;
mod machine;
mod manual;
mod measure;
mod mounts;
mod new_password;
mod output;
mod password;
mod progress;
mod record;
mod relay;
mod retry;
mod rings;
mod signals;
mod simulate;
mod sink;
mod spool;
mod values;

use arguments::{Arguments, Command};
use chasqui_runtime::process::raise_open_files;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use exit::{Failure, one_line};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Without a command, what there is is told, and nothing was done.
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return ExitCode::from(2);
        }
        Err(error) if !error.use_stderr() => {
            // --help and --version; a closed pipe is the reader's choice.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(&Failure::Usage(one_line(&error, &help_command()))),
    };
    // Every command may hold thousands of connections. Where the limit stays low, the connection that it refuses is
    // named by whoever wanted it.
    let _ = raise_open_files();
    if let Err(failure) = signals::outlive_size_limit() {
        return fail(&failure);
    }
    if let Err(failure) = outlive_signals(&arguments.command) {
        return fail(&failure);
    }
    let ended = match arguments.command {
        Command::Bench(options) => bench::run(&options),
        Command::Relay(options) => relay::run(&options),
        Command::Retry(options) => retry::run(&options),
        Command::Sink(options) => sink::run(&options),
        Command::Load(options) => load::run(&options),
        Command::Spool(options) => spool::run(&options.action),
        Command::Simulate(options) => simulate::run(&options),
        Command::Password(options) => new_password::run(&options),
        Command::Completions(options) => manual::completions(&options),
        Command::Man(options) => manual::man(&options),
    };
    ended.unwrap_or_else(|failure| fail(&failure))
}

/// What runs for long outlives the signals that ask for nothing.
fn outlive_signals(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Bench(_) | Command::Relay(_) | Command::Sink(_) | Command::Load(_) => {
            signals::outlive_others()
        }
        Command::Retry(_)
        | Command::Password(_)
        | Command::Spool(_)
        | Command::Simulate(_)
        | Command::Completions(_)
        | Command::Man(_) => Ok(()),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    output::tell(&format!("chasqui: {failure}"));
    failure.exit_code()
}

/// `chasqui bench` when the first word names a subcommand, else `chasqui`.
fn help_command() -> String {
    let first = std::env::args().nth(1).filter(|word| Arguments::command().find_subcommand(word).is_some());
    first.map_or_else(|| "chasqui".to_owned(), |word| format!("chasqui {word}"))
}
