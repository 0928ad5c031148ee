//! The ledger: where every recipient of the run ended, and what its [`Column`]s must and may come to.

use super::allowed::{Allowed, exceeds, percent};
use super::columns::{Column, Ledger, Place, Tolerance};

/// An equation of the ledger that does not hold: a fault of the harness, never of the system measured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ledger does not add up: {left} is {left_value}, but {right} is {right_value}")]
pub struct LedgerError {
    /// The column on the left side.
    pub left: &'static str,
    /// Its value.
    pub left_value: u64,
    /// The sum on the right side.
    pub right: String,
    /// Its value.
    pub right_value: u64,
}

impl Ledger {
    /// Checks that every column that is a sum is the sum of its terms, and names the first that is not. A sum with a term
    /// that was not measured is not checked.
    pub fn check(&self) -> Result<(), LedgerError> {
        Column::sums().try_for_each(|sum| self.check_sum(sum))
    }

    fn check_sum(&self, sum: Column) -> Result<(), LedgerError> {
        // `missing` came later: records from before have none.
        let measured = |term| self.get(term).or((term == Column::Missing).then_some(0));
        let right_value: Option<u64> = sum.terms().map(measured).sum();
        match (self.get(sum), right_value) {
            (Some(left_value), Some(right_value)) if left_value != right_value => {
                let right = sum.terms().map(Column::name).collect::<Vec<_>>().join(" + ");
                Err(LedgerError { left: sum.name(), left_value, right, right_value })
            }
            _ => Ok(()),
        }
    }

    /// What stands in a column and is not excused.
    pub(crate) fn unexcused(&self, column: Column) -> u64 {
        let count = |column| self.get(column).unwrap_or(0);
        let excused: u64 = Column::placed(Place::ExcusedOf(column)).map(count).sum();
        count(column).saturating_sub(excused)
    }

    /// Why delivery failed, one line per reason; empty when it did not. A column that was not measured cannot fail, nor
    /// can what a lost instrument did not see.
    pub fn delivery_faults(&self, allowed: &Allowed) -> Vec<String> {
        let (mut never, mut shares) = (Vec::new(), Vec::new());
        for column in Column::ALL {
            match (column.tolerance(), column.place()) {
                (Tolerance::None(order, told), _) => {
                    let count = self.unexcused(column);
                    never.extend((count > 0).then(|| (order, format!("{count} {told}"))));
                }
                (Tolerance::Share(told), Place::TermOf(sum)) => {
                    let (share, whole) = (allowed.share(column), self.get(sum).unwrap_or(0));
                    let count = self.get(column).filter(|count| exceeds(*count, share, whole));
                    let option = column.name();
                    shares.extend(
                        count.map(|count| format!("{count} {told} (--allow-{option} {})", percent(share))),
                    );
                }
                (Tolerance::Any | Tolerance::Share(_), _) => {}
            }
        }
        never.sort_by_key(|(order, _)| *order);
        never.into_iter().map(|(_, line)| line).chain(shares).collect()
    }
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

    /// The sums and flags follow from the list of columns as they are meant.
    #[test]
    fn the_equations_follow() {
        let names = |columns: &mut dyn Iterator<Item = Column>| columns.map(Column::name).collect::<Vec<_>>();
        let equations: Vec<_> = Column::sums().map(|sum| (sum.name(), names(&mut sum.terms()))).collect();
        let expected = [
            ("scheduled", vec!["sent", "unsent"]),
            ("sent", vec!["accepted", "rejected", "unknown"]),
            ("accepted", vec!["verified", "bounced", "corrupted", "lost", "missing", "pending"]),
        ];
        assert_eq!(equations, expected);
        assert_eq!(names(&mut Column::flags()), ["duplicated", "late", "reordered", "phantom"]);
    }

    /// A column that may have a share is a term of the sum that the share is of, and has its option.
    #[test]
    fn shares_are_of_a_sum() {
        let allowed = Allowed { rejected: 0.5, unknown: 0.5, bounced: 0.5, missing: 0.5, unsent: 0.0 };
        for column in Column::ALL {
            let is_share = matches!(column.tolerance(), Tolerance::Share(_));
            assert_eq!(allowed.share(column) > 0.0, is_share, "{column:?}");
            assert!(!is_share || matches!(column.place(), Place::TermOf(_)), "{column:?}");
        }
    }

    /// What nobody looked at is unknown, not 0; what the server said stays.
    #[test]
    fn without_a_look_behind_the_server() {
        let blind = Ledger { arrived: Some(1), late: Some(0), ..sound() }.only_accepted();
        let known: Vec<_> = Column::ALL.into_iter().filter(|column| blind.get(*column).is_some()).collect();
        use Column::*;
        assert_eq!(known, [Scheduled, Sent, Unsent, Accepted, Rejected, Unknown]);
        assert_eq!((blind.sent, blind.unknown, blind.check()), (99, 3, Ok(())));
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
