//! The verdict of a run, in its order of precedence, and the exit code it becomes.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{GateResult, GateVerdict};

/// What a run comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything delivered, the schedule kept, every gate passed.
    Pass,
    /// At least one gate did not pass, or too little of the load was taken.
    GateFailed,
    /// Mail was lost, duplicated without cause, corrupted, phantom or pending; or more of it was rejected, unknown,
    /// bounced or missing than is allowed.
    DeliveryFailed,
    /// The run did not measure what it set out to measure.
    Invalid,
}

impl Verdict {
    /// The first that applies: delivery failed, invalid, gate failed, pass.
    pub(super) fn decide(
        delivery_faults: &[String],
        invalid_reasons: &[String],
        shortfall: Option<&String>,
        gates: &[GateResult],
    ) -> Verdict {
        if !delivery_faults.is_empty() {
            Verdict::DeliveryFailed
        } else if !invalid_reasons.is_empty() {
            Verdict::Invalid
        } else if shortfall.is_some() || gates.iter().any(|gate| gate.verdict != GateVerdict::Pass) {
            Verdict::GateFailed
        } else {
            Verdict::Pass
        }
    }

    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Pass => 0,
            Verdict::GateFailed => 3,
            Verdict::DeliveryFailed => 4,
            Verdict::Invalid => 5,
        }
    }

    /// The name in `run.json`.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::GateFailed => "gate_failed",
            Verdict::DeliveryFailed => "delivery_failed",
            Verdict::Invalid => "invalid",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gravest that applies is the verdict: delivery failed before invalid before gate failed before pass.
    #[test]
    fn the_first_that_applies_is_the_verdict() {
        let reasons = ["a reason".to_owned()];
        let short = Some(&reasons[0]);
        let gate = |verdict| GateResult {
            expr: "ledger.lost == 0".to_owned(),
            value: None,
            limit: 0.0,
            verdict,
            lower_bound: false,
        };
        let (pass, fail, unknown) =
            (gate(GateVerdict::Pass), gate(GateVerdict::Fail), gate(GateVerdict::Unknown));
        let failed = std::slice::from_ref(&fail);
        let cases = [
            (Verdict::decide(&reasons, &reasons, short, failed), Verdict::DeliveryFailed, 4),
            (Verdict::decide(&[], &reasons, short, failed), Verdict::Invalid, 5),
            (Verdict::decide(&[], &[], None, &[pass.clone(), fail.clone()]), Verdict::GateFailed, 3),
            (Verdict::decide(&[], &[], None, &[unknown]), Verdict::GateFailed, 3),
            (Verdict::decide(&[], &[], short, std::slice::from_ref(&pass)), Verdict::GateFailed, 3),
            (Verdict::decide(&[], &[], None, &[pass]), Verdict::Pass, 0),
        ];
        for (decided, expected, code) in cases {
            assert_eq!((decided, decided.exit_code()), (expected, code));
        }
    }
}
