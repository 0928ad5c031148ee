//! `chasqui retry`: has a running relay try deferred messages now.

use crate::arguments::Retry;
use crate::exit::Failure;
use crate::output::to_stdout;
use serde_json::{Map, Value};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

/// Looking for the messages of a domain in a queue of millions takes a while.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);

/// Asks, and prints how many jobs are tried.
pub(crate) fn run(options: &Retry) -> Result<ExitCode, Failure> {
    let answer = ask(options).map_err(|error| {
        Failure::Usage(format!("--control {}: {error}; is it a running relay's?", options.control.display()))
    })?;
    if let Some(error) = answer["error"].as_str() {
        return Err(Failure::Usage(format!("the relay says: {error}")));
    }
    let Some(jobs) = answer["jobs"].as_u64() else {
        return Err(Failure::Usage(format!(
            "--control {}: its answer is no relay's",
            options.control.display()
        )));
    };
    to_stdout(|out| writeln!(out, "{jobs} deferred jobs are tried now"))?;
    Ok(ExitCode::SUCCESS)
}

fn ask(options: &Retry) -> std::io::Result<Value> {
    let mut request = Map::new();
    request.insert("command".into(), "retry".into());
    let named = [("site", &options.site), ("domain", &options.domain), ("message", &options.message)];
    for (name, value) in named {
        if let Some(value) = value {
            request.insert(name.into(), value.as_str().into());
        }
    }
    let mut stream = UnixStream::connect(&options.control)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    writeln!(stream, "{}", Value::from(request))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}
