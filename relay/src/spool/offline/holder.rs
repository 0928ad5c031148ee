//! Who has locked a directory, without touching the lock.
//!
//! To try the lock, even a shared one, could make a relay that starts at that moment fail. So the kernel's list of
//! locks is read. It leaves out processes of other containers: nobody found does not mean that nobody is there.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The process that holds the lock on `dir`.
pub(super) fn holder(dir: &Path) -> Option<u32> {
    let (inode, device) = {
        let metadata = std::fs::metadata(dir).ok()?;
        (metadata.ino(), metadata.dev())
    };
    let locks = BufReader::new(File::open("/proc/locks").ok()?);
    locks.lines().map_while(Result::ok).find_map(|line| holder_in(&line, device, inode))
}

/// `1: FLOCK  ADVISORY  WRITE 4852 fe:00:10191718 0 EOF`: process, device in hexadecimal, inode.
fn holder_in(line: &str, device: u64, inode: u64) -> Option<u32> {
    let mut words = line.split_whitespace().skip(1);
    if (words.next()?, words.next()?, words.next()?) != ("FLOCK", "ADVISORY", "WRITE") {
        return None;
    }
    let process = words.next()?.parse().ok()?;
    let mut file = words.next()?.split(':');
    let mut number = |radix| u64::from_str_radix(file.next()?, radix).ok();
    let (major, minor, own_inode) = (number(16)?, number(16)?, number(10)?);
    ((major, minor) == parts(device) && own_inode == inode).then_some(process)
}

/// Major and minor number, as glibc's `major` and `minor` take them from st_dev.
fn parts(device: u64) -> (u64, u64) {
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    (major, minor & 0xffff_ffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line of an exclusive flock on this inode names its process; other kinds of lock and other files do not.
    #[test]
    fn lines_of_proc_locks() {
        let device = 0xfe00;
        let line = "1: FLOCK  ADVISORY  WRITE 4852 fe:00:10191718 0 EOF";
        assert_eq!(holder_in(line, device, 10_191_718), Some(4852));
        assert_eq!(holder_in(line, device, 10_191_719), None);
        assert_eq!(holder_in(line, 0xfd00, 10_191_718), None);
        assert_eq!(holder_in("2: FLOCK  ADVISORY  READ 1 fe:00:5 0 EOF", device, 5), None);
        assert_eq!(holder_in("2: -> FLOCK  ADVISORY  WRITE 1 fe:00:5 0 EOF", device, 5), None);
        assert_eq!(holder_in("3: POSIX  ADVISORY  WRITE 1 fe:00:5 0 10", device, 5), None);
        assert_eq!((parts(0x1_0301), parts(1 << 20), parts(1 << 44)), ((0x103, 1), (0, 256), (0x1000, 0)));
    }
}
