//! Gates: conditions on figures of the run record, such as `accept.p99 < 50ms` or `ledger.lost == 0`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Run;
use crate::latency::Milestone;

/// A condition `PATH OPERATOR NUMBER[UNIT]` on the run record. The path is that of `run.json`; a milestone's name
/// alone stands for `latency_us.` and the name. Units (`us`, `ms`, `s`) go with durations only; a plain number there
/// is microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    expr: String,
    path: String,
    operator: Operator,
    limit: f64,
}

/// What a gate came to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateResult {
    /// The gate as the user wrote it.
    pub expr: String,
    /// The figure found, microseconds for durations; `None` when the run does not know it.
    pub value: Option<f64>,
    /// The limit in the same unit.
    pub limit: f64,
    /// Whether it holds.
    pub verdict: GateVerdict,
    /// The figure is a lower bound: with every censored sample at infinity it would be another.
    #[serde(default)]
    pub lower_bound: bool,
}

/// Whether a gate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateVerdict {
    /// It holds.
    Pass,
    /// It does not.
    Fail,
    /// The figure is not known, or the limit is below the clock's uncertainty: the run fails the gate.
    Unknown,
}

/// Why a gate cannot be used; the user mends the expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// Not of the form `PATH OPERATOR NUMBER[UNIT]`.
    #[error("gate `{0}`: write it as `accept.p99 < 50ms`, with one of < <= > >= == !=")]
    Form(String),
    /// The right side is no number.
    #[error("gate `{expr}`: `{limit}` is no number with an optional unit us, ms or s")]
    Limit {
        /// The gate.
        expr: String,
        /// Its right side.
        limit: String,
    },
    /// A unit where none belongs.
    #[error("gate `{expr}`: {path} is no duration, write its limit without a unit")]
    Unit {
        /// The gate.
        expr: String,
        /// Its left side.
        path: String,
    },
    /// A figure that no run has.
    #[error("gate `{expr}`: run.json has no number {path}; {hint}")]
    Path {
        /// The gate.
        expr: String,
        /// Its left side.
        path: String,
        /// What there is instead.
        hint: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

/// Longer operators first, so that `<=` is not read as `<`.
const OPERATORS: [(&str, Operator); 6] = [
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

/// Units of durations, in microseconds.
const UNITS: [(&str, f64); 4] = [("us", 1.0), ("µs", 1.0), ("ms", 1e3), ("s", 1e6)];

/// Objects of the run record to which keys may be added, so that a gate's path cannot be judged before the run.
const OPEN_OBJECTS: [&str; 6] =
    ["machine", "placement", "scenario", "cpu_us_per_message", "memory_bytes", "syncs"];

impl Gate {
    /// Reads an expression. Paths are checked here, before a run starts, as far as the schema fixes them.
    pub fn parse(expr: &str) -> Result<Gate, GateError> {
        let expr = expr.trim();
        let form = || GateError::Form(expr.to_owned());
        let at = expr.find(['<', '>', '=', '!']).ok_or_else(form)?;
        let (left, rest) = expr.split_at(at);
        let (symbol, operator) =
            OPERATORS.into_iter().find(|(symbol, _)| rest.starts_with(symbol)).ok_or_else(form)?;
        let (left, right) = (left.trim(), rest[symbol.len()..].trim());
        let name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if left.is_empty() || !left.chars().all(name) {
            return Err(form());
        }

        let path = full_path(left);
        check_path(expr, left, &path)?;
        let (number, unit) = split_unit(right);
        let limit: f64 = match number.parse() {
            Ok(limit) if f64::is_finite(limit) => limit,
            _ => return Err(GateError::Limit { expr: expr.to_owned(), limit: right.to_owned() }),
        };
        if unit.is_some() && !is_duration(&path) {
            return Err(GateError::Unit { expr: expr.to_owned(), path: left.to_owned() });
        }
        Ok(Gate { expr: expr.to_owned(), path, operator, limit: limit * unit.unwrap_or(1.0) })
    }

    /// Holds the gate against a run: against the figure, and against what it would be with every censored sample at
    /// infinity.
    pub fn evaluate(&self, run: &Run) -> GateResult {
        let record = serde_json::to_value(run).unwrap_or_default();
        let value = lookup(&record, &self.path).and_then(Value::as_f64);
        let upper = upper(&record, &self.path).or(value);
        let uncertainty_us = run.clock.uncertainty_us.unwrap_or(0.0);
        let below_uncertainty =
            self.path.starts_with("latency_us.") && is_duration(&self.path) && self.limit < uncertainty_us;
        let verdict = match value {
            Some(value)
                if !below_uncertainty
                    && self.operator.holds(value, self.limit)
                    && upper.is_some_and(|upper| self.operator.holds(upper, self.limit)) =>
            {
                GateVerdict::Pass
            }
            Some(_) if !below_uncertainty => GateVerdict::Fail,
            _ => GateVerdict::Unknown,
        };
        GateResult { expr: self.expr.clone(), value, limit: self.limit, verdict, lower_bound: upper != value }
    }

    /// Whether the gate's figure is a duration, to be shown in a unit of time.
    pub(crate) fn shows_duration(expr: &str) -> bool {
        Gate::parse(expr).is_ok_and(|gate| is_duration(&gate.path))
    }
}

impl FromStr for Gate {
    type Err = GateError;

    fn from_str(expr: &str) -> Result<Gate, GateError> {
        Gate::parse(expr)
    }
}

impl Operator {
    fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Operator::Less => value < limit,
            Operator::LessOrEqual => value <= limit,
            Operator::Greater => value > limit,
            Operator::GreaterOrEqual => value >= limit,
            Operator::Equal => value == limit,
            Operator::NotEqual => value != limit,
        }
    }
}

