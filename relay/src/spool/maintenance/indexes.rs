//! Writing of the indexes of sealed segments.

use std::rc::Rc;

use chasqui_runtime::yield_now;

use crate::spool::log::handle::Log;
use crate::spool::log::segments::Unindexed;

/// Bytes written before other tasks get their turn.
const STEP_BYTES: usize = 128 << 10;

/// Writes the indexes of segments that are durable. A segment that is free by now needs none.
pub(crate) async fn write_indexes(log: &Log) {
    loop {
        let next = {
            let mut inner = log.inner();
            let unsynced = |it: &Unindexed| {
                inner.segments.unsynced.iter().any(|segment| Rc::ptr_eq(segment, &it.segment))
            };
            let Some(at) = inner.segments.unindexed.iter().position(|it| !unsynced(it)) else { return };
            let next = inner.segments.unindexed.remove(at);
            let is_live = inner.segments.table.segment(next.identity.ordinal).is_some();
            is_live.then_some(next)
        };
        let Some(Unindexed { identity, segment, end, index }) = next else { continue };
        let Some(bytes) = index.finish(identity) else { continue };
        let start = segment.len() - bytes.len() as u64;
        if start < end {
            // No room was kept: with the largest possible seal it would have been too large.
            continue;
        }
        for (step, piece) in bytes.chunks(STEP_BYTES).enumerate() {
            if let Err(error) = segment.append_at(start + (step * STEP_BYTES) as u64, &[piece]) {
                // Nothing was promised.
                log::warn!("spool {}: an index cannot be written: {error}", log.dir.display());
                break;
            }
            yield_now().await;
        }
    }
}
