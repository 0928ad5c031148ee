//! When something is tried again: a job after a failure, a site that could not be reached, what waits for room in the spool.
//!
//! A job that is due goes to the queue's intake, from where the scheduler places it. Sites are probed by one connection.

use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::sync::Semaphore;
use chasqui_runtime::{now, rng, sleep, sleep_until, spawn, yield_now};
use futures_lite::future::or;

use super::jobs::{self, BATCH};
use crate::config::Retry;
use crate::context::Context;
use crate::queue::{Attempt, Due, Job, PAUSE, Queue, SiteId, Unplaced};

/// Retries that read their envelopes at the same time.
const RETRIES_AT_ONCE: usize = 64;
/// Delay until something is tried again that failed on our own side, unless retries wait less.
const OWN_TROUBLE_DELAY: Duration = Duration::from_secs(60);
/// Of its age a damaged message waits this share until it is looked at again.
const DAMAGE_WAIT_SHARE: u32 = 8;
/// What of its age limit a message has left when its last but one attempt is due.
const LAST_WAIT_SHARE: u32 = 16;
const LAST_WAIT_MAX: Duration = Duration::from_secs(600);
/// When a job goes back to where it waited, after its sender was told of it.
const BACK_IN_LINE: Duration = Duration::from_secs(1);
/// Time between two looks at what waits for room in the spool.
const ROOM_AGAIN: Duration = Duration::from_secs(1);
/// Time between two log lines that tell what we lack.
const LACK_LOG_EVERY: Duration = Duration::from_secs(10);
/// Delay after the first failure of a site as a whole.
const PROBE_FIRST: Duration = Duration::from_secs(1);
/// Longest delay between two probes of a dead site: what a recovery may go unnoticed. A probe is one connection.
const PROBE_MAX: Duration = Duration::from_secs(300);

/// What the recipients of a job have met that are deferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Met {
    /// An attempt has failed: at a host, at all hosts of the site, or at the DNS.
    #[default]
    Failure,
    /// Nothing was tried: they go on waiting where they did.
    Nothing,
    /// Trouble on our own side, which may pass soon. It is no attempt.
    OwnTrouble,
    /// The message is damaged. It is no attempt, and looked at again less and less often, because memory may have been at fault
    /// and not the disk.
    Damage,
}

/// How long a job whose message is `age` old waits after what it has met, when `attempts` have failed.
pub(super) fn delay(context: &Context, met: Met, attempts: u32, age: Duration) -> Duration {
    let retry = &context.config.retry;
    // The last attempts are made shortly before the message expires, so that there is time to wait for a connection,
    // and when it does, not after; so is the one that a warning tells of.
    let last = retry.max_age - (retry.max_age / LAST_WAIT_SHARE).min(LAST_WAIT_MAX);
    let end = if age < last { last } else { retry.max_age };
    let scheduled = retry_delay(retry, attempts, rng().unit());
    let own = own_trouble_delay(retry);
    let delay = match met {
        Met::Failure => scheduled,
        Met::Nothing => scheduled.min(BACK_IN_LINE),
        Met::OwnTrouble => own,
        Met::Damage => own.max((age / DAMAGE_WAIT_SHARE).min(retry.max)),
    };
    delay.min(end.saturating_sub(age))
}

/// Delay until something is tried again that failed on our own side.
pub(super) fn own_trouble_delay(retry: &Retry) -> Duration {
    OWN_TROUBLE_DELAY.min(retry.max)
}

/// Tries a job again later because of trouble on our own side; the spool is not told.
pub(super) fn put_off(context: &Context, job: Job) {
    let at = now() + own_trouble_delay(&context.config.retry);
    context.queue.borrow_mut().set_timer(at, job, None);
}

/// The delay after the last of so many failed attempts (at least one): `first`, `first · factor`, `first · factor²`, … up to
/// `max`. `unit` is random in [0, 1).
fn retry_delay(retry: &Retry, attempts: u32, unit: f64) -> Duration {
    let (first_s, max_s) = (retry.first.as_secs_f64(), retry.max.as_secs_f64());
    let further = i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX);
    // Infinite at worst, which is more than the longest delay.
    let grown_s = (first_s * retry.factor.powi(further)).min(max_s);
    Duration::from_secs_f64(grown_s * (1.0 + retry.jitter * (2.0 * unit - 1.0)))
}

/// The delay until a site that could not be reached `failures` times in a row is probed again: doubling, never
/// longer than a message would wait.
fn probe_delay(retry: &Retry, failures: u32, unit: f64) -> Duration {
    let first = PROBE_FIRST.min(retry.first);
    let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(20));
    let longest = PROBE_MAX.min(retry.max);
    doubled.min(longest).mul_f64(1.0 + retry.jitter * (2.0 * unit - 1.0))
}

