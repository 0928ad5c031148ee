//! Accounts that clients log in with: from a file, or one whose password the environment or the terminal has.

use crate::exit::Failure;
use chasqui_protocol::sasl::accounts::{self, Account};
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

/// Where the password of `--auth-user` may stand.
pub(crate) const AUTH_PASSWORD_VARIABLE: &str = "CHASQUI_AUTH_PASSWORD";
/// Octets of a file: a million accounts of 64 octets.
const FILE_MAX: u64 = 64 << 20;

/// The accounts of a file that the option names; at least one.
pub(crate) fn read(option: &str, path: &Path) -> Result<Vec<Account>, Failure> {
    let place = || format!("{option} {}", path.display());
    let usage = |what: &dyn std::fmt::Display| Failure::Usage(format!("{}: {what}", place()));
    let mut text = String::new();
    let file = File::open(path).map_err(|error| usage(&error))?;
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|error| usage(&error))?;
    if text.len() as u64 > FILE_MAX {
        return Err(usage(&format!("over {} MiB: name fewer accounts", FILE_MAX >> 20)));
    }
    let accounts = accounts::parse(&text).map_err(|mistakes| {
        let more = match mistakes.len() {
            0 | 1 => String::new(),
            count => format!(" (and {} more lines)", count - 1),
        };
        usage(&mistakes.first().map_or_else(String::new, |first| format!("{first}{more}")))
    })?;
    if accounts.is_empty() { Err(usage(&"there is no account: write user:password")) } else { Ok(accounts) }
}

/// The account of a user whose password the environment has, or the terminal is asked for.
pub(crate) fn ask(user: &str) -> Result<Account, Failure> {
    let password = match std::env::var(AUTH_PASSWORD_VARIABLE) {
        Ok(password) => password,
        Err(_) if io::stdin().is_terminal() => rpassword::prompt_password(format!("Password of {user}: "))
            .map_err(|error| Failure::Usage(format!("the terminal: {error}")))?,
        Err(_) => {
            return Err(Failure::Usage(format!(
                "--auth-user {user}: there is no terminal to ask for the password: set {AUTH_PASSWORD_VARIABLE}, or name a file with --auth"
            )));
        }
    };
    Account::new(user, &password).map_err(|error| Failure::Usage(format!("--auth-user {user}: {error}")))
}
