//! What was asked of the load generator, as the record tells it, and the words that options and record share.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most messages a second that may be asked for: one every 100 ns is beyond what any machine sends, and still a hundred
/// times the schedule's nanosecond.
const RATE_MAX: f64 = 10_000_000.0;

/// A value that cannot be read. One line: what, and how to write it. The user mends it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);

/// The scenario of a run with every default resolved; times in microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scenario {
    /// What a message waits for.
    pub mode: Mode,
    /// Messages wanted a second.
    pub rate: Rate,
    /// Spacing of an open loop's messages; `None` in a closed loop.
    pub arrivals: Option<ArrivalProcess>,
    /// Accepted recipients that may be on their way in a closed loop; `None` when nothing bounds them.
    pub outstanding: Option<u64>,
    /// Sending before the window.
    pub warmup_us: u64,
    /// The window as it was planned.
    pub duration_us: u64,
    /// How long nothing may move after the window before what is missing is judged.
    pub drain_us: u64,
    /// SMTP connections.
    pub connections: u64,
    /// Messages after which a connection is ended and another opened; `None`: it is kept.
    #[serde(default)]
    pub messages_per_connection: Option<u64>,
    /// Addresses that connections come from; none: the system chooses.
    #[serde(default)]
    pub sources: Vec<IpAddr>,
    /// TLS on the connections.
    #[serde(default)]
    pub tls: TlsMode,
    /// The same where mailboxes are read by POP3; `None`: they are not.
    #[serde(default)]
    pub pop3_tls: Option<TlsMode>,
    /// And by IMAP.
    #[serde(default)]
    pub imap_tls: Option<TlsMode>,
    /// Servers' certificates are verified; `None` without TLS.
    #[serde(default)]
    pub tls_verified: Option<bool>,
    /// TLS sessions are resumed; `None` without TLS.
    #[serde(default)]
    pub tls_resumption: Option<bool>,
    /// Accounts that connections log in with before they send; `None`: nobody logs in.
    #[serde(default)]
    pub accounts: Option<u64>,
    /// Sizes of the messages, as on the command line: `2KiB`, `1KiB..64KiB`, …
    pub size: String,
    /// Their mean.
    pub size_mean_bytes: f64,
    /// Recipients of a message, their mean rounded.
    pub recipients_per_message: u64,
    /// Their number, as on the command line: `1`, `1..5`, …; empty in records of before there were other ones.
    #[serde(default)]
    pub recipients: String,
    /// Recipient domains.
    pub domains: u64,
    /// Mailboxes of each.
    pub mailboxes_per_domain: u64,
    /// The zone of the domains.
    pub zone: String,
    /// Where bounces go.
    pub bounce_zone: String,
    /// When messages are read back and checked.
    pub verify: Verify,
    /// How often a POP3 mailbox is asked; `None` when nobody reads while the load runs.
    pub pop3_poll_us: Option<u64>,
    /// Some bodies hold 8-bit text where the server takes it.
    pub eight_bit: bool,
    /// How long a reply may take.
    pub reply_timeout_us: u64,
    /// An arrival later than this after its due time is `late`.
    pub late_after_us: u64,
    /// The servers that were loaded.
    pub targets: Vec<SocketAddr>,
    /// Further keys.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What a message waits for before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Its due time alone.
    Open,
    /// A connection that has its last reply.
    Closed,
}

/// How fast messages are wanted. In `run.json` a number or `"max"`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RateForm", into = "RateForm")]
pub enum Rate {
    /// Open loop: so many messages a second, whatever the receiver does.
    PerSecond(f64),
    /// Closed loop: every connection sends as soon as its last message has a final reply.
    Max,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RateForm {
    Number(f64),
    Word(String),
}

/// How the arrivals of an open loop are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArrivalProcess {
    /// Evenly.
    Constant,
    /// As independent senders make them: exponentially distributed gaps.
    Poisson,
}

/// What counts as having seen a message whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// Readers fetch every message through POP3 or IMAP while the run goes on.
    Live,
    /// The same readers start when the window is over.
    After,
    /// The sink's checksum verdict is taken; nothing is read back.
    Arrival,
    /// Nobody looks what becomes of accepted mail.
    #[serde(rename = "none")]
    Nothing,
}

/// How a connection comes to be in TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// It does not.
    #[default]
    Off,
    /// After EHLO, by STARTTLS (RFC 3207).
    Starttls,
    /// From its first octet (RFC 8314).
    Implicit,
}

impl Rate {
    /// The loop that it makes.
    pub fn mode(self) -> Mode {
        match self {
            Rate::PerSecond(_) => Mode::Open,
            Rate::Max => Mode::Closed,
        }
    }
}

impl Verify {
    /// Whether mailboxes are read.
    pub fn reads(self) -> bool {
        matches!(self, Verify::Live | Verify::After)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Open => "open",
            Mode::Closed => "closed",
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::PerSecond(rate) => rate.fmt(f),
            Rate::Max => f.write_str("max"),
        }
    }
}

