//! The jobs at a site: what waits for its first attempt or a further one, and what was tried here and waits for its time.

use std::rc::Rc;

use super::super::messages::{Attempt, Job};
use super::{Origin, SUSPENDED, SiteId, Sites};

impl Sites {
    /// Queues a job.
    pub(crate) fn push(&mut self, site: SiteId, attempt: Attempt, arrived_ms: u64, job: Job) {
        let state = self.site(site);
        if state.queue.is_empty() {
            state.happened();
        }
        state.queue.push(attempt, arrived_ms, job);
        self.ask_for_connection(site);
    }

    /// A job that was tried at a site waits for its time: the site is known until [`Sites::is_due`] is said of it.
    /// `None`: it has been forgotten already.
    pub(crate) fn defer(&mut self, origin: Origin) -> Option<SiteId> {
        let state = self.sites.get_mut(origin.site.place()).filter(|state| state.serial == origin.serial)?;
        state.deferred += 1;
        Some(origin.site)
    }

    /// The time of a job has come that was deferred at a site.
    pub(crate) fn is_due(&mut self, site: SiteId) {
        self.site(site).deferred -= 1;
        self.forget_if_spare(site);
    }

    /// Retries of messages that arrived at `arrived_ms` or before take turns with first attempts from now on.
    pub(crate) fn press(&mut self, arrived_ms: u64) {
        self.pressing_ms = arrived_ms;
    }

    /// The site's next job: first attempts before retries, but for those that press. None while it is suspended. At a site
    /// that is slowed oldest and youngest take turns, since what is closed on lies together, as it was sent.
    pub(crate) fn take(&mut self, site: SiteId) -> Option<Job> {
        let pressing_ms = self.pressing_ms;
        let state = self.site(site);
        if state.suspended {
            return None;
        }
        state.happened();
        if state.slowed {
            state.took_youngest = !state.took_youngest;
            if state.took_youngest
                && let Some(job) = state.queue.take_youngest()
            {
                return Some(job);
            }
        }
        state.queue.take(pressing_ms).map(|(_, job)| job)
    }

    /// Puts a job that could not be tried back at the head of its site's queue.
    pub(crate) fn put_back(&mut self, site: SiteId, arrived_ms: u64, job: Job) {
        self.site(site).queue.put_back(arrived_ms, job);
        self.ask_for_connection(site);
    }

    /// A job of a message that arrived at `arrived_ms` or before and is `wanted`, if there is one at the head of the
    /// queue, with why it was not sent.
    pub(crate) fn take_older(
        &mut self,
        site: SiteId,
        arrived_ms: u64,
        wanted: impl Fn(&Job) -> bool,
    ) -> Option<(Job, Option<Rc<str>>)> {
        let state = self.sites.get_mut(site.place())?;
        let job = state.queue.take_older(arrived_ms, wanted)?;
        let why = if state.suspended { Some(SUSPENDED.into()) } else { state.trouble.clone() };
        Some((job, why))
    }
}
