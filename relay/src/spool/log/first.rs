//! What an incarnation begins with.

use std::collections::VecDeque;

use super::segments::Active;
use crate::spool::format::group::Group;
use crate::spool::format::table::Cut;

/// What the first groups are made of, until they are durable.
#[derive(Default)]
pub(crate) struct First {
    pub(crate) cuts: Vec<Cut>,
    /// The segments that were recovered: as long as one of them is there the cuts are needed.
    pub(crate) recovered: Vec<u32>,
    /// Those that are still to be written, once there is a segment.
    pub(crate) groups: Option<VecDeque<Group>>,
    /// Where the planted fault goes on that appends after a recovery.
    pub(crate) tail: Option<Active>,
}
