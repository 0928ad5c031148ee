//! The verdict of a run, in its order of precedence, and the exit code it becomes.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{GateResult, GateVerdict, Ledger};

/// What a run comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything delivered, the schedule kept, every gate passed.
    Pass,
    /// At least one gate did not pass.
    GateFailed,
    /// Mail was lost, duplicated without cause, corrupted, phantom or pending.
    DeliveryFailed,
    /// The run did not measure what it set out to measure.
    Invalid,
}

impl Verdict {
    /// The first that applies: delivery failed, invalid, gate failed, pass.
    pub fn decide(ledger: &Ledger, invalid_reasons: &[String], gates: &[GateResult]) -> Verdict {
        if !ledger.delivery_faults().is_empty() {
            Verdict::DeliveryFailed
        } else if !invalid_reasons.is_empty() {
            Verdict::Invalid
        } else if gates.iter().any(|gate| gate.verdict != GateVerdict::Pass) {
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
        let lost = Ledger { lost: Some(1), ..Ledger::default() };
        let reasons = ["late".to_owned()];
        let gate =
            |verdict| GateResult { expr: "ledger.lost == 0".to_owned(), value: None, limit: 0.0, verdict };
        let (pass, fail, unknown) =
            (gate(GateVerdict::Pass), gate(GateVerdict::Fail), gate(GateVerdict::Unknown));
        let clean = Ledger::default();
        let cases = [
            (Verdict::decide(&lost, &reasons, std::slice::from_ref(&fail)), Verdict::DeliveryFailed, 4),
            (Verdict::decide(&clean, &reasons, std::slice::from_ref(&fail)), Verdict::Invalid, 5),
            (Verdict::decide(&clean, &[], &[pass.clone(), fail]), Verdict::GateFailed, 3),
            (Verdict::decide(&clean, &[], &[unknown]), Verdict::GateFailed, 3),
            (Verdict::decide(&clean, &[], &[pass]), Verdict::Pass, 0),
        ];
        for (decided, expected, code) in cases {
            assert_eq!((decided, decided.exit_code()), (expected, code));
        }
    }
}
