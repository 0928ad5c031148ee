//! One outgoing connection, which serves the jobs of one site until there are no more.
//!
//! What a host does at connect, greeting and EHLO is held against it: when no host of a site can be used, the site rests. What
//! it answers to a message, its closing included, is the message's: the [`attempt`](super::attempt) at it goes on at the next
//! host, or ends in an [`outcome`](super::outcome). On a connection that has carried mail, a close before any answer is neither's:
//! the connection had gone stale, and the message goes over a new one. A host that closes on one message after another is tried
//! once a second.

use std::rc::Rc;

use chasqui_runtime::{sleep, turn_time, yield_now};
use chasqui_transport::TaskGuard;
use futures_lite::future::or;

use super::attempt::Attempted;
use super::connect::{Unconnected, connect};
use super::jobs::{self, BATCH, in_hand_until};
use super::link::{Kind, Trouble};
use super::service::Service;
use super::{retry, untried};
use crate::context::Context;
use crate::queue::{Called, Idle, Reason, SiteId, Slot, Stage};

/// Opens a connection in a place that a site was given, and serves the site's jobs through it, until the relay's end cuts it
/// off. `_counted` keeps it counted.
pub(super) async fn run(context: Rc<Context>, slot: Rc<Slot>, _counted: TaskGuard) {
    let cut_off = context.drain_ends.notified();
    or(slot.clone().occupy(use_connection(context, slot)), cut_off).await;
}

async fn use_connection(context: Rc<Context>, slot: Rc<Slot>) {
    let site = slot.site();
    match connect(&context, &slot, &[], &|| false).await {
        Ok(link) => {
            let mut service = Service { context: context.clone(), slot: slot.clone(), link, strayed: false };
            service.run().await;
            context.queue.borrow_mut().sites.closed(&slot);
        }
        Err(Unconnected::Draining) => return context.queue.borrow_mut().sites.closed(&slot),
        Err(Unconnected::NoHost) => context.queue.borrow_mut().sites.closed(&slot),
        Err(Unconnected::Trouble(trouble)) if trouble.kind == Kind::Ours => {
            retry::lack(&context, site, &trouble.text);
            context.queue.borrow_mut().sites.closed(&slot);
        }
        Err(Unconnected::Trouble(trouble)) => unreachable(&context, &slot, trouble).await,
    }
}

/// No host of a site can be used: it rests, and one job after the other is deferred.
async fn unreachable(context: &Rc<Context>, slot: &Slot, trouble: Trouble) {
    let site = slot.site();
    retry::rest_site(context, site, trouble.text.as_str().into());
    let origin = {
        let mut queue = context.queue.borrow_mut();
        let origin = queue.sites.origin(site);
        queue.sites.closed(slot);
        origin
    };
    let is_permanent = trouble.kind == Kind::Permanent;
    for taken in 1.. {
        let is_reachable = {
            let mut queue = context.queue.borrow_mut();
            // While jobs were given up it may have been probed, found empty, and forgotten.
            let Some(site) = queue.sites.known(origin) else { return };
            queue.sites.trouble(site).is_none()
        };
        if is_reachable || context.is_draining() || context.spool.failed().is_some() {
            return;
        }
        let (status, text) = (trouble.status.into(), trouble.text.clone());
        let reason = Reason { status, text, remote: Some(trouble.remote.clone()) };
        if !give_up_one(context, site, reason, is_permanent).await || !is_permanent {
            return;
        }
        if taken % BATCH == 0 {
            yield_now().await;
        }
    }
}

/// Defers one job of a site that could not be reached, or gives it up; `false`: there is none.
async fn give_up_one(context: &Rc<Context>, site: SiteId, reason: Reason, permanent: bool) -> bool {
    let (job, origin) = {
        let mut queue = context.queue.borrow_mut();
        (queue.take(site, in_hand_until()), queue.sites.origin(site))
    };
    let Some(mut job) = job else { return false };
    if permanent {
        // Those before it have been returned, or nearly: a million that fail at once are not all in hand.
        drop(context.composing.acquire(1).await);
        let Some(envelope) = jobs::envelope(context, &job).await else {
            retry::put_off(context, job);
            return true;
        };
        let others = context.queue.borrow_mut().hold_suspended(job, &envelope);
        match others {
            Some(others) => job = others,
            None => return true,
        }
    }
    untried::give_up_or_defer(context, job, reason, permanent, Some(origin)).await;
    true
}

impl Service {
    async fn run(&mut self) {
        let context = self.context.clone();
        let idle = Rc::new(Idle::default());
        let mut sent = 0;
        while !self.link.connection.is_closed() && !self.strayed && self.slot.revoked().is_none() {
            self.slot.enter(Stage::Idle, turn_time());
            let may_send = !context.is_draining() && sent < context.config.delivery.messages_per_connection;
            let give_way = context.queue.borrow_mut().sites.must_give_way(self.site(), sent);
            if !may_send || give_way || context.spool.failed().is_some() {
                break;
            }
            if !self.await_turn().await {
                continue;
            }
            let job = context.queue.borrow_mut().take(self.site(), in_hand_until());
            let Some(job) = job else {
                if self.wait_for_work(&idle).await {
                    continue;
                }
                break;
            };
            match self.attempt(job).await {
                Attempted::Settled => sent += 1,
                Attempted::Aside => {}
            }
        }
        if !self.link.connection.is_closed() {
            self.link.quit().await;
        }
    }

    /// Keeps an idle connection for a while. `true`: there may be work.
    async fn wait_for_work(&mut self, idle: &Rc<Idle>) -> bool {
        let (context, site) = (self.context.clone(), self.site());
        if context.queue.borrow_mut().sites.rest(site, idle) {
            let ended = async {
                // Whatever the server says now ends the connection: 421, or its closing.
                or(self.link.hear_out(), sleep(context.config.delivery.idle)).await;
                Called::Close
            };
            if or(idle.called(), ended).await == Called::Work {
                return true;
            }
            let called = context.queue.borrow_mut().sites.stop_resting(site, idle);
            if called == Some(Called::Work) && !self.link.connection.is_closed() {
                return true;
            }
        }
        false
    }
}
