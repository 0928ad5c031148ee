//! Room: what is promised, and what can still be.

use super::segments::Segments;
use crate::spool::config::Geometry;
use crate::spool::error::SpoolError;
use crate::spool::format::index::index_max;

/// A segment of `max_space` is held back for what the cleaner copies.
const CLEANING_SEGMENTS: usize = 1;
/// Held back per queued message for its states, which are not refused: a deferral of one recipient takes 67 and its reason.
const STATE_BYTES: u64 = 128;

/// What is known of the room for mail.
#[derive(Debug, Default)]
pub(crate) struct Space {
    /// Bytes promised to reservations.
    pub(crate) reserved: u64,
    /// Something was refused for lack of room since there was some.
    pub(crate) has_refused: bool,
    /// The file system had no room for a write to the active segment; it is tried again.
    pub(crate) stalled: bool,
}

impl Space {
    /// Why nothing is taken that finds no place in what is ready now.
    pub(crate) fn refusal(&self, segments: &Segments) -> Option<SpoolError> {
        let no_spare = segments.spare_failed.clone().filter(|_| segments.spare.is_none());
        no_spare.or(self.stalled.then_some(SpoolError::NoSpace))
    }
}

/// The room that there is at this moment.
pub(crate) struct Room<'a> {
    pub(crate) space: &'a Space,
    pub(crate) segments: &'a Segments,
    pub(crate) geometry: &'a Geometry,
    /// Bytes that have entered and are to be written.
    pub(crate) queued_bytes: u64,
    /// Messages with recipients left.
    pub(crate) messages: usize,
}

impl Room<'_> {
    /// Bytes that can still be promised to mail. The spare is held back for states, which free other segments, one
    /// more for what the cleaner copies, and a little for a state of each queued message.
    pub(crate) fn available(&self) -> u64 {
        let Room { space, segments, geometry, .. } = self;
        if space.stalled {
            return 0;
        }
        if segments.has_no_spare() {
            return self.ready().saturating_sub(space.reserved);
        }
        let kept = segments.table.live_count() + 1 + CLEANING_SEGMENTS;
        let fresh = geometry.segments_max.saturating_sub(kept) as u64;
        let rest = self.rest_of_active();
        let states = STATE_BYTES * self.messages as u64;
        (fresh * geometry.usable() + rest).saturating_sub(self.queued_bytes + space.reserved + states)
    }

    /// The same for notifications, which may have what is held back from mail and is ready.
    pub(crate) fn available_to_notifications(&self) -> u64 {
        let is_stalled = self.space.stalled;
        let ready = if is_stalled { 0 } else { self.ready().saturating_sub(self.space.reserved) };
        ready.max(self.available())
    }

    /// Bytes of mail that certainly find a place in the segments that are ready now. Without a spare the last
    /// quarter is kept for states.
    pub(crate) fn ready(&self) -> u64 {
        let rest = self.rest_of_active();
        let ready = match self.segments.spare {
            Some(_) => rest + self.geometry.usable(),
            None if self.segments.is_last_room => 0,
            None => rest.saturating_sub(self.geometry.usable() / 4),
        };
        ready.saturating_sub(self.queued_bytes)
    }

    fn rest_of_active(&self) -> u64 {
        let index = index_max(self.segments.active.segment.len());
        self.segments.rest(2 * self.geometry.table_reserve + self.geometry.group_max + index)
    }
}
