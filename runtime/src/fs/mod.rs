//! Files, mapped segments and directories.

mod directory;
mod file;
mod segment;

pub use directory::{
    DirLock, FilesystemKind, available_bytes, create_dir_all, filesystem_kind, filesystem_kind_blocking,
    lock_dir, make_private, may_make_files, read_dir, remove_file, rename, sync_dir,
};
pub use file::{File, OpenOptions};
#[cfg(feature = "append-paths")]
pub use segment::paths::Store;
pub use segment::{Segment, Slice};
