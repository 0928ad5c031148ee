//! The rows of an answer, each a line of JSON.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A recipient that is still to be served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRow<'a> {
    /// Without brackets; empty for the null path.
    #[serde(borrow)]
    pub reverse_path: Cow<'a, str>,
    /// Without brackets.
    #[serde(borrow)]
    pub recipient: Cow<'a, str>,
}

/// A line of the answer to [`super::Request::Queue`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum QueueLine<'a> {
    /// The last one.
    End(End),
    /// A recipient.
    #[serde(borrow)]
    Row(QueueRow<'a>),
}

/// The last line of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Always true.
    pub end: bool,
    /// Rows before this line.
    pub entries: u64,
    /// Of the queue alone: messages that are queued too, but the disk did not give their envelopes. Ask again later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<u64>,
}

/// A site, with what all shards have of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteRow<'a> {
    /// Its name: the host that comes first.
    #[serde(borrow)]
    pub site: Cow<'a, str>,
    /// Jobs that wait at it.
    pub queued: usize,
    /// Those of them that were tried before.
    pub retries: usize,
    /// Jobs that were tried at it and wait for their time; not those that a start has found and nobody has tried since.
    pub deferred: usize,
    /// Connections to it.
    pub connections: usize,
    /// Whether it is left alone for a while after a failure.
    pub resting: bool,
    /// Whether the operator has stopped delivery.
    pub suspended: bool,
    /// Failures in a row.
    pub failures: u32,
    /// The last one.
    #[serde(borrow)]
    pub trouble: Option<Cow<'a, str>>,
    /// Age of its oldest message in seconds.
    pub oldest_s: Option<u64>,
}

/// A suspended domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainRow<'a> {
    /// In lower case.
    #[serde(borrow)]
    pub domain: Cow<'a, str>,
    /// Jobs that wait for it.
    pub queued: usize,
    /// Always true.
    pub suspended: bool,
    /// Age of its oldest message in seconds.
    pub oldest_s: Option<u64>,
}

/// The answer to [`super::Request::Suspend`] and [`super::Request::Resume`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Always true.
    pub done: bool,
    /// Whether it was not so before.
    pub changed: bool,
}

/// The answer to [`super::Request::Retry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retried {
    /// Always true.
    pub done: bool,
    /// Deferred jobs that are due now.
    pub jobs: u64,
}

/// The answer to what cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault<'a> {
    /// Why, in one line.
    #[serde(borrow)]
    pub error: Cow<'a, str>,
}

/// Why a line is not the answer that was asked for. Who asked acts on it.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// It is no JSON: nobody of this protocol is there.
    #[error("no JSON: {0}")]
    Foreign(serde_json::Error),
    /// What was asked cannot be done, for this reason.
    #[error("{0}")]
    Refused(String),
    /// JSON of another kind.
    #[error("{0}")]
    Unexpected(serde_json::Error),
}

/// Reads a line of an answer, with its end or without.
pub fn decode<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, AnswerError> {
    serde_json::from_slice(line).map_err(|error| match serde_json::from_slice::<Fault<'_>>(line) {
        Ok(fault) => AnswerError::Refused(fault.error.into_owned()),
        Err(_) if error.is_data() => AnswerError::Unexpected(error),
        Err(_) => AnswerError::Foreign(error),
    })
}

#[cfg(test)]
mod tests {
    //! Rows are what readers of the socket rely on.

    use super::*;

    fn line<T: Serialize>(row: &T) -> String {
        let mut lines = Vec::new();
        crate::control::append(row, &mut lines);
        String::from_utf8(lines).expect("JSON is UTF-8")
    }

    /// Rows have their octets, and what has them is read as what it is.
    #[test]
    fn rows_on_the_wire() {
        let row = QueueRow { reverse_path: "".into(), recipient: "\"a\\\"b\"@c".into() };
        let text = line(&row);
        assert_eq!(text, "{\"reverse_path\":\"\",\"recipient\":\"\\\"a\\\\\\\"b\\\"@c\"}\n");
        assert_eq!(decode::<QueueLine<'_>>(text.as_bytes()).expect("a row"), QueueLine::Row(row));
        let end = End { end: true, entries: 3, unread: Some(1) };
        assert_eq!(line(&end), "{\"end\":true,\"entries\":3,\"unread\":1}\n");
        assert_eq!(decode::<QueueLine<'_>>(line(&end).as_bytes()).expect("an end"), QueueLine::End(end));
        assert_eq!(line(&End { unread: None, ..end }), "{\"end\":true,\"entries\":3}\n");
        assert_eq!(line(&Done { done: true, changed: false }), "{\"done\":true,\"changed\":false}\n");
        assert_eq!(line(&Retried { done: true, jobs: 2 }), "{\"done\":true,\"jobs\":2}\n");
        assert_eq!(line(&Fault { error: "no".into() }), "{\"error\":\"no\"}\n");
    }

    /// A site's row has its fields in this order, `null` included.
    #[test]
    fn sites_on_the_wire() {
        let site = SiteRow {
            site: "mx:25".into(),
            queued: 3,
            retries: 1,
            deferred: 2,
            connections: 0,
            resting: true,
            suspended: false,
            failures: 4,
            trouble: None,
            oldest_s: Some(5),
        };
        let expected = "{\"site\":\"mx:25\",\"queued\":3,\"retries\":1,\"deferred\":2,\"connections\":0,\"resting\":true,\
                        \"suspended\":false,\"failures\":4,\"trouble\":null,\"oldest_s\":5}\n";
        assert_eq!(line(&site), expected);
        assert_eq!(decode::<SiteRow<'_>>(expected.as_bytes()).expect("a site"), site);
        let domain = DomainRow { domain: "d.test".into(), queued: 1, suspended: true, oldest_s: None };
        assert_eq!(
            line(&domain),
            "{\"domain\":\"d.test\",\"queued\":1,\"suspended\":true,\"oldest_s\":null}\n"
        );
    }

    /// Unknown fields are passed over; a refusal, another answer and another protocol are told apart.
    #[test]
    fn answers_that_were_not_asked_for() {
        let read = |line: &str| decode::<Retried>(line.as_bytes());
        assert_eq!(read("{\"done\":true,\"jobs\":2,\"new\":[]}\n").expect("known").jobs, 2);
        assert!(matches!(read("{\"error\":\"no\"}"), Err(AnswerError::Refused(why)) if why == "no"));
        assert!(matches!(read("{\"sites\":1}"), Err(AnswerError::Unexpected(_))));
        assert!(matches!(read("* OK IMAP\r\n"), Err(AnswerError::Foreign(_))));
    }
}