/// The path in `run.json`: `accept.p99` is `latency_us.accept.p99`.
fn full_path(path: &str) -> String {
    let head = path.split('.').next().unwrap_or_default();
    if Milestone::from_name(head).is_some() { format!("latency_us.{path}") } else { path.to_owned() }
}

/// Refuses a path that no run record can have.
fn check_path(expr: &str, written: &str, path: &str) -> Result<(), GateError> {
    let unknown = |hint: String| GateError::Path { expr: expr.to_owned(), path: written.to_owned(), hint };
    let (head, field) = path.rsplit_once('.').unwrap_or((path, ""));
    if let Some(milestone) = head.strip_prefix("latency_us.") {
        let fields = ["count", "min", "mean", "p50", "p90", "p99", "p999", "max", "censored"];
        return match Milestone::from_name(milestone) {
            Some(_) if fields.contains(&field) => Ok(()),
            _ => Err(unknown(format!("a milestone has {}", fields.join(", ")))),
        };
    }
    let top = path.split('.').next().unwrap_or_default();
    if OPEN_OBJECTS.contains(&top) && !field.is_empty() {
        return Ok(());
    }
    let template = serde_json::to_value(Run::template()).unwrap_or_default();
    match (lookup(&template, path), lookup(&template, head)) {
        (Some(Value::Null | Value::Number(_)), _) => Ok(()),
        (_, Some(Value::Object(keys))) => {
            Err(unknown(format!("{head} has {}", keys.keys().cloned().collect::<Vec<_>>().join(", "))))
        }
        _ => Err(unknown("try ledger.lost, throughput.accepted_per_s or accept.p99".to_owned())),
    }
}

/// Durations carry `_us` in a name on their path; counts among them do not.
fn is_duration(path: &str) -> bool {
    !path.ends_with(".count")
        && !path.ends_with(".censored")
        && path.split('.').any(|key| key.ends_with("_us") || key.contains("_us_"))
}

/// Splits `50ms` into its number and the unit's length in microseconds.
fn split_unit(text: &str) -> (&str, Option<f64>) {
    for (unit, length_us) in UNITS {
        if let Some(number) = text.strip_suffix(unit) {
            return (number.trim_end(), Some(length_us));
        }
    }
    (text, None)
}

/// A milestone's figure with every censored sample at infinity; `None` when it has none, or the path is of something
/// else.
fn upper(record: &Value, path: &str) -> Option<f64> {
    let (milestone, figure) = path.rsplit_once('.')?;
    let upper = lookup(record, milestone)?.get("upper")?.as_object()?.get(figure)?;
    Some(upper.as_f64().unwrap_or(f64::INFINITY))
}

