//! The ledger: where every recipient of the run ended, and the equations that hold between its columns.

use serde::{Deserialize, Serialize};

use super::allowed::{Allowed, exceeds, percent};

/// Counts of recipients over the whole run, warm-up and drain included. Columns that need a sink behind the relay are
/// `None` when there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Meant to be sent.
    pub scheduled: u64,
    /// Meant to be sent, never begun.
    pub unsent: u64,
    /// Begun.
    pub sent: u64,
    /// Answered with a final 250.
    pub accepted: u64,
    /// Answered with a final refusal.
    pub rejected: u64,
    /// Begun, and no final reply was read.
    pub unknown: u64,
    /// Accepted by a sink, at least once.
    pub arrived: Option<u64>,
    /// Held unchanged by a reader (with `verify: arrival`: by the sink).
    pub verified: Option<u64>,
    /// Reported as failed to the sender.
    pub bounced: Option<u64>,
    /// Arrived, and a checksum did not match.
    pub corrupted: Option<u64>,
    /// Accepted, and neither queued, arrived nor bounced, with the queue seen; or arrived and absent from a mailbox
    /// that was read whole.
    pub lost: Option<u64>,
    /// Accepted, and neither arrived nor bounced, of a server whose queue nobody could look into.
    #[serde(default)]
    pub missing: Option<u64>,
    /// Still queued or unread when the drain ended, or the relay did not say.
    pub pending: Option<u64>,
    /// Of `pending`: those that nobody can tell of because an arrival stream or a reader was lost.
    #[serde(default)]
    pub pending_unseen: Option<u64>,
    /// Flag: arrived more than once.
    pub duplicated: Option<u64>,
    /// Of `duplicated`: those whose cause is known (a crash, a failed sync or a lost reply between the receiver's
    /// acceptance and the durable state).
    #[serde(default)]
    pub duplicated_with_cause: Option<u64>,
    /// Flag: arrived after the drain's limit.
    pub late: Option<u64>,
    /// Flag: arrived after a message to the same recipient that was sent later.
    pub reordered: Option<u64>,
    /// Mail of this run that was never sent.
    pub phantom: Option<u64>,
}

/// An equation of the ledger that does not hold: a fault of the harness, never of the system measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ledger does not add up: {left} is {left_value}, but {right} is {right_value}")]
pub struct LedgerError {
    /// The column on the left side.
    pub left: &'static str,
    /// Its value.
    pub left_value: u64,
    /// The sum on the right side.
    pub right: &'static str,
    /// Its value.
    pub right_value: u64,
}

impl Ledger {
    /// The same without what lies behind `accepted`: nobody looked.
    pub fn only_accepted(&self) -> Ledger {
        let Ledger { scheduled, unsent, sent, accepted, rejected, unknown, .. } = *self;
        Ledger { scheduled, unsent, sent, accepted, rejected, unknown, ..Ledger::default() }
    }

    /// Checks scheduled = sent + unsent, sent = accepted + rejected + unknown and
    /// accepted = verified + bounced + corrupted + lost + missing + pending, and names the first that fails. The last one is
    /// skipped when one of its columns was not measured.
    pub fn check(&self) -> Result<(), LedgerError> {
        equal("scheduled", self.scheduled, "sent + unsent", &[self.sent, self.unsent])?;
        equal(
            "sent",
            self.sent,
            "accepted + rejected + unknown",
            &[self.accepted, self.rejected, self.unknown],
        )?;
        let (Some(verified), Some(bounced), Some(corrupted), Some(lost), Some(pending)) =
            (self.verified, self.bounced, self.corrupted, self.lost, self.pending)
        else {
            return Ok(());
        };
        let settled = [verified, bounced, corrupted, lost, self.missing.unwrap_or(0), pending];
        equal(
            "accepted",
            self.accepted,
            "verified + bounced + corrupted + lost + missing + pending",
            &settled,
        )
    }

    /// Why delivery failed, one line per reason; empty when it did not. A column that was not measured cannot fail, nor
    /// can what a lost instrument did not see.
    pub fn delivery_faults(&self, allowed: &Allowed) -> Vec<String> {
        let duplicated = self.duplicated.unwrap_or(0).saturating_sub(self.duplicated_with_cause.unwrap_or(0));
        let pending = self.pending.unwrap_or(0).saturating_sub(self.pending_unseen.unwrap_or(0));
        let never = [
            (self.lost.unwrap_or(0), "lost: accepted, then neither delivered, bounced nor queued"),
            (self.corrupted.unwrap_or(0), "corrupted: arrived changed"),
            (self.phantom.unwrap_or(0), "phantom: arrived without having been sent"),
            (pending, "pending: still queued or unread when the drain ended"),
            (duplicated, "duplicated without a cause"),
        ];
        let never = never.into_iter().filter(|(count, _)| *count > 0);
        let (sent, accepted) = (self.sent, self.accepted);
        let shares = [
            (Some(self.rejected), allowed.rejected, sent, "rejected: answered 4xx or 5xx", "rejected"),
            (Some(self.unknown), allowed.unknown, sent, "unknown: no final reply was read", "unknown"),
            (self.bounced, allowed.bounced, accepted, "bounced to the sender", "bounced"),
            (
                self.missing,
                allowed.missing,
                accepted,
                "missing: accepted, neither arrived nor bounced, and the queue is not seen",
                "missing",
            ),
        ];
        let shares = shares.into_iter().filter_map(|(count, share, whole, what, option)| {
            let count = count.filter(|count| exceeds(*count, share, whole))?;
            Some(format!("{count} {what} (--allow-{option} {})", percent(share)))
        });
        never.map(|(count, what)| format!("{count} {what}")).chain(shares).collect()
    }
}

