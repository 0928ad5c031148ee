//! Recipients that are given up, and why.

use std::borrow::Cow;
use std::rc::Rc;

use crate::route::RouteError;

/// A recipient that is given up.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) recipient: u32,
    pub(crate) reason: Reason,
}

/// Why a recipient failed or waits, as a notification tells it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reason {
    /// Enhanced status code.
    pub(crate) status: Cow<'static, str>,
    /// What the next hop said, or what we found.
    pub(crate) text: String,
    /// The next hop that said it; `None` when it was us.
    pub(crate) remote: Option<Rc<str>>,
}

impl Reason {
    /// Why there is no route.
    pub(crate) fn of_route(error: &RouteError) -> Reason {
        Reason { status: error.enhanced().into(), text: error.to_string(), remote: None }
    }
}
