//! Asks the relay, through its control socket, what it still has in its queue.

use std::path::Path;
use std::time::Duration;

use chasqui_protocol::control::{AnswerError, QueueLine, Request, answer};
use chasqui_protocol::stamp::{parse_reverse_path, recipient_hash};
use chasqui_runtime::net::UnixStream;
use chasqui_runtime::{now, sleep, timeout};

/// The relay answers, and goes on answering, within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a relay may take to start, and how often it is looked for.
const START_LIMIT: Duration = Duration::from_secs(10);
const START_PAUSE: Duration = Duration::from_millis(100);
/// Longest line of an answer: two addresses and their JSON.
const LINE_OCTETS_MAX: usize = 8 * 1024;

/// Waits a while until somebody listens there, as a relay that starts does before long. `Err` says in one line why not.
pub(crate) async fn is_there(path: &Path) -> Result<(), String> {
    let until = now() + START_LIMIT;
    loop {
        match UnixStream::connect(path).await {
            Ok(_) => return Ok(()),
            Err(_) if now() < until => sleep(START_PAUSE).await,
            Err(error) => return Err(format!("relay control socket {}: {error}", path.display())),
        }
    }
}

/// Lists the queue and calls `entry` with sequence and recipient hash of everything that belongs to `run`; gives the
/// number of messages, of whatever run, that are queued too, but whose envelopes the relay's disk did not give.
/// `Err` says in one line why the list is not whole.
pub(crate) async fn list(path: &Path, run: u64, mut entry: impl FnMut(u64, u64)) -> Result<u64, String> {
    let describe = |what: &str| format!("relay control socket {}: {what}", path.display());
    let stream = UnixStream::connect(path).await.map_err(|error| describe(&error.to_string()))?;
    stream.write_all(Request::Queue.encode()).await.map_err(|error| describe(&error.to_string()))?;
    let mut line = Vec::new();
    loop {
        let received = timeout(ANSWER_LIMIT, stream.read())
            .await
            .map_err(|_| describe("no answer in time"))?
            .map_err(|error| describe(&error.to_string()))?;
        if received.is_empty() {
            return Err(describe("closed before the end of the queue"));
        }
        for piece in received.split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if line.len() > LINE_OCTETS_MAX {
                return Err(describe("a line of the answer is too long"));
            }
            if !line.ends_with(b"\n") {
                continue;
            }
            let row = match answer::decode(&line) {
                Ok(QueueLine::Row(row)) => row,
                Ok(QueueLine::End(end)) => return Ok(end.unread.unwrap_or(0)),
                Err(AnswerError::Foreign(error)) => {
                    return Err(describe(&format!("a line of the answer is no JSON: {error}")));
                }
                Err(AnswerError::Refused(why)) => return Err(describe(&why)),
                Err(AnswerError::Unexpected(_)) => {
                    return Err(describe("a line of the answer has no reverse_path and recipient"));
                }
            };
            if let Some((entry_run, sequence)) = parse_reverse_path(&row.reverse_path)
                && entry_run == run
            {
                entry(sequence, recipient_hash(&row.recipient));
            }
            line.clear();
        }
    }
}
