//! Room: what can still be promised.

use super::inner::Inner;
use crate::spool::config::Geometry;
use crate::spool::error::SpoolError;
use crate::spool::format::index::index_max;

/// A segment of `max_space` is held back for what the cleaner copies.
const CLEANING_SEGMENTS: usize = 1;
/// Held back per queued message for its states, which are not refused.
const STATE_BYTES: u64 = 128;

impl Inner {
    /// Bytes that can still be promised to mail. The spare is held back for states, which free other segments, one
    /// more for what the cleaner copies, and a little for a state of each queued message.
    pub(crate) fn available(&self, geometry: &Geometry) -> u64 {
        if self.stalled {
            return 0;
        }
        if self.refusal().is_some() {
            return self.room(geometry).saturating_sub(self.reserved);
        }
        let kept = self.table.live_count() + 1 + CLEANING_SEGMENTS;
        let segments = geometry.segments_max.saturating_sub(kept) as u64;
        let rest = self.rest_of_active(geometry);
        let states = STATE_BYTES * self.messages.len() as u64;
        (segments * geometry.usable() + rest).saturating_sub(self.queued_bytes + self.reserved + states)
    }

    /// The same for notifications, which may have what is held back from mail and is ready.
    pub(crate) fn available_to_notifications(&self, geometry: &Geometry) -> u64 {
        let ready = if self.stalled { 0 } else { self.room(geometry).saturating_sub(self.reserved) };
        ready.max(self.available(geometry))
    }

    /// Does what has entered wait for room?
    pub(crate) fn lacks_room(&self) -> bool {
        self.stalled || (self.spare.is_none() && self.spare_failed.is_some())
    }

    /// Why nothing is taken that finds no place in what is ready now.
    pub(crate) fn refusal(&self) -> Option<SpoolError> {
        let no_spare = self.spare_failed.clone().filter(|_| self.spare.is_none());
        no_spare.or(self.stalled.then_some(SpoolError::NoSpace))
    }

    /// Bytes of mail that certainly find a place in the segments that are ready now. Without a spare the last
    /// quarter is kept for states.
    pub(crate) fn room(&self, geometry: &Geometry) -> u64 {
        let rest = self.rest_of_active(geometry);
        let ready = match self.spare {
            Some(_) => rest + geometry.usable(),
            None if self.is_last_room => 0,
            None => rest.saturating_sub(geometry.usable() / 4),
        };
        ready.saturating_sub(self.queued_bytes)
    }

    fn rest_of_active(&self, geometry: &Geometry) -> u64 {
        let index = index_max(self.active.segment.len());
        let kept = 2 * geometry.table_reserve + geometry.group_max + index;
        (self.active.segment.len() - self.active.end).saturating_sub(kept)
    }
}
