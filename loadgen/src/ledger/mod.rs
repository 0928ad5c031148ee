//! The ledger: what became of every recipient of every message that one shard has sent.
//!
//! scheduled = sent + unsent; sent = accepted + rejected + unknown;
//! accepted = verified + bounced + corrupted + lost + missing + pending.
//!
//! A recipient is 16 bytes: its intended time, its mailbox, and `flags`. Events may come in any order: an
//! arrival before the reply that accepts it, a bounce before either. Nothing is decided while they come in;
//! `Ledger::judge` decides once, from the flags and the evidence gathered after the drain.

mod anomalies;
mod flags;
mod judge;
mod layout;
mod queue_ids;
#[cfg(test)]
mod tests;
mod unfinished;

use std::ops::Range;
use std::sync::Arc;

use chasqui_runtime::HashSet;

pub use anomalies::Anomaly;
pub(crate) use anomalies::{Refusals, name_queue_ids};
pub use judge::Beside;
pub(crate) use judge::{Evidence, Judgement, RelayAnswer};
pub(crate) use queue_ids::QueueIds;
pub(crate) use unfinished::Unfinished;

use crate::scenario::Directory;
use flags::Flags;
use layout::Layout;

/// Entries are allocated in pieces, so that growth never copies (64 KiB each).
const CHUNK: usize = 4096;
/// Distinct phantoms remembered; more are counted without telling copies apart.
const PHANTOMS_MAX: usize = 65_536;

/// One recipient of one message.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    intended_ns: u64,
    mailbox: u32,
    flags: Flags,
}

const _: () = assert!(size_of::<Entry>() == 16);

/// What a final reply, or its absence, makes of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submission {
    /// 250 after the data: the relay has taken responsibility.
    Accepted,
    /// A final reply of 4xx or 5xx.
    Rejected,
    /// The connection ended before the final reply was read.
    Unknown,
}

/// What a checksum says about a copy of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// Header section and body are as they were sent.
    Intact,
    /// They are not, or the stamp is gone.
    Changed,
    /// Nobody looked.
    Unchecked,
}

/// What an arrival, bounce or reading turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// The first of its kind for this recipient, whose intended time this is.
    First {
        /// The intended time of the message.
        intended_ns: u64,
    },
    /// A further copy.
    Repeated,
    /// Nothing that was sent.
    Phantom,
}

/// Running totals of one ledger, in recipients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tallies {
    /// Sends that were begun.
    pub sent: u64,
    /// Accepted by the relay.
    pub accepted: u64,
    /// Refused by the relay.
    pub rejected: u64,
    /// Without a final reply.
    pub unknown: u64,
    /// Seen at the sinks or in a mailbox.
    pub arrived: u64,
    /// Read back whole, or arrived intact where arrivals are taken as verification.
    pub verified: u64,
    /// A bounce came.
    pub bounced: u64,
    /// Seen changed.
    pub corrupted: u64,
    /// Accepted and neither arrived nor bounced yet.
    pub outstanding: u64,
    /// Accepted and neither verified, corrupted nor bounced yet.
    pub unverified: u64,
    /// Anything that happened: it moves while there is progress.
    pub events: u64,
}

/// The ledger of one shard.
#[derive(Debug)]
pub struct Ledger {
    shard: u64,
    shards: u64,
    layout: Layout,
    directory: Arc<Directory>,
    arrival_verifies: bool,
    late_after_ns: u64,
    /// Events at or after this time do not count for what is on its way at the end of it.
    window_end_ns: u64,
    chunks: Vec<Box<[Entry; CHUNK]>>,
    length: usize,
    /// Per mailbox: one more than the highest message index that has arrived.
    newest_arrived: Box<[u32]>,
    phantoms: HashSet<(u64, u64)>,
    phantoms_beyond: u64,
    /// Mail that carries another run's stamp or none.
    foreign: u64,
    /// Where a final reply was lost, and when.
    losses: Vec<(usize, u64)>,
    tallies: Tallies,
}

/// How a [`Ledger`] is set up.
#[derive(Clone, Debug)]
pub struct LedgerConfig {
    /// The shard that owns it: it has the sequences that are `shard` modulo `shards`.
    pub shard: usize,
    /// How many ledgers share the run's sequences.
    pub shards: usize,
    /// Recipients of every message; none: each has its own number.
    pub recipients: Option<usize>,
    /// Whether an intact arrival is a verification.
    pub arrival_verifies: bool,
    /// An arrival later than this after the intended time is late.
    pub late_after_ns: u64,
    /// The end of the window.
    pub window_end_ns: u64,
}