/// Wakes what is due, for as long as the shard lives. A retry reads its envelope from the disk: many do at a time.
pub(super) async fn wake_due(context: Rc<Context>) {
    let retrying = Semaphore::new(RETRIES_AT_ONCE);
    let hastened = context.queue.borrow().timers.hastened();
    loop {
        let next = context.queue.borrow().timers.next();
        match next {
            None => hastened.notified().await,
            Some(at) => or(sleep_until(at), hastened.notified()).await,
        }
        for woken in 0.. {
            let due = context.queue.borrow_mut().pop_due(now());
            match due {
                None => break,
                Some(_) if context.is_draining() => {}
                Some(Due::Site(site)) => context.queue.borrow_mut().sites.probe(site),
                Some(Due::Job(job, _)) => {
                    let (context, permit) = (context.clone(), retrying.acquire(1).await);
                    spawn(async move {
                        retry(&context, job).await;
                        drop(permit);
                    });
                }
            }
            if woken % BATCH == BATCH - 1 {
                yield_now().await;
            }
        }
    }
}

/// A job's delay is over.
async fn retry(context: &Context, job: Job) {
    let Some(envelope) = jobs::envelope(context, &job).await else { return put_off(context, job) };
    let mut queue = context.queue.borrow_mut();
    let attempt = if queue.messages.is_delay_notified(&job) { Attempt::Notified } else { Attempt::Retry };
    queue.intake.push(Unplaced::Job { job, envelope, attempt });
}

/// Tries again at once what waits for room in the spool, when there is some; for as long as the shard lives.
pub(super) async fn when_space_returns(context: Rc<Context>) {
    loop {
        context.spool.space_returns().await;
        hurry(&mut context.queue.borrow_mut());
        // One pass over the timers a second at most.
        sleep(ROOM_AGAIN).await;
    }
}

/// Makes what waits for room due, and has connections opened that nothing could be recorded for.
fn hurry(queue: &mut Queue) {
    let Queue { timers, messages, short_of_room, .. } = queue;
    if !short_of_room.is_empty() {
        timers.hurry(now(), |due| match due {
            Due::Job(job, _) => short_of_room.contains(&messages.facts(job).id),
            Due::Site(_) => false,
        });
        short_of_room.clear();
    }
    queue.sites.look_again();
}

/// No host of a site can be used: it rests, and is probed later.
pub(super) fn rest_site(context: &Context, site: SiteId, trouble: Rc<str>) {
    let mut queue = context.queue.borrow_mut();
    if let Some(failures) = queue.sites.failed(site, trouble) {
        probe_later(&mut queue, site, probe_delay(&context.config.retry, failures, rng().unit()));
    }
}

/// No new connection to a site for a moment.
pub(super) fn pause_site(context: &Context, site: SiteId) {
    let mut queue = context.queue.borrow_mut();
    if queue.sites.pause(site) {
        probe_later(&mut queue, site, PAUSE);
    }
}

/// A connection could not be opened for lack of something that is ours. That says nothing of the site.
pub(super) fn lack(context: &Context, site: SiteId, text: &str) {
    let now = now();
    if context.lacked.get().is_none_or(|lacked| now - lacked >= LACK_LOG_EVERY) {
        context.lacked.set(Some(now));
        log::warn!("{text}: mail waits; raise the limit on open files, or lower delivery.connections");
    }
    pause_site(context, site);
}

fn probe_later(queue: &mut Queue, site: SiteId, delay: Duration) {
    queue.timers.set(now() + delay, Due::Site(site));
    queue.sites.probe_at(site, now() + delay);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The delays follow the attempts: first, first·factor, first·factor², … up to the longest delay; jitter stays within its
    /// part.
    #[test]
    fn retries_are_exponential() {
        let retry = Retry { jitter: 0.0, ..Retry::default() };
        let delays: Vec<u64> =
            (1..=10).map(|attempts| retry_delay(&retry, attempts, 0.3).as_secs()).collect();
        assert_eq!(delays, [60, 120, 240, 480, 960, 1920, 3840, 7680, 14_400, 14_400]);
        assert_eq!(retry_delay(&retry, u32::MAX, 0.3), retry.max);
        let retry = Retry { jitter: 0.2, ..retry };
        assert_eq!(retry_delay(&retry, 1, 0.0).as_secs_f64(), 48.0);
        assert!(retry_delay(&retry, 1, 0.999_999).as_secs_f64() < 72.0);
        let probes: Vec<u64> = (1..12).map(|failures| probe_delay(&retry, failures, 0.5).as_secs()).collect();
        assert_eq!(probes, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }
}
