//! The judgement over every recipient, once everything that can be known is in the ledger.

use std::ops::AddAssign;

use super::{Flags, Ledger, Submission};

/// Whether the relay was asked for its queue, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RelayAnswer {
    /// A foreign MTA: there is nobody to ask.
    Foreign,
    /// It was asked and listed its queue to the end.
    Listed,
    /// It was asked and did not answer: what is missing may still be in its queue.
    Silent,
}

/// What is known besides the flags of a recipient. It must have been gathered in this order: the relay's
/// queue, then a barrier through every arrival stream, then a last reading of every mailbox. So a message
/// that was delivered while the judgement was prepared is in one of them.
#[derive(Debug)]
pub(crate) struct Evidence<'a> {
    /// The relay's queue.
    pub(crate) relay: RelayAnswer,
    /// Every arrival stream lasted and answered the barrier; `None` when there are none.
    pub(crate) arrivals_whole: Option<bool>,
    /// By mailbox: it was read to its end after the barrier.
    pub(crate) mailboxes_whole: &'a [bool],
}

/// What became of the recipients of a run, or of one shard's part. Adds up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Recipients of all intended sends.
    pub scheduled: u64,
    /// Never sent: no connection was free before the end.
    pub unsent: u64,
    /// Recipients of begun sends.
    pub sent: u64,
    /// A final 250 was read.
    pub accepted: u64,
    /// A final 4xx or 5xx was read.
    pub rejected: u64,
    /// No final reply was read.
    pub unknown: u64,
    /// Accepted and seen at a sink or in a mailbox.
    pub arrived: u64,
    /// Accepted and seen intact.
    pub verified: u64,
    /// Accepted and bounced to its sender.
    pub bounced: u64,
    /// Accepted and seen changed.
    pub corrupted: u64,
    /// Accepted and nowhere, with the relay's queue seen; or arrived and not in its mailbox.
    pub lost: u64,
    /// Accepted, neither arrived nor bounced, and nobody can look into the server's queue.
    pub missing: u64,
    /// Accepted and still queued, unread, or impossible to tell.
    pub pending: u64,
    /// Of the `pending`: impossible to tell, as a stream or a reader was lost.
    pub pending_unseen: u64,
    /// Flag: more than one copy was seen.
    pub duplicated: u64,
    /// Flag: arrived later than the scenario's `late_after`.
    pub late: u64,
    /// Flag: overtaken by a later message to the same mailbox.
    pub reordered: u64,
    /// Mail of this run that was never sent, by sequence and recipient.
    pub phantom: u64,
    /// Of the `unknown`: seen at a sink or in a mailbox.
    pub unknown_arrived: u64,
    /// Of the `rejected`: seen at a sink or in a mailbox.
    pub rejected_arrived: u64,
    /// Mail of other runs or without a stamp that the readers met.
    pub foreign: u64,
    /// Accepted before the window's end and not arrived by then.
    pub backlog_end: u64,
}

impl Counts {
    /// Whether every equation of the ledger holds.
    pub fn adds_up(&self) -> bool {
        self.scheduled == self.sent + self.unsent
            && self.sent == self.accepted + self.rejected + self.unknown
            && self.accepted
                == self.verified + self.bounced + self.corrupted + self.lost + self.missing + self.pending
    }

    /// The record that a report holds.
    pub fn to_report(&self) -> chasqui_report::Ledger {
        chasqui_report::Ledger {
            scheduled: self.scheduled,
            unsent: self.unsent,
            sent: self.sent,
            accepted: self.accepted,
            rejected: self.rejected,
            unknown: self.unknown,
            arrived: Some(self.arrived),
            verified: Some(self.verified),
            bounced: Some(self.bounced),
            corrupted: Some(self.corrupted),
            lost: Some(self.lost),
            missing: Some(self.missing),
            pending: Some(self.pending),
            pending_unseen: Some(self.pending_unseen),
            duplicated: Some(self.duplicated),
            late: Some(self.late),
            reordered: Some(self.reordered),
            phantom: Some(self.phantom),
            ..chasqui_report::Ledger::default()
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.scheduled += other.scheduled;
        self.unsent += other.unsent;
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.unknown += other.unknown;
        self.arrived += other.arrived;
        self.verified += other.verified;
        self.bounced += other.bounced;
        self.corrupted += other.corrupted;
        self.lost += other.lost;
        self.missing += other.missing;
        self.pending += other.pending;
        self.pending_unseen += other.pending_unseen;
        self.duplicated += other.duplicated;
        self.late += other.late;
        self.reordered += other.reordered;
        self.phantom += other.phantom;
        self.unknown_arrived += other.unknown_arrived;
        self.rejected_arrived += other.rejected_arrived;
        self.foreign += other.foreign;
        self.backlog_end += other.backlog_end;
    }
}

/// What becomes of an accepted recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Verified,
    Corrupted,
    Bounced,
    Lost,
    Missing,
    Pending,
    /// Pending, as nobody could look.
    Unseen,
}

