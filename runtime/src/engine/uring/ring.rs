//! The ring of one shard: as large as serves, and smaller where the memory that its user may lock is short.
//!
//! The kernel counts ring memory against RLIMIT_MEMLOCK, all processes of a user together (io_uring_setup(2)). A login has 8 MiB.

use std::io;
use std::rc::Rc;

use io_uring::IoUring;

use super::buffers::{self, BufferPool};
use crate::engine::{ProbeError, largest_lockable, ring_bytes};

/// Sizes to try in turn: entries for submissions and for completions. What does not fit into the completions the kernel
/// keeps aside, at a cost; an eighth of it serves a few hundred connections without.
const SIZES: [(u32, u32); 3] = [(512, 4096), (256, 1024), (128, 512)];

/// A ring and the buffers that are registered with it, for one of `shards` of this process.
pub(super) fn set_up(shards: usize) -> Result<(IoUring, Rc<BufferPool>), ProbeError> {
    let is_short = |(error, _): &(io::Error, Stage)| error.raw_os_error() == Some(libc::ENOMEM);
    largest_lockable(SIZES, locked, shards, is_short, of_size).map_err(|failure| match failure {
        (error, Stage::Buffers) if error.raw_os_error() != Some(libc::ENOMEM) => {
            ProbeError(format!("cannot register provided buffers: {error}; Linux 5.19 brings them"))
        }
        (error, _) => ProbeError::from_setup(error),
    })
}

/// What could not be set up.
enum Stage {
    Ring,
    Buffers,
}

fn of_size((submissions, completions): (u32, u32)) -> Result<(IoUring, Rc<BufferPool>), (io::Error, Stage)> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions)
        .build(submissions)
        .map_err(|error| (error, Stage::Ring))?;
    let pool = BufferPool::register(&ring).map_err(|error| (error, Stage::Buffers))?;
    Ok((ring, pool))
}

/// Bytes that a ring of this size locks with its buffers' entries.
fn locked((submissions, completions): (u32, u32)) -> u64 {
    ring_bytes(submissions, completions) + buffers::RING_BYTES as u64
}

/// Bytes that a shard's ring locks, at the least and the most.
pub(in crate::engine) fn locked_bytes() -> [u64; 2] {
    [locked(SIZES[SIZES.len() - 1]), locked(SIZES[0])]
}
