//! Provided receive buffers: one ring of equal buffers per shard, lent to the kernel, which picks one when
//! bytes have arrived. An idle connection holds none.

use std::cell::Cell;
use std::io;
use std::ptr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// Buffers of one shard: a power of two, as the kernel wants it.
pub(crate) const BUFFERS: u16 = 1024;
/// Bytes of one buffer.
pub(crate) const BUFFER_BYTES: usize = 8 * 1024;
/// The group id that receive operations name.
pub(crate) const GROUP: u16 = 0;

/// Bytes of the ring of entries.
pub(crate) const RING_BYTES: usize = BUFFERS as usize * size_of::<BufRingEntry>();
const _: () = assert!(BUFFERS.is_power_of_two());

/// Anonymous memory for the ring of entries and for the buffers themselves.
struct Memory {
    base: *mut u8,
    bytes: usize,
}

impl Memory {
    fn new(bytes: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing of ours.
        let base =
            unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), bytes })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length, and the pool drops it once.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

/// The buffers of one shard.
pub(crate) struct BufferPool {
    entries: Memory,
    buffers: Memory,
    tail: Cell<u16>,
    lent_out: Cell<usize>,
}

impl BufferPool {
    /// Maps the buffers and registers them with the shard's ring.
    pub(crate) fn register(ring: &IoUring) -> io::Result<Rc<Self>> {
        let pool = Self {
            entries: Memory::new(RING_BYTES)?,
            buffers: Memory::new(BUFFERS as usize * BUFFER_BYTES)?,
            tail: Cell::new(0),
            lent_out: Cell::new(BUFFERS as usize),
        };
        // SAFETY: the entries are page-aligned, BUFFERS long, and outlive the ring: the driver drops its ring
        // first, and `Driver::close` has awaited every operation before.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(pool.entries.base as u64, BUFFERS, GROUP, 0)
        }?;
        for id in 0..BUFFERS {
            // SAFETY: the pool has this many buffers, and nobody has used them yet.
            unsafe { pool.give_back(id) };
        }
        Ok(Rc::new(pool))
    }

    /// Lends buffer `id` to the kernel again.
    ///
    /// # Safety
    ///
    /// The pool has this buffer, it is not lent out, and nobody in user space refers to it any more.
    unsafe fn give_back(&self, id: u16) {
        let tail = self.tail.get();
        let base = self.entries.base.cast::<BufRingEntry>();
        let slot = usize::from(tail & (BUFFERS - 1));
        // SAFETY: the slot lies inside the ring, and the kernel reads it only after the tail has moved past.
        let entry = unsafe { &mut *base.add(slot) };
        // SAFETY: the address is that of a buffer of the pool, by the caller's promise.
        entry.set_addr(unsafe { self.buffers.base.add(usize::from(id) * BUFFER_BYTES) } as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail.set(tail.wrapping_add(1));
        // SAFETY: the ring's tail is an aligned u16 inside the mapping, shared with the kernel.
        let shared = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        shared.store(self.tail.get(), Ordering::Release);
        self.lent_out.set(self.lent_out.get() - 1);
    }

    /// Takes over the first `length` bytes of buffer `id`, which the kernel has filled.
    ///
    /// # Safety
    ///
    /// The kernel has told of this buffer in a completion, for which it is taken once.
    pub(crate) unsafe fn take(self: &Rc<Self>, id: u16, length: usize) -> Pooled {
        self.lent_out.set(self.lent_out.get() + 1);
        Pooled { pool: self.clone(), id, length: length.min(BUFFER_BYTES) as u32 }
    }

    /// Buffers the kernel may fill now.
    pub(crate) fn free(&self) -> usize {
        BUFFERS as usize - self.lent_out.get()
    }
}

/// One filled buffer; given back when dropped.
pub(crate) struct Pooled {
    pool: Rc<BufferPool>,
    id: u16,
    length: u32,
}

impl Pooled {
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the kernel filled these bytes and does not touch the buffer until it is given back, which
        // takes this value's drop.
        unsafe {
            std::slice::from_raw_parts(
                self.pool.buffers.base.add(usize::from(self.id) * BUFFER_BYTES),
                self.length as usize,
            )
        }
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        // SAFETY: `take` got the buffer from the kernel, and with this value the last reference to its bytes ends.
        unsafe { self.pool.give_back(self.id) };
    }
}
