//! Asks the relay, through its control socket, what it still has in its queue.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use chasqui_protocol::control::{AnswerError, QueueLine, Request, answer};
use chasqui_protocol::stamp::{parse_reverse_path, recipient_hash};
use chasqui_runtime::net::UnixStream;
use chasqui_runtime::{now, sleep, timeout};

/// The relay answers, and goes on answering, within this: it lists page by page, each in milliseconds (bench-recovery: 1,000,000 messages in seconds).
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a relay may take to start, and how often it is looked for.
const START_LIMIT: Duration = Duration::from_secs(10);
const START_PAUSE: Duration = Duration::from_millis(100);
/// Longest line of an answer: two addresses and their JSON.
const LINE_OCTETS_MAX: usize = 8 * 1024;

/// Why the relay's queue is not known. One line; the user sees to the relay.
#[derive(Debug)]
pub(crate) enum QueueError {
    /// The socket, and what came of it.
    Socket(String),
    /// Queued messages whose envelopes the relay's disk does not give.
    Unread(u64),
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(what) => f.write_str(what),
            Self::Unread(messages) => {
                write!(f, "the relay's disk does not give the envelopes of {messages} queued messages")
            }
        }
    }
}

/// Waits a while until somebody listens there, as a relay that starts does before long.
pub(crate) async fn is_there(path: &Path) -> Result<(), QueueError> {
    let until = now() + START_LIMIT;
    loop {
        match UnixStream::connect(path).await {
            Ok(_) => return Ok(()),
            Err(_) if now() < until => sleep(START_PAUSE).await,
            Err(error) => {
                return Err(QueueError::Socket(format!("relay control socket {}: {error}", path.display())));
            }
        }
    }
}

/// Lists the queue and calls `entry` with sequence and recipient hash of everything that belongs to `run`; gives the
/// number of messages, of whatever run, that are queued too, but whose envelopes the relay's disk did not give.
/// `Err`: the list is not whole.
pub(crate) async fn list(path: &Path, run: u64, mut entry: impl FnMut(u64, u64)) -> Result<u64, QueueError> {
    let describe =
        |what: &str| QueueError::Socket(format!("relay control socket {}: {what}", path.display()));
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