fn lookup<'a>(record: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(record, |value, key| value.get(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::{LatencySummary, Upper};

    fn run() -> Run {
        let mut run = Run::template();
        run.latency_us.accept = Some(LatencySummary {
            count: 10,
            min: 100.0,
            mean: 1500.0,
            p50: 900.0,
            p90: 2000.0,
            p99: 49_000.0,
            p999: 50_000.0,
            max: 51_000.0,
            censored: 0,
            upper: None,
        });
        run.throughput.accepted_per_s = Some(8000.0);
        run.ledger.lost = Some(0);
        run.machine.spool.fdatasync_us_p50 = Some(70.0);
        run
    }

    fn verdict(expr: &str, run: &Run) -> GateVerdict {
        Gate::parse(expr).unwrap_or_else(|error| panic!("{error}")).evaluate(run).verdict
    }

    /// Each operator and unit compares the run's figure in microseconds or as it is.
    #[test]
    fn gates_compare_in_the_unit_written() {
        for expr in [
            "accept.p99 < 50ms",
            "accept.p99<=49000",
            "latency_us.accept.p99 == 49ms",
            "accept.p50 >= 900us",
            "accept.max < 0.06 s",
            "accept.count != 11",
            "throughput.accepted_per_s > 7999",
            "ledger.lost == 0",
            "machine.spool.fdatasync_us_p50 < 100us",
        ] {
            assert_eq!(verdict(expr, &run()), GateVerdict::Pass, "{expr}");
        }
        for expr in ["accept.p99 < 49ms", "throughput.accepted_per_s > 8000", "ledger.lost > 0"] {
            assert_eq!(verdict(expr, &run()), GateVerdict::Fail, "{expr}");
        }
    }

    /// A gate passes only if it would with every censored sample at infinity, whichever way it looks, and only if it
    /// does as measured; the result says that the figure is a lower bound.
    #[test]
    fn censored_samples_count_at_infinity() {
        let mut run = run();
        let accept = run.latency_us.accept.as_mut().expect("it was measured");
        accept.censored = 1;
        accept.upper =
            Some(Upper { min: Some(100.0), p50: Some(950.0), p90: Some(2500.0), ..Upper::default() });
        assert_eq!(verdict("accept.p50 < 1ms", &run), GateVerdict::Pass);
        assert_eq!(verdict("accept.p50 < 920us", &run), GateVerdict::Fail);
        assert_eq!(verdict("accept.p99 < 50ms", &run), GateVerdict::Fail);
        assert_eq!(verdict("accept.max < 1s", &run), GateVerdict::Fail);
        assert_eq!(verdict("accept.p99 > 1ms", &run), GateVerdict::Pass);
        assert_eq!(verdict("accept.p99 > 1s", &run), GateVerdict::Fail);
        assert_eq!(verdict("accept.count == 10", &run), GateVerdict::Pass);
        assert_eq!(verdict("accept.censored == 0", &run), GateVerdict::Fail);
        let result = Gate::parse("accept.p99 < 50ms").expect("it is well formed").evaluate(&run);
        assert!(result.lower_bound && result.value == Some(49_000.0), "{result:?}");
    }

    /// A figure that the run does not know, or a limit finer than the clock, never passes.
    #[test]
    fn what_cannot_be_judged_does_not_pass() {
        assert_eq!(verdict("visible.p99 < 1s", &run()), GateVerdict::Unknown);
        for expr in ["tls.p99 < 1s", "connect.max < 1s", "connections.handshakes_failed == 0"] {
            assert_eq!(verdict(expr, &run()), GateVerdict::Unknown, "{expr}");
        }
        assert_eq!(verdict("ledger.lost == 0", &Run::template()), GateVerdict::Unknown);
        let mut remote = run();
        remote.clock.uncertainty_us = Some(2000.0);
        assert_eq!(verdict("accept.p50 < 1ms", &remote), GateVerdict::Unknown);
        assert_eq!(verdict("accept.p99 < 50ms", &remote), GateVerdict::Pass);
    }

    /// A gate that could never be judged is refused before the run, with the fix in one line.
    #[test]
    fn mistakes_are_refused_with_the_fix() {
        for (expr, error) in [
            ("accept.p99", "gate `accept.p99`: write it as `accept.p99 < 50ms`, with one of < <= > >= == !="),
            (
                "accept.p99 = 5",
                "gate `accept.p99 = 5`: write it as `accept.p99 < 50ms`, with one of < <= > >= == !=",
            ),
            (
                "accept.p99 < 5 min",
                "gate `accept.p99 < 5 min`: `5 min` is no number with an optional unit us, ms or s",
            ),
            (
                "accept.p99 < inf",
                "gate `accept.p99 < inf`: `inf` is no number with an optional unit us, ms or s",
            ),
            (
                "ledger.lost < 1ms",
                "gate `ledger.lost < 1ms`: ledger.lost is no duration, write its limit without a unit",
            ),
            (
                "accept.count < 1s",
                "gate `accept.count < 1s`: accept.count is no duration, write its limit without a unit",
            ),
        ] {
            assert_eq!(Gate::parse(expr).expect_err(expr).to_string(), error);
        }
        for (expr, hint) in [
            ("accept.p95 < 1ms", "a milestone has count, min, mean, p50, p90, p99, p999, max, censored"),
            (
                "throughput.sent == 0",
                "throughput has accepted_per_s, arrived_per_s, bytes_per_s, counted_by, verified_per_s",
            ),
            ("lost == 0", "try ledger.lost, throughput.accepted_per_s or accept.p99"),
            ("chasqui.version == 1", "chasqui has engine, git, version"),
        ] {
            let error = Gate::parse(expr).expect_err(expr).to_string();
            assert!(error.ends_with(hint), "{error}");
        }
    }
}
