//! How the program ends when it cannot do its work: errors that fit one line, and their exit codes. The codes of a
//! run that was made are the verdict's own.

use clap::error::ErrorKind;
use std::fmt;
use std::process::ExitCode;

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The user's to mend: one line with what, where and the fix. Exit code 2.
    Usage(String),
    /// Ours, or the machine's. Exit code 1.
    Internal(String),
}

impl Failure {
    /// An error of ours: what was tried, then what came of it.
    pub(crate) fn internal(what: impl fmt::Display, error: impl fmt::Display) -> Failure {
        Failure::Internal(format!("{what}: {error}"))
    }

    /// The exit code that design.md gives this failure.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Internal(_) => 1,
            Failure::Usage(_) => 2,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Usage(line) | Failure::Internal(line)) = self;
        formatter.write_str(line)
    }
}

/// clap's report of a bad command line, folded into one line that ends with where help is.
pub(crate) fn one_line(error: &clap::Error, command: &str) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return format!("no command was given; see `{command} --help`");
    }
    let report = error.render().to_string();
    let parts: Vec<&str> = report
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"))
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .collect();
    let what = parts.join(" ");
    format!("{}; see `{command} --help`", what.strip_prefix("error: ").unwrap_or(&what))
}
