//! What is asked of the resolver's thread, and what it says.

use std::net::IpAddr;
use std::time::Duration;

/// What a shard wants to know.
#[derive(Debug)]
pub(super) enum Question {
    /// The mail exchangers of a domain.
    Domain(String),
    /// The addresses of the hosts of a static route, in order of preference.
    Hosts(Vec<String>),
}

/// What the DNS says.
pub(super) type Outcome = Result<Found, Failure>;

/// Hosts that take the mail.
#[derive(Debug)]
pub(super) struct Found {
    /// By preference; a host whose addresses could not be found is there without any.
    pub(super) hosts: Vec<FoundHost>,
    /// The least of all that was read.
    pub(super) ttl: Duration,
}

#[derive(Debug)]
pub(super) struct FoundHost {
    pub(super) name: String,
    pub(super) preference: u16,
    pub(super) addresses: Vec<IpAddr>,
}

/// Why there are no hosts.
#[derive(Debug)]
pub(super) enum Failure {
    NullMx {
        ttl: Duration,
    },
    NoSuchDomain {
        reason: String,
        ttl: Duration,
    },
    Temporary {
        reason: String,
    },
    /// For lack of something that is ours.
    Lacking {
        reason: String,
    },
}