impl Ledger {
    /// An empty ledger for mail to the mailboxes of `directory`.
    pub fn new(config: &LedgerConfig, directory: Arc<Directory>) -> Self {
        let newest_arrived = vec![0; directory.count()].into_boxed_slice();
        Self {
            shard: config.shard as u64,
            shards: config.shards as u64,
            layout: Layout::new(config.recipients),
            directory,
            arrival_verifies: config.arrival_verifies,
            late_after_ns: config.late_after_ns,
            window_end_ns: config.window_end_ns,
            chunks: Vec::new(),
            length: 0,
            newest_arrived,
            phantoms: HashSet::default(),
            phantoms_beyond: 0,
            foreign: 0,
            losses: Vec::new(),
            tallies: Tallies::default(),
        }
    }

    /// Takes everything out and leaves an empty ledger.
    pub fn take(&mut self) -> Self {
        let empty = Self {
            layout: self.layout.emptied(),
            directory: self.directory.clone(),
            chunks: Vec::new(),
            length: 0,
            newest_arrived: Box::default(),
            phantoms: HashSet::default(),
            phantoms_beyond: 0,
            foreign: 0,
            losses: Vec::new(),
            tallies: Tallies::default(),
            ..*self
        };
        std::mem::replace(self, empty)
    }

    /// Totals so far.
    pub fn tallies(&self) -> Tallies {
        self.tallies
    }

    /// Whether all recipients of a message, counted among those of this ledger, have one copy that is as it was sent.
    pub(crate) fn is_delivered(&self, message: u32) -> bool {
        let entries = self.layout.entries(message.into(), self.length).unwrap_or_default();
        entries.into_iter().all(|position| {
            let flags = self.entry(position).flags;
            flags.verified(self.arrival_verifies) && !flags.has(Flags::DUPLICATED)
        })
    }

    /// Bytes held for the recipients.
    pub fn bytes(&self) -> u64 {
        (self.chunks.len() * CHUNK * size_of::<Entry>() + self.newest_arrived.len() * 4 + self.layout.bytes())
            as u64
    }

    /// The window ends at `end_ns`, sooner than planned.
    pub fn cut_window(&mut self, end_ns: u64) {
        self.window_end_ns = self.window_end_ns.min(end_ns);
    }

    /// The sequence that the next [`Ledger::send`] gives.
    pub fn next_sequence(&self) -> u64 {
        self.layout.messages(self.length) as u64 * self.shards + self.shard
    }

    /// Enters a message whose sending begins now, to different mailboxes, as many as every message has where that is so; gives its
    /// sequence.
    pub fn send(&mut self, intended_ns: u64, mailboxes: &[u32]) -> u64 {
        let sequence = self.next_sequence();
        self.layout.add(self.length, mailboxes.len());
        for &mailbox in mailboxes {
            if self.length == self.chunks.len() * CHUNK {
                self.chunks.push(Box::new([Entry::default(); CHUNK]));
            }
            self.chunks[self.length / CHUNK][self.length % CHUNK] =
                Entry { intended_ns, mailbox, flags: Flags::default() };
            self.length += 1;
        }
        self.tallies.sent += mailboxes.len() as u64;
        self.tallies.events += 1;
        sequence
    }

    /// Enters what became of recipient `index` of a message sent from here. Only the first word counts: whether this was
    /// it.
    pub fn submitted(&mut self, sequence: u64, index: usize, submission: Submission, at_ns: u64) -> bool {
        let Some(first) = self.entries_of(sequence).map(|entries| entries.start) else { return false };
        debug_assert!(index < self.recipients_of(sequence));
        if self.entry(first + index).flags.submission().is_some() {
            return false;
        }
        let in_time = at_ns < self.window_end_ns;
        self.change(first + index, |flags| flags.submit(submission, in_time));
        match submission {
            Submission::Accepted => self.tallies.accepted += 1,
            Submission::Rejected => self.tallies.rejected += 1,
            Submission::Unknown => {
                self.tallies.unknown += 1;
                self.losses.push((first + index, at_ns));
            }
        }
        true
    }

    /// Enters an arrival at a sink.
    pub fn arrived(&mut self, sequence: u64, recipient: u64, integrity: Integrity, at_ns: u64) -> Sighting {
        let Some(position) = self.find(sequence, recipient) else { return self.phantom(sequence, recipient) };
        let entry = self.entry(position);
        let first = !entry.flags.has(Flags::ARRIVED);
        let mut add = Flags::ARRIVED;
        match integrity {
            Integrity::Intact => add |= Flags::ARRIVED_INTACT,
            Integrity::Changed => add |= Flags::CHANGED,
            Integrity::Unchecked => {}
        }
        if first {
            if at_ns < self.window_end_ns {
                add |= Flags::ARRIVED_IN_TIME;
            }
            if at_ns.saturating_sub(entry.intended_ns) > self.late_after_ns {
                add |= Flags::LATE;
            }
            let newest = &mut self.newest_arrived[entry.mailbox as usize];
            let message = self.layout.message(position) as u32 + 1;
            if message < *newest {
                add |= Flags::REORDERED;
            }
            *newest = message.max(*newest);
        } else {
            add |= Flags::DUPLICATED;
        }
        self.change(position, |flags| *flags |= add);
        sighting(first, entry)
    }

