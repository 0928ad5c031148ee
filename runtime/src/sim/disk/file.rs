//! One file: its page cache, what the disk holds, and the states between them that a power cut may leave.
//!
//! Linux writes back whole pages, in any order and at any time; a sector of 512 bytes is written whole or not at
//! all. So each page that was written since its last sync keeps the states it went through, and a power cut leaves
//! each of its sectors in any of them. After a failed fdatasync the pages count as clean although the disk may not
//! hold them: what they held is gone at the next cut, unless the page is written again, which writes all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::sim::world::World;

/// Bytes of a page.
pub(super) const PAGE_BYTES: usize = 4096;
/// Bytes that a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;
/// States of one page that are remembered at most; beyond it the oldest are forgotten.
const STATES_MAX: usize = 64;

/// What a page holds; `None` is all zeros.
type Content = Option<Rc<[u8; PAGE_BYTES]>>;

#[derive(Default)]
struct Page {
    cached: Content,
    durable: Content,
    /// States since the last sync, oldest first, with the write that led to each.
    states: Vec<(u64, Content)>,
}

/// A file of a simulated disk.
#[derive(Default)]
pub(super) struct File {
    /// How often it is open.
    pub(super) handles: usize,
    pages: BTreeMap<u64, Page>,
    /// Pages with states.
    dirty: BTreeSet<u64>,
    length: u64,
    durable_length: u64,
    /// Lengths since the last sync.
    lengths: Vec<(u64, u64)>,
    /// Counts writes.
    written: u64,
    /// In memory only.
    anonymous: bool,
}

impl File {
    /// An open memfd: nothing of it is ever durable.
    pub(super) fn anonymous(length: u64) -> Self {
        Self { handles: 1, length, anonymous: true, ..Self::default() }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Number of the last write.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Pages that take space on the disk.
    pub(super) fn pages(&self) -> u64 {
        if self.anonymous { 0 } else { self.pages.len() as u64 }
    }

    /// Pages of a range that take no space yet.
    pub(super) fn missing_pages(&self, offset: u64, length: u64) -> u64 {
        if self.anonymous || length == 0 {
            return 0;
        }
        let range = page_range(offset, length);
        let wanted = range.end - range.start;
        wanted - self.pages.range(range).count() as u64
    }

    /// Up to `length` bytes at `offset`, as the page cache has them.
    pub(super) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let length = (length as u64).min(self.length.saturating_sub(offset)) as usize;
        let mut bytes = vec![0; length];
        for (index, in_page, in_bytes) in spans(offset, length) {
            if let Some(Page { cached: Some(content), .. }) = self.pages.get(&index) {
                bytes[in_bytes].copy_from_slice(&content[in_page]);
            }
        }
        bytes
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.written += 1;
        for (index, in_page, in_bytes) in spans(offset, bytes.len()) {
            let page = self.pages.entry(index).or_default();
            let mut content = page.cached.take().unwrap_or_else(|| Rc::new([0; PAGE_BYTES]));
            Rc::make_mut(&mut content)[in_page].copy_from_slice(&bytes[in_bytes]);
            page.cached = Some(content);
            self.dirtied(index);
        }
        self.set_length(self.length.max(offset + bytes.len() as u64));
    }

    /// Takes the space of a range, which is zeros where nothing was.
    pub(super) fn allocate(&mut self, offset: u64, length: u64) {
        self.written += 1;
        if length > 0 {
            for index in page_range(offset, length) {
                self.pages.entry(index).or_default();
            }
        }
        self.set_length(self.length.max(offset + length));
    }

    /// Empties the file.
    pub(super) fn truncate(&mut self) {
        self.written += 1;
        let indices: Vec<u64> = self.pages.keys().copied().collect();
        for index in indices {
            self.pages.entry(index).or_default().cached = None;
            self.dirtied(index);
        }
        self.set_length(0);
    }

