//! What the tasks of a shard share.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use chasqui_protocol::sasl::client::ClientKeys;
use chasqui_runtime::Instant;
use chasqui_runtime::sync::{Notify, Semaphore};
use chasqui_transport::tls::ClientTls;
use chasqui_transport::{Drain, TaskTracker};

use crate::clock::{Clock, Past};
use crate::config::Config;
use crate::credentials::Credentials;
use crate::metrics::Counters;
use crate::queue::Queue;
use crate::queue::envelope_pool::EnvelopePool;
use crate::queue::messages::Overdue;
use crate::route::Router;
use crate::spool::Spool;

/// What the tasks of a shard share.
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) spool: Rc<Spool>,
    pub(crate) router: Router,
    pub(crate) queue: RefCell<Queue>,
    /// Messages that the spool has recovered and that are not yet in the queue.
    pub(crate) unqueued: Cell<usize>,
    /// What the spool has recovered is on its way into the queue.
    pub(crate) refilling: TaskTracker,
    /// By which mail ages.
    pub(crate) clock: Clock,
    pub(crate) past: RefCell<Past>,
    /// Permits to have a notification in memory.
    pub(crate) composing: Semaphore,
    /// What the watchdog found last.
    pub(crate) overdue: Cell<Overdue>,
    /// When the log was told last that connections could not be opened for lack of something.
    pub(crate) lacked: Cell<Option<Instant>>,
    /// Of connections to next hops.
    pub(crate) tls: ClientTls,
    pub(crate) credentials: Arc<Credentials>,
    /// Keys that were derived for accounts at next hops, by the name of the user.
    pub(crate) client_keys: RefCell<BTreeMap<Box<str>, ClientKeys>>,
    pub(crate) envelopes: EnvelopePool,
    pub(crate) counters: Counters,
    pub(crate) sessions: TaskTracker,
    pub(crate) deliveries: TaskTracker,
    pub(crate) drain: Drain,
    /// Deliveries that are still under way are cut off.
    pub(crate) drain_ends: Notify,
}

impl Context {
    /// The relay is ending: nothing new is begun.
    pub(crate) fn is_draining(&self) -> bool {
        self.drain.has_begun()
    }

    /// What is delivered while nothing can be recorded would be delivered again.
    pub(crate) fn may_deliver(&self) -> bool {
        !self.is_draining() && self.spool.can_record()
    }

    /// Messages in the queue, and on their way into it.
    pub(crate) fn queued(&self) -> usize {
        self.queue.borrow().messages.len() + self.unqueued.get()
    }
}
