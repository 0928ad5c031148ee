//! What a process's rings have done: `{"ring":{"submitted":…,"completed":…,"enters":…}}`, `null` on another engine.

use crate::exit::Failure;
use crate::signals::helper;
use chasqui_runtime::ring_counts;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

/// Counts since the process's start, or of a window.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ring {
    submitted: u64,
    completed: u64,
    enters: u64,
}

/// The answer to a line, and part of the relay's answer to `stats`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Rings {
    pub(crate) ring: Option<Ring>,
}

impl Ring {
    /// Of this process.
    pub(crate) fn here() -> Option<Ring> {
        ring_counts().map(|counts| Ring {
            submitted: counts.submitted,
            completed: counts.completed,
            enters: counts.enters,
        })
    }

    /// What was counted since `start`.
    pub(crate) fn since(self, start: Ring) -> Option<Ring> {
        Some(Ring {
            submitted: self.submitted.checked_sub(start.submitted)?,
            completed: self.completed.checked_sub(start.completed)?,
            enters: self.enters.checked_sub(start.enters)?,
        })
    }
}

/// Answers on `path` for as long as the process lives, one client at a time.
pub(crate) fn answer(path: &Path) -> Result<(), Failure> {
    let bound = UnixListener::bind(path);
    let listener = bound.map_err(|error| Failure::Usage(format!("--control {}: {error}", path.display())))?;
    helper("control", move || {
        for client in listener.incoming().flatten() {
            // A client that goes away has what it wanted.
            let _gone = converse(&client);
        }
    })
}

fn converse(client: &UnixStream) -> std::io::Result<()> {
    for _asked in BufReader::new(client).lines().map_while(Result::ok) {
        let mut line = serde_json::to_vec(&Rings { ring: Ring::here() })?;
        line.push(b'\n');
        let mut client = client;
        client.write_all(&line)?;
    }
    Ok(())
}
