//! Jobs for suspended domains: they wait here, whatever site their domain is at.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::messages::{Attempt, Job};
use super::site_queue::SiteQueue;

/// The suspended domains, and what waits for each.
#[derive(Debug, Default)]
pub(crate) struct Suspensions {
    domains: BTreeMap<Rc<str>, SiteQueue>,
}

/// What the control socket tells of a suspended domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedDomain {
    pub(crate) domain: String,
    pub(crate) jobs: usize,
    pub(crate) oldest_ms: Option<u64>,
}

impl Suspensions {
    /// Suspends a domain, in lower case; `false`: it is suspended already.
    pub(crate) fn suspend(&mut self, domain: &str) -> bool {
        let is_new = !self.domains.contains_key(domain);
        if is_new {
            self.domains.insert(domain.into(), SiteQueue::default());
        }
        is_new
    }

    /// Ends the suspension of a domain and gives what waited; `None`: it was not suspended.
    pub(crate) fn resume(&mut self, domain: &str) -> Option<SiteQueue> {
        self.domains.remove(domain)
    }

    /// No domain is suspended.
    pub(crate) fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    pub(crate) fn is_suspended(&self, domain: &str) -> bool {
        !self.domains.is_empty() && self.domains.contains_key(domain)
    }

    /// Keeps a job for a suspended domain; gives it back when the domain is not.
    pub(crate) fn keep(&mut self, domain: &str, attempt: Attempt, arrived_ms: u64, job: Job) -> Option<Job> {
        let Some(jobs) = self.domains.get_mut(domain) else { return Some(job) };
        jobs.push(attempt, arrived_ms, job);
        None
    }

    /// A job of a message that arrived at `arrived_ms` or before and is `wanted`, if there is one at the head of a
    /// domain's jobs.
    pub(crate) fn take_older(&mut self, arrived_ms: u64, wanted: impl Fn(&Job) -> bool) -> Option<Job> {
        self.domains.values_mut().find_map(|jobs| jobs.take_older(arrived_ms, &wanted))
    }

    /// The suspended domains.
    pub(crate) fn list(&self) -> Vec<ListedDomain> {
        let listed = self.domains.iter().map(|(domain, jobs)| ListedDomain {
            domain: (**domain).to_owned(),
            jobs: jobs.len(),
            oldest_ms: jobs.oldest_ms(),
        });
        listed.collect()
    }
}
