//! Wall-clock times as RFC 3339 text.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A wall-clock time, kept to the microsecond, written as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(Duration);

impl Timestamp {
    /// From the time since the Unix epoch, as `runtime::wall_clock` gives it.
    pub fn from_unix(since_epoch: Duration) -> Timestamp {
        Timestamp(Duration::from_micros(since_epoch.as_micros() as u64))
    }

    /// Time since the Unix epoch.
    pub fn since_epoch(self) -> Duration {
        self.0
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = OffsetDateTime::UNIX_EPOCH.checked_add(self.0.try_into().map_err(|_| fmt::Error)?);
        let text = time.and_then(|time| time.format(&Rfc3339).ok()).ok_or(fmt::Error)?;
        f.write_str(&text)
    }
}

impl FromStr for Timestamp {
    type Err = time::error::Parse;

    fn from_str(text: &str) -> Result<Timestamp, time::error::Parse> {
        let since_epoch = OffsetDateTime::parse(text, &Rfc3339)? - OffsetDateTime::UNIX_EPOCH;
        Ok(Timestamp::from_unix(since_epoch.try_into().unwrap_or_default()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
