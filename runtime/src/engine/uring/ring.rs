//! The ring of one shard: as large as serves, and smaller where the memory that its user may lock is short.
//!
//! The kernel counts ring memory against RLIMIT_MEMLOCK, all processes of a user together (io_uring_setup(2)). A login has 8 MiB.

use std::io;
use std::rc::Rc;

use io_uring::IoUring;

use super::buffers::{self, BufferPool};
use crate::engine::{ProbeError, fitting, ring_bytes, shortage, when_lockable};
use crate::process::locked_memory_max;

/// Sizes to try in turn: entries for submissions and for completions. What does not fit into the completions the kernel
/// keeps aside, at a cost; an eighth of it serves a few hundred connections without.
const SIZES: [(u32, u32); 3] = [(512, 4096), (256, 1024), (128, 512)];

/// A ring and the buffers that are registered with it, for one of `shards` of this process.
pub(super) fn set_up(shards: usize) -> Result<(IoUring, Rc<BufferPool>), ProbeError> {
    let first = fitting(&SIZES.map(locked), shards, locked_memory_max());
    when_lockable(Failure::is_shortage, || largest(first)).map_err(|failure| match failure {
        Failure::Shortage => shortage(locked_bytes()),
        Failure::Other(error) => error,
    })
}

/// Why there is no ring.
enum Failure {
    /// Of memory that may be locked.
    Shortage,
    Other(ProbeError),
}

impl Failure {
    fn is_shortage(&self) -> bool {
        matches!(self, Self::Shortage)
    }
}

/// The largest ring that there is room for, of those from a size on.
fn largest(first: usize) -> Result<(IoUring, Rc<BufferPool>), Failure> {
    for size in &SIZES[first..] {
        match of_size(*size) {
            Ok(parts) => {
                if size.1 != SIZES[first].1 {
                    log::debug!("a ring of {} completions: memory that may be locked is short", size.1);
                }
                return Ok(parts);
            }
            Err((error, _)) if error.raw_os_error() == Some(libc::ENOMEM) => {}
            Err((error, Stage::Ring)) => return Err(Failure::Other(ProbeError::from_setup(error))),
            Err((error, Stage::Buffers)) => {
                let text = format!("cannot register provided buffers: {error}; Linux 5.19 brings them");
                return Err(Failure::Other(ProbeError(text)));
            }
        }
    }
    Err(Failure::Shortage)
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
