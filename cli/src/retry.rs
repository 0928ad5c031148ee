//! `chasqui retry`: has a running relay try deferred messages now.

use crate::arguments::Retry;
use crate::exit::Failure;
use crate::output::to_stdout;
use chasqui_protocol::control::answer::{self, AnswerError, Retried};
use chasqui_protocol::control::{self, Request};
use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

/// Looking for the messages of a domain in a queue of millions takes a while.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);

/// Asks, and prints how many jobs are tried.
pub(crate) fn run(options: &Retry) -> Result<ExitCode, Failure> {
    let control = options.control.display();
    let nobody = |error: &dyn Display| {
        Failure::Usage(format!("--control {control}: {error}; is it a running relay's?"))
    };
    let line = ask(options).map_err(|error| nobody(&error))?;
    let retried: Retried = answer::decode(line.as_bytes()).map_err(|error| match error {
        AnswerError::Foreign(error) => nobody(&error),
        AnswerError::Refused(why) => Failure::Usage(format!("the relay says: {why}")),
        AnswerError::Unexpected(_) => {
            Failure::Usage(format!("--control {control}: its answer is no relay's"))
        }
    })?;
    to_stdout(|out| writeln!(out, "{} deferred jobs are tried now", retried.jobs))?;
    Ok(ExitCode::SUCCESS)
}

fn ask(options: &Retry) -> std::io::Result<String> {
    let Retry { site, domain, message, .. } = options;
    let (site, domain, message) = (site.clone(), domain.clone(), message.clone());
    let request = Request::Retry(control::Retry { site, domain, message });
    let mut stream = UnixStream::connect(&options.control)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(&request.encode())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}
