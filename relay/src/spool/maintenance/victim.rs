//! Which segment is cleaned next, if any.

use std::collections::BTreeSet;

use crate::spool::config::Geometry;
use crate::spool::log::inner::Inner;

/// Do the segments take more than twice what counts and three segments? Of the free ones, which are removed if
/// need be, one is counted.
pub(crate) fn exceeds_bound(inner: &Inner, geometry: &Geometry) -> bool {
    let live: u64 = inner.segments.table.live_segments().map(|(_, live)| live.segment.len()).sum();
    let ready = u64::from(inner.segments.spare.is_some()) + inner.segments.table.free_count().min(1) as u64;
    live + ready * geometry.segment_size > 2 * inner.segments.table.live_bytes() + 3 * geometry.segment_size
}

/// Is `max_space` nearly used up?
fn is_pressed(inner: &Inner, geometry: &Geometry) -> bool {
    inner.segments.table.live_count() + 3 >= geometry.segments_max
}

/// The segment that is cleaned next: the one in which least counts, if copying that gains space that is wanted.
pub(crate) fn victim(inner: &Inner, geometry: &Geometry) -> Option<u32> {
    let pressed = is_pressed(inner, geometry);
    if !pressed && !exceeds_bound(inner, geometry) {
        return None;
    }
    // Those that are losing records just now may be empty in a moment.
    let losing: BTreeSet<u32> = inner.groups.losing().collect();
    let sealed = || inner.segments.table.live_segments().filter(|(_, live)| live.sealed);
    // What was sealed last is likely to be on its way out.
    let newest = sealed().map(|(ordinal, _)| ordinal).last();
    // Without a spare to come, what is begun has to find its end in the active segment.
    let room = match inner.segments.spare_failed.is_some() && inner.segments.spare.is_none() {
        true => inner.segments.rest(2 * geometry.table_reserve + geometry.group_max) / 2,
        false => u64::MAX,
    };
    let gains = |live: u64, length: u64| {
        live <= room && (live <= length / 2 || pressed && live <= geometry.usable() / 4 * 3)
    };
    let candidates = sealed().filter(|(ordinal, live)| {
        !live.stuck
            && !live.is_empty()
            && (pressed || Some(*ordinal) != newest)
            && !losing.contains(ordinal)
            && gains(live.live_bytes(), live.segment.len())
    });
    candidates.min_by_key(|(_, live)| live.live_bytes()).map(|(ordinal, _)| ordinal)
}
