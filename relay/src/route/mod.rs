//! Where a domain's mail goes: MX hosts, their addresses, and how long that holds.
//!
//! A [`Router`] per shard answers from its cache; what is not there is asked of the process-wide
//! [`Resolver`], whose control thread runs hickory. Order of the rules:
//!
//! 1. an address literal goes to that address;
//! 2. a static route (of the domain, else of `*`) goes where it says;
//! 3. MX hosts by preference, shuffled within equal preference, with ourselves and every host at our
//!    preference or behind it removed (RFC 5321, section 5.1);
//! 4. a null MX takes no mail (RFC 7505); without any MX the domain is its own host.
//!
//! Only a proven absence is permanent: NXDOMAIN, or NODATA with its SOA for each type of address. SERVFAIL, REFUSED,
//! lame referrals and timeouts of every name server are temporary, and are remembered for 1 to 30 s (RFC 9520). An empty
//! MX answer that proves nothing leads to the domain itself, and to no bounce.

mod budget;
mod build;
mod cache;
mod config;
mod lanes;
mod lookup;
mod ourselves;
mod question;
mod resolver;
mod router;
mod schedule;
mod servers;
mod simulated;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use chasqui_runtime::Instant;

use crate::config::TlsPolicy;

pub(crate) use cache::Answer;
pub use config::ResolverConfig;
pub use resolver::{Resolver, ResolverError};
pub use router::{RouteConfig, Router};
pub use simulated::SimulatedAnswer;

/// Where the mail of a domain goes.
#[derive(Debug)]
pub struct Route {
    /// The hosts to try, in this order; never empty.
    pub hosts: Vec<Host>,
    /// Domains with the same MX set are one site: they share queue, connections and limits.
    pub site: SiteKey,
    /// What the hosts must offer. Part of the site's name, as connections are.
    pub tls: TlsPolicy,
    /// Until when this may be used.
    pub expires: Instant,
}

/// A mail exchanger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name in lower case, or its address when it was given as one.
    pub name: String,
    /// Lower is tried first.
    pub preference: u16,
    /// Where to connect, in this order; never empty. IPv4 before IPv6, shuffled within each.
    pub addresses: Vec<SocketAddr>,
}

/// Names a site: the MX set with preferences and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteKey(Arc<str>);

impl From<&str> for SiteKey {
    fn from(name: &str) -> SiteKey {
        SiteKey(name.into())
    }
}

impl fmt::Display for SiteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a domain has no route. Whoever delivers bounces the permanent ones and defers on the others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The domain says that it takes no mail (RFC 7505).
    #[error("the domain accepts no mail (null MX)")]
    NullMx,
    /// The domain, or every mail exchanger it names, does not exist.
    #[error("{0}")]
    NoSuchDomain(Rc<str>),
    /// We are the domain's best mail exchanger, and it is not a domain we deliver.
    #[error("mail for this domain loops back to this host")]
    LoopsBackToUs,
    /// The DNS gave no answer that proves anything; try again later.
    #[error("{0}")]
    Temporary(Rc<str>),
    /// We lack what it takes to ask the DNS, such as descriptors. It is no attempt.
    #[error("{0}")]
    Lacking(Rc<str>),
}

impl RouteError {
    /// Whether trying again is pointless.
    pub fn is_permanent(&self) -> bool {
        !matches!(self, RouteError::Temporary(_) | RouteError::Lacking(_))
    }

    /// The enhanced status code for the recipient's DSN (RFC 3463; RFC 7505 for the null MX).
    pub fn enhanced(&self) -> &'static str {
        match self {
            RouteError::NullMx => "5.1.10",
            RouteError::NoSuchDomain(_) => "5.1.2",
            RouteError::LoopsBackToUs => "5.4.6",
            RouteError::Temporary(_) => "4.4.3",
            RouteError::Lacking(_) => "4.3.0",
        }
    }
}

/// The domain of an address, in lower case. Addresses were parsed when they came in.
pub(crate) fn domain_of(address: &str) -> Cow<'_, str> {
    let domain = address.rsplit_once('@').map_or(address, |(_, domain)| domain);
    if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(domain.to_ascii_lowercase())
    } else {
        Cow::Borrowed(domain)
    }
}
