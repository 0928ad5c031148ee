//! What a process's rings have done: `{"ring":{"submitted":…,"completed":…,"enters":…}}`, `null` on another engine.

use crate::exit::Failure;
use crate::signals::helper;
use chasqui_protocol::control::{RingCounts, Rings, append};
use chasqui_runtime::net::listen_unix;
use chasqui_runtime::ring_counts;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What the rings of this process have done.
pub(crate) fn here() -> Option<RingCounts> {
    ring_counts().map(|counts| RingCounts {
        submitted: counts.submitted,
        completed: counts.completed,
        enters: counts.enters,
    })
}

/// Clients at a time, each with a thread; of more, the one that came first makes way. A bench has one.
const CLIENTS_MAX: usize = 32;
/// Octets of a request: a hundred times the longest that anybody sends.
const REQUEST_MAX: u64 = 4096;

/// Answers on `path` for as long as the process lives. No client waits for another.
pub(crate) fn answer(path: &Path) -> Result<(), Failure> {
    let bound = listen_unix(path);
    let listener = bound.map_err(|error| Failure::Usage(format!("--control {}: {error}", path.display())))?;
    helper("control", move || {
        let mut clients = VecDeque::new();
        for client in listener.incoming().flatten() {
            let Ok(ours) = client.try_clone() else { continue };
            clients.push_back(ours);
            if clients.len() > CLIENTS_MAX
                && let Some(first) = clients.pop_front()
            {
                // It may be gone already.
                let _gone = first.shutdown(Shutdown::Both);
            }
            // A client that goes away has what it wanted; without a thread for it, it is closed.
            let _refused = helper("control-client", move || drop(converse(&client)));
        }
    })
}

/// Answers lines, up to one that is too long or no JSON: who says that speaks another protocol.
fn converse(client: &UnixStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    loop {
        let mut asked = String::new();
        if reader.by_ref().take(REQUEST_MAX).read_line(&mut asked)? == 0 || !is_request(&asked) {
            return client.shutdown(Shutdown::Both);
        }
        let mut line = Vec::new();
        append(&Rings { ring: here() }, &mut line);
        let mut client = client;
        client.write_all(&line)?;
    }
}

fn is_request(line: &str) -> bool {
    line.ends_with('\n') && serde_json::from_str::<serde_json::Value>(line).is_ok()
}
