//! Looks after what waits: the age limit wherever a message is, and the watchdog.
//!
//! A round looks at every site and suspended domain, at the head of its queue alone, and at a part of the messages: a
//! round with a million messages costs as much as one with 16,384. There are no rounds while nothing is queued.
//!
//! *Age limit*: what waits at a site, whatever its state, and for a suspended domain, goes back in the first round after
//! it has reached `retry.max_age`; what is deferred is tried a last time just then; what is in hand or waits for a route
//! is settled when that has ended. So it is with warnings of a delay, at sites that cannot be reached or are
//! suspended and for suspended domains.
//!
//! Retries of mail that has half of its life behind it take turns with first attempts: a site that takes less than comes for
//! it would otherwise see old mail go back while new mail is delivered.
//!
//! *Watchdog*: a job in hand, deferred or waiting for a route has a time by which the next event is promised; a site
//! answers for the jobs at it: it rests until a time, or is served and something happens within the time limits of a
//! connection. A job whose promise has been broken for longer than [`GRACE`] is counted and logged.

use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::{Instant, now, sleep_until, timeout, yield_now};
use futures_lite::future::or;

use crate::context::Shard;
use crate::delivery::outcome::{Reason, millis};
use crate::delivery::scheduler::{BATCH, in_hand_until};
use crate::queue::messages::Overdue;
use crate::queue::sites::SUSPENDED;
use crate::queue::{Job, Origin, Promise, Queue};

/// Longest time from one round to the next.
const ROUND_MAX: Duration = Duration::from_secs(10);
/// Of its age limit a message has this share behind it when its retries begin to press.
const PRESSING_SHARE: u32 = 2;
/// Shortest time from one round to the next.
const ROUND_MIN: Duration = Duration::from_millis(50);
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

/// Attends to the queue for as long as the shard lives.
pub(crate) async fn attend(shard: Rc<Shard>) {
    let first = shard.warning_age().unwrap_or(Duration::MAX).min(shard.config.retry.max_age);
    let pause = (first / 20).clamp(ROUND_MIN, ROUND_MAX);
    let mut watch = Watchdog::default();
    while !shard.is_draining() {
        if shard.queue.borrow().messages.len() == 0 {
            shard.overdue.set(Overdue::default());
            let woken = or(shard.filled.notified(), shard.drain_begins.notified());
            let _ = timeout(IDLE_LOOK, woken).await;
            shard.spool.look();
        } else {
            let next = now() + pause;
            while now() < next && !shard.is_draining() {
                or(sleep_until(next.min(now() + LOOK)), shard.drain_begins.notified()).await;
                shard.spool.look();
            }
            shard.attend_once(&mut watch).await;
        }
    }
}

#[derive(Default)]
struct Watchdog {
    /// Where among the messages the next round goes on.
    cursor: usize,
    /// What was found since they were begun.
    found: Overdue,
    logged: Option<Instant>,
}

impl Shard {
    async fn attend_once(self: &Rc<Self>, watch: &mut Watchdog) {
        let max_age = self.config.retry.max_age;
        self.look_at_clock().await;
        let now_ms = self.clock.now_ms();
        let expired_ms = now_ms.saturating_sub(millis(max_age));
        self.queue.borrow_mut().sites.press(now_ms.saturating_sub(millis(max_age / PRESSING_SHARE)));
        let at_sites = self.inspect_sites(expired_ms).await;
        self.expire_held(expired_ms).await;
        for _ in 0..MESSAGES_PER_ROUND / PLACES_AT_ONCE {
            let before = Instant::from_nanos(now().as_nanos().saturating_sub(GRACE.as_nanos() as u64));
            let (overdue, next) = self.queue.borrow().messages.overdue(watch.cursor, PLACES_AT_ONCE, before);
            watch.found.join(overdue);
            watch.cursor = next.unwrap_or(0);
            if next.is_none() {
                self.tell_overdue(watch, at_sites);
                break;
            }
            yield_now().await;
        }
    }

    /// All messages have been looked at.
    fn tell_overdue(&self, watch: &mut Watchdog, at_sites: Overdue) {
        let mut overdue = std::mem::take(&mut watch.found);
        overdue.join(at_sites);
        self.overdue.set(overdue);
        let now = now();
        if overdue.jobs > 0 && watch.logged.is_none_or(|logged| now - logged >= LOG_EVERY) {
            watch.logged = Some(now);
            let Overdue { jobs, oldest_s } = overdue;
            log::error!("{jobs} queued jobs have had no event when it was due, the oldest for {oldest_s} s");
        }
    }

    async fn inspect_sites(self: &Rc<Self>, expired_ms: u64) -> Overdue {
        let patience = self.config.delivery.service_max();
        // A warning may be due long before the message expires.
        let aged_ms = match self.warning_age() {
            Some(warning) => self.clock.now_ms().saturating_sub(millis(warning)).max(expired_ms),
            None => expired_ms,
        };
        let (mut overdue, mut cursor) = (Overdue::default(), Some(0));
        while let Some(place) = cursor {
            let found = self.queue.borrow_mut().sites.inspect(
                place,
                PLACES_AT_ONCE,
                now(),
                patience + GRACE,
                aged_ms,
            );
            overdue.join(found.overdue);
            cursor = found.next;
            for origin in found.aged {
                self.expire_site(origin, expired_ms).await;
            }
            yield_now().await;
        }
        overdue
    }

    /// Gives up what has become too old at a site; of what is so old that its sender is to be told, tells it.
    async fn expire_site(self: &Rc<Self>, origin: Origin, expired_ms: u64) {
        for taken in 1.. {
            let old = {
                let Queue { sites, messages, .. } = &mut *self.queue.borrow_mut();
                // While others were given up it may have become empty, and been forgotten.
                let Some(site) = sites.known(origin) else { break };
                let expired = sites.take_older(site, expired_ms, |_| true);
                // What waits at a site that works is about to be sent.
                let troubled = expired.is_none() && sites.trouble(site).is_some();
                let late = |job: &Job| troubled && self.is_warning_due(messages, job);
                expired.or_else(|| sites.take_older(site, u64::MAX, late))
            };
            let Some((job, why)) = old else { break };
            self.expire(job, why.as_deref().unwrap_or("no connection was free")).await;
            if taken % BATCH == 0 {
                yield_now().await;
            }
        }
    }

    /// As [`Shard::expire_site`], of what waits for suspended domains.
    async fn expire_held(self: &Rc<Self>, expired_ms: u64) {
        for taken in 1.. {
            let old = {
                let Queue { held, messages, .. } = &mut *self.queue.borrow_mut();
                let late = |job: &Job| self.is_warning_due(messages, job);
                held.take_older(expired_ms, |_| true).or_else(|| held.take_older(u64::MAX, late))
            };
            let Some(job) = old else { break };
            self.expire(job, SUSPENDED).await;
            if taken % BATCH == 0 {
                yield_now().await;
            }
        }
    }

    async fn expire(self: &Rc<Self>, job: Job, why: &str) {
        self.queue.borrow_mut().messages.promise(&job, Promise::By(in_hand_until()));
        // Those before it have been returned, or nearly: a million that expire at once are not all in hand.
        drop(self.composing.acquire(1).await);
        let reason = Reason { status: "4.4.1".into(), text: why.to_owned(), remote: None };
        self.tell_delay(job, reason).await;
    }
}
