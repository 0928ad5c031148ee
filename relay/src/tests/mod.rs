//! A whole relay: what its clients read when the disk fails.

mod promise;
pub(crate) mod simulated;
