//! One shard's ring: entries gather, one enter submits them and waits, what has completed is taken all at once.

use std::io;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, FsyncFlags};
use io_uring::{IoUring, cqueue, opcode, squeue};

use crate::counts::{Board, Count, Counts};
use crate::shards::failed;

const SUBMISSIONS: u32 = 2048;
const COMPLETIONS: u32 = 16 * 1024;
/// Provided buffers: as many as may be filled between two enters, and not more, so that they stay in the cache.
const BUFFERS: u16 = 1024;
const BUFFER_BYTES: usize = 4096;
const GROUP: u16 = 0;
const GETEVENTS: u32 = 1;
/// Pages behind one another: the ring of entries, then the buffers.
const ENTRIES_BYTES: usize = BUFFERS as usize * size_of::<BufRingEntry>();
const _: () = assert!(BUFFERS.is_power_of_two() && ENTRIES_BYTES.is_multiple_of(4096));

/// What an entry was for, carried through the kernel as its `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Accept,
    Sync,
    /// A send, which completes only when it fails.
    Send,
    /// What a connection has sent, by the connection's place.
    Receive(u32),
}

impl Token {
    fn pack(self) -> u64 {
        match self {
            Token::Accept => 0,
            Token::Sync => 1,
            Token::Send => 2,
            Token::Receive(connection) => 3 + u64::from(connection),
        }
    }

    fn unpack(user_data: u64) -> Token {
        match user_data {
            0 => Token::Accept,
            1 => Token::Sync,
            2 => Token::Send,
            connection => Token::Receive((connection - 3) as u32),
        }
    }
}

/// A completion as the kernel gives it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    pub(crate) token: Token,
    pub(crate) result: i32,
    flags: u32,
}

/// Octets that stay where they are, and as they are, until the peer has answered to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: *const u8,
    pub(crate) length: u32,
}

impl From<&'static [u8]> for Span {
    fn from(bytes: &'static [u8]) -> Span {
        Span { start: bytes.as_ptr(), length: bytes.len() as u32 }
    }
}

/// The ring and its provided buffers, on the thread of its shard.
pub(crate) struct Ring {
    ring: IoUring,
    memory: *mut u8,
    tail: u16,
    pub(crate) counts: Counts,
    board: Board,
    shard: usize,
}

impl Ring {
    /// Sets up the ring on the thread that will enter it.
    pub(crate) fn new(board: Board, shard: usize) -> io::Result<Ring> {
        let ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        ring.submitter().register_ring_fd()?;
        let memory = map_anonymous(ENTRIES_BYTES + usize::from(BUFFERS) * BUFFER_BYTES)?;
        // SAFETY: the entries are page-aligned and BUFFERS long, and the mapping is never taken down.
        unsafe { ring.submitter().register_buf_ring_with_flags(memory as u64, BUFFERS, GROUP, 0) }?;
        let mut ring = Ring { ring, memory, tail: 0, counts: Counts::default(), board, shard };
        for id in 0..BUFFERS {
            ring.lend(id);
        }
        ring.publish_tail();
        Ok(ring)
    }

    /// Accepts until the end.
    pub(crate) fn accept(&mut self, listener: RawFd) {
        self.push(opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build(), Token::Accept);
    }

    /// Receives for a connection until it ends.
    pub(crate) fn receive(&mut self, socket: RawFd, connection: u32) {
        self.push(opcode::RecvMulti::new(Fd(socket), GROUP).build(), Token::Receive(connection));
    }

    /// Sends; only a failure completes.
    pub(crate) fn send(&mut self, socket: RawFd, bytes: Span) {
        let entry = opcode::Send::new(Fd(socket), bytes.start, bytes.length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS);
        self.counts.add(Count::Sends, 1);
        self.push(entry, Token::Send);
    }

    /// fdatasync.
    pub(crate) fn sync(&mut self, file: RawFd) {
        self.push(opcode::Fsync::new(Fd(file)).flags(FsyncFlags::DATASYNC).build(), Token::Sync);
    }

    fn push(&mut self, entry: squeue::Entry, token: Token) {
        let entry = entry.user_data(token.pack());
        self.counts.add(Count::Submitted, 1);
        // SAFETY: what an entry points to is static, or in a segment's mapping, which is never taken down.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.enter(0);
        }
    }

    /// Submits what has gathered, waits for a completion, and adds all there are to `completions`.
    pub(crate) fn wait(&mut self, completions: &mut Vec<Completion>) {
        self.publish_tail();
        self.board.publish(self.shard, self.counts);
        self.enter(1);
        completions.extend(self.ring.completion().map(|entry| Completion {
            token: Token::unpack(entry.user_data()),
            result: entry.result(),
            flags: entry.flags(),
        }));
        self.counts.add(Count::Completed, completions.len() as u64);
    }

    fn enter(&mut self, want: u32) {
        let waiting = self.ring.submission().len() as u32;
        self.counts.add(Count::Enters, 1);
        // SAFETY: no argument structure is passed, and every entry keeps the promise of `push`.
        let entered =
            unsafe { self.ring.submitter().enter::<libc::sigset_t>(waiting, want, GETEVENTS, None) };
        if let Err(error) = entered {
            let is_passing = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN));
            assert!(is_passing, "io_uring_enter: {error}");
        }
    }

    /// Gives the octets of a receive to `take`, and the buffer back to the kernel. A receive that has ended for want of
    /// buffers is armed again; the end of a connection is an error, because nobody hangs up here.
    pub(crate) fn received<T>(
        &mut self,
        completion: &Completion,
        socket: RawFd,
        take: impl FnOnce(&[u8]) -> T,
    ) -> io::Result<Option<T>> {
        let Token::Receive(connection) = completion.token else { unreachable!("asked for receives alone") };
        if !cqueue::more(completion.flags) {
            if completion.result <= 0 && completion.result != -libc::ENOBUFS {
                return Err(failed("a connection has ended", completion.result));
            }
            self.receive(socket, connection);
        }
        let Some(id) = cqueue::buffer_select(completion.flags) else { return Ok(None) };
        self.counts.add(Count::Receives, 1);
        let start = self.buffer(id);
        // SAFETY: the kernel has filled these octets, and has no claim to the buffer until `lend`.
        let taken = take(unsafe { std::slice::from_raw_parts(start, completion.result as usize) });
        self.lend(id);
        Ok(Some(taken))
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        // SAFETY: ids are below BUFFERS, so the buffer lies inside the mapping.
        unsafe { self.memory.add(ENTRIES_BYTES + usize::from(id) * BUFFER_BYTES) }
    }

    /// Puts a buffer where the kernel will find it after [`Ring::publish_tail`].
    fn lend(&mut self, id: u16) {
        let buffer = self.buffer(id);
        let slot = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: the slot lies inside the ring of entries, and the kernel reads it only once the tail has passed it.
        let entry = unsafe { &mut *self.memory.cast::<BufRingEntry>().add(slot) };
        entry.set_addr(buffer as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish_tail(&self) {
        // SAFETY: the tail is an aligned u16 inside the mapping, shared with the kernel.
        let shared =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.memory.cast::<BufRingEntry>()).cast_mut()) };
        shared.store(self.tail, Ordering::Release);
    }
}

fn map_anonymous(bytes: usize) -> io::Result<*mut u8> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches nothing of ours.
    let base =
        unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if base == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(base.cast()) }
}
