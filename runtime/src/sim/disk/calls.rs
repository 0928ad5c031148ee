//! Calls on files and directories, as tasks make them: each takes some time and counts as operations of the disk.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::File;
use super::{Disk, DiskOperation, FileId, PAGE_BYTES};
use crate::descriptor::Descriptor;
use crate::fs::{FilesystemKind, OpenOptions};
use crate::sim::driver::Here;
use crate::sim::handle::{OpenFile, What};
use crate::time::sleep;

/// Magic number of ext4, which the simulated disk resembles most.
const EXT4: i64 = 0xEF53;

impl Here {
    /// Waits as long as a call takes, and then makes it.
    async fn call<T>(
        &self,
        kind: DiskOperation,
        call: impl FnOnce(&mut Disk) -> io::Result<T>,
    ) -> io::Result<T> {
        sleep(Duration::from_nanos(self.world.micros(&self.world.options.disk.operation_us))).await;
        let outcome = self.world.disk_step(self.process, Some(kind));
        if !self.world.is_alive(self.process) {
            // Killed by this very step: the call does not return.
            std::future::pending::<()>().await;
        }
        outcome?;
        call(&mut self.world.disks.borrow_mut()[self.node()])
    }

    fn opened(&self, file: FileId) -> Descriptor {
        let file = OpenFile { process: self.process, node: self.node(), file };
        Descriptor::Sim(self.handle(What::File(file)))
    }

    pub(crate) async fn open(&self, path: &Path, options: &OpenOptions) -> io::Result<Descriptor> {
        let id = self.world.number();
        let creates = options.create || options.create_new;
        let kind = if creates { DiskOperation::Directory } else { DiskOperation::Read };
        let file = self.call(kind, |disk| disk.open(path, options, id)).await?;
        Ok(self.opened(file))
    }

    /// A new file of zeros, written and synced.
    pub(crate) async fn create_segment(&self, path: &Path, length: u64) -> io::Result<Descriptor> {
        let options = OpenOptions { read: true, write: true, create_new: true, ..OpenOptions::default() };
        let file = self.open(path, &options).await?;
        let open = file.simulated().file();
        let fill = |disk: &mut Disk| {
            disk.reserve(length.div_ceil(PAGE_BYTES as u64))?;
            disk.file(open.file)?.allocate(0, length);
            Ok(())
        };
        self.call(DiskOperation::Write, fill).await?;
        crate::shard::with_core(|core| core.engine.sync_data(&file)).await.result?;
        Ok(file)
    }

    /// A file in memory alone.
    pub(crate) fn anonymous(&self, length: u64) -> io::Result<Descriptor> {
        self.check()?;
        let id = self.world.number();
        self.world.disks.borrow_mut()[self.node()].files.insert(id, File::anonymous(length));
        Ok(self.opened(id))
    }

    pub(crate) async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.call(DiskOperation::Directory, |disk| disk.names.create_dir_all(path)).await
    }

    pub(crate) async fn read_dir(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.call(DiskOperation::Read, |disk| disk.names.list(path)).await
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let rename = |disk: &mut Disk| {
            disk.names.rename(from, to)?;
            disk.collect();
            Ok(())
        };
        self.call(DiskOperation::Directory, rename).await
    }

    pub(crate) async fn remove_file(&self, path: &Path) -> io::Result<()> {
        let remove = |disk: &mut Disk| {
            disk.names.remove_file(path)?;
            disk.collect();
            Ok(())
        };
        self.call(DiskOperation::Directory, remove).await
    }

    pub(crate) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        sleep(Duration::from_nanos(self.world.micros(&self.world.options.disk.sync_us))).await;
        self.call(DiskOperation::Directory, |disk| disk.names.sync(path)).await
    }

    pub(crate) async fn lock_dir(&self, path: &Path) -> io::Result<Descriptor> {
        let process = self.process;
        let lock = |disk: &mut Disk| {
            disk.names.exists(path)?;
            if disk.locks.contains_key(path) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            disk.locks.insert(path.to_owned(), process);
            Ok(())
        };
        self.call(DiskOperation::Read, lock).await?;
        let what = What::Lock { node: self.node(), process, path: path.to_owned() };
        Ok(Descriptor::Sim(self.handle(what)))
    }

    pub(crate) fn filesystem_kind(&self, path: &Path) -> io::Result<FilesystemKind> {
        self.world.disks.borrow()[self.node()].names.exists(path)?;
        Ok(FilesystemKind::Disk(EXT4))
    }

    pub(crate) fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        let disks = self.world.disks.borrow();
        let disk = &disks[self.node()];
        disk.names.exists(path)?;
        Ok(disk.capacity_pages.saturating_sub(disk.used_pages()) * PAGE_BYTES as u64)
    }
}

impl Disk {
    fn open(&mut self, path: &Path, options: &OpenOptions, new: FileId) -> io::Result<FileId> {
        let found = self.names.file(path);
        let file = match found {
            Ok(_) if options.create_new => return Err(io::Error::from_raw_os_error(libc::EEXIST)),
            Ok(file) => file,
            Err(error)
                if error.raw_os_error() == Some(libc::ENOENT) && (options.create || options.create_new) =>
            {
                self.names.add(path, new)?;
                self.files.insert(new, File::default());
                new
            }
            Err(error) => return Err(error),
        };
        let state = self.file(file)?;
        state.handles += 1;
        if options.truncate {
            state.truncate();
        }
        Ok(file)
    }
}
