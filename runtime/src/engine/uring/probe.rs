//! What the uring engine asks of the kernel, checked before a shard starts.

use std::io;

use io_uring::{IoUring, Probe, opcode};

use crate::engine::{ProbeError, largest_lockable, ring_bytes};

/// Operation, its name, and the first kernel that has it.
const OPERATIONS: [(u8, &str, &str); 11] = [
    (opcode::Fsync::CODE, "IORING_OP_FSYNC", "5.1"),
    (opcode::SendMsg::CODE, "IORING_OP_SENDMSG", "5.3"),
    (opcode::Accept::CODE, "IORING_OP_ACCEPT", "5.5"),
    (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL", "5.5"),
    (opcode::Connect::CODE, "IORING_OP_CONNECT", "5.5"),
    (opcode::Fallocate::CODE, "IORING_OP_FALLOCATE", "5.6"),
    (opcode::Read::CODE, "IORING_OP_READ", "5.6"),
    (opcode::Write::CODE, "IORING_OP_WRITE", "5.6"),
    (opcode::Send::CODE, "IORING_OP_SEND", "5.6"),
    (opcode::Recv::CODE, "IORING_OP_RECV", "5.6"),
    (opcode::SendZc::CODE, "IORING_OP_SEND_ZC (the mark of multishot receive)", "6.0"),
];

/// Builds a small ring with the flags of a shard and asks it for every operation. Those that `mask` denies count as
/// missing, so that tests can take some away.
pub(crate) fn check(mask: impl Fn(u8) -> bool) -> Result<(), ProbeError> {
    let is_short = |error: &io::Error| error.raw_os_error() == Some(libc::ENOMEM);
    let build = |entries| IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries);
    let ring: IoUring = largest_lockable([4], |entries| ring_bytes(entries, 2 * entries), 1, is_short, build)
        .map_err(ProbeError::from_setup)?;
    if !ring.params().is_feature_ext_arg() {
        return Err(ProbeError("io_uring lacks IORING_FEAT_EXT_ARG: Linux 5.11 brings it".into()));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(ProbeError::from_setup)?;
    let missing = OPERATIONS.iter().find(|(code, ..)| !(probe.is_supported(*code) && mask(*code)));
    match missing {
        Some((_, name, kernel)) => {
            Err(ProbeError(format!("io_uring lacks {name}: Linux {kernel} brings it")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel without one operation is refused with that operation's name and kernel.
    #[test]
    fn names_what_is_missing() {
        check(|_| true).unwrap();
        let lack = check(|code| code != opcode::Connect::CODE).unwrap_err();
        assert_eq!(lack.to_string(), "io_uring lacks IORING_OP_CONNECT: Linux 5.5 brings it");
    }
}
