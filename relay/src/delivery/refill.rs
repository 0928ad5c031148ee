//! What the spool has recovered comes back into the queue.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::{now, process, rng, sleep_until, spawn_blocking, yield_now};
use chasqui_transport::TaskGuard;
use futures_lite::future::or;

use super::retry;
use super::scheduler::Scheduler;
use crate::clock::wall_clock_ms;
use crate::context::Context;
use crate::queue::Attempt;
use crate::spool::{Envelope, RecoveredMessage, RecoveredMessages};

/// Queues what the spool has recovered, nearly the oldest first. Mail is taken and delivered meanwhile.
pub(super) async fn refill(
    context: Rc<Context>,
    scheduler: Rc<Scheduler>,
    mut recovered: RecoveredMessages,
    counted: (TaskGuard, TaskGuard),
) {
    let (refilling, _delivering) = counted;
    let mut refilling = Some(refilling);
    loop {
        while !context.is_draining()
            && let Some(batch) = recovered.next().await
        {
            context.unqueued.set(recovered.len());
            requeue(&context, &scheduler, batch);
            yield_now().await;
        }
        if refilling.take().is_some() {
            // What the start needed is large, and lies between what stays.
            spawn_blocking(process::give_back_memory).await;
        }
        if context.is_draining() || !recovered.again() {
            return;
        }
        let drain = context.drain.notified();
        or(sleep_until(now() + retry::own_trouble_delay(&context.config.retry)), drain).await;
    }
}

fn requeue(context: &Context, scheduler: &Rc<Scheduler>, mut recovered: Vec<RecoveredMessage>) {
    let arrival_ms = |envelope: &Envelope| context.past.borrow().arrival_ms(&context.clock, envelope);
    recovered.sort_by_cached_key(|message| arrival_ms(&message.envelope));
    let (instant, wall_ms) = (now(), wall_clock_ms());
    let retry = &context.config.retry;
    for RecoveredMessage { id, envelope, open } in recovered {
        let indices: Vec<u32> = open.iter().map(|recipient| recipient.index).collect();
        let envelope = Rc::new(envelope);
        let mut by_time = BTreeMap::<Option<(u64, bool)>, Vec<u32>>::new();
        let mut attempts = 0;
        for recipient in open {
            let deferral = recipient.deferral.map(|deferral| {
                attempts = attempts.max(deferral.attempts);
                (deferral.until_ms, deferral.warned)
            });
            by_time.entry(deferral).or_default().push(recipient.index);
        }
        let mut queue = context.queue.borrow_mut();
        let job = queue.messages.add_open(id, envelope.clone(), &indices, attempts);
        queue.messages.set_arrival(&job, arrival_ms(&envelope));
        let (times, groups): (Vec<_>, Vec<_>) = by_time.into_iter().unzip();
        let jobs = if groups.len() == 1 { vec![job] } else { queue.messages.split(job, &groups) };
        drop(queue);
        for (deferral, job) in times.into_iter().zip(jobs) {
            let Some((until_ms, told)) = deferral else {
                scheduler.place(job, &envelope, Attempt::First);
                continue;
            };
            // A wall clock that was ahead when it was deferred must not keep it for longer than any retry.
            let longest = retry.max.mul_f64(1.0 - retry.jitter * rng().unit());
            let wait = Duration::from_millis(until_ms.saturating_sub(wall_ms)).min(longest);
            let mut queue = context.queue.borrow_mut();
            if told {
                queue.messages.set_delay_notified(&job);
            }
            queue.set_timer(instant + wait, job, None);
        }
    }
    context.queue.borrow().tell_filled();
}
