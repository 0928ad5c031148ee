//! The judgement over every recipient, once everything that can be known is in the ledger.

use std::ops::AddAssign;

use chasqui_report::{Column, Counts};

use super::{Entry, Flags, Ledger, Submission};

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
pub(crate) struct Judgement {
    pub(crate) counts: Counts,
    pub(crate) beside: Beside,
    /// Accepted before the window's end and not arrived by then.
    pub(crate) backlog_end: u64,
}

/// What stands beside the equations of the ledger and fails nothing. Adds up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// Of the `unknown`: seen at a sink or in a mailbox.
    pub unknown_arrived: u64,
    /// Of the `rejected`: seen at a sink or in a mailbox.
    pub rejected_arrived: u64,
    /// Mail of other runs or without a stamp that the readers met.
    pub foreign: u64,
}

impl AddAssign for Judgement {
    fn add_assign(&mut self, other: Self) {
        self.counts += other.counts;
        self.beside += other.beside;
        self.backlog_end += other.backlog_end;
    }
}

impl AddAssign for Beside {
    fn add_assign(&mut self, other: Self) {
        self.unknown_arrived += other.unknown_arrived;
        self.rejected_arrived += other.rejected_arrived;
        self.foreign += other.foreign;
    }
}

/// The flags that are columns of the ledger.
const FLAGS: [(Flags, Column); 3] = [
    (Flags::DUPLICATED, Column::Duplicated),
    (Flags::LATE, Column::Late),
    (Flags::REORDERED, Column::Reordered),
];

impl Ledger {
    /// Judges every recipient. `unsent` more were intended and never begun. Sends without a final reply
    /// are given up as `unknown` first. `anomaly` is told of every recipient that was not delivered unchanged, once:
    /// sequence, mailbox, due time, and the column that it is in.
    pub(crate) fn judge(
        &mut self,
        evidence: &Evidence<'_>,
        unsent: u64,
        mut anomaly: impl FnMut(u64, u32, u64, Column),
    ) -> Judgement {
        self.give_up_replies();
        let mut judgement = Judgement::default();
        let Judgement { counts, beside, backlog_end } = &mut judgement;
        counts.unsent = unsent;
        counts.sent = self.tallies.sent;
        counts.scheduled = counts.sent + counts.unsent;
        counts.phantom = self.phantoms.len() as u64 + self.phantoms_beyond;
        beside.foreign = self.foreign;
        for position in 0..self.length {
            let Entry { intended_ns, mailbox, flags } = self.entry(position);
            let sequence = || self.layout.message(position) as u64 * self.shards + self.shard;
            let mut tell = |column| anomaly(sequence(), mailbox, intended_ns, column);
            FLAGS.iter().filter(|(flag, _)| flags.has(*flag)).for_each(|(_, column)| counts.add(*column));
            if flags.has(Flags::DUPLICATED) {
                tell(Column::Duplicated);
            }
            let in_time = flags.has(Flags::ACCEPTED_IN_TIME) && !flags.has(Flags::ARRIVED_IN_TIME);
            *backlog_end += u64::from(in_time);
            let seen = u64::from(flags.seen());
            let state = match flags.submission() {
                Some(Submission::Accepted) => {
                    counts.accepted += 1;
                    counts.arrived += seen;
                    state(flags, self.arrival_verifies, mailbox, evidence)
                }
                Some(Submission::Rejected) => {
                    beside.rejected_arrived += seen;
                    Column::Rejected
                }
                Some(Submission::Unknown) | None => {
                    beside.unknown_arrived += seen;
                    Column::Unknown
                }
            };
            counts.add(state);
            if state != Column::Verified {
                tell(state);
            }
        }
        judgement
    }
}

/// What becomes of an accepted recipient. The first of these that applies decides: a changed copy, an intact one, a bounce, which the
/// sender knows of; then what is nowhere is lost only where the queue was seen and all evidence is whole. Without a view
/// of the queue it is missing; where an instrument broke, nobody knows.
fn state(flags: Flags, arrival_verifies: bool, mailbox: u32, evidence: &Evidence<'_>) -> Column {
    let mailbox_whole = evidence.mailboxes_whole.get(mailbox as usize).copied().unwrap_or(false);
    if flags.has(Flags::CHANGED) {
        Column::Corrupted
    } else if flags.verified(arrival_verifies) {
        Column::Verified
    } else if flags.has(Flags::BOUNCED) {
        Column::Bounced
    } else if flags.has(Flags::DROPPED) {
        // It has arrived, and its mailbox made room: nobody can tell what a reader would have found.
        Column::PendingUnseen
    } else if flags.has(Flags::ARRIVED) {
        // Arrived and not read: only a mailbox read to its end shows that it is gone.
        match (arrival_verifies, mailbox_whole) {
            (true, _) => Column::Pending,
            (false, true) => Column::Lost,
            (false, false) => Column::PendingUnseen,
        }
    } else if flags.has(Flags::QUEUED) || evidence.relay == RelayAnswer::Silent {
        Column::Pending
    } else {
        let nowhere = evidence.arrivals_whole.unwrap_or(mailbox_whole);
        match (nowhere, evidence.relay) {
            (false, _) => Column::PendingUnseen,
            (true, RelayAnswer::Foreign) => Column::Missing,
            (true, _) => Column::Lost,
        }
    }
}
