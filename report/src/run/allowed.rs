//! What a run may fall short of and still pass.

use serde::{Deserialize, Serialize};

use super::columns::Column;

/// Shares from 0 to 1. The default allows nothing to go wrong and one in a hundred messages to be unsent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Allowed {
    /// Recipients answered 4xx or 5xx, of the sent ones.
    pub rejected: f64,
    /// Recipients without a final reply, of the sent ones.
    pub unknown: f64,
    /// Recipients that bounced, of the accepted ones.
    pub bounced: f64,
    /// Recipients that are missing, of the accepted ones.
    pub missing: f64,
    /// Messages that were due in the window and never taken, of those that were due in it.
    pub unsent: f64,
}

impl Default for Allowed {
    fn default() -> Allowed {
        Allowed { rejected: 0.0, unknown: 0.0, bounced: 0.0, missing: 0.0, unsent: 0.01 }
    }
}

impl Allowed {
    /// The share of a column of the ledger; of those that have none, 0.
    pub(super) fn share(&self, column: Column) -> f64 {
        match column {
            Column::Rejected => self.rejected,
            Column::Unknown => self.unknown,
            Column::Bounced => self.bounced,
            Column::Missing => self.missing,
            _ => 0.0,
        }
    }
}

/// Whether `count` is more than `share` of `whole`.
pub(super) fn exceeds(count: u64, share: f64, whole: u64) -> bool {
    // One part in a billion is the rounding of a share such as 0.07.
    count as f64 > share * whole as f64 * (1.0 + 1e-9)
}

/// A share as a percentage: `1 %`, `0.5 %`.
pub(super) fn percent(share: f64) -> String {
    let text = format!("{:.3}", share * 100.0);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}
