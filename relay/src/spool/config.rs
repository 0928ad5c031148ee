//! What a spool is told: place, durability class, sizes; and what follows from the sizes.

use std::path::PathBuf;
use std::time::Duration;

use super::error::{BadSize, OpenError};
use crate::spool::format::headers::{
    BLOCK, FIRST_GROUP, GROUP_HEADER, GROUP_MAX, RECORD_HEADER, SEGMENT_MIN, padded,
};
use crate::spool::format::index::index_max;
use crate::spool::format::table::TABLE_ENTRY;

pub use chasqui_protocol::durability::Durability;

/// Configuration of the spool of one shard.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Directory that holds a directory per shard.
    pub dir: PathBuf,
    /// This shard.
    pub shard: usize,
    /// Number of shards; directories of shards beyond it are adopted by shard 0.
    pub shard_count: usize,
    /// Durability class.
    pub class: Durability,
    /// Bytes of a new segment, a multiple of 4 KiB from 64 KiB to 512 MiB.
    pub segment_size: u64,
    /// Bytes that the segments of this shard may take, at least four segments.
    pub max_space: u64,
    /// Bytes of messages that are being received or not yet synced; beyond it writers wait.
    pub max_inflight_bytes: usize,
    /// Class `memory`: what may be in memory alone.
    pub write_back: WriteBackLimits,
}

/// What may be in memory alone; what goes beyond is written out, the oldest first.
#[derive(Clone, Copy, Debug)]
pub struct WriteBackLimits {
    /// Bytes of envelopes and bodies.
    pub bytes: usize,
    /// How long.
    pub time: Duration,
}

impl SpoolConfig {
    /// Defaults: class `synced`, segments of 128 MiB, 8 GiB, 64 MiB in flight, in class `memory` 64 MiB for a second.
    pub fn new(dir: PathBuf, shard: usize, shard_count: usize) -> SpoolConfig {
        SpoolConfig {
            dir,
            shard,
            shard_count,
            class: Durability::Synced,
            segment_size: 128 << 20,
            max_space: 8 << 30,
            max_inflight_bytes: 64 << 20,
            write_back: WriteBackLimits { bytes: 64 << 20, time: Duration::from_secs(1) },
        }
    }

    /// The directory of shard `shard`.
    pub(crate) fn shard_dir(&self, shard: usize) -> PathBuf {
        self.dir.join(format!("shard-{shard}"))
    }

    /// Checks the values; the error names the value and what is allowed.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        self.check_sizes().map_err(OpenError::Config)
    }

    fn check_sizes(&self) -> Result<(), BadSize> {
        let (segment, space) = (self.segment_size, self.max_space);
        if !(SEGMENT_MIN..=SEGMENT_MAX).contains(&segment) || !segment.is_multiple_of(BLOCK) {
            return Err(BadSize::Segment { segment, smallest: SEGMENT_MIN, largest: SEGMENT_MAX });
        }
        if space / segment < Geometry::SEGMENTS_MIN as u64 {
            return Err(BadSize::TooFewSegments { segment, space, least: Geometry::SEGMENTS_MIN });
        }
        if Geometry::new(self, 0).table_reserve > segment / TABLE_SHARE {
            return Err(BadSize::TooManySegments { segment, space });
        }
        if self.shard >= MAX_SHARDS || self.shard_count > MAX_SHARDS {
            return Err(BadSize::Shards { most: MAX_SHARDS });
        }
        Ok(())
    }
}

/// Room of the largest buffer that any message may have, whatever it has said of its size.
pub(crate) const SMALL_MAX: usize = 16 << 10;
/// Bytes of the largest segment: offsets in it fit into 32 bits with room to spare.
const SEGMENT_MAX: u64 = 512 << 20;
/// A table takes at most this part of a segment: with its seal, the table that may free one and the one it begins with, three
/// stand in each.
const TABLE_SHARE: u64 = 16;
/// Shards that a message id can tell apart: it has 10 bits for them.
pub(crate) const MAX_SHARDS: usize = 1 << 10;

/// Sizes that follow from the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Bytes of a new segment.
    pub(crate) segment_size: u64,
    /// Segments that mail may fill.
    pub(crate) segments_max: usize,
    /// The same, or as many as there were at the start if they are more: what is in them still needs states to be finished.
    pub(crate) segments_found: usize,
    /// Bytes of the largest group.
    pub(crate) group_max: u64,
    /// A body is gathered in memory up to this size, and written as a chunk when it grows beyond.
    pub(crate) chunk_bytes: usize,
    /// A body of this size is written from where it was gathered, a smaller one is copied into its group.
    pub(crate) apart_bytes: usize,
    /// Bytes kept at the end of a segment for its seal, as many for a table that frees a segment when there is no
    /// spare, and taken at its start by the first group.
    pub(crate) table_reserve: u64,
}

impl Geometry {
    /// The active one, the spare, one for what the cleaner copies, and one that mail has filled.
    const SEGMENTS_MIN: usize = 4;
    /// That a table has room for beyond `segments_max`: those for states and for the cleaner, and some that are just
    /// being removed or moved.
    const SEGMENTS_BEYOND: usize = 8;

    /// Sizes for a spool that already has `existing` segments.
    pub(crate) fn new(config: &SpoolConfig, existing: usize) -> Geometry {
        let segments_max = (config.max_space / config.segment_size) as usize;
        let segments_found = segments_max.max(existing);
        let entries = segments_found + Self::SEGMENTS_BEYOND;
        let table_reserve = padded((GROUP_HEADER + RECORD_HEADER + entries * TABLE_ENTRY) as u64);
        let group_max = (config.segment_size / 5 / BLOCK * BLOCK).min(GROUP_MAX / 2);
        let chunk_bytes = (256 << 10).min(group_max as usize / 2);
        Geometry {
            segment_size: config.segment_size,
            segments_max,
            segments_found,
            group_max,
            chunk_bytes,
            apart_bytes: SMALL_MAX.min(chunk_bytes / 4),
            table_reserve,
        }
    }

    /// Bytes of a fresh segment that groups of mail can count on: without headers, tables, index and the
    /// end that a group may not fit into.
    pub(crate) fn usable(&self) -> u64 {
        let kept = FIRST_GROUP + 3 * self.table_reserve + self.group_max + index_max(self.segment_size);
        self.segment_size - kept
    }

    /// Bytes of records that one group can take.
    pub(crate) fn records_max(&self) -> usize {
        self.group_max as usize - GROUP_HEADER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(segment_size: u64, max_space: u64) -> SpoolConfig {
        SpoolConfig { segment_size, max_space, ..SpoolConfig::new("unused".into(), 0, 1) }
    }

    /// Every size that the check lets pass leaves room for mail in a segment.
    #[test]
    fn sizes() {
        for size in [64 << 10, 68 << 10, 1 << 20, 128 << 20, 512 << 20] {
            for space in [4 * size, 9 * size, 400 * size] {
                let config = config(size, space);
                if config.check().is_ok() {
                    let geometry = Geometry::new(&config, 0);
                    assert!(geometry.usable() >= 2 * geometry.group_max, "{size} {space}");
                    assert!(geometry.chunk_bytes >= 4096);
                }
            }
        }
        assert!(config(64 << 10, 256 << 10).check().is_ok());
        assert!(config(32 << 10, 1 << 20).check().is_err());
        assert!(config(64 << 10, 128 << 10).check().is_err());
        assert!(config(64 << 10, 1 << 30).check().is_err());
    }
}
