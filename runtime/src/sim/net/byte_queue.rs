//! Bytes that wait, first in, first out, copied by slices.

/// A queue of bytes.
#[derive(Debug, Default)]
pub(in crate::sim) struct ByteQueue {
    bytes: Vec<u8>,
    /// Those before it have been taken.
    start: usize,
}

impl From<Vec<u8>> for ByteQueue {
    fn from(bytes: Vec<u8>) -> ByteQueue {
        ByteQueue { bytes, start: 0 }
    }
}

impl ByteQueue {
    pub(in crate::sim) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(in crate::sim) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(in crate::sim) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    pub(in crate::sim) fn push(&mut self, bytes: &[u8]) {
        // What was taken is as much as what is left: moving that costs no more than it did to come here.
        if self.start > 0 && self.start >= self.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the first `count`, which there must be.
    pub(in crate::sim) fn take(&mut self, count: usize) -> &[u8] {
        let first = self.start;
        self.start += count;
        &self.bytes[first..self.start]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is taken is what was pushed, in its order, however the two take turns; what was taken does not pile up.
    #[test]
    fn first_in_first_out() {
        let mut queue = ByteQueue::from(vec![0, 1, 2]);
        let (mut next_in, mut next_out) = (3u8, 0u8);
        for turn in 0..10_000usize {
            let pushed: Vec<u8> = (0..turn % 7).map(|step| next_in.wrapping_add(step as u8)).collect();
            queue.push(&pushed);
            next_in = next_in.wrapping_add(pushed.len() as u8);
            let count = queue.len().min(turn % 6);
            let expected: Vec<u8> = (0..count).map(|step| next_out.wrapping_add(step as u8)).collect();
            assert_eq!(queue.take(count), expected);
            next_out = next_out.wrapping_add(count as u8);
            assert!(queue.bytes.len() <= 2 * queue.len() + 16, "{queue:?}");
            if queue.len() > 500 {
                let rest = queue.len();
                next_out = next_out.wrapping_add(rest as u8);
                queue.take(rest);
            }
        }
        queue.clear();
        assert!(queue.is_empty());
    }
}
