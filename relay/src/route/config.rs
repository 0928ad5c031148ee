//! How names are resolved.

use std::net::SocketAddr;
use std::time::Duration;

use super::budget;

/// Places for first tries when there are descriptors enough.
const PLACES_MAX: usize = 512;
const PLACES_MIN: usize = 8;
/// The part of all descriptors that lookups may take.
const FILES_PART: u64 = 8;

/// How to resolve names.
#[derive(Clone, Debug)]
pub struct ResolverConfig {
    /// The name servers, which resolve recursively; when empty, those of /etc/resolv.conf.
    pub servers: Vec<SocketAddr>,
    /// Limit of one attempt at one question to one name server, retransmissions included.
    pub timeout: Duration,
    /// How long a name server may be silent before the next one is asked too.
    pub hedge: Duration,
    /// Further attempts with name servers that were silent or answered SERVFAIL.
    pub attempts: usize,
    /// Domains that have their first try at the same time; others wait. As many more are tried again or take long.
    pub in_flight_max: usize,
}

impl Default for ResolverConfig {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            timeout: Duration::from_secs(3),
            hedge: Duration::from_millis(500),
            attempts: 2,
            in_flight_max: PLACES_MAX,
        }
    }
}

impl ResolverConfig {
    /// As many lookups at a time as a process with this limit of open files can have sockets for.
    pub fn for_files(files: u64) -> ResolverConfig {
        let places = files / FILES_PART / budget::sockets_max(2) as u64 * 2;
        let places = usize::try_from(places).unwrap_or(PLACES_MAX);
        ResolverConfig { in_flight_max: places.clamp(PLACES_MIN, PLACES_MAX), ..ResolverConfig::default() }
    }

    /// Sockets that lookups take at most.
    pub fn sockets_max(&self) -> usize {
        budget::sockets_max(self.in_flight_max)
    }
}
