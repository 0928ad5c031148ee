//! A store that never fills up: the oldest message makes room for a new one.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::index::Mailbox;
use super::lock;

/// Entries of messages that are gone already which are put up with, beside as many as there are messages.
const STALE_MAX: usize = 4096;

/// Where a message comes from, for whoever waits to see it in the mailbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin {
    /// Its run and number, as its stamp says.
    pub run: u64,
    /// Its number within the run.
    pub sequence: u64,
    /// Hash of the recipient's address.
    pub recipient: u64,
}

/// A message that made room before anybody had read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// Where it came from.
    pub origin: Origin,
    /// Octets.
    pub size: u32,
}

/// The messages of a store in the order of their coming.
#[derive(Debug)]
pub(super) struct Oldest {
    messages_max: usize,
    /// Messages in all mailboxes; each of them counts its own.
    live: Arc<AtomicUsize>,
    queue: Mutex<VecDeque<Entry>>,
}

#[derive(Debug)]
struct Entry {
    mailbox: Arc<Mailbox>,
    uid: u32,
    origin: Origin,
}

impl Oldest {
    pub(super) fn new(messages_max: usize) -> Oldest {
        Oldest { messages_max: messages_max.max(1), live: Arc::default(), queue: Mutex::default() }
    }

    /// What mailboxes count their messages with.
    pub(super) fn live(&self) -> Arc<AtomicUsize> {
        self.live.clone()
    }

    /// Makes room for one message more.
    pub(super) fn make_room(&self, dropped: &mut Vec<Dropped>) {
        while self.live.load(Ordering::Relaxed) >= self.messages_max && self.drop_one(dropped) {}
    }

    /// Drops the oldest message; false: there is none. Adds it to `dropped` if nobody has read it.
    pub(super) fn drop_one(&self, dropped: &mut Vec<Dropped>) -> bool {
        loop {
            let Some(entry) = lock(&self.queue).pop_front() else { return false };
            // Else a reader has deleted it.
            let Some(message) = entry.mailbox.lock().remove_one(entry.uid) else { continue };
            if !message.was_read() {
                dropped.push(Dropped { origin: entry.origin, size: message.size() });
            }
            return true;
        }
    }

    pub(super) fn push(&self, mailbox: Arc<Mailbox>, uid: u32, origin: Origin) {
        let mut queue = lock(&self.queue);
        queue.push_back(Entry { mailbox, uid, origin });
        if queue.len() > 2 * self.live.load(Ordering::Relaxed) + STALE_MAX {
            queue.retain(|entry| entry.mailbox.lock().find(entry.uid).is_some());
        }
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        lock(&self.queue).len()
    }
}
