//! Handles on simulated sockets, files and locks: plain numbers, so that a segment is `Send` and `Sync`.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use super::disk::FileId;
use super::net::SocketId;
use super::world::{NodeId, ProcessId, World, world};

/// What takes the place of a file descriptor; closes when dropped.
#[derive(Debug)]
pub(crate) struct Handle {
    world: u64,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Socket(SocketId),
    File(OpenFile),
    Lock { node: NodeId, process: ProcessId, path: PathBuf },
}

/// An open file: the process that has it open, its disk, and its number there.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenFile {
    pub(super) process: ProcessId,
    pub(super) node: NodeId,
    pub(super) file: FileId,
}

impl Handle {
    pub(super) fn socket(world: u64, socket: SocketId) -> Arc<Self> {
        Arc::new(Self { world, what: What::Socket(socket) })
    }

    pub(super) fn new(world: &World, what: What) -> Arc<Self> {
        Arc::new(Self { world: world.id, what })
    }

    /// The simulation this belongs to, unless it is over.
    pub(super) fn world(&self) -> Option<Rc<World>> {
        world().filter(|world| world.id == self.world)
    }

    pub(super) fn socket_id(&self) -> SocketId {
        match &self.what {
            What::Socket(socket) => *socket,
            other => unreachable!("{other:?} was used as a socket"),
        }
    }

    pub(super) fn file(&self) -> OpenFile {
        match &self.what {
            What::File(file) => *file,
            other => unreachable!("{other:?} was used as a file"),
        }
    }

    fn alive(&self) -> io::Result<Rc<World>> {
        self.world().ok_or_else(|| io::Error::other("the simulation is over"))
    }

    /// The file's length in bytes.
    pub(crate) fn len(&self) -> io::Result<u64> {
        Ok(self.alive()?.file_length(self.file()))
    }

    /// Whether a name leads to the file.
    pub(crate) fn is_linked(&self) -> bool {
        self.world().is_some_and(|world| world.is_named(self.file()))
    }

    /// Whether the locked directory is at `path`.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        match &self.what {
            What::Lock { node, path: locked, .. } => {
                let has = |world: Rc<World>| world.has_directory(*node, locked);
                locked == path && self.world().is_some_and(has)
            }
            other => unreachable!("{other:?} was used as a lock"),
        }
    }

    /// A synchronous pread of exactly `length` bytes.
    pub(crate) fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let bytes = self.alive()?.read_now(self.file(), offset, length)?;
        if bytes.len() == length { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// A synchronous pwrite of all bytes.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.alive()?.write_now(self.file(), offset, bytes)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let Some(world) = self.world() else { return };
        match &self.what {
            What::Socket(socket) => world.net_close(*socket),
            What::File(file) => world.close_file(*file),
            What::Lock { node, process, path } => world.unlock(*node, *process, path),
        }
    }
}
