//! Outcomes of jobs that were not tried: there is no route or no connection, or they have waited for long.

use std::rc::Rc;

use super::jobs;
use super::outcome::{self, Outcome};
use super::retry::{self, Met};
use crate::context::Context;
use crate::queue::{Failure, Job, Origin, Reason};
use crate::route::RouteError;

/// Settles a job whose only domain has no route.
pub(super) async fn no_route(context: &Rc<Context>, job: Job, error: &RouteError) {
    if let RouteError::Lacking(_) = error {
        let reason = Reason::of_route(error);
        return wait_on(context, job, reason, Met::OwnTrouble).await;
    }
    give_up_or_defer(context, job, Reason::of_route(error), error.is_permanent(), None).await;
}

/// Settles a job whose recipients all met the same fate without an attempt to deliver them.
pub(super) async fn give_up_or_defer(
    context: &Rc<Context>,
    job: Job,
    reason: Reason,
    permanent: bool,
    origin: Option<Origin>,
) {
    let Some(envelope) = jobs::envelope(context, &job).await else { return retry::put_off(context, job) };
    let mut recipients = Vec::new();
    context.queue.borrow().messages.recipients(&job, &mut recipients);
    let outcome = if permanent {
        let fail = |recipient| Failure { recipient, reason: reason.clone() };
        Outcome { failed: recipients.into_iter().map(fail).collect(), ..Outcome::default() }
    } else {
        Outcome { deferred: recipients, reason, origin, ..Outcome::default() }
    };
    outcome::record(context, job, &envelope, outcome);
}

/// Settles a job that goes on waiting without an attempt, because of its age: its sender is told, or it is too old.
pub(super) async fn tell_delay(context: &Rc<Context>, job: Job, reason: Reason) {
    wait_on(context, job, reason, Met::Nothing).await;
}

/// Settles a job that was not tried.
async fn wait_on(context: &Rc<Context>, job: Job, reason: Reason, met: Met) {
    let Some(envelope) = jobs::envelope(context, &job).await else { return retry::put_off(context, job) };
    let mut deferred = Vec::new();
    context.queue.borrow().messages.recipients(&job, &mut deferred);
    outcome::record(context, job, &envelope, Outcome { deferred, reason, met, ..Outcome::default() });
}
