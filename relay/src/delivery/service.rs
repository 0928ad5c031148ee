//! A connection and the site whose jobs go through it.

use std::rc::Rc;

use chasqui_runtime::{sleep_until, turn_time};
use futures_lite::future::or;

use super::link::Link;
use crate::context::Context;
use crate::queue::{SiteId, Slot};

/// Serves a site's jobs through a connection.
pub(super) struct Service {
    pub(super) context: Rc<Context>,
    pub(super) slot: Rc<Slot>,
    pub(super) link: Link,
    /// It leads to another host than the first to be used.
    pub(super) strayed: bool,
}

impl Service {
    pub(super) fn site(&self) -> SiteId {
        self.slot.site()
    }

    /// Waits until the site may be sent its next message; `false`: the relay is ending.
    pub(super) async fn await_turn(&self) -> bool {
        let turn = self.context.queue.borrow_mut().sites.turn(self.site(), turn_time());
        if let Some(at) = turn {
            or(sleep_until(at), self.context.drain_begins.notified()).await;
            return !self.context.is_draining();
        }
        true
    }
}
