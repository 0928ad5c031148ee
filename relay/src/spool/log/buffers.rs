//! The memory of bodies that are gathered, used again.

use std::mem;

use crate::spool::config::SMALL_MAX;

/// Least room of a buffer: a page.
pub(crate) const BUFFER_MIN: usize = 4096;
/// Small ones kept: 4 MiB at most, of [`SMALL_MAX`] each.
const SMALL_KEPT: usize = 256;

/// Buffers that nobody uses.
#[derive(Debug)]
pub(crate) struct Buffers {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    large_bytes: usize,
    large_max: usize,
}

impl Buffers {
    /// None; of large ones, `large_max` bytes will be kept at most.
    pub(crate) fn new(large_max: usize) -> Buffers {
        Buffers { small: Vec::new(), large: Vec::new(), large_bytes: 0, large_max }
    }

    /// Moves what is in `buffer` to one that has room for `bytes`.
    pub(crate) fn grow(&mut self, buffer: &mut Vec<u8>, bytes: usize) {
        let kept = if bytes <= SMALL_MAX { self.small.pop() } else { self.take_large(bytes) };
        let mut grown = kept.unwrap_or_default();
        grown.reserve_exact(bytes);
        grown.extend_from_slice(buffer);
        self.keep(mem::replace(buffer, grown));
    }

    /// One that has this room, and not more than twice as much: what is held counts.
    fn take_large(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let fits = bytes..=2 * bytes;
        let at = self.large.iter().rposition(|buffer| fits.contains(&buffer.capacity()))?;
        let buffer = self.large.swap_remove(at);
        self.large_bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Takes a buffer that is no longer used.
    pub(crate) fn keep(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        match buffer.capacity() {
            0..BUFFER_MIN => {}
            BUFFER_MIN..=SMALL_MAX => {
                if self.small.len() < SMALL_KEPT {
                    self.small.push(buffer);
                }
            }
            bytes => {
                if self.large_bytes + bytes <= self.large_max {
                    self.large_bytes += bytes;
                    self.large.push(buffer);
                }
            }
        }
    }

    /// Gives large ones up until they take no more than `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        while self.large_bytes > bytes
            && let Some(buffer) = self.large.pop()
        {
            self.large_bytes -= buffer.capacity();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(buffers: &mut Buffers, bytes: usize) -> Vec<u8> {
        let mut buffer = b"begun".to_vec();
        buffers.grow(&mut buffer, bytes);
        assert_eq!(buffer, b"begun");
        assert!(buffer.capacity() >= bytes);
        buffer
    }

    /// Large buffers come back to those who want about as much, and take no more memory than they may.
    #[test]
    fn large_ones() {
        let mut buffers = Buffers::new(200 << 10);
        let [first, second, third] = [100 << 10, 80 << 10, 50 << 10].map(|bytes| grown(&mut buffers, bytes));
        let (hundred, eighty) = (first.as_ptr(), second.as_ptr());
        for buffer in [first, second, third] {
            buffers.keep(buffer);
        }
        assert_eq!(buffers.large_bytes, 180 << 10, "the third is too much");
        let again = grown(&mut buffers, 90 << 10);
        assert_eq!(again.as_ptr(), hundred);
        let other = grown(&mut buffers, 17 << 10);
        assert_ne!(other.as_ptr(), eighty, "it is much too large");
        assert_eq!(buffers.large_bytes, 80 << 10);
        buffers.shrink_to(80 << 10);
        assert_eq!(buffers.large.len(), 1);
        buffers.shrink_to(0);
        assert_eq!((buffers.large.len(), buffers.large_bytes), (0, 0));
    }
}
