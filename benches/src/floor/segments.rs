//! Preallocated, zero-filled segments that are used in turn, as the real spool's are. The files have no name: they are
//! gone with the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr;

use crate::ring::Span;

const SEGMENT_BYTES: usize = 128 << 20;
/// One in use, one that deliveries still read, one that is ready.
const SEGMENTS: usize = 3;
/// Groups never share a block.
const BLOCK: usize = 4096;
static FILL: [u8; 1 << 20] = [0; 1 << 20];

struct Segment {
    file: File,
    mapping: *const u8,
    /// Messages in it that are not delivered.
    undelivered: usize,
}

/// The segments of one shard.
pub(crate) struct Segments {
    all: Vec<Segment>,
    active: usize,
    end: usize,
}

/// Where a group was written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) segment: usize,
    offset: usize,
}

impl Segments {
    /// Writes the segments full of zeros, syncs and maps them.
    pub(crate) fn prepare(directory: &Path, shard: usize) -> io::Result<Segments> {
        let all = (0..SEGMENTS).map(|ordinal| {
            let path = directory.join(format!("floor-{}-{shard}-{ordinal}", std::process::id()));
            let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
            std::fs::remove_file(&path)?;
            for _ in 0..SEGMENT_BYTES / FILL.len() {
                file.write_all(&FILL)?;
            }
            file.sync_all()?;
            let mapping = map(&file)?;
            Ok(Segment { file, mapping, undelivered: 0 })
        });
        Ok(Segments { all: all.collect::<io::Result<_>>()?, active: 0, end: 0 })
    }

    /// Writes a group, padded to whole blocks, behind the last one.
    pub(crate) fn append(&mut self, group: &mut Vec<u8>, messages: usize) -> io::Result<Place> {
        group.resize(group.len().next_multiple_of(BLOCK), 0);
        assert!(group.len() <= SEGMENT_BYTES, "a group fits a segment");
        if self.end + group.len() > SEGMENT_BYTES {
            self.active = (self.active + 1) % SEGMENTS;
            self.end = 0;
            assert_eq!(
                self.all[self.active].undelivered, 0,
                "a segment is used again when all in it is delivered"
            );
        }
        let segment = &mut self.all[self.active];
        segment.file.write_all_at(group, self.end as u64)?;
        segment.undelivered += messages;
        let place = Place { segment: self.active, offset: self.end };
        self.end += group.len();
        Ok(place)
    }

    /// The file to be synced for what was appended last.
    pub(crate) fn active_file(&self) -> RawFd {
        self.all[self.active].file.as_raw_fd()
    }

    /// Octets of a group, in the mapping.
    pub(crate) fn span(&self, place: Place, at: usize, length: usize) -> Span {
        assert!(place.offset + at + length <= SEGMENT_BYTES);
        // SAFETY: within the mapping by the line above. Nothing here reads through the pointer: a send does.
        let start = unsafe { self.all[place.segment].mapping.add(place.offset + at) };
        Span { start, length: length as u32 }
    }

    /// A message of a segment was delivered.
    pub(crate) fn delivered(&mut self, segment: usize) {
        self.all[segment].undelivered -= 1;
    }
}

fn map(file: &File) -> io::Result<*const u8> {
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    // SAFETY: a fresh read-only mapping at an address of the kernel's choice; the file never changes its length.
    let base =
        unsafe { libc::mmap(ptr::null_mut(), SEGMENT_BYTES, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
    if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(base.cast()) }
}