impl FromStr for Rate {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Rate, ParseError> {
        if text == "max" {
            return Ok(Rate::Max);
        }
        match text.parse::<f64>() {
            Ok(rate) if rate > 0.0 && rate <= RATE_MAX => Ok(Rate::PerSecond(rate)),
            _ => Err(ParseError(format!(
                "rate `{text}` is no number of messages a second: write for example 2000, 0.5 or max"
            ))),
        }
    }
}

impl TryFrom<RateForm> for Rate {
    type Error = ParseError;

    fn try_from(form: RateForm) -> Result<Rate, ParseError> {
        match form {
            RateForm::Number(per_s) => per_s.to_string().parse(),
            RateForm::Word(word) => word.parse(),
        }
    }
}

impl From<Rate> for RateForm {
    fn from(rate: Rate) -> RateForm {
        match rate {
            Rate::PerSecond(per_s) => RateForm::Number(per_s),
            Rate::Max => RateForm::Word(rate.to_string()),
        }
    }
}

impl fmt::Display for ArrivalProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ArrivalProcess::Constant => "constant",
            ArrivalProcess::Poisson => "poisson",
        })
    }
}

impl FromStr for ArrivalProcess {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<ArrivalProcess, ParseError> {
        let known = [ArrivalProcess::Constant, ArrivalProcess::Poisson];
        known
            .into_iter()
            .find(|process| process.to_string() == text)
            .ok_or_else(|| ParseError(format!("arrivals `{text}` are unknown: write constant or poisson")))
    }
}

impl fmt::Display for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verify::Live => "live",
            Verify::After => "after",
            Verify::Arrival => "arrival",
            Verify::Nothing => "none",
        })
    }
}

impl FromStr for Verify {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Verify, ParseError> {
        let known = [Verify::Live, Verify::After, Verify::Arrival, Verify::Nothing];
        known.into_iter().find(|verify| verify.to_string() == text).ok_or_else(|| {
            ParseError(format!("verify `{text}` is unknown: write live, after, arrival or none"))
        })
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TlsMode::Off => "off",
            TlsMode::Starttls => "starttls",
            TlsMode::Implicit => "implicit",
        })
    }
}

impl FromStr for TlsMode {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<TlsMode, ParseError> {
        let known = [TlsMode::Off, TlsMode::Starttls, TlsMode::Implicit];
        known
            .into_iter()
            .find(|mode| mode.to_string() == text)
            .ok_or_else(|| ParseError(format!("tls `{text}` is unknown: write off, starttls or implicit")))
    }
}

/// A scenario in `run.json`: an object whose keys are in the order of the alphabet, as those of all open objects are;
/// without any when the scenario is not known.
pub(super) mod object {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
    use serde_json::{Map, Value};

    use super::Scenario;

    pub(crate) fn serialize<S: Serializer>(
        scenario: &Option<Scenario>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let object = scenario.as_ref().map(serde_json::to_value).transpose().map_err(ser::Error::custom)?;
        object.unwrap_or_else(|| Value::Object(Map::new())).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Scenario>, D::Error> {
        let object = Map::deserialize(deserializer)?;
        if object.is_empty() {
            return Ok(None);
        }
        serde_json::from_value(Value::Object(object)).map(Some).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words are read and written, in options and in the record alike; nonsense is refused in one line.
    #[test]
    fn words() {
        fn check<T>(word: &str, value: T)
        where
            T: FromStr<Err = ParseError> + fmt::Display + Serialize + Copy + PartialEq + fmt::Debug,
        {
            assert_eq!((word.parse(), value.to_string().as_str()), (Ok(value), word));
            assert_eq!(serde_json::to_value(value).expect("it is a word"), word);
            let refusal = "nonsense".parse::<T>().expect_err("no such word").to_string();
            assert!(refusal.contains("`nonsense`") && !refusal.contains('\n'), "{refusal}");
        }
        check("constant", ArrivalProcess::Constant);
        check("poisson", ArrivalProcess::Poisson);
        check("live", Verify::Live);
        check("after", Verify::After);
        check("arrival", Verify::Arrival);
        check("none", Verify::Nothing);
        check("max", Rate::Max);
        check("off", TlsMode::Off);
        check("starttls", TlsMode::Starttls);
        check("implicit", TlsMode::Implicit);
        for mode in [Mode::Open, Mode::Closed] {
            assert_eq!(serde_json::to_value(mode).expect("it is a word"), mode.to_string());
        }
    }

    /// Rates are read and written; nonsense is refused in one line.
    #[test]
    fn rates() {
        assert_eq!("2000".parse(), Ok(Rate::PerSecond(2000.0)));
        assert_eq!("0.5".parse(), Ok(Rate::PerSecond(0.5)));
        assert_eq!("max".parse(), Ok(Rate::Max));
        assert_eq!(Rate::PerSecond(2000.0).to_string(), "2000");
        for text in ["", "0", "-1", "fast", "NaN", "inf"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        for (json, rate) in
            [("2000", Rate::PerSecond(2000.0)), ("0.5", Rate::PerSecond(0.5)), ("\"max\"", Rate::Max)]
        {
            assert_eq!(serde_json::from_str::<Rate>(json).expect("it is a rate"), rate);
        }
        assert!(serde_json::from_str::<Rate>("-1").is_err());
    }
}