fn equal(left: &'static str, left_value: u64, right: &'static str, terms: &[u64]) -> Result<(), LedgerError> {
    let right_value = terms.iter().sum();
    if left_value == right_value { Ok(()) } else { Err(LedgerError { left, left_value, right, right_value }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Ledger {
        Ledger {
            scheduled: 100,
            unsent: 1,
            sent: 99,
            accepted: 90,
            rejected: 6,
            unknown: 3,
            verified: Some(80),
            bounced: Some(4),
            corrupted: Some(1),
            lost: Some(2),
            pending: Some(3),
            ..Ledger::default()
        }
    }

    /// A column off by one breaks exactly the first equation it stands in, and the error names it with both values.
    #[test]
    fn each_equation_is_checked_and_named() {
        assert_eq!(sound().check(), Ok(()));
        let left = |ledger: Ledger| ledger.check().expect_err("a column is off").left;
        assert_eq!(left(Ledger { scheduled: 101, ..sound() }), "scheduled");
        assert_eq!(left(Ledger { unknown: 4, ..sound() }), "sent");
        assert_eq!(left(Ledger { lost: Some(3), ..sound() }), "accepted");
        let error = Ledger { pending: Some(0), ..sound() }.check().expect_err("a column is off");
        let text = "ledger does not add up: accepted is 90, \
                    but verified + bounced + corrupted + lost + missing + pending is 87";
        assert_eq!(error.to_string(), text);
    }

    /// Without a sink the last equation has unknown columns: it is not checked, and delivery does not fail.
    #[test]
    fn unknown_columns_neither_break_the_ledger_nor_fail_delivery() {
        let ledger = Ledger { scheduled: 5, sent: 5, accepted: 5, ..Ledger::default() };
        assert_eq!(ledger.check(), Ok(()));
        assert!(ledger.delivery_faults(&Allowed::default()).is_empty());
    }

    /// What was rejected, unknown, bounced or missing fails delivery until its share of the sent or accepted recipients
    /// is allowed; the line names the option.
    #[test]
    fn shares_are_allowed_by_name() {
        let ledger = Ledger { lost: None, corrupted: None, pending: None, missing: Some(9), ..sound() };
        let strict = Allowed::default();
        let options = ledger.delivery_faults(&strict).join("\n");
        for option in ["--allow-rejected 0 %", "--allow-unknown", "--allow-bounced", "--allow-missing"] {
            assert!(options.contains(option), "{option}: {options}");
        }
        // 6 and 3 of 99 sent; 4 and 9 of 90 accepted.
        let enough = Allowed { rejected: 0.061, unknown: 0.031, bounced: 0.045, missing: 0.1, ..strict };
        assert!(ledger.delivery_faults(&enough).is_empty());
        let scarce = Allowed { rejected: 0.06, missing: 0.09, ..enough };
        assert_eq!(ledger.delivery_faults(&scarce).len(), 2);
    }

    /// What a lost instrument did not see is pending, and fails nothing: the run is invalid instead.
    #[test]
    fn what_nobody_could_see_fails_nothing() {
        let unseen = Ledger { pending: Some(5), pending_unseen: Some(5), ..Ledger::default() };
        assert!(unseen.delivery_faults(&Allowed::default()).is_empty());
        let queued = Ledger { pending: Some(6), ..unseen };
        assert_eq!(queued.delivery_faults(&Allowed::default()).len(), 1);
    }

    /// Lost, corrupted, phantom and pending mail fails delivery; a duplicate does so unless its cause is known.
    #[test]
    fn delivery_faults_name_what_failed() {
        let allowed = Allowed::default();
        assert_eq!(sound().delivery_faults(&allowed).len(), 6);
        let excused = Ledger { duplicated: Some(2), duplicated_with_cause: Some(2), ..Ledger::default() };
        assert!(excused.delivery_faults(&allowed).is_empty());
        let unexcused = Ledger { duplicated: Some(3), phantom: Some(1), ..excused };
        assert_eq!(
            unexcused.delivery_faults(&allowed),
            ["1 phantom: arrived without having been sent", "1 duplicated without a cause"]
        );
    }
}
