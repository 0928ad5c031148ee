//! The queue of a shard: what is to be delivered, where it waits, and when it is tried again.
//!
//! Pure bookkeeping: no sockets, no files, no clock. [`crate::dispatch`] drives it.

pub(crate) mod messages;
pub(crate) mod sites;
pub(crate) mod timers;

#[cfg(test)]
mod tests;

pub(crate) use messages::{Job, Messages};
pub(crate) use sites::{ConnectionLimits, Idle, SiteId, Sites};
pub(crate) use timers::{Due, Timers, probe_delay, retry_delay};

/// Everything queued on a shard.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) messages: Messages,
    pub(crate) sites: Sites,
    pub(crate) timers: Timers,
}

impl Queue {
    pub(crate) fn new(limits: ConnectionLimits) -> Self {
        Queue { messages: Messages::default(), sites: Sites::new(limits), timers: Timers::default() }
    }
}
