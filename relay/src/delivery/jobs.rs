//! What is asked of a job in hand: its envelope, and how old its message is.

use std::rc::Rc;
use std::time::Duration;

use chasqui_runtime::{Instant, turn_time};

use crate::config::Config;
use crate::context::Context;
use crate::queue::messages::Facts;
use crate::queue::{Job, Messages};
use crate::spool::Envelope;

/// Jobs handled before other tasks get a turn.
pub(super) const BATCH: usize = 64;
/// What we need for a job in hand besides the time limits of connections, by a wide margin.
const OWN_TIME_MAX: Duration = Duration::from_secs(60);

/// When a job that is taken in hand now has had an event, but for the time limits of a transaction.
pub(super) fn in_hand_until() -> Instant {
    turn_time() + OWN_TIME_MAX
}

/// The envelope of a job's message, from memory or the spool. `None`: the spool cannot read it now.
pub(super) async fn envelope(context: &Context, job: &Job) -> Option<Rc<Envelope>> {
    let (id, known) = {
        let queue = context.queue.borrow();
        (queue.messages.facts(job).id, queue.messages.envelope(job))
    };
    if known.is_some() {
        return known;
    }
    match context.spool.envelope(id).await {
        Ok(envelope) => envelope.map(Rc::new),
        Err(error) => {
            log::warn!("the envelope of {id} cannot be read: {error}");
            None
        }
    }
}

/// How long ago a message has arrived, by the relay's clock.
pub(super) fn age(context: &Context, facts: Facts) -> Duration {
    Duration::from_millis(context.clock.now_ms().saturating_sub(facts.arrived_ms))
}

/// A message has reached its age limit.
pub(super) fn is_expired(context: &Context, job: &Job) -> bool {
    let facts = context.queue.borrow().messages.facts(job);
    age(context, facts) >= context.config.retry.max_age
}

/// Age at which the sender of an undelivered message is warned, if ever.
pub(super) fn warning_age(config: &Config) -> Option<Duration> {
    let bounce = &config.bounce;
    Some(bounce.delay_warning).filter(|age| bounce.enabled && !age.is_zero())
}

/// Whether the sender of a job that has not been delivered is to be told so now.
pub(super) fn is_warning_due(context: &Context, messages: &Messages, job: &Job) -> bool {
    let age = age(context, messages.facts(job));
    warning_age(&context.config).is_some_and(|warning| age >= warning) && !messages.is_told(job)
}
