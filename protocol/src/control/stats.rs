//! What other programs read of the counters of a relay or of sinks. The relay's list of them all is its `metrics.rs`.

use serde::{Deserialize, Serialize};

crate::metrics! {
    /// What the rings of a process have done since its start.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct RingCounts {
        /// Entries that the kernel took.
        counter submitted;
        /// Completions.
        counter completed;
        /// Calls of io_uring_enter.
        counter enters;
    }
}

impl RingCounts {
    /// What was counted since `start`; `None`: it was another process.
    pub fn since(self, start: RingCounts) -> Option<RingCounts> {
        Some(RingCounts {
            submitted: self.submitted.checked_sub(start.submitted)?,
            completed: self.completed.checked_sub(start.completed)?,
            enters: self.enters.checked_sub(start.enters)?,
        })
    }
}

/// What sinks answer to any request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// `null` on another engine than io_uring.
    pub ring: Option<RingCounts>,
}

/// What a measurement reads of a relay's answer to [`super::Request::Stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Stats {
    /// Completed syncs of the spool since the relay's start.
    pub syncs: u64,
    /// Messages that those syncs made durable.
    pub synced_messages: u64,
    /// Octets that were appended to the spool, padding included.
    pub appended_bytes: u64,
    /// `null` on another engine than io_uring.
    pub ring: Option<RingCounts>,
}
