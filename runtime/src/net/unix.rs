//! The files of listening Unix sockets: made for their owner alone, reclaimed when nobody listens on them any more, and
//! never in the place of anything else.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::FREE_WITHIN;
use crate::time::now;

/// Pause between two looks at what is in use.
pub(super) const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How long another process may take to make its socket in the same folder.
const TURN_WITHIN: Duration = Duration::from_secs(1);
/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// Which file a socket has: device and inode.
pub(super) type FileId = (u64, u64);

/// Listens at `path`, which gets mode 0600 from its making.
///
/// Errors: [`io::ErrorKind::AddrInUse`] when somebody listens there, [`io::ErrorKind::AlreadyExists`] when the path is of
/// something that is no socket.
pub(super) fn listen(path: &Path) -> io::Result<(Socket, FileId)> {
    let address = SockAddr::unix(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
    // Linux makes the file with the mode that the socket has.
    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(file));
    // Between its bind and its listen a socket looks as if nobody listened.
    let _turn = turn(path);
    if let Err(error) = socket.bind(&address) {
        if error.kind() != io::ErrorKind::AddrInUse {
            return Err(error);
        }
        if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket is in the way",
            ));
        }
        let probe = Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None)?;
        if !probe.connect(&address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        socket.bind(&address)?;
    }
    socket.listen(BACKLOG)?;
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((socket, (metadata.dev(), metadata.ino())))
}

/// As `listen` for a thread that may block: waits for a socket of a process that has just ended.
pub fn listen_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let until = now() + FREE_WITHIN;
    loop {
        match listen(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && now() < until => {
                std::thread::sleep(LOOK_PAUSE);
            }
            outcome => return outcome.map(|(socket, _)| OwnedFd::from(socket).into()),
        }
    }
}

/// Removes the file of a socket, unless it is another's by now.
pub(super) fn unlink(path: &Path, id: FileId) {
    let is_ours = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino()) == id;
    if std::fs::symlink_metadata(path).is_ok_and(is_ours) {
        let _gone_already = std::fs::remove_file(path);
    }
}

/// The turn to make a socket in the folder of `path`: a lock on the folder, where it can be had.
fn turn(path: &Path) -> Option<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = File::open(parent).ok()?;
    let until = now() + TURN_WITHIN;
    loop {
        // SAFETY: flock takes a descriptor, which stays open during the call, and a number.
        if unsafe { libc::flock(folder.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
            return Some(folder);
        }
        if now() >= until {
            return None;
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// A socket is its owner's alone, a stale one is replaced, and one that somebody listens on is not.
    #[test]
    fn stale_sockets_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        drop(UnixListener::bind(&path).unwrap());
        let (socket, id) = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        unlink(&path, (id.0, id.1 + 1));
        assert!(path.exists(), "the socket of another stays");
        unlink(&path, id);
        assert!(!path.exists());
    }

    /// What is no socket is left as it is: a file, a link, a folder.
    #[test]
    fn other_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "text").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        for path in [&file, &link, &folder.path().to_owned()] {
            assert_eq!(listen(path).unwrap_err().kind(), io::ErrorKind::AlreadyExists, "{}", path.display());
        }
        assert_eq!(std::fs::read_to_string(&link).unwrap(), "text");
    }
}
