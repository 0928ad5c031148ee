//! What is asked of a control socket.

use serde::{Deserialize, Serialize};

/// Octets of a name that is suspended: as much as a line of the file `suspended` takes.
const NAME_MAX: usize = 8192;

/// A request to a relay. Sinks answer any request with their [`super::Rings`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase")]
pub enum Request {
    /// List every recipient that is still to be served: [`super::QueueLine`].
    Queue,
    /// Tell what was counted: [`super::Stats`].
    Stats,
    /// List the sites and the suspended domains: [`super::answer::SiteRow`], [`super::answer::DomainRow`], then
    /// [`super::answer::End`].
    Sites,
    /// Stop delivery there: [`super::answer::Done`].
    Suspend {
        /// Where.
        #[serde(flatten)]
        target: Target,
    },
    /// Let delivery go on there: [`super::answer::Done`].
    Resume {
        /// Where.
        #[serde(flatten)]
        target: Target,
    },
    /// Try deferred messages now: [`super::answer::Retried`].
    Retry(Retry),
}

/// What can be suspended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// A domain of recipients, in lower case.
    Domain(String),
    /// A site, by the name that the listing of the sites gives.
    Site(String),
}

/// What is to be tried: at most one of these, all without any.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// What was tried at this site, by the name that the listing of the sites gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// What waits for recipients in this domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The message with this id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Why a line is no request. Who asked is told.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It is no JSON: the client speaks another protocol, and its next line may look like a request. The connection has
    /// to end.
    #[error("{0}")]
    Foreign(serde_json::Error),
    /// No such command, or its arguments do not fit.
    #[error("{0}")]
    Unknown(serde_json::Error),
}

/// A name that is none of a domain or site. Who asked is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no name of a domain or site")]
pub struct NoName;

impl Request {
    /// The request as a line with its end.
    pub fn encode(&self) -> Vec<u8> {
        let mut line = Vec::new();
        super::append(self, &mut line);
        line
    }

    /// Reads a line, with its end or without.
    pub fn decode(line: &[u8]) -> Result<Request, RequestError> {
        serde_json::from_slice(line).map_err(|error| match error.is_data() {
            true => RequestError::Unknown(error),
            false => RequestError::Foreign(error),
        })
    }
}

impl Target {
    /// A target whose name fits a line of the file; domains become lower case.
    pub fn checked(self) -> Result<Target, NoName> {
        let (name, is_spaced) = match &self {
            Target::Domain(name) => (name, name.contains(' ')),
            Target::Site(name) => (name, false),
        };
        if name.is_empty() || name.len() > NAME_MAX || name.chars().any(char::is_control) || is_spaced {
            return Err(NoName);
        }
        Ok(match self {
            Target::Domain(name) => Target::Domain(name.to_ascii_lowercase()),
            site @ Target::Site(_) => site,
        })
    }
}

#[cfg(test)]
mod tests {
    //! Requests are what operators write.

    use super::*;

    /// Each request has its octets, and is read from them.
    #[test]
    fn requests_on_the_wire() {
        let retry = |domain: &str| Request::Retry(Retry { domain: Some(domain.into()), ..Retry::default() });
        for (request, line) in [
            (Request::Queue, r#"{"command":"queue"}"#),
            (Request::Stats, r#"{"command":"stats"}"#),
            (Request::Sites, r#"{"command":"sites"}"#),
            (
                Request::Suspend { target: Target::Domain("a.test".into()) },
                r#"{"command":"suspend","domain":"a.test"}"#,
            ),
            (
                Request::Resume { target: Target::Site("10 mx:25".into()) },
                r#"{"command":"resume","site":"10 mx:25"}"#,
            ),
            (Request::Retry(Retry::default()), r#"{"command":"retry"}"#),
            (retry("a.test"), r#"{"command":"retry","domain":"a.test"}"#),
        ] {
            assert_eq!(request.encode(), [line.as_bytes(), b"\n"].concat(), "{line}");
            assert_eq!(Request::decode(line.as_bytes()).expect(line), request);
        }
    }

    /// A misspelt request is told of; what is no JSON is another protocol's.
    #[test]
    fn what_is_no_request() {
        for line in
            [r#"{"command":"fly"}"#, r#"{"command":"suspend"}"#, r#"{"command":"retry","domian":"a"}"#, "5"]
        {
            assert!(matches!(Request::decode(line.as_bytes()), Err(RequestError::Unknown(_))), "{line}");
        }
        for line in ["GET / HTTP/1.1\r\n", "", "{\"command\":"] {
            assert!(matches!(Request::decode(line.as_bytes()), Err(RequestError::Foreign(_))), "{line}");
        }
    }

    /// Names that would break a line of the file are none; domains become lower case.
    #[test]
    fn names_of_targets() {
        assert_eq!(Target::Domain("A.Test".into()).checked(), Ok(Target::Domain("a.test".into())));
        assert_eq!(Target::Site("a\nb".into()).checked(), Err(NoName));
        assert_eq!(Target::Domain("a b".into()).checked(), Err(NoName));
        assert_eq!(Target::Site(String::new()).checked(), Err(NoName));
    }
}
