//! Delivers what is queued.
//!
//! The queue says what there is to do and calls nobody; tasks wait for it here, and each uses those below it alone:
//!
//! | task | waits for | does |
//! |---|---|---|
//! | [`refill`] | what the spool has recovered | gives it to the scheduler |
//! | [`scheduler`] | jobs in the intake | places them at sites, by route |
//! | [`pool`] | sites that may have a connection | opens [`connection`]s |
//! | [`connection`] | jobs at its site | an [`attempt`] at each: [`transaction`]s over a [`link`], then its [`outcome`] |
//! | [`retry`] | timers | deferred jobs go to the intake, sites are probed |
//! | [`expiry`] | the age limit | what is too old goes back |
//! | [`watchdog`] | promises that are broken | tells of them |

mod attempt;
mod connect;
mod connection;
mod expiry;
mod jobs;
mod link;
mod outcome;
mod pool;
mod refill;
mod retry;
mod scheduler;
mod service;
mod transaction;
mod untried;
mod watchdog;

#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::sync::Arc;

use chasqui_runtime::spawn;

use crate::context::Context;
use crate::queue::Leases;
use crate::spool::Handover;

use scheduler::Scheduler;

/// Starts the tasks of a shard that deliver, with what the spool has recovered.
pub(crate) fn start(context: &Rc<Context>, leases: &Arc<Leases>, recovered: Handover) {
    let scheduler = Scheduler::new(context.clone());
    spawn(scheduler.clone().run());
    spawn(pool::run(context.clone()));
    spawn(retry::wake_due(context.clone()));
    spawn(retry::when_space_returns(context.clone()));
    spawn(expiry::run(context.clone()));
    spawn(watchdog::run(context.clone()));
    if let Some(bell) = leases.take_bell(chasqui_runtime::shard()) {
        spawn(pool::hear_others(context.clone(), leases.clone(), bell));
    }
    let counted = (context.refilling.enter(), context.deliveries.enter());
    spawn(refill::refill(context.clone(), scheduler, recovered, counted));
}
