//! What is known of one recipient, as bits.

use std::ops::{BitOr, BitOrAssign};

use super::Submission;

/// Bits about one recipient. They are only ever added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u32);

const ACCEPTED: u32 = 1;
const REJECTED: u32 = 1 << 1;
const UNKNOWN: u32 = 1 << 2;

impl Flags {
    /// The 250 was read before the window's end.
    pub(super) const ACCEPTED_IN_TIME: Self = Self(1 << 3);
    /// A sink has accepted it.
    pub(super) const ARRIVED: Self = Self(1 << 4);
    /// A sink has accepted it before the window's end.
    pub(super) const ARRIVED_IN_TIME: Self = Self(1 << 5);
    /// A sink found the checksums right.
    pub(super) const ARRIVED_INTACT: Self = Self(1 << 6);
    /// A reader has found it in its mailbox.
    pub(super) const READ: Self = Self(1 << 7);
    /// A reader found the checksums right.
    pub(super) const READ_INTACT: Self = Self(1 << 8);
    /// A sink or a reader found a copy whose checksums are wrong.
    pub(super) const CHANGED: Self = Self(1 << 9);
    /// A bounce came.
    pub(super) const BOUNCED: Self = Self(1 << 10);
    /// It was in the relay's queue when that was asked.
    pub(super) const QUEUED: Self = Self(1 << 11);
    /// There was more than one copy.
    pub(super) const DUPLICATED: Self = Self(1 << 12);
    /// It arrived late.
    pub(super) const LATE: Self = Self(1 << 13);
    /// It arrived after a message of the same shard that was sent later to the same mailbox.
    pub(super) const REORDERED: Self = Self(1 << 14);
    /// The first copy that a reader found was intact: it has its sample.
    pub(super) const VISIBLE: Self = Self(1 << 15);

    /// A sink dropped it before anybody had read it.
    pub(super) const DROPPED: Self = Self(1 << 16);

    /// Whether all bits of `other` are set.
    pub(super) fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What the submission came to, when that is known.
    pub(super) fn submission(self) -> Option<Submission> {
        match self.0 & (ACCEPTED | REJECTED | UNKNOWN) {
            ACCEPTED => Some(Submission::Accepted),
            REJECTED => Some(Submission::Rejected),
            UNKNOWN => Some(Submission::Unknown),
            _ => None,
        }
    }

    /// Sets what the submission came to; the caller sees to it that this happens once.
    pub(super) fn submit(&mut self, submission: Submission, in_time: bool) {
        debug_assert!(self.submission().is_none());
        self.0 |= match submission {
            Submission::Accepted if in_time => ACCEPTED | Self::ACCEPTED_IN_TIME.0,
            Submission::Accepted => ACCEPTED,
            Submission::Rejected => REJECTED,
            Submission::Unknown => UNKNOWN,
        };
    }

    /// It reached its receiver: a sink said so, or a reader found it.
    pub(super) fn seen(self) -> bool {
        self.has(Self::ARRIVED) || self.has(Self::READ)
    }

    /// Seen intact, and no changed copy.
    pub(super) fn verified(self, arrival_verifies: bool) -> bool {
        let intact = self.has(Self::READ_INTACT) || (arrival_verifies && self.has(Self::ARRIVED_INTACT));
        intact && !self.has(Self::CHANGED)
    }

    /// Accepted, and neither seen nor bounced.
    pub(super) fn outstanding(self) -> bool {
        self.submission() == Some(Submission::Accepted) && !self.seen() && !self.has(Self::BOUNCED)
    }

    /// Accepted, and nothing settles yet what became of it.
    pub(super) fn unverified(self, arrival_verifies: bool) -> bool {
        let settled = self.verified(arrival_verifies)
            || self.has(Self::CHANGED)
            || self.has(Self::BOUNCED)
            || self.has(Self::DROPPED);
        self.submission() == Some(Submission::Accepted) && !settled
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
