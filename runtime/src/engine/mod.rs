//! Engines under the facade. The cut is low: receive, send, accept, connect, read, write, sync and the wait
//! for the next event; timers, tasks, leases and everything else above it is shared code.

pub(crate) mod uring;

use std::fmt;
use std::io;
use std::str::FromStr;

pub(crate) use uring::Driver as Engine;

/// Which engine the shards of a process run on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// io_uring, directly on its ring (Linux 6.1 and later).
    #[default]
    Uring,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uring => f.write_str("uring"),
        }
    }
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "uring" => Ok(Self::Uring),
            other => Err(format!("no engine is called {other:?}; this build has: uring")),
        }
    }
}

/// What the kernel lacks for an engine, in one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ProbeError(pub(crate) String);

impl ProbeError {
    pub(crate) fn from_setup(error: io::Error) -> Self {
        let mend = match error.raw_os_error() {
            Some(libc::ENOSYS) => {
                "the kernel has no io_uring, or a seccomp rule hides it: use Linux 6.1 or \
                                   later and allow io_uring_setup, io_uring_enter and io_uring_register"
            }
            Some(libc::EPERM | libc::EACCES) => {
                "io_uring is switched off: set the sysctl kernel.io_uring_disabled to 0, or allow it in the \
                 seccomp or LSM policy"
            }
            Some(libc::EINVAL) => "the kernel lacks SINGLE_ISSUER and DEFER_TASKRUN: Linux 6.1 brings them",
            Some(libc::ENOMEM) => "locked memory is exhausted: raise ulimit -l to 8192 KiB or more",
            Some(libc::EMFILE | libc::ENFILE) => "no file descriptor is left: raise ulimit -n",
            _ => "see io_uring_setup(2)",
        };
        Self(format!("cannot set up io_uring: {error}; {mend}"))
    }
}

/// Checks on the calling thread that the kernel has what `kind` needs.
pub(crate) fn probe(kind: EngineKind) -> Result<(), ProbeError> {
    match kind {
        EngineKind::Uring => uring::probe::check(),
    }
}
