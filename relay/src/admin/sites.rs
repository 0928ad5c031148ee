//! The listing of sites and suspended domains, each once for all shards.

use std::collections::BTreeMap;
use std::collections::btree_map::IntoValues;

use chasqui_protocol::control::answer::{DomainRow, SiteRow};
use chasqui_protocol::control::{Target, append};

use crate::process::SitesPage;
use crate::queue::sites::ListedSite;
use crate::queue::suspensions::ListedDomain;
use crate::route::SiteKey;
use crate::suspensions::Suspended;

/// Octets of lines told at a time.
const PIECE: usize = 64 << 10;

/// All sites and suspended domains of a relay.
#[derive(Debug, Default)]
pub(super) struct Listing {
    sites: BTreeMap<SiteKey, ListedSite>,
    domains: BTreeMap<String, ListedDomain>,
    now_ms: u64,
}

impl Listing {
    /// With what is suspended, known to a shard or not.
    pub(super) fn new(suspended: &Suspended) -> Listing {
        let mut listing = Listing::default();
        for target in suspended.targets() {
            match target {
                Target::Domain(domain) => {
                    let listed = ListedDomain { domain: domain.clone(), jobs: 0, oldest_ms: None };
                    listing.domains.insert(domain.clone(), listed);
                }
                Target::Site(name) => {
                    let listed = ListedSite::unknown(name.as_str().into());
                    listing.sites.insert(listed.site.clone(), listed);
                }
            }
        }
        listing
    }

    pub(super) fn add(&mut self, page: SitesPage) {
        self.now_ms = page.now_ms;
        for site in page.sites {
            match self.sites.get_mut(&site.site) {
                Some(known) => known.join(site),
                None => drop(self.sites.insert(site.site.clone(), site)),
            }
        }
        for domain in page.domains {
            if let Some(known) = self.domains.get_mut(&domain.domain) {
                known.jobs += domain.jobs;
                known.oldest_ms = known.oldest_ms.into_iter().chain(domain.oldest_ms).min();
            }
        }
    }

    /// How many rows it has.
    pub(super) fn len(&self) -> u64 {
        (self.sites.len() + self.domains.len()) as u64
    }

    /// Its rows as lines: sites, then domains.
    pub(super) fn into_lines(self) -> Lines {
        Lines { sites: self.sites.into_values(), domains: self.domains.into_values(), now_ms: self.now_ms }
    }
}

/// The rows of a listing that are still to be told.
#[derive(Debug)]
pub(super) struct Lines {
    sites: IntoValues<SiteKey, ListedSite>,
    domains: IntoValues<String, ListedDomain>,
    now_ms: u64,
}

impl Lines {
    /// The next of them; none at the end.
    pub(super) fn next_piece(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        while lines.len() < PIECE
            && let Some(site) = self.sites.next()
        {
            self.append_site(&site, &mut lines);
        }
        while lines.len() < PIECE
            && let Some(domain) = self.domains.next()
        {
            let row = DomainRow {
                domain: domain.domain.into(),
                queued: domain.jobs,
                suspended: true,
                oldest_s: self.age_s(domain.oldest_ms),
            };
            append(&row, &mut lines);
        }
        lines
    }

    fn append_site(&self, site: &ListedSite, lines: &mut Vec<u8>) {
        let row = SiteRow {
            site: site.site.to_string().into(),
            queued: site.first_attempts + site.retries,
            retries: site.retries,
            deferred: site.deferred,
            connections: site.connections,
            resting: site.resting,
            suspended: site.suspended,
            failures: site.failures,
            trouble: site.trouble.as_deref().map(Into::into),
            oldest_s: self.age_s(site.oldest_ms),
        };
        append(&row, lines);
    }

    fn age_s(&self, oldest_ms: Option<u64>) -> Option<u64> {
        oldest_ms.map(|ms| self.now_ms.saturating_sub(ms) / 1000)
    }
}
