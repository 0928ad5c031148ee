//! Jobs on their way to where they wait. Who has a job leaves it here, and the scheduler above places it.

use std::collections::VecDeque;
use std::rc::Rc;

use chasqui_runtime::sync::Notify;

use super::messages::{Attempt, Job};
use super::site_queue::Line;
use crate::route::RouteError;
use crate::spool::Envelope;

/// A job that has no place yet.
#[derive(Debug)]
pub(crate) enum Unplaced {
    /// It goes where the routes of its recipients' domains say.
    Job { job: Job, envelope: Rc<Envelope>, attempt: Attempt },
    /// The route of its only domain is not known.
    Unrouted { domain: Rc<str>, job: Job, attempt: Attempt },
    /// Its only domain has no route.
    Unroutable { job: Job, error: RouteError },
    /// What waited for a domain whose suspension has ended.
    Resumed { domain: Rc<str>, line: Line },
}

/// Jobs without a place, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    unplaced: VecDeque<Unplaced>,
    filled: Notify,
}

impl Intake {
    pub(crate) fn push(&mut self, unplaced: Unplaced) {
        self.unplaced.push_back(unplaced);
        self.filled.notify_one();
    }

    pub(crate) fn pop(&mut self) -> Option<Unplaced> {
        self.unplaced.pop_front()
    }

    /// Notified when there is something here.
    pub(crate) fn filled(&self) -> Notify {
        self.filled.clone()
    }
}
