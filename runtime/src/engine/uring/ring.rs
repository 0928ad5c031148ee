//! The ring of one shard: as large as serves, and smaller where the memory that its user may lock is short.
//!
//! The kernel counts ring memory against RLIMIT_MEMLOCK, all processes of a user together (io_uring_setup(2)). A login has 8 MiB.

use std::io;
use std::rc::Rc;

use io_uring::IoUring;

use super::buffers::{self, BufferPool};
use crate::engine::{ProbeError, ring_bytes, shortage};

/// Sizes to try in turn: entries for submissions and for completions. What does not fit into the completions the kernel
/// keeps aside, at a cost; an eighth of it serves a few hundred connections without.
const SIZES: [(u32, u32); 3] = [(512, 4096), (256, 1024), (128, 256)];

/// A ring and the buffers that are registered with it.
pub(super) fn set_up() -> Result<(IoUring, Rc<BufferPool>), ProbeError> {
    for size in SIZES {
        match of_size(size) {
            Ok(parts) => {
                if size != SIZES[0] {
                    log::debug!("a ring of {} completions: memory that may be locked is short", size.1);
                }
                return Ok(parts);
            }
            Err((error, _)) if error.raw_os_error() == Some(libc::ENOMEM) => {}
            Err((error, Stage::Ring)) => return Err(ProbeError::from_setup(error)),
            Err((error, Stage::Buffers)) => {
                let text = format!("cannot register provided buffers: {error}; Linux 5.19 brings them");
                return Err(ProbeError(text));
            }
        }
    }
    Err(shortage(locked_bytes()))
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

/// Bytes that a shard's ring locks with its buffers' entries, at the least and the most.
pub(in crate::engine) fn locked_bytes() -> [u64; 2] {
    [SIZES[SIZES.len() - 1], SIZES[0]]
        .map(|(submissions, completions)| ring_bytes(submissions, completions) + buffers::RING_BYTES as u64)
}
