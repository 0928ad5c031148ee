//! The mailbox store: what was delivered, in memory, for POP3 and IMAP at once.
//!
//! One [`Store`] serves all shards of a process. Bodies lie in memfd segments that are only appended to, one open
//! segment per writing shard, and are sent from there without a copy in user space. The index of a mailbox sits
//! behind a mutex that is held for short, synchronous sections alone. A segment's memory goes back to the system
//! when the last message in it is deleted and the last send of it is over.

mod index;
mod login;
mod oldest;
mod outgoing;
mod segments;

pub use index::{Counts, Mailbox, Maildrop, Message, State, Watch};
pub use login::Login;
pub(crate) use login::{LOGIN_TIMEOUT, delay_of_failure};
pub use oldest::{Dropped, Origin};
pub(crate) use outgoing::Outgoing;

use std::hash::BuildHasher;
use std::io;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chasqui_runtime::{HashMap, Seeded, wall_clock};
use thiserror::Error;

use crate::incarnation::Incarnation;
use oldest::Oldest;
use segments::Segments;

/// Mutexes over which the table of mailboxes is spread.
const STRIPES: usize = 64;

/// Unique identifier of a message within its mailbox: ascending, never reused.
pub type Uid = NonZeroU32;

/// What a store may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of messages whose memory is in use.
    pub max_bytes: u64,
    /// Mailboxes.
    pub max_mailboxes: usize,
    /// Messages in one mailbox.
    pub max_messages_per_mailbox: usize,
    /// Length of a segment. Small segments come free sooner, large ones are fewer.
    pub segment_bytes: u64,
    /// The oldest message makes room for a new one, where there is none or where there are as many as this says in all mailboxes;
    /// none: the new one is refused.
    pub drop_oldest: Option<usize>,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_bytes: 8 << 30,
            max_mailboxes: 200_000,
            max_messages_per_mailbox: 1_000_000,
            segment_bytes: 16 << 20,
            drop_oldest: None,
        }
    }
}

/// Why a message was not taken. The receiver answers the client with it.
#[derive(Debug, Error)]
pub enum DeliverError {
    /// The store or the mailbox is full: 452 4.2.2.
    #[error("the mailbox is full")]
    Full,
    /// There are as many mailboxes as there may be: 452 4.3.1.
    #[error("there are too many mailboxes")]
    TooManyMailboxes,
    /// The message has 4 GiB or more: 552 5.3.4.
    #[error("the message is too large for a mailbox")]
    TooLarge,
    /// The system gave no memory: 451 4.3.0.
    #[error("the message cannot be stored: {0}")]
    Io(#[from] io::Error),
}

/// How much a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Mailboxes.
    pub mailboxes: usize,
    /// Bytes of messages whose memory is in use, deleted ones in segments that are still held included.
    pub bytes: u64,
    /// Segments.
    pub segments: usize,
}

/// All mailboxes of a sink process. Shared by its shards.
#[derive(Debug)]
pub struct Store {
    limits: Limits,
    uid_validity: NonZeroU32,
    hasher: Seeded,
    stripes: Box<[Stripe]>,
    mailboxes: AtomicUsize,
    segments: Segments,
    oldest: Option<Oldest>,
}

type Stripe = Mutex<HashMap<Box<str>, Arc<Mailbox>>>;

impl Store {
    /// An empty store, whose mailboxes the clock tells from those of an earlier one.
    pub fn new(limits: Limits) -> Arc<Store> {
        Store::with_uid_validity(limits, Incarnation::by_clock(wall_clock()).uid_validity)
    }

    /// An empty store. Mailboxes do not outlive it: `uid_validity` is to be higher than that of the one before.
    pub fn with_uid_validity(limits: Limits, uid_validity: NonZeroU32) -> Arc<Store> {
        Arc::new(Store {
            limits,
            uid_validity,
            hasher: Seeded::default(),
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            mailboxes: AtomicUsize::new(0),
            segments: Segments::new(limits.segment_bytes, limits.max_bytes),
            oldest: limits.drop_oldest.map(Oldest::new),
        })
    }

    /// Puts a message into the mailbox of `address_lower` (ASCII lower case), which is made if need be. `parts` are
    /// the bytes of the message, unstuffed, with lines that end in CR LF. The message is visible at once and
    /// sessions that idle on the mailbox are woken.
    pub fn deliver(
        &self,
        address_lower: &str,
        parts: &[&[u8]],
        internal_date: Duration,
    ) -> Result<Uid, DeliverError> {
        self.deliver_from(address_lower, parts, internal_date, Origin::default(), &mut Vec::new())
    }

    /// As [`Store::deliver`], for a message of this origin. Adds the messages that made room for it unread to `dropped`.
    pub fn deliver_from(
        &self,
        address_lower: &str,
        parts: &[&[u8]],
        internal_date: Duration,
        origin: Origin,
        dropped: &mut Vec<Dropped>,
    ) -> Result<Uid, DeliverError> {
        let mailbox = self.open(address_lower).ok_or(DeliverError::TooManyMailboxes)?;
        if let Some(oldest) = &self.oldest {
            oldest.make_room(dropped);
        }
        let body = loop {
            match (self.segments.append(parts), &self.oldest) {
                // A segment without messages is closed before another message is dropped.
                (Err(DeliverError::Full), Some(oldest))
                    if self.segments.close_idle() || oldest.drop_one(dropped) => {}
                (appended, _) => break appended?,
            }
        };
        let message = Message::new(body, parts, internal_date);
        let uid =
            mailbox.lock().push(message, self.limits.max_messages_per_mailbox).ok_or(DeliverError::Full)?;
        if let Some(oldest) = &self.oldest {
            oldest.push(mailbox, uid.get(), origin);
        }
        Ok(uid)
    }

    /// The mailbox of an address, made if need be; none: there are too many.
    pub fn open(&self, address_lower: &str) -> Option<Arc<Mailbox>> {
        let stripe = self.hasher.hash_one(address_lower) as usize % STRIPES;
        let mut stripe = lock(&self.stripes[stripe]);
        if let Some(mailbox) = stripe.get(address_lower) {
            return Some(mailbox.clone());
        }
        if self.mailboxes.fetch_add(1, Ordering::Relaxed) >= self.limits.max_mailboxes {
            self.mailboxes.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mailbox = Arc::new(Mailbox::new(self.uid_validity, self.oldest.as_ref().map(Oldest::live)));
        stripe.insert(address_lower.into(), mailbox.clone());
        Some(mailbox)
    }

    /// How much the store holds.
    pub fn usage(&self) -> Usage {
        Usage {
            mailboxes: self.mailboxes.load(Ordering::Relaxed),
            bytes: self.segments.bytes(),
            segments: self.segments.count(),
        }
    }
}

/// Locks a mutex whose sections cannot leave it inconsistent: a panic elsewhere must not take all mail with it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
