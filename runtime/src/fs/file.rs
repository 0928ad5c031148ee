//! Plain files.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::blocking::spawn_blocking;
use crate::descriptor::Descriptor;
use crate::engine::{Completion, Resources};
use crate::shard::with_core;
use crate::sim;

/// Bytes one read operation asks for at most.
const MAX_READ: usize = 1 << 30;

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Created when it does not exist, for its owner alone (mode 0600).
    pub create: bool,
    /// Created, and refused when it exists.
    pub create_new: bool,
    /// Emptied when it exists.
    pub truncate: bool,
    /// Refused when it is no regular file: a pipe or device in its place is not waited for, a link not followed.
    pub regular: bool,
}

/// An open file.
#[derive(Clone, Debug)]
pub struct File(Descriptor);

impl File {
    /// Opens the file at `path`, off the shard.
    pub async fn open(path: &Path, options: &OpenOptions) -> io::Result<Self> {
        if let Some(here) = sim::here() {
            return Ok(Self(here.open(path, options).await?));
        }
        let (path, options) = (path.to_owned(), *options);
        let file = spawn_blocking(move || {
            let mut open = std::fs::OpenOptions::new();
            open.read(options.read)
                .write(options.write)
                .create(options.create)
                .create_new(options.create_new)
                .truncate(options.truncate)
                .mode(0o600);
            if options.regular { open_regular(&mut open, &path) } else { open.open(path) }
        })
        .await?;
        Ok(Self(Descriptor::real(file)))
    }

    /// Reads `length` bytes at `offset`; fewer when the file ends before.
    pub async fn read_at(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::with_capacity(length);
        while buffer.len() < length {
            let (filled, at) = (buffer.len(), offset + buffer.len() as u64);
            // The vector may have more room than was asked for: hand over what is wanted and no more.
            let rest = Vec::with_capacity((length - filled).min(MAX_READ));
            let completion = with_core(|core| core.engine.read_at(&self.0, rest, at)).await;
            let (count, mut rest) = bytes_of(completion)?;
            if count == 0 {
                break;
            }
            // SAFETY: the engine has written this many bytes into the vector's spare capacity.
            unsafe { rest.set_len(count) };
            rest.truncate(length - filled);
            if buffer.is_empty() && rest.len() == length {
                return Ok(rest);
            }
            buffer.append(&mut rest);
        }
        Ok(buffer)
    }

    /// Writes all of `bytes` at `offset` and gives the vector back, cleared.
    pub async fn write_at(&self, bytes: Vec<u8>, offset: u64) -> io::Result<Vec<u8>> {
        let (mut bytes, mut written) = (bytes, 0);
        while written < bytes.len() {
            let at = offset + written as u64;
            let completion = with_core(|core| core.engine.write_at(&self.0, bytes, written, at)).await;
            let (count, returned) = bytes_of(completion)?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            (bytes, written) = (returned, written + count);
        }
        bytes.clear();
        Ok(bytes)
    }

    /// fdatasync: what was written before is durable afterwards.
    pub async fn sync_data(&self) -> io::Result<()> {
        with_core(|core| core.engine.sync_data(&self.0)).await.result.map(drop)
    }

    /// Allocates blocks for a range (fallocate).
    pub async fn allocate(&self, offset: u64, length: u64) -> io::Result<()> {
        with_core(|core| core.engine.allocate(&self.0, offset, length)).await.result.map(drop)
    }

    /// The file's length in bytes.
    pub async fn len(&self) -> io::Result<u64> {
        match self.0.clone() {
            Descriptor::Real(file) => {
                spawn_blocking(move || Ok(std::fs::File::from(file.try_clone()?).metadata()?.len())).await
            }
            Descriptor::Sim(handle) => handle.len(),
        }
    }
}

/// Opens a file only if it is a regular one: what else may stand under its name is neither waited for nor followed.
pub(super) fn open_regular(options: &mut std::fs::OpenOptions, path: &Path) -> io::Result<std::fs::File> {
    let is_none = || io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
    let opened = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = opened.map_err(|error| match error.raw_os_error() {
        // A link; a pipe that nobody reads, a socket.
        Some(libc::ELOOP | libc::ENXIO) => is_none(),
        _ => error,
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(is_none()) }
}

fn bytes_of(completion: Completion) -> io::Result<(usize, Vec<u8>)> {
    let Resources::Bytes(bytes) = completion.resources else {
        unreachable!("the engine hands back what it was given")
    };
    Ok((completion.result? as usize, bytes))
}
