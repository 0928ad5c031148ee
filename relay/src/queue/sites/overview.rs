//! What is seen of the sites from outside: by the operator, by the age limit and by the watchdog.

use std::time::Duration;

use chasqui_runtime::Instant;

use super::super::messages::Overdue;
use super::{Origin, Site, SiteId, Sites};
use crate::route::SiteKey;

/// What the control socket tells of a site, of one shard or of all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedSite {
    pub(crate) site: SiteKey,
    pub(crate) first_attempts: usize,
    pub(crate) retries: usize,
    pub(crate) deferred: usize,
    pub(crate) connections: usize,
    pub(crate) resting: bool,
    pub(crate) suspended: bool,
    pub(crate) failures: u32,
    pub(crate) trouble: Option<String>,
    pub(crate) oldest_ms: Option<u64>,
}

impl ListedSite {
    /// A site that no shard knows, and that is suspended.
    pub(crate) fn unknown(site: SiteKey) -> Self {
        ListedSite {
            site,
            first_attempts: 0,
            retries: 0,
            deferred: 0,
            connections: 0,
            resting: false,
            suspended: true,
            failures: 0,
            trouble: None,
            oldest_ms: None,
        }
    }

    /// Adds what another shard has of the same site.
    pub(crate) fn join(&mut self, other: ListedSite) {
        self.first_attempts += other.first_attempts;
        self.retries += other.retries;
        self.deferred += other.deferred;
        self.connections += other.connections;
        self.resting |= other.resting;
        self.suspended |= other.suspended;
        self.failures = self.failures.max(other.failures);
        self.trouble = self.trouble.take().or(other.trouble);
        self.oldest_ms = self.oldest_ms.into_iter().chain(other.oldest_ms).min();
    }
}

impl Site {
    /// For how long the jobs here have gone without what they were promised.
    fn overdue(&mut self, now: Instant, patience: Duration) -> Option<Duration> {
        if self.seen.0 != self.events || self.line.is_empty() || self.suspended {
            self.seen = (self.events, now);
            return None;
        }
        if self.resting {
            return self.probe_at.filter(|at| *at < now).map(|at| now - at);
        }
        let is_served = self.connections > 0 || self.wanting.is_some() || self.stake.is_waiting();
        let unseen = now - self.seen.1;
        (!is_served || unseen > patience).then_some(unseen)
    }
}

impl Sites {
    /// For how long jobs at up to `count` places from `cursor` on go without an event although nothing that takes `patience` at
    /// most is going on, and where to go on; `None` at the end.
    pub(crate) fn overdue(
        &mut self,
        cursor: usize,
        count: usize,
        now: Instant,
        patience: Duration,
    ) -> (Overdue, Option<usize>) {
        let end = (cursor + count).min(self.sites.capacity());
        let mut found = Overdue::default();
        for place in cursor..end {
            let Some(site) = self.sites.get_mut(place) else { continue };
            if let Some(overdue) = site.overdue(now, patience) {
                found.add(site.line.len(), u32::try_from(overdue.as_secs()).unwrap_or(u32::MAX));
            }
        }
        (found, (end < self.sites.capacity()).then_some(end))
    }

    /// Of up to `count` places from `cursor` on, the sites with a job of a message that arrived at `aged_ms` or before, and where
    /// to go on; `None` at the end.
    pub(crate) fn aged(&self, cursor: usize, count: usize, aged_ms: u64) -> (Vec<Origin>, Option<usize>) {
        let end = (cursor + count).min(self.sites.capacity());
        let sites = (cursor..end).filter_map(|place| Some((place, self.sites.get(place)?)));
        let aged = sites.filter(|(_, site)| site.line.oldest_ms().is_some_and(|oldest| oldest <= aged_ms));
        let aged =
            aged.map(|(place, site)| Origin { site: SiteId::of(place), serial: site.serial }).collect();
        (aged, (end < self.sites.capacity()).then_some(end))
    }

    /// Up to `count` sites from the place `cursor` on, and the place to go on from; `None` at the end.
    pub(crate) fn list(&self, cursor: usize, count: usize) -> (Vec<ListedSite>, Option<usize>) {
        let end = (cursor + count).min(self.sites.capacity());
        let listed = (cursor..end).filter_map(|place| self.sites.get(place)).map(|site| ListedSite {
            site: site.route.site.clone(),
            first_attempts: site.line.first_attempts(),
            retries: site.line.retries(),
            deferred: site.deferred,
            connections: site.connections,
            resting: site.resting,
            suspended: site.suspended,
            failures: site.failures,
            trouble: site.trouble.as_deref().map(str::to_owned),
            oldest_ms: site.line.oldest_ms(),
        });
        (listed.collect(), (end < self.sites.capacity()).then_some(end))
    }
}
