//! What is in memory of a log, in parts that change together.

use std::io;
use std::rc::Rc;

use super::copying::Copying;
use super::first::First;
use super::groups::Groups;
use super::messages::Messages;
use super::segments::Segments;
use super::space::{Room, Space};
use super::streams::Streams;
use super::write_back::WriteBack;
use crate::spool::config::Geometry;
use crate::spool::error::SpoolError;
use crate::spool::format::group::Group;
use crate::spool::format::id::StateChange;
use crate::spool::stats::SpoolStats;

/// May records enter?
#[derive(Clone, Debug)]
pub(crate) enum Condition {
    Running,
    /// What has entered is written, then the tasks end.
    Closing,
    Closed,
    /// A write or sync failed.
    Failed(Rc<str>),
}

/// Everything that changes.
pub(crate) struct Inner {
    pub(crate) condition: Condition,
    /// What the first groups are made of, until they are durable: nothing else is written before.
    pub(crate) first: Option<First>,
    /// Records on their way to the disk.
    pub(crate) groups: Groups,
    /// Where they go.
    pub(crate) segments: Segments,
    /// What they come to.
    pub(crate) messages: Messages,
    /// Class `memory`: messages without records.
    pub(crate) write_back: WriteBack,
    /// Messages that are being received.
    pub(crate) streams: Streams,
    pub(crate) space: Space,
    pub(crate) copying: Copying,
    pub(crate) stats: SpoolStats,
}

impl Inner {
    pub(crate) fn new(
        first: First,
        groups: Groups,
        segments: Segments,
        messages: Messages,
        streams: Streams,
        stats: SpoolStats,
    ) -> Inner {
        Inner {
            condition: Condition::Running,
            first: Some(first),
            groups,
            segments,
            messages,
            write_back: WriteBack::default(),
            streams,
            space: Space::default(),
            copying: Copying::default(),
            stats,
        }
    }

    /// May a record enter?
    pub(crate) fn check(&self) -> Result<(), SpoolError> {
        match &self.condition {
            Condition::Running => Ok(()),
            Condition::Failed(why) => Err(SpoolError::Failed(why.clone())),
            Condition::Closing | Condition::Closed => Err(SpoolError::Closed),
        }
    }

    /// Has no write or sync failed?
    pub(crate) fn check_sound(&self) -> Result<(), SpoolError> {
        match &self.condition {
            Condition::Failed(why) => Err(SpoolError::Failed(why.clone())),
            _ => Ok(()),
        }
    }

    /// Why nothing more is taken, if a write or sync has failed.
    pub(crate) fn failure(&self) -> Option<Rc<str>> {
        match &self.condition {
            Condition::Failed(why) => Some(why.clone()),
            _ => None,
        }
    }

    /// Have the tasks nothing more to do?
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.condition, Condition::Failed(_) | Condition::Closed)
    }

    /// Are the first groups durable?
    pub(crate) fn has_begun(&self) -> bool {
        self.first.is_none()
    }

    /// Can what happens be recorded?
    pub(crate) fn can_record(&self) -> bool {
        self.has_begun() && self.check_sound().is_ok()
    }

    /// The disk was full at the start.
    pub(crate) fn start_full(&mut self) {
        self.segments.is_last_room = true;
        self.segments.spare_failed = Some(SpoolError::NoSpace);
    }

    /// Bytes of memory that messages take which are being received or not yet settled.
    pub(crate) fn inflight(&self) -> usize {
        self.streams.held_bytes + self.groups.inflight
    }

    /// The room that there is now.
    pub(crate) fn room<'a>(&'a self, geometry: &'a Geometry) -> Room<'a> {
        Room {
            space: &self.space,
            segments: &self.segments,
            geometry,
            queued_bytes: self.groups.queued_bytes,
            messages: self.messages.entries.len(),
        }
    }

    /// See [`Space::refusal`].
    pub(crate) fn refusal(&self) -> Option<SpoolError> {
        self.space.refusal(&self.segments)
    }

    /// Does what has entered wait for room?
    pub(crate) fn lacks_room(&self) -> bool {
        self.space.stalled || self.segments.has_no_spare()
    }

    /// Enters states into a group that they fit into; returns its ticket.
    pub(crate) fn enter_states(
        &mut self,
        changes: &[StateChange<'_>],
        urgent: bool,
        geometry: &Geometry,
    ) -> u64 {
        let Inner { groups, segments, messages, stats, .. } = self;
        let length = messages.states_length(changes, segments);
        let (ticket, pushed) = groups
            .enter(length, urgent, geometry, |pending| messages.push_states(changes, segments, pending));
        stats.states += pushed;
        ticket
    }

    /// Writes a group behind the last one; returns where, and how many bytes.
    pub(crate) fn append(&mut self, group: &mut Group) -> io::Result<(u64, u64)> {
        let Inner { groups, segments, streams, stats, .. } = self;
        segments.active.append(group, &mut groups.watermark, &mut streams.buffers, stats)
    }

    /// What a sync will cover that is issued now.
    pub(crate) fn sync_scope(&self) -> SyncScope {
        let watermark = &self.groups.watermark;
        SyncScope {
            through: watermark.appended(),
            recorded: watermark.carried(),
            messages: self.stats.messages,
        }
    }

    /// A sync that covered this has completed.
    pub(crate) fn synced(&mut self, scope: SyncScope) {
        self.groups.watermark.synced(scope.through, scope.recorded);
        self.stats.synced_messages = self.stats.synced_messages.max(scope.messages);
    }

    /// What was written and satisfies the class is settled.
    pub(crate) fn settle(&mut self) {
        self.groups.settle(&mut self.segments);
    }

    /// Can the committer write of what is to be copied?
    pub(crate) fn can_copy(&self) -> bool {
        let Copying { batch, waits, .. } = &self.copying;
        batch.is_some() && self.check().is_ok() && (!waits || self.segments.spare.is_some())
    }

    /// Is there anything for maintenance to do?
    pub(crate) fn needs_maintenance(&self) -> bool {
        self.copying.cleaning || self.segments.are_untidy()
    }
}

/// What a sync covers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SyncScope {
    through: u64,
    /// The watermark in it.
    recorded: u64,
    /// Messages written since the start.
    messages: u64,
}
