//! Which file system a folder stands on, from /proc/self/mountinfo.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The mount that holds a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// File system type, as in mount(8): `ext4`, `tmpfs`, …
    pub(crate) kind: String,
    /// What is mounted: a device, or a name such as `tmpfs`.
    pub(crate) device: String,
}

impl Mount {
    /// The mount that holds `path`, or the nearest folder above it that exists; `None` when the kernel does not say.
    pub(crate) fn of(path: &Path) -> Option<Mount> {
        let absolute = std::path::absolute(path).ok()?;
        let existing = absolute.ancestors().find_map(|folder| folder.canonicalize().ok())?;
        find(&std::fs::read_to_string("/proc/self/mountinfo").ok()?, &existing)
    }

    /// Whether what is written here is gone with the power whatever is synced.
    pub(crate) fn is_memory(&self) -> bool {
        matches!(self.kind.as_str(), "tmpfs" | "ramfs" | "devtmpfs")
    }
}

/// The last mount in `mountinfo` (proc(5)) with the longest mount point above `path`: later mounts hide earlier ones.
fn find(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mut best: Option<(usize, Mount)> = None;
    for line in mountinfo.lines() {
        // 36 35 98:0 /root /mount-point options [optional fields] - type source super-options
        let (before, after) = line.split_once(" - ")?;
        let mount_point = PathBuf::from(unescape(before.split(' ').nth(4)?));
        let mut after = after.split(' ');
        let (kind, device) = (after.next()?, after.next()?);
        let depth = mount_point.components().count();
        if path.starts_with(&mount_point) && best.as_ref().is_none_or(|(deepest, _)| depth >= *deepest) {
            let device = unescape(device).to_string_lossy().into_owned();
            best = Some((depth, Mount { kind: kind.to_owned(), device }));
        }
    }
    best.map(|(_, mount)| mount)
}

/// Undoes the octal escapes (`\040` for a space) of mountinfo.
fn unescape(field: &str) -> OsString {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    //! Prove: the deepest and latest mount above a path is found, escapes undone.
    use super::*;

    const MOUNTINFO: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /dev/shm rw - tmpfs tmpfs rw
24 22 0:22 / /mnt/two\\040words rw - ext4 /dev/loop0 rw
25 24 0:23 / /mnt/two\\040words rw - xfs /dev/loop1 rw
";

    fn kind_and_device(path: &str) -> (String, String) {
        let mount = find(MOUNTINFO, Path::new(path)).expect("a mount");
        (mount.kind, mount.device)
    }

    #[test]
    fn the_deepest_latest_mount_wins() {
        assert_eq!(kind_and_device("/home/x"), ("ext4".into(), "/dev/vda".into()));
        assert_eq!(kind_and_device("/dev/shm/spool"), ("tmpfs".into(), "tmpfs".into()));
        assert_eq!(kind_and_device("/dev/shmother"), ("ext4".into(), "/dev/vda".into()));
        assert_eq!(kind_and_device("/mnt/two words/spool"), ("xfs".into(), "/dev/loop1".into()));
    }

    #[test]
    fn memory_is_told_from_disks() {
        assert!(find(MOUNTINFO, Path::new("/dev/shm")).expect("a mount").is_memory());
        assert!(!find(MOUNTINFO, Path::new("/")).expect("a mount").is_memory());
    }
}