impl Ledger {
    /// Judges every recipient. `unsent_messages` were intended and never begun. Sends without a final reply
    /// are given up as `unknown` first. `anomaly` is told of every recipient that was not delivered unchanged, once:
    /// sequence, mailbox, due time, and what became of it.
    pub(crate) fn judge(
        &mut self,
        evidence: &Evidence<'_>,
        unsent_messages: u64,
        mut anomaly: impl FnMut(u64, u32, u64, &'static str),
    ) -> Counts {
        self.give_up_replies();
        let mut counts = Counts {
            unsent: unsent_messages * self.recipients as u64,
            sent: self.tallies.sent,
            phantom: self.phantoms.len() as u64 + self.phantoms_beyond,
            foreign: self.foreign,
            ..Counts::default()
        };
        counts.scheduled = counts.sent + counts.unsent;
        for position in 0..self.length {
            let entry = self.entry(position);
            let flags = entry.flags;
            let sequence = (position / self.recipients) as u64 * self.shards + self.shard;
            let mut tell = |what| anomaly(sequence, entry.mailbox, entry.intended_ns, what);
            if flags.has(Flags::DUPLICATED) {
                counts.duplicated += 1;
                tell("duplicated");
            }
            counts.late += u64::from(flags.has(Flags::LATE));
            counts.reordered += u64::from(flags.has(Flags::REORDERED));
            let in_time = flags.has(Flags::ACCEPTED_IN_TIME) && !flags.has(Flags::ARRIVED_IN_TIME);
            counts.backlog_end += u64::from(in_time);
            match flags.submission() {
                Some(Submission::Accepted) => {}
                Some(Submission::Rejected) => {
                    counts.rejected += 1;
                    tell("rejected");
                    counts.rejected_arrived += u64::from(flags.seen());
                    continue;
                }
                Some(Submission::Unknown) | None => {
                    counts.unknown += 1;
                    tell("unknown");
                    counts.unknown_arrived += u64::from(flags.seen());
                    continue;
                }
            }
            counts.accepted += 1;
            counts.arrived += u64::from(flags.seen());
            let fate = fate(flags, self.arrival_verifies, entry.mailbox, evidence);
            match fate {
                Fate::Verified => counts.verified += 1,
                Fate::Corrupted => counts.corrupted += 1,
                Fate::Bounced => counts.bounced += 1,
                Fate::Lost => counts.lost += 1,
                Fate::Missing => counts.missing += 1,
                Fate::Pending => counts.pending += 1,
                Fate::Unseen => {
                    counts.pending += 1;
                    counts.pending_unseen += 1;
                }
            }
            if fate != Fate::Verified {
                tell(fate_name(fate));
            }
        }
        counts
    }
}

fn fate_name(fate: Fate) -> &'static str {
    match fate {
        Fate::Verified => "verified",
        Fate::Corrupted => "corrupted",
        Fate::Bounced => "bounced",
        Fate::Lost => "lost",
        Fate::Missing => "missing",
        Fate::Pending => "pending",
        Fate::Unseen => "not seen",
    }
}

/// The first of these that applies decides: a changed copy, an intact one, a bounce, which the
/// sender knows of; then what is nowhere is lost only where the queue was seen and all evidence is whole. Without a view
/// of the queue it is missing; where an instrument broke, nobody knows.
fn fate(flags: Flags, arrival_verifies: bool, mailbox: u32, evidence: &Evidence<'_>) -> Fate {
    let mailbox_whole = evidence.mailboxes_whole.get(mailbox as usize).copied().unwrap_or(false);
    if flags.has(Flags::CHANGED) {
        Fate::Corrupted
    } else if flags.verified(arrival_verifies) {
        Fate::Verified
    } else if flags.has(Flags::BOUNCED) {
        Fate::Bounced
    } else if flags.has(Flags::DROPPED) {
        // It has arrived, and its mailbox made room: nobody can tell what a reader would have found.
        Fate::Unseen
    } else if flags.has(Flags::ARRIVED) {
        // Arrived and not read: only a mailbox read to its end shows that it is gone.
        match (arrival_verifies, mailbox_whole) {
            (true, _) => Fate::Pending,
            (false, true) => Fate::Lost,
            (false, false) => Fate::Unseen,
        }
    } else if flags.has(Flags::QUEUED) || evidence.relay == RelayAnswer::Silent {
        Fate::Pending
    } else {
        let nowhere = evidence.arrivals_whole.unwrap_or(mailbox_whole);
        match (nowhere, evidence.relay) {
            (false, _) => Fate::Unseen,
            (true, RelayAnswer::Foreign) => Fate::Missing,
            (true, _) => Fate::Lost,
        }
    }
}
