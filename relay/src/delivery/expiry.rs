//! The age limit, wherever a message waits.
//!
//! A round looks at every site and suspended domain, at the head of its queue alone. There are no rounds while nothing is queued.
//! What waits at a site, whatever its state, and for a suspended domain, goes back in the first round after it has reached
//! `retry.max_age`; what is deferred is tried a last time just then; what is in hand or waits for a route is settled when that
//! has ended. So it is with warnings of a delay, at sites that cannot be reached or are suspended and for suspended domains.
//!
//! Retries of mail that has half of its life behind it take turns with first attempts: a site that takes less than comes for
//! it would otherwise see old mail go back while new mail is delivered.

use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::{sleep, yield_now};
use futures_lite::future::or;

use super::jobs::{self, BATCH, in_hand_until};
use super::untried;
use crate::clock::{self, millis};
use crate::context::Context;
use crate::queue::sites::SUSPENDED;
use crate::queue::{Deadline, Job, Origin, Queue, Reason};

/// Longest time from one round to the next.
const ROUND_MAX: Duration = Duration::from_secs(10);
/// Shortest time from one round to the next.
const ROUND_MIN: Duration = Duration::from_millis(50);
/// Of its age limit a message has this share behind it when its retries begin to press.
const PRESSING_SHARE: u32 = 2;
/// Sites looked at before other tasks get a turn.
const PLACES_AT_ONCE: usize = 1024;

/// Time from one round to the next: a small part of the first age at which something happens.
pub(super) fn round_pause(context: &Context) -> Duration {
    let warning = jobs::warning_age(&context.config).unwrap_or(Duration::MAX);
    (warning.min(context.config.retry.max_age) / 20).clamp(ROUND_MIN, ROUND_MAX)
}

/// Gives up what becomes too old, for as long as the shard lives.
pub(super) async fn run(context: Rc<Context>) {
    let pause = round_pause(&context);
    let filled = context.queue.borrow().filled();
    while !context.is_draining() {
        if context.queue.borrow().messages.len() == 0 {
            or(filled.notified(), context.drain.notified()).await;
        } else {
            or(sleep(pause), context.drain.notified()).await;
            round(&context).await;
        }
    }
}

async fn round(context: &Rc<Context>) {
    let max_age = context.config.retry.max_age;
    clock::look(&context.past, &context.clock, max_age).await;
    let now_ms = context.clock.now_ms();
    let expired_ms = now_ms.saturating_sub(millis(max_age));
    context.queue.borrow_mut().sites.press(now_ms.saturating_sub(millis(max_age / PRESSING_SHARE)));
    // A warning may be due long before the message expires.
    let aged_ms = match jobs::warning_age(&context.config) {
        Some(warning) => now_ms.saturating_sub(millis(warning)).max(expired_ms),
        None => expired_ms,
    };
    let mut cursor = Some(0);
    while let Some(place) = cursor {
        let (aged, next) = context.queue.borrow().sites.aged(place, PLACES_AT_ONCE, aged_ms);
        cursor = next;
        for origin in aged {
            expire_site(context, origin, expired_ms).await;
        }
        yield_now().await;
    }
    expire_suspended(context, expired_ms).await;
}

/// Gives up what has become too old at a site; of what is so old that its sender is to be told, tells it.
async fn expire_site(context: &Rc<Context>, origin: Origin, expired_ms: u64) {
    for taken in 1.. {
        let old = {
            let Queue { sites, messages, .. } = &mut *context.queue.borrow_mut();
            // While others were given up it may have become empty, and been forgotten.
            let Some(site) = sites.known(origin) else { break };
            let expired = sites.take_older(site, expired_ms, |_| true);
            // What waits at a site that works is about to be sent.
            let troubled = expired.is_none() && sites.trouble(site).is_some();
            let late = |job: &Job| troubled && jobs::is_warning_due(context, messages, job);
            expired.or_else(|| sites.take_older(site, u64::MAX, late))
        };
        let Some((job, why)) = old else { break };
        expire(context, job, why.as_deref().unwrap_or("no connection was free")).await;
        if taken % BATCH == 0 {
            yield_now().await;
        }
    }
}

/// As [`expire_site`], of what waits for suspended domains.
async fn expire_suspended(context: &Rc<Context>, expired_ms: u64) {
    for taken in 1.. {
        let old = {
            let Queue { suspensions, messages, .. } = &mut *context.queue.borrow_mut();
            let late = |job: &Job| jobs::is_warning_due(context, messages, job);
            suspensions.take_older(expired_ms, |_| true).or_else(|| suspensions.take_older(u64::MAX, late))
        };
        let Some(job) = old else { break };
        expire(context, job, SUSPENDED).await;
        if taken % BATCH == 0 {
            yield_now().await;
        }
    }
}

async fn expire(context: &Rc<Context>, job: Job, why: &str) {
    context.queue.borrow_mut().messages.set_deadline(&job, Deadline::By(in_hand_until()));
    // Those before it have been returned, or nearly: a million that expire at once are not all in hand.
    drop(context.composing.acquire(1).await);
    let reason = Reason { status: "4.4.1".into(), text: why.to_owned(), remote: None };
    untried::tell_delay(context, job, reason).await;
}
