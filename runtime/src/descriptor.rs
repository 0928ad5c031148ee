//! Open sockets and files: the kernel's, or the simulator's.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::sim::Handle;

/// An open socket or file. Clones share it; the last one closes it.
#[derive(Clone, Debug)]
pub(crate) enum Descriptor {
    /// Of the kernel.
    Real(Arc<OwnedFd>),
    /// Of the simulator.
    Sim(Arc<Handle>),
}

impl Descriptor {
    pub(crate) fn real(descriptor: impl Into<OwnedFd>) -> Self {
        Self::Real(Arc::new(descriptor.into()))
    }

    /// The kernel's number.
    pub(crate) fn raw(&self) -> RawFd {
        self.real_fd().as_raw_fd()
    }

    /// The kernel's descriptor. Only an engine of the kernel asks, and it is never given a simulated one.
    pub(crate) fn real_fd(&self) -> &Arc<OwnedFd> {
        match self {
            Self::Real(descriptor) => descriptor,
            Self::Sim(handle) => unreachable!("{handle:?} was handed to an engine of the kernel"),
        }
    }

    /// The simulator's handle. Only the simulator asks, and it is never given a real descriptor.
    pub(crate) fn simulated(&self) -> &Handle {
        match self {
            Self::Real(descriptor) => unreachable!("{descriptor:?} was handed to the simulator"),
            Self::Sim(handle) => handle,
        }
    }
}