    /// What was written up to the write with number `covers` is durable.
    pub(super) fn synced(&mut self, covers: u64) {
        self.settle(covers, |_, states| states.last().cloned());
        if let Some((_, length)) = self.lengths.iter().rfind(|(write, _)| *write <= covers) {
            self.durable_length = *length;
        }
        self.lengths.retain(|(write, _)| *write > covers);
    }

    /// A sync failed: what it covered is on the disk in any part, and nobody will write the rest.
    pub(super) fn sync_failed(&mut self, covers: u64, world: &World) {
        self.settle(covers, |durable, states| Some(mixture(durable, states, world)));
    }

    /// A power cut: what is not durable is kept, lost, or torn.
    pub(super) fn cut(&mut self, world: &World) {
        // All kept, all lost, or each sector as it falls: any of them must be survived.
        let luck = world.below(4);
        let lengths = std::mem::take(&mut self.lengths);
        match luck {
            0 => self.dirty.clear(),
            1 => {
                self.settle(u64::MAX, |_, states| states.last().cloned());
                self.durable_length = self.length;
            }
            _ => {
                self.settle(u64::MAX, |durable, states| Some(mixture(durable, states, world)));
                let choice = world.below(lengths.len() as u64 + 1) as usize;
                if let Some((_, length)) = lengths.get(choice) {
                    self.durable_length = *length;
                }
            }
        }
        self.length = self.durable_length;
        let end = self.length.div_ceil(PAGE_BYTES as u64);
        self.pages.retain(|index, _| *index < end);
        for page in self.pages.values_mut() {
            page.states.clear();
            page.cached = page.durable.clone();
        }
    }

    fn set_length(&mut self, length: u64) {
        if length != self.length {
            self.length = length;
            self.lengths.push((self.written, length));
        }
    }

    fn dirtied(&mut self, index: u64) {
        if self.anonymous {
            return;
        }
        let written = self.written;
        let page = self.pages.entry(index).or_default();
        if page.states.len() == STATES_MAX {
            page.states.remove(0);
        }
        page.states.push((written, page.cached.clone()));
        self.dirty.insert(index);
    }

    /// Has `choose` tell what the disk holds of each dirty page, from what it held and the states up to `covers`,
    /// which are over then.
    fn settle(&mut self, covers: u64, mut choose: impl FnMut(&Content, &[Content]) -> Option<Content>) {
        let pages = &mut self.pages;
        self.dirty.retain(|index| {
            let Some(page) = pages.get_mut(index) else { return false };
            let count = page.states.partition_point(|(write, _)| *write <= covers);
            let states: Vec<Content> = page.states.drain(..count).map(|(_, content)| content).collect();
            if !states.is_empty()
                && let Some(content) = choose(&page.durable, &states)
            {
                page.durable = content;
            }
            !page.states.is_empty()
        });
    }
}

/// A page each of whose sectors is in any of the states it went through.
fn mixture(durable: &Content, states: &[Content], world: &World) -> Content {
    let mut mixed = [0; PAGE_BYTES];
    for sector in 0..PAGE_BYTES / SECTOR_BYTES {
        let range = sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES;
        let chosen = match world.below(states.len() as u64 + 1) as usize {
            0 => durable,
            index => &states[index - 1],
        };
        if let Some(content) = chosen {
            mixed[range.clone()].copy_from_slice(&content[range]);
        }
    }
    Some(Rc::new(mixed))
}

fn page_range(offset: u64, length: u64) -> std::ops::Range<u64> {
    offset / PAGE_BYTES as u64..(offset + length).div_ceil(PAGE_BYTES as u64)
}

/// The pages that a range touches: number, range inside the page, range inside the bytes.
fn spans(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == length {
            return None;
        }
        let at = offset + done as u64;
        let start = (at % PAGE_BYTES as u64) as usize;
        let count = (PAGE_BYTES - start).min(length - done);
        let span = (at / PAGE_BYTES as u64, start..start + count, done..done + count);
        done += count;
        Some(span)
    })
}
