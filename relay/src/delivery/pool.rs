//! The connections of a shard: opened where the queue says that a site may have one, and taken from slow receivers when others
//! wait for theirs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use chasqui_runtime::channel::Receiver;
use chasqui_runtime::sync::Notify;
use chasqui_runtime::{now, sleep, spawn, turn_time};

use super::connection;
use crate::context::Context;
use crate::queue::Leases;
use crate::queue::leases::LeaseEvent;

/// How often it is looked whether slow receivers hold connections that others wait for.
const RELIEF_EVERY: Duration = Duration::from_millis(250);

/// Opens the connections that sites want and the limits allow, for as long as the shard lives.
pub(super) async fn run(context: Rc<Context>) {
    let may_open_one = context.queue.borrow().sites.may_open_one();
    let held_up = Notify::new();
    spawn(relieve(context.clone(), held_up.clone()));
    loop {
        may_open_one.notified().await;
        while context.may_deliver() {
            let Some(slot) = context.queue.borrow_mut().sites.next_to_open(turn_time()) else { break };
            spawn(connection::run(context.clone(), slot, context.deliveries.track()));
        }
        if context.may_deliver() && context.queue.borrow().sites.is_held_up() {
            held_up.notify_one();
        }
    }
}

/// Sees to it that slow receivers keep no connection from others, for as long as the shard lives.
async fn relieve(context: Rc<Context>, held_up: Notify) {
    loop {
        held_up.notified().await;
        let mut pause = RELIEF_EVERY;
        while context.may_deliver() && context.queue.borrow().sites.is_held_up() {
            sleep(pause).await;
            let is_urgent = context.queue.borrow_mut().sites.relieve(now());
            pause = if is_urgent { RELIEF_EVERY } else { RELIEF_EVERY * 8 };
        }
    }
}

/// Hears what other shards have to say of the limits of sites, for as long as the shard lives.
pub(super) async fn lease_events(context: Rc<Context>, leases: Arc<Leases>, mut doorbell: Receiver<()>) {
    while doorbell.recv().await.is_some() {
        for event in leases.events(chasqui_runtime::shard()) {
            let mut queue = context.queue.borrow_mut();
            match event {
                LeaseEvent::Granted(site) => queue.sites.granted(&site),
                LeaseEvent::Wanted(site) => queue.sites.wanted(&site),
            }
        }
    }
}
