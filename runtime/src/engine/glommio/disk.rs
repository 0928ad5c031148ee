//! Files: glommio's own operations, on a copy of the descriptor, because its files close what they have.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use ::glommio::executor;
use ::glommio::io::BufferedFile;

use super::{Gain, code, plain};

fn glommios(file: &OwnedFd) -> io::Result<BufferedFile> {
    let copy = file.try_clone()?;
    // SAFETY: the copy is new and given away here: nobody else closes it.
    Ok(unsafe { BufferedFile::from_raw_fd(copy.into_raw_fd()) })
}

pub(super) async fn read(file: Arc<OwnedFd>, offset: u64, length: usize) -> (i32, Gain) {
    let reading = async { glommios(&file)?.read_at(offset, length).await.map_err(plain) };
    match reading.await {
        Ok(found) => (code(Ok(found.len())), Gain::Read(found)),
        Err(error) => (code(Err(error)), Gain::Nothing),
    }
}

pub(super) async fn write(file: Arc<OwnedFd>, offset: u64, bytes: Vec<u8>) -> (i32, Gain) {
    let writing = async { glommios(&file)?.write_at(bytes, offset).await.map_err(plain) };
    (code(writing.await), Gain::Nothing)
}

/// fdatasync.
pub(super) async fn sync(file: Arc<OwnedFd>) -> (i32, Gain) {
    let syncing = async { glommios(&file)?.fdatasync().await.map_err(plain) };
    (code(syncing.await.map(|()| 0)), Gain::Nothing)
}

/// fallocate, on glommio's helper thread: its own takes no offset.
pub(super) async fn allocate(file: Arc<OwnedFd>, offset: u64, length: u64) -> (i32, Gain) {
    let allocating = executor().spawn_blocking(move || {
        // SAFETY: the call takes a descriptor, which stays open during it, and numbers.
        match unsafe { libc::fallocate(file.as_raw_fd(), 0, offset as libc::off_t, length as libc::off_t) } {
            0 => Ok(0),
            _ => Err(io::Error::last_os_error()),
        }
    });
    (code(allocating.await), Gain::Nothing)
}
