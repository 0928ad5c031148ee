//! What every thread of a run is given, and what they send each other.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chasqui_protocol::arrival::Record;
use chasqui_report::Verify;
use chasqui_runtime::channel::{SendError, Sender};
use chasqui_runtime::{Instant, sleep};
use chasqui_transport::tls::{ClientTls, Trust};

use crate::scenario::{Directory, MailboxServer, Scenario};
use crate::shared::Shared;

/// Batches that may wait for a generator shard: up to 16 million events, more than come while it pauses.
pub(crate) const INBOX_BATCHES_MAX: usize = 65_536;
/// Events of one batch, at which it is sent without waiting for more.
pub(crate) const BATCH_EVENTS: usize = 256;

/// The run, as every thread knows it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) scenario: Scenario,
    pub(crate) verify: Verify,
    /// What all connections share of TLS, where the scenario wants it.
    pub(crate) tls: Option<ClientTls>,
    pub(crate) run: u64,
    pub(crate) bounce_zone: String,
    pub(crate) directory: Arc<Directory>,
    pub(crate) shared: Shared,
    /// Generator shards: shard `s` owns the sequences that are `s` modulo this.
    pub(crate) generators: usize,
    /// Reader shards.
    pub(crate) readers: usize,
    /// The inbox of each generator shard.
    pub(crate) inboxes: Vec<Sender<Item>>,
}

impl Plan {
    /// The generator shard in whose ledger a sequence is.
    pub(crate) fn owner(&self, sequence: u64) -> usize {
        (sequence % self.generators as u64) as usize
    }

    /// How a mailbox is read; `None` when nobody reads mailboxes.
    pub(crate) fn read_by(&self, mailbox: u32) -> Option<(Protocol, &MailboxServer)> {
        match (&self.scenario.imap, &self.scenario.pop3) {
            (Some(imap), Some(_)) if mailbox % 2 == 1 => Some((Protocol::Imap, imap)),
            (_, Some(pop3)) => Some((Protocol::Pop3, pop3)),
            (Some(imap), None) => Some((Protocol::Imap, imap)),
            (None, None) => None,
        }
    }

    /// How mail becomes visible in a mailbox while the run goes on; `None` when nobody looks until it is over.
    pub(crate) fn visible_by(&self, mailbox: u32) -> Option<Protocol> {
        let live = self.verify == Verify::Live;
        self.read_by(mailbox).filter(|_| live).map(|(protocol, _)| protocol)
    }

    /// Whose certificates are taken.
    pub(crate) fn trust(&self) -> Trust {
        if self.scenario.tls.verifies() { Trust::Verified } else { Trust::Any }
    }

    /// When the window begins, once the start of the warm-up is fixed.
    pub(crate) fn window_start(&self) -> Option<Instant> {
        self.shared.start().map(|start| start + self.scenario.warmup)
    }
}

/// Something learnt about a message, on its way to the shard whose ledger it is in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// A sink tells of an arrival or bounce.
    Record(Record),
    /// A reader has found a copy.
    Read { sequence: u64, recipient: u64, at_ns: u64, intact: bool, by: Protocol },
    /// The relay has it in its queue.
    Queued { sequence: u64, recipient: u64 },
    /// A reader has found mail of another run or without a stamp.
    Foreign,
}

/// How a mailbox is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Imap,
    Pop3,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Imap => "IMAP",
            Self::Pop3 => "POP3",
        })
    }
}

/// What comes to the inbox of a generator shard. Items of one sender keep their order.
#[derive(Debug)]
pub(crate) enum Item {
    /// Events, oldest first.
    Events(Vec<Event>),
    /// The sender will send no more.
    End,
}

/// Batches for each owner, filled by one thread.
#[derive(Debug)]
pub(crate) struct Outbox(Vec<Vec<Event>>);

impl Outbox {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self(vec![Vec::new(); plan.generators])
    }

    /// Adds an event for a shard. `true`: it is time to flush.
    pub(crate) fn add(&mut self, owner: usize, event: Event) -> bool {
        self.0[owner].push(event);
        self.0[owner].len() >= BATCH_EVENTS
    }

    /// Sends what has gathered. What finds a full inbox stays for the next flush; `false` then.
    pub(crate) fn flush(&mut self, plan: &Plan) -> bool {
        let mut all = true;
        for (batch, inbox) in self.0.iter_mut().zip(&plan.inboxes) {
            if batch.is_empty() {
                continue;
            }
            match inbox.send(Item::Events(std::mem::take(batch))) {
                // A shard that is gone needs nothing more.
                Ok(()) | Err(SendError::Closed(_)) => {}
                Err(SendError::Full(item)) => {
                    all = false;
                    if let Item::Events(events) = item {
                        *batch = events;
                    }
                }
            }
        }
        all
    }
}

/// Sends an item, waiting while the inbox is full.
pub(crate) async fn send_waiting(inbox: &Sender<Item>, mut item: Item) {
    while let Err(SendError::Full(returned)) = inbox.send(item) {
        item = returned;
        sleep(Duration::from_millis(1)).await;
    }
}
