//! Segments: files of fixed length that are appended by writes and sent from a mapping.
//!
//! No mutable mapping exists. A [`Slice`] is opaque to user space: only a send of the kernel reads the mapping,
//! where a fault is EFAULT and no signal; whoever must look at the bytes reads them with pread.

#[cfg(feature = "append-paths")]
pub(super) mod paths;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::{Mmap, MmapOptions};

use super::OpenOptions;
use super::directory::status;
use super::file::open_regular;
use crate::blocking::spawn_blocking;
use crate::descriptor::Descriptor;
use crate::shard::with_core;
use crate::sim::{self, Outgoing};

/// Bytes of zeros written at once: the memory it takes, and one call for that many bytes.
const ZEROS: usize = 1024 * 1024;

/// A file of fixed length with a read-only mapping. Clones share it, also between shards.
#[derive(Clone)]
pub struct Segment(Arc<Inner>);

struct Inner {
    file: Descriptor,
    /// Of a real file.
    mapping: Option<Mmap>,
    length: u64,
    leases: AtomicUsize,
}

impl Segment {
    /// Makes a new file of `length` zero bytes, written out and synced, off the shard. Fails when the file
    /// exists. The directory entry is durable after [`crate::fs::sync_dir`].
    pub async fn create(path: &Path, length: u64) -> io::Result<Self> {
        if let Some(here) = sim::here() {
            return Ok(Self::new(here.create_segment(path, length).await?, None, length));
        }
        let path = path.to_owned();
        spawn_blocking(move || {
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(path)?;
            let zeros = vec![0u8; ZEROS];
            let mut left = length;
            while left > 0 {
                let piece = left.min(ZEROS as u64) as usize;
                io::Write::write_all(&mut file, &zeros[..piece])?;
                left -= piece as u64;
            }
            file.sync_all()?;
            Self::map(file.into(), length)
        })
        .await
    }

    /// Opens an existing regular file, off the shard; its length is that of the file.
    pub async fn open(path: &Path) -> io::Result<Self> {
        if let Some(here) = sim::here() {
            let options = OpenOptions { read: true, write: true, ..OpenOptions::default() };
            let file = here.open(path, &options).await?;
            let length = file.simulated().len()?;
            return Ok(Self::new(file, None, length));
        }
        let path = path.to_owned();
        spawn_blocking(move || {
            let file = open_regular(std::fs::OpenOptions::new().read(true).write(true), &path)?;
            let length = file.metadata()?.len();
            Self::map(file.into(), length)
        })
        .await
    }

    /// A segment of `length` zero bytes in memory (memfd).
    pub fn anonymous(length: u64) -> io::Result<Self> {
        if let Some(here) = sim::here() {
            return Ok(Self::new(here.anonymous(length)?, None, length));
        }
        // SAFETY: the name is a constant C string; the result is checked before it is owned.
        let fd = unsafe { libc::memfd_create(c"segment".as_ptr(), libc::MFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just created and nobody else owns it.
        let file = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len(length)?;
        Self::map(file.into(), length)
    }

    fn map(file: OwnedFd, length: u64) -> io::Result<Self> {
        let bytes = usize::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        // SAFETY: the mapping is read-only and its bytes are never turned into a reference: only the kernel
        // reads them while it sends, so changes to the file cannot break an aliasing promise of Rust's.
        let mapping = unsafe { MmapOptions::new().len(bytes).map(&file) }?;
        Ok(Self::new(Descriptor::real(file), Some(mapping), length))
    }

    fn new(file: Descriptor, mapping: Option<Mmap>, length: u64) -> Self {
        Self(Arc::new(Inner { file, mapping, length, leases: AtomicUsize::new(0) }))
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.0.length
    }

    /// Whether the segment has no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.0.length == 0
    }

    /// Whether a name still leads to the file. A segment in memory never has one.
    pub fn is_linked(&self) -> bool {
        match &self.0.file {
            Descriptor::Real(file) => status(file).is_ok_and(|status| status.st_nlink > 0),
            Descriptor::Sim(handle) => handle.is_linked(),
        }
    }

    /// Slices that are alive: the segment must not be rewritten while there are any.
    pub fn leases(&self) -> usize {
        self.0.leases.load(Ordering::Acquire)
    }

    /// Writes the parts one behind the other at `offset` into the page cache: one synchronous pwritev, whole
    /// or an error. Fails when they do not fit into the segment.
    pub fn append_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let total: u64 = parts.iter().map(|part| part.len() as u64).sum();
        if offset.checked_add(total).is_none_or(|end| end > self.0.length) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the parts do not fit into the segment"));
        }
        match &self.0.file {
            Descriptor::Real(file) => write_all(file, offset, parts),
            Descriptor::Sim(handle) => handle.write(offset, &parts.concat()),
        }
    }

    /// fdatasync on a worker of the kernel: what was appended before the call is durable after it.
    pub async fn sync(&self) -> io::Result<()> {
        with_core(|core| core.engine.sync_data(&self.0.file)).await.result.map(drop)
    }

    /// A lease on `length` bytes at `offset`, to be sent with [`crate::net::Parts::slice`]. Panics when they
    /// do not lie inside the segment.
    pub fn slice(&self, offset: u64, length: u32) -> Slice {
        let end = offset.checked_add(u64::from(length));
        assert!(end.is_some_and(|end| end <= self.0.length), "a slice lies inside its segment");
        self.0.leases.fetch_add(1, Ordering::AcqRel);
        Slice { segment: self.0.clone(), offset: offset as usize, length: length as usize }
    }

    /// Reads `length` bytes at `offset` with one synchronous pread: for bytes that are likely in the cache.
    pub fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        match &self.0.file {
            Descriptor::Real(file) => read_exact(file, offset, length),
            Descriptor::Sim(handle) => handle.read(offset, length),
        }
    }

    /// Reads `length` bytes at `offset` off the shard: for bytes that may be cold.
    pub async fn read_async(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        match self.0.file.clone() {
            Descriptor::Real(file) => spawn_blocking(move || read_exact(&file, offset, length)).await,
            Descriptor::Sim(handle) => spawn_blocking(move || handle.read(offset, length)).await,
        }
    }
}

