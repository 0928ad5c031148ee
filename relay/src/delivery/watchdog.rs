//! The watchdog: whether everything that is queued has its events when they are due, and whether the spool is still there.
//!
//! A job in hand, deferred or waiting for a route has a time by which the next event is promised; a site answers for the jobs at
//! it: it rests until a time, or is served and something happens within the time limits of a connection. A job whose promise
//! has been broken for longer than [`GRACE`] is counted and logged. A round looks at every site and at a part of the messages:
//! one with a million messages costs as much as one with 16,384. There are no rounds while nothing is queued.

use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::{Instant, now, sleep_until, timeout, yield_now};
use futures_lite::future::or;

use super::expiry::round_pause;
use crate::context::Context;
use crate::queue::messages::Overdue;

/// Places of messages looked at in a round.
const MESSAGES_PER_ROUND: usize = 16_384;
/// Places looked at before other tasks get a turn.
const PLACES_AT_ONCE: usize = 1024;
/// How long a promise may be broken before it counts: a busy shard is not a lost message.
const GRACE: Duration = Duration::from_secs(30);
/// Time between two looks at the spool's directory while mail is queued: the next attempts do not deliver what cannot be recorded.
const LOOK: Duration = Duration::from_secs(1);
/// The same while nothing is: a client's mail or a question for `stats` looks itself.
const IDLE_LOOK: Duration = Duration::from_secs(600);
/// Time between two log lines about messages without an event.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Watches for as long as the shard lives.
pub(super) async fn run(context: Rc<Context>) {
    let pause = round_pause(&context);
    let filled = context.queue.borrow().filled();
    let mut watch = Watch::default();
    while !context.is_draining() {
        if context.queue.borrow().messages.len() == 0 {
            context.overdue.set(Overdue::default());
            let woken = or(filled.notified(), context.drain_begins.notified());
            let _ = timeout(IDLE_LOOK, woken).await;
            context.spool.look();
        } else {
            let next = now() + pause;
            while now() < next && !context.is_draining() {
                or(sleep_until(next.min(now() + LOOK)), context.drain_begins.notified()).await;
                context.spool.look();
            }
            watch.round(&context).await;
        }
    }
}

#[derive(Default)]
struct Watch {
    /// Where among the messages the next round goes on.
    cursor: usize,
    /// What was found since they were begun.
    found: Overdue,
    logged: Option<Instant>,
}

impl Watch {
    async fn round(&mut self, context: &Context) {
        let at_sites = at_sites(context).await;
        for _ in 0..MESSAGES_PER_ROUND / PLACES_AT_ONCE {
            let before = Instant::from_nanos(now().as_nanos().saturating_sub(GRACE.as_nanos() as u64));
            let (overdue, next) =
                context.queue.borrow().messages.overdue(self.cursor, PLACES_AT_ONCE, before);
            self.found.join(overdue);
            self.cursor = next.unwrap_or(0);
            if next.is_none() {
                self.tell(context, at_sites);
                break;
            }
            yield_now().await;
        }
    }

    /// All messages have been looked at.
    fn tell(&mut self, context: &Context, at_sites: Overdue) {
        let mut overdue = std::mem::take(&mut self.found);
        overdue.join(at_sites);
        context.overdue.set(overdue);
        let now = now();
        if overdue.jobs > 0 && self.logged.is_none_or(|logged| now - logged >= LOG_EVERY) {
            self.logged = Some(now);
            let Overdue { jobs, oldest_s } = overdue;
            log::error!("{jobs} queued jobs have had no event when it was due, the oldest for {oldest_s} s");
        }
    }
}

async fn at_sites(context: &Context) -> Overdue {
    let patience = context.config.delivery.service_max() + GRACE;
    let (mut overdue, mut cursor) = (Overdue::default(), Some(0));
    while let Some(place) = cursor {
        let (found, next) = context.queue.borrow_mut().sites.overdue(place, PLACES_AT_ONCE, now(), patience);
        overdue.join(found);
        cursor = next;
        yield_now().await;
    }
    overdue
}
