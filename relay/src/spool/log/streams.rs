//! Bodies that are being received, and their memory.

use slab::Slab;

use super::buffers::Buffers;
use crate::spool::format::id::MessageId;
use crate::spool::format::place::Piece;

/// A body that is being received.
#[derive(Debug)]
pub(crate) struct Stream {
    /// What is not yet in a record.
    pub(crate) buffer: Vec<u8>,
    pub(crate) id: MessageId,
    /// Chunks that have their place.
    pub(crate) chunks: Vec<Piece>,
    /// Chunk records entered, placed or not.
    pub(crate) chunk_count: u32,
    pub(crate) chunked_bytes: u64,
}

/// All that are being received.
pub(crate) struct Streams {
    pub(crate) open: Slab<Stream>,
    pub(crate) buffers: Buffers,
    /// Bytes that their buffers have room for.
    pub(crate) held_bytes: usize,
}

impl Streams {
    pub(crate) fn new(buffers: Buffers) -> Streams {
        Streams { open: Slab::new(), buffers, held_bytes: 0 }
    }

    /// Begins one; returns its key.
    pub(crate) fn begin(&mut self, id: MessageId) -> usize {
        let stream = Stream { id, buffer: Vec::new(), chunks: Vec::new(), chunk_count: 0, chunked_bytes: 0 };
        self.open.insert(stream)
    }

    /// Takes what a stream has gathered.
    pub(crate) fn take_buffer(&mut self, key: usize) -> Vec<u8> {
        let buffer = std::mem::take(&mut self.open[key].buffer);
        self.held_bytes -= buffer.capacity();
        buffer
    }

    /// Ends one, with all that it has gathered.
    pub(crate) fn remove(&mut self, key: usize) -> Stream {
        let stream = self.open.remove(key);
        self.held_bytes -= stream.buffer.capacity();
        stream
    }
}
