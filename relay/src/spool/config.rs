//! What a spool is told: place, durability class, sizes; and what follows from the sizes.

use std::path::PathBuf;
use std::time::Duration;

use super::buffers::SMALL_MAX;
use super::error::OpenError;
use super::format::{BLOCK, FIRST_GROUP, GROUP_HEADER, GROUP_MAX, RECORD_HEADER, SEGMENT_MIN, padded};
use super::index::index_max;
use super::payload::TABLE_ENTRY;

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
    pub residents: ResidentLimits,
}

/// What may be in memory alone; what goes beyond is written out, the oldest first.
#[derive(Clone, Copy, Debug)]
pub struct ResidentLimits {
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
            residents: ResidentLimits { bytes: 64 << 20, time: Duration::from_secs(1) },
        }
    }

    /// The directory of shard `shard`.
    pub(super) fn shard_dir(&self, shard: usize) -> PathBuf {
        self.dir.join(format!("shard-{shard}"))
    }

    /// Checks the values; the error names the value and what is allowed.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let refuse = |line: String| Err(OpenError::Config(line));
        let (smallest, largest) = (SEGMENT_MIN, SEGMENT_MAX);
        if !(smallest..=largest).contains(&self.segment_size) || !self.segment_size.is_multiple_of(BLOCK) {
            return refuse(format!(
                "spool segment size {} is not a multiple of 4096 from {smallest} to {largest}",
                self.segment_size
            ));
        }
        if self.max_space / self.segment_size < Geometry::SEGMENTS_MIN as u64 {
            return refuse(format!(
                "spool space {} is less than {} segments of {}: raise it or use smaller segments",
                self.max_space,
                Geometry::SEGMENTS_MIN,
                self.segment_size
            ));
        }
        if Geometry::new(self, 0).table_reserve > self.segment_size / 16 {
            return refuse(format!(
                "spool space {} is too many segments of {}: use larger segments or less space",
                self.max_space, self.segment_size
            ));
        }
        if self.shard >= MAX_SHARDS || self.shard_count > MAX_SHARDS {
            return refuse(format!("a spool has at most {MAX_SHARDS} shards"));
        }
        Ok(())
    }
}

/// Bytes of the largest segment: offsets in it fit into 32 bits with room to spare.
const SEGMENT_MAX: u64 = 512 << 20;
/// Shards that a message id can tell apart.
pub(super) const MAX_SHARDS: usize = 1 << 10;

/// Sizes that follow from the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    /// Bytes of a new segment.
    pub(super) segment_size: u64,
    /// Segments that mail may fill.
    pub(super) segments_max: usize,
    /// The same, or as many as there were at the start if they are more: what is in them still needs states to be finished.
    pub(super) segments_found: usize,
    /// Bytes of the largest group.
    pub(super) group_max: u64,
    /// A body is gathered in memory up to this size, and written as a chunk when it grows beyond.
    pub(super) chunk_bytes: usize,
    /// A body of this size is written from where it was gathered, a smaller one is copied into its group.
    pub(super) apart_bytes: usize,
    /// Bytes kept at the end of a segment for its seal, as many for a table that frees a segment when there is no
    /// spare, and taken at its start by the first group.
    pub(super) table_reserve: u64,
}

impl Geometry {
    const SEGMENTS_MIN: usize = 4;
    /// That a table has room for beyond `segments_max`: those for states and for the cleaner, and some that are just
    /// being removed or moved.
    const SEGMENTS_BEYOND: usize = 8;

    /// Sizes for a spool that already has `existing` segments.
    pub(super) fn new(config: &SpoolConfig, existing: usize) -> Geometry {
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
    pub(super) fn usable(&self) -> u64 {
        let kept = FIRST_GROUP + 3 * self.table_reserve + self.group_max + index_max(self.segment_size);
        self.segment_size - kept
    }

    /// Bytes of records that one group can take.
    pub(super) fn records_max(&self) -> usize {
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
