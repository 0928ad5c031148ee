//! How the program ends when it cannot do its work: errors that fit one line, and their exit codes. The codes of a
//! run that was made are the verdict's own.

use clap::error::{ContextKind, ContextValue, ErrorKind};
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

    /// The exit code of this failure, as README.md lists them.
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
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let report = error.render().to_string();
    let parts: Vec<&str> = report
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:"))
        .filter(|line| {
            !line.is_empty() && !line.starts_with("For more information") && !line.starts_with("tip: ")
        })
        .collect();
    let what = parts.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let option = context(ContextKind::InvalidArg).filter(|_| error.kind() == ErrorKind::UnknownArgument);
    if option.is_some_and(|option| {
        option.starts_with('-') && option[1..].starts_with(|c: char| c.is_ascii_digit())
    }) {
        return format!("{what}: no option takes a negative number; see `{command} --help`");
    }
    let nearest = context(ContextKind::SuggestedArg).or_else(|| context(ContextKind::SuggestedSubcommand));
    let nearest = nearest.map_or_else(String::new, |name| format!(": did you mean `{name}`?"));
    format!("{what}{nearest}; see `{command} --help`")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::Arguments;

    fn refusal(line: &str) -> String {
        one_line(&Arguments::try_parse_from(line.split(' ')).expect_err("refused"), "chasqui bench")
    }

    /// What is mistyped is answered in one line, with the nearest there is.
    #[test]
    fn the_nearest_is_named() {
        for (line, expected) in [
            (
                "chasqui bench --conections 5",
                "unexpected argument '--conections' found: did you mean `--connections`?",
            ),
            ("chasqui bnch", "unrecognized subcommand 'bnch': did you mean `bench`?"),
            (
                "chasqui simulate --seeds -1",
                "unexpected argument '-1' found: no option takes a negative number",
            ),
            ("chasqui bench --qqqqqq", "unexpected argument '--qqqqqq' found"),
        ] {
            assert_eq!(refusal(line), format!("{expected}; see `chasqui bench --help`"));
        }
    }
}
