//! `chasqui password`: writes a line of a users file.

use crate::arguments::{NewPassword, Scheme};
use crate::exit::Failure;
use crate::output::to_stdout;
use chasqui_protocol::sasl::prepare::{PASSWORD_MAX, Password};
use chasqui_protocol::sasl::scram::{ITERATIONS_DEFAULT, ITERATIONS_MAX, ITERATIONS_MIN};
use chasqui_protocol::sasl::secret::Secret;
use chasqui_protocol::sasl::stored::{Argon2Options, Stored};
use chasqui_protocol::users;
use chasqui_runtime::secret;
use std::io::{self, BufRead, IsTerminal, Read};
use std::process::ExitCode;

/// Asks for the password, and prints the line.
pub(crate) fn run(options: &NewPassword) -> Result<ExitCode, Failure> {
    users::check_name(&options.name).map_err(|what| Failure::Usage(format!("NAME: {what}")))?;
    let form = Form::of(options)?;
    let text = if options.stdin || !io::stdin().is_terminal() { from_stdin()? } else { from_terminal()? };
    let password = Password::prepare(text.as_str().as_bytes())
        .map_err(|why| Failure::Usage(format!("the password {why}: choose another")))?;
    let stored = form.of_password(&password)?;
    to_stdout(|out| writeln!(out, "{} {stored}", options.name))?;
    Ok(ExitCode::SUCCESS)
}

/// What is to be kept, its options checked before a password is asked for.
enum Form {
    Argon2id,
    Scram { iterations: u32 },
}

impl Form {
    fn of(options: &NewPassword) -> Result<Form, Failure> {
        match (options.scheme, options.iterations) {
            (Scheme::Argon2id, None) => Ok(Form::Argon2id),
            (Scheme::Argon2id, Some(_)) => Err(Failure::Usage(
                "--iterations goes with --scheme scram-sha-256: name that, or leave it out".to_owned(),
            )),
            (Scheme::ScramSha256, iterations) => {
                let iterations = iterations.unwrap_or(ITERATIONS_DEFAULT);
                if (ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations) {
                    return Ok(Form::Scram { iterations });
                }
                let bounds = format!("name {ITERATIONS_MIN} to {ITERATIONS_MAX}");
                Err(Failure::Usage(format!("--iterations {iterations}: {bounds}")))
            }
        }
    }

    fn of_password(self, password: &Password) -> Result<Stored, Failure> {
        match self {
            Form::Argon2id => Stored::argon2id(password, Argon2Options::default(), secret())
                .map_err(|error| Failure::internal("cannot compute Argon2", error)),
            Form::Scram { iterations } => Ok(Stored::scram(password, iterations, secret())),
        }
    }
}

/// The first line of standard input, without its end.
fn from_stdin() -> Result<Secret, Failure> {
    // A line that is longer than a password may be is cut behind that, and refused for its length.
    let mut line = Vec::with_capacity(PASSWORD_MAX + 3);
    io::stdin()
        .lock()
        .take(PASSWORD_MAX as u64 + 3)
        .read_until(b'\n', &mut line)
        .map_err(|error| Failure::Usage(format!("standard input: {error}")))?;
    let text = String::from_utf8(line)
        .map_err(|_| Failure::Usage("the password is not UTF-8: choose another".to_owned()))?;
    let text = Secret::new(text);
    let line = text.as_str().strip_suffix('\n').unwrap_or(text.as_str());
    Ok(Secret::new(line.strip_suffix('\r').unwrap_or(line).to_owned()))
}

/// Asks twice at the terminal, without echo.
fn from_terminal() -> Result<Secret, Failure> {
    let ask = |prompt: &str| {
        rpassword::prompt_password(prompt)
            .map(Secret::new)
            .map_err(|error| Failure::Usage(format!("the terminal: {error}; give the password with --stdin")))
    };
    let (one, other) = (ask("Password: ")?, ask("The same again: ")?);
    if one.as_str() == other.as_str() {
        Ok(one)
    } else {
        Err(Failure::Usage("the two passwords differ: try again".to_owned()))
    }
}
