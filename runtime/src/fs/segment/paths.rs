//! Append paths that were measured against [`Segment::append_at`] and lost. Only the bench that compares them reaches
//! them (feature `append-paths`), so that the choice can be measured again on another kernel or disk.

use std::io;

use memmap2::{MmapOptions, MmapRaw};

use super::Segment;
use crate::descriptor::Descriptor;
use crate::engine::Resources;
use crate::shard::with_core;

impl Segment {
    /// Writes the groups one behind the other at `offset` and syncs them, as one chain of linked operations: the
    /// kernel begins the fdatasync when the writes have completed. Gives the buffers back, cleared. A write that
    /// falls short breaks the chain and is an error. Unsupported but on uring.
    pub async fn append_linked(&self, offset: u64, groups: Vec<Vec<u8>>) -> io::Result<Vec<Vec<u8>>> {
        let total: usize = groups.iter().map(Vec::len).sum();
        if offset + total as u64 > self.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let Descriptor::Real(_) = &self.0.file else { return Err(io::ErrorKind::Unsupported.into()) };
        let lengths: Vec<usize> = groups.iter().map(Vec::len).collect();
        let chain = with_core(|core| core.engine.write_then_sync(&self.0.file, groups, offset));
        let (writes, sync) = chain.ok_or(io::ErrorKind::Unsupported)?;
        let mut buffers = Vec::with_capacity(writes.len());
        for (write, length) in writes.into_iter().zip(lengths) {
            let completion = write.await;
            let Resources::Bytes(mut buffer) = completion.resources else {
                unreachable!("the engine hands back what it was given")
            };
            if (completion.result? as usize) < length {
                return Err(io::ErrorKind::WriteZero.into());
            }
            buffer.clear();
            buffers.push(buffer);
        }
        sync.await.result?;
        Ok(buffers)
    }

    /// Maps the segment once more, to be stored through. Unsupported in the simulator.
    pub fn store(&self) -> io::Result<Store> {
        let Descriptor::Real(file) = &self.0.file else { return Err(io::ErrorKind::Unsupported.into()) };
        let mapping = MmapOptions::new().len(self.len() as usize).map_raw(&**file)?;
        Ok(Store { mapping })
    }
}

/// A writable mapping of a segment that nothing but [`Store::append_at`] touches.
#[derive(Debug)]
pub struct Store {
    mapping: MmapRaw,
}

impl Store {
    /// Copies `bytes` into the mapped pages at `offset`. A page that is clean or being written back faults, and the
    /// shard waits; an error of the disk is a signal.
    pub fn append_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let room = (self.mapping.len() as u64).checked_sub(offset);
        if room.is_none_or(|room| room < bytes.len() as u64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: source and target lie inside their allocations and cannot overlap; no reference into the mapping
        // exists anywhere, and the exclusive borrow keeps other stores through it out.
        unsafe {
            let target = self.mapping.as_mut_ptr().add(offset as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, run};

    /// All paths leave the same bytes in the file, and none writes beyond the segment's end.
    #[test]
    fn same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("segment");
        run(Config::default(), move || {
            let path = path.clone();
            async move {
                let segment = Segment::create(&path, 16 << 10).await.unwrap();
                segment.append_at(0, &[&[1; 4096]]).unwrap();
                let buffers = segment.append_linked(4096, vec![vec![2; 4096], vec![3; 4096]]).await.unwrap();
                assert!(buffers.len() == 2 && buffers.iter().all(Vec::is_empty));
                let mut store = segment.store().unwrap();
                store.append_at(12 << 10, &[4; 4096]).unwrap();
                let bytes = segment.read(0, 16 << 10).unwrap();
                assert!(bytes.chunks(4096).zip(1..).all(|(block, number)| block == [number; 4096]));
                assert!(store.append_at(12 << 10, &[5; 4097]).is_err());
                assert!(segment.append_linked(12 << 10, vec![vec![5; 4097]]).await.is_err());
            }
        })
        .unwrap();
    }
}
