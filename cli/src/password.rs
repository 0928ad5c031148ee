//! The password of the mailboxes, for the sink that checks it and the load that reads with it.

use crate::exit::Failure;
use clap::Args;
use std::path::PathBuf;

/// Where the password may stand.
pub(crate) const PASSWORD_VARIABLE: &str = "CHASQUI_PASSWORD";
/// The sinks' own.
const PASSWORD: &str = "chasqui";

/// Options that give the password.
#[derive(Debug, Args)]
pub(crate) struct PasswordOptions {
    /// Password of every mailbox; other users of the machine may see it [default: CHASQUI_PASSWORD of the environment, or
    /// chasqui]
    #[arg(long, value_name = "WORD", conflicts_with = "password_file")]
    pub(crate) password: Option<String>,
    /// File whose first line is that password [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
}

impl PasswordOptions {
    /// The password: as given, from its file, from the environment, or the sinks' own.
    pub(crate) fn password(&self) -> Result<String, Failure> {
        if let Some(password) = &self.password {
            return Ok(password.clone());
        }
        let Some(file) = &self.password_file else {
            return Ok(std::env::var(PASSWORD_VARIABLE).unwrap_or_else(|_| PASSWORD.to_owned()));
        };
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::Usage(format!("--password-file {}: {error}", file.display())))?;
        Ok(text.lines().next().unwrap_or_default().to_owned())
    }
}
