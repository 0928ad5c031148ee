//! Flushing the queue, by the operator: deferred messages are tried now, and sites that rest are probed.

use std::rc::Rc;

use chasqui_runtime::{HashSet, now, yield_now};

use crate::context::Context;
use crate::process::Flush;
use crate::queue::messages::Listed;
use crate::queue::{Due, Messages, Queue, SiteId};
use crate::route::{Answer, SiteKey, domain_of};
use crate::spool::MessageId;

/// Messages of which the envelopes are looked at before other tasks get a turn.
const MESSAGES_AT_ONCE: usize = 256;

/// What a flush is about on one shard.
#[derive(Default)]
struct Scope {
    sites: HashSet<SiteId>,
    /// Recipients, by message and index.
    recipients: HashSet<(MessageId, u32)>,
    /// All that was tried at the sites is meant.
    whole_sites: bool,
    is_all: bool,
}

impl Scope {
    fn has(&self, messages: &Messages, due: &Due) -> bool {
        match due {
            _ if self.is_all => true,
            Due::Site(site) => self.sites.contains(site),
            Due::Job(job, site) => {
                let id = messages.facts(job).id;
                let mut recipients = Vec::new();
                messages.recipients(job, &mut recipients);
                let is_at_site = site.is_some_and(|site| self.sites.contains(&site));
                (is_at_site && self.whole_sites)
                    || recipients.into_iter().any(|recipient| self.recipients.contains(&(id, recipient)))
            }
        }
    }
}

/// Makes what is meant due; gives how many deferred jobs that were.
pub(super) async fn flush(context: &Context, flush: Flush) -> u64 {
    // What the spool has recovered is in no place yet.
    context.refilling.empty().await;
    context.router.forget_failures();
    let scope = scope(context, flush).await;
    let now = now();
    let mut jobs = 0;
    {
        let Queue { timers, messages, sites, .. } = &mut *context.queue.borrow_mut();
        timers.hurry(now, |due| {
            let is_meant = scope.has(messages, due);
            jobs += u64::from(is_meant && matches!(due, Due::Job(..)));
            is_meant
        });
        let meant: Vec<SiteId> = if scope.is_all { sites.ids() } else { scope.sites.into_iter().collect() };
        meant.into_iter().for_each(|site| sites.forgive(site));
    }
    jobs
}

async fn scope(context: &Context, flush: Flush) -> Scope {
    let mut scope = Scope::default();
    match flush {
        Flush::All => scope.is_all = true,
        Flush::Site(name) => {
            let key = SiteKey::from(name.as_str());
            scope.whole_sites = true;
            scope.sites.extend(context.queue.borrow().sites.of_key(&key));
            // What a start has found, or had no route, is of no site yet.
            let is_stray = |due: &Due| matches!(due, Due::Job(_, None));
            if context.queue.borrow().timers.any(is_stray) {
                let is_there = |route: Answer| route.is_ok_and(|route| route.site == key);
                find(context, &mut scope, None, |its| context.router.route_cached(its).is_some_and(is_there))
                    .await;
            }
        }
        Flush::Domain(domain) => find(context, &mut scope, None, |its| its == domain).await,
        Flush::Message(id) => find(context, &mut scope, Some(id), |_| true).await,
    }
    scope
}

/// Adds the open recipients of all messages, or one, whose domains are `wanted`, and the sites of these.
async fn find(context: &Context, scope: &mut Scope, only: Option<MessageId>, wanted: impl Fn(&str) -> bool) {
    let mut cursor = Some(0);
    while let Some(place) = cursor {
        let (listed, next) = context.queue.borrow().messages.list(place, MESSAGES_AT_ONCE);
        for message in listed.into_iter().filter(|message| only.is_none_or(|only| only == message.id)) {
            find_in(context, message, scope, &wanted).await;
        }
        cursor = next;
        yield_now().await;
    }
}

async fn find_in(context: &Context, message: Listed, scope: &mut Scope, wanted: impl Fn(&str) -> bool) {
    let Listed { id, envelope, open } = message;
    let envelope = match envelope {
        Some(envelope) => envelope,
        // One that cannot be read now is tried on its schedule.
        None => match context.spool.envelope(id).await {
            Ok(Some(envelope)) => Rc::new(envelope),
            Ok(None) | Err(_) => return,
        },
    };
    for recipient in open {
        let domain = domain_of(&envelope.recipients[recipient as usize]);
        if wanted(&domain) {
            scope.recipients.insert((id, recipient));
            if let Some(Ok(route)) = context.router.route_cached(&domain) {
                scope.sites.extend(context.queue.borrow().sites.of_key(&route.site));
            }
        }
    }
}