    /// Enters a bounce of this recipient.
    pub fn bounced(&mut self, sequence: u64, recipient: u64) -> Sighting {
        let Some(position) = self.find(sequence, recipient) else { return self.phantom(sequence, recipient) };
        let entry = self.entry(position);
        let first = !entry.flags.has(Flags::BOUNCED);
        self.change(position, |flags| *flags |= Flags::BOUNCED);
        sighting(first, entry)
    }

    /// Enters a copy that a reader has found in a mailbox.
    pub fn read(&mut self, sequence: u64, recipient: u64, intact: bool) -> Sighting {
        let Some(position) = self.find(sequence, recipient) else { return self.phantom(sequence, recipient) };
        let entry = self.entry(position);
        let first = !entry.flags.has(Flags::READ);
        let add = Flags::READ
            | if intact { Flags::READ_INTACT } else { Flags::CHANGED }
            | if first && intact { Flags::VISIBLE } else { Flags::default() }
            | if first { Flags::default() } else { Flags::DUPLICATED };
        self.change(position, |flags| *flags |= add);
        sighting(first, entry)
    }

    /// Enters that the relay has this recipient in its queue.
    pub fn queued(&mut self, sequence: u64, recipient: u64) {
        if let Some(position) = self.find(sequence, recipient) {
            self.change(position, |flags| *flags |= Flags::QUEUED);
        }
    }

    /// Enters that a sink dropped this recipient's copy before anybody had read it.
    pub fn dropped(&mut self, sequence: u64, recipient: u64) {
        if let Some(position) = self.find(sequence, recipient) {
            self.change(position, |flags| *flags |= Flags::DROPPED);
        }
    }

    /// Enters mail of another run, or without a stamp.
    pub fn foreign(&mut self) {
        self.foreign += 1;
    }

    /// Ends every send that has no final reply as `unknown`.
    pub fn give_up_replies(&mut self) {
        for position in 0..self.length {
            if self.entry(position).flags.submission().is_none() {
                self.change(position, |flags| flags.submit(Submission::Unknown, false));
                self.tallies.unknown += 1;
            }
        }
    }

    fn phantom(&mut self, sequence: u64, recipient: u64) -> Sighting {
        self.tallies.events += 1;
        if self.phantoms.len() < PHANTOMS_MAX {
            self.phantoms.insert((sequence, recipient));
        } else if !self.phantoms.contains(&(sequence, recipient)) {
            self.phantoms_beyond += 1;
        }
        Sighting::Phantom
    }

    /// Recipients of a message of this ledger.
    pub fn recipients_of(&self, sequence: u64) -> usize {
        self.entries_of(sequence).map_or(0, |entries| entries.len())
    }

    /// Where the recipients of a message of this ledger are.
    fn entries_of(&self, sequence: u64) -> Option<Range<usize>> {
        let is_here = sequence % self.shards == self.shard;
        is_here.then(|| self.layout.entries(sequence / self.shards, self.length)).flatten()
    }

    fn find(&self, sequence: u64, recipient: u64) -> Option<usize> {
        self.entries_of(sequence)?
            .find(|&position| self.directory.hash(self.entry(position).mailbox) == recipient)
    }

    fn entry(&self, position: usize) -> Entry {
        self.chunks[position / CHUNK][position % CHUNK]
    }

    /// Changes the flags of an entry and keeps the tallies that follow from them.
    fn change(&mut self, position: usize, change: impl FnOnce(&mut Flags)) {
        let verifies = self.arrival_verifies;
        let flags = &mut self.chunks[position / CHUNK][position % CHUNK].flags;
        let before = *flags;
        change(flags);
        let after = *flags;
        let tallies = &mut self.tallies;
        tallies.events += 1;
        let keep = |tally: &mut u64, holds: &dyn Fn(Flags) -> bool| match (holds(before), holds(after)) {
            (false, true) => *tally += 1,
            (true, false) => *tally -= 1,
            _ => {}
        };
        keep(&mut tallies.arrived, &Flags::seen);
        keep(&mut tallies.bounced, &|flags| flags.has(Flags::BOUNCED));
        keep(&mut tallies.corrupted, &|flags| flags.has(Flags::CHANGED));
        keep(&mut tallies.verified, &|flags| flags.verified(verifies));
        keep(&mut tallies.outstanding, &Flags::outstanding);
        keep(&mut tallies.unverified, &|flags| flags.unverified(verifies));
    }
}

fn sighting(first: bool, entry: Entry) -> Sighting {
    if first { Sighting::First { intended_ns: entry.intended_ns } } else { Sighting::Repeated }
}