fn write_all(file: &OwnedFd, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
    let (mut at, mut parts) = (offset, parts);
    let mut skip = 0;
    while let Some(first) = parts.first() {
        if skip == first.len() {
            (parts, skip) = (&parts[1..], 0);
            continue;
        }
        const MOST: usize = 64;
        let mut vectors = [const { libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; MOST];
        let mut from = skip;
        for (vector, part) in vectors.iter_mut().zip(parts) {
            vector.iov_base = part[from..].as_ptr().cast_mut().cast();
            vector.iov_len = part.len() - from;
            from = 0;
        }
        let count = parts.len().min(MOST) as i32;
        let fd = file.as_raw_fd();
        // SAFETY: the vectors describe live slices, which pwritev only reads.
        let written = unsafe { libc::pwritev(fd, vectors.as_ptr(), count, at as libc::off_t) };
        if written < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        at += written as u64;
        skip += written as usize;
        while let Some(first) = parts.first() {
            if skip < first.len() {
                break;
            }
            skip -= first.len();
            parts = &parts[1..];
        }
    }
    Ok(())
}

/// Appends what the page cache has of `length` bytes, without a wait for the disk; how many that are.
fn read_cached(file: &impl AsFd, offset: u64, length: usize, buffer: &mut Vec<u8>) -> io::Result<usize> {
    buffer.reserve(length);
    let spare = buffer.spare_capacity_mut();
    let vector = libc::iovec { iov_base: spare.as_mut_ptr().cast(), iov_len: length };
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the vector describes `length` bytes of spare capacity, which was reserved above and which preadv2 only writes.
    let count = unsafe { libc::preadv2(fd, &vector, 1, offset as libc::off_t, libc::RWF_NOWAIT) };
    if let Ok(count) = usize::try_from(count) {
        // SAFETY: the kernel has written this many bytes behind the vector's length.
        unsafe { buffer.set_len(buffer.len() + count) };
        return Ok(count);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Nothing is cached, or the file system cannot tell.
        Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::EINTR | libc::ENOSYS) => Ok(0),
        _ => Err(error),
    }
}

fn read_exact(file: &impl AsFd, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut buffer = Vec::with_capacity(length);
    while buffer.len() < length {
        let spare = buffer.spare_capacity_mut();
        let (start, at) = (spare.as_mut_ptr(), offset + buffer.len() as u64);
        let wanted = length - buffer.len();
        let fd = file.as_fd().as_raw_fd();
        // SAFETY: the pointer and count describe spare capacity of the vector, which pread only writes.
        let count = unsafe { libc::pread(fd, start.cast(), wanted, at as libc::off_t) };
        match count {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            // SAFETY: the kernel has written this many bytes behind the vector's length.
            count if count > 0 => unsafe { buffer.set_len(buffer.len() + count as usize) },
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(buffer)
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment").field("length", &self.0.length).field("leases", &self.leases()).finish()
    }
}

/// A lease on bytes of a segment, opaque to user space. While it lives the segment is not recycled.
pub struct Slice {
    segment: Arc<Inner>,
    offset: usize,
    length: usize,
}

impl Slice {
    /// The length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it covers no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends `length` bytes from `skip` on to `buffer`: at once where the page cache has them, else off the shard.
    pub(crate) async fn read_into(self, skip: usize, length: usize, buffer: &mut Vec<u8>) -> io::Result<()> {
        let offset = (self.offset + skip) as u64;
        let cached = match &self.segment.file {
            Descriptor::Real(file) => read_cached(file, offset, length, buffer)?,
            Descriptor::Sim(_) => 0,
        };
        if cached < length {
            let rest = Segment(self.segment.clone());
            buffer.extend(rest.read_async(offset + cached as u64, length - cached).await?);
        }
        Ok(())
    }

    /// Where the bytes are mapped, for the kernel alone. Null in the simulator, which has no mapping.
    pub(crate) fn start(&self) -> *const u8 {
        let mapping = self.segment.mapping.as_ref();
        mapping.map_or(std::ptr::null(), |mapping| mapping.as_ptr().wrapping_add(self.offset))
    }

    /// What a send in the simulator reads, at the moment it does.
    pub(crate) fn outgoing(&self, skip: usize, length: usize) -> Outgoing {
        Outgoing::file(self.segment.file.simulated(), (self.offset + skip) as u64, length)
    }
}

impl Clone for Slice {
    fn clone(&self) -> Self {
        self.segment.leases.fetch_add(1, Ordering::AcqRel);
        Self { segment: self.segment.clone(), offset: self.offset, length: self.length }
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        self.segment.leases.fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slice").field("offset", &self.offset).field("length", &self.length).finish()
    }
}
