//! Vectored sends: owned bytes, static bytes and slices of mapped segments, in one system call.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Duration;

use crate::descriptor::Descriptor;
use crate::engine::{Completion, Resources};
use crate::fs::Slice;
use crate::shard::{try_with_core, with_core};
use crate::sim::Outgoing;
use crate::time::timeout;

/// Bytes of one system call at most, so that no lease on a segment lasts longer than one such send.
const WINDOW_BYTES: usize = 256 * 1024;
const MAX_VECTORS: usize = 16;
/// Sends whose memory a shard keeps.
pub(crate) const SENDS_KEPT: usize = 256;

#[derive(Debug)]
enum Part {
    Bytes(Vec<u8>),
    Fixed(&'static [u8]),
    Slice(Slice),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Fixed(bytes) => bytes.len(),
            Self::Slice(slice) => slice.len(),
        }
    }

    fn start(&self) -> *const u8 {
        match self {
            Self::Bytes(bytes) => bytes.as_ptr(),
            Self::Fixed(bytes) => bytes.as_ptr(),
            Self::Slice(slice) => slice.start(),
        }
    }

    /// For the simulator: what a send of `length` bytes from `skip` on would read, when it reads it.
    fn outgoing(&self, skip: usize, length: usize) -> Outgoing {
        match self {
            Self::Bytes(bytes) => Outgoing::bytes(bytes[skip..skip + length].to_vec()),
            Self::Fixed(bytes) => Outgoing::bytes(bytes[skip..skip + length].to_vec()),
            Self::Slice(slice) => slice.outgoing(skip, length),
        }
    }
}

/// What one send puts on the wire, in order.
pub struct Parts(Option<Box<VectoredSend>>);

impl Parts {
    /// Nothing yet.
    pub fn new() -> Self {
        let kept = try_with_core(|core| core.sends.borrow_mut().pop()).flatten();
        Self(Some(kept.unwrap_or_else(VectoredSend::new)))
    }

    /// Adds owned bytes.
    pub fn bytes(self, bytes: Vec<u8>) -> Self {
        self.with(Part::Bytes(bytes))
    }

    /// Adds bytes that live as long as the program.
    pub fn fixed(self, bytes: &'static [u8]) -> Self {
        self.with(Part::Fixed(bytes))
    }

    /// Adds bytes of a mapped segment, sent without a copy in user space.
    pub fn slice(self, slice: Slice) -> Self {
        self.with(Part::Slice(slice))
    }

    fn with(mut self, part: Part) -> Self {
        self.message_mut().parts.push_back(part);
        self
    }

    /// The sum of the parts' lengths in bytes.
    pub fn len(&self) -> usize {
        self.message().parts.iter().map(Part::len).sum()
    }

    pub(crate) fn message(&self) -> &VectoredSend {
        self.0.as_ref().expect("it is there until the drop")
    }

    pub(crate) fn message_mut(&mut self) -> &mut VectoredSend {
        self.0.as_mut().expect("it is there until the drop")
    }

    /// Moves up to `most` bytes from the front into `buffer`, for whoever must look at them before they are sent. What the page
    /// cache does not have is read off the shard. Leases on what was moved whole are given up.
    pub async fn take_into(&mut self, buffer: &mut Vec<u8>, most: usize) -> io::Result<()> {
        let mut room = most;
        self.message_mut().advance(0);
        while room > 0
            && let Some(part) = self.message().parts.front()
        {
            let skip = self.message().sent;
            let length = (part.len() - skip).min(room);
            match part {
                Part::Bytes(bytes) => buffer.extend_from_slice(&bytes[skip..skip + length]),
                Part::Fixed(bytes) => buffer.extend_from_slice(&bytes[skip..skip + length]),
                Part::Slice(slice) => slice.clone().read_into(skip, length, buffer).await?,
            }
            room -= length;
            self.message_mut().advance(length);
        }
        Ok(())
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Default for Parts {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.message().parts).finish()
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let Some(mut message) = self.0.take() else { return };
        message.parts.clear();
        message.sent = 0;
        // The memory serves the shard's next send.
        try_with_core(|core| {
            let mut kept = core.sends.borrow_mut();
            if kept.len() < SENDS_KEPT {
                kept.push(message);
            }
        });
    }
}

/// A send in flight: the parts, and the message header with vectors that point into them.
pub(crate) struct VectoredSend {
    parts: VecDeque<Part>,
    /// Bytes of the first part that have been sent.
    sent: usize,
    vectors: [libc::iovec; MAX_VECTORS],
    header: libc::msghdr,
}

impl VectoredSend {
    fn new() -> Box<Self> {
        // SAFETY: all-zero bytes are a valid msghdr and iovec: null pointers with zero lengths.
        let (vectors, header) = unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        Box::new(Self { parts: VecDeque::new(), sent: 0, vectors, header })
    }

    /// Points the vectors at the next window of unsent bytes.
    pub(crate) fn aim(&mut self) {
        let mut count = 0;
        for (part, skip, take) in window(&self.parts, self.sent) {
            let base = part.start().wrapping_add(skip).cast_mut().cast();
            self.vectors[count] = libc::iovec { iov_base: base, iov_len: take };
            count += 1;
        }
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = count;
    }

    /// The next window of unsent bytes for the simulator.
    pub(crate) fn outgoing(&self) -> Vec<Outgoing> {
        window(&self.parts, self.sent).map(|(part, skip, take)| part.outgoing(skip, take)).collect()
    }

    /// Drops the parts that have been sent, and with them their leases.
    fn advance(&mut self, bytes: usize) {
        self.sent += bytes;
        while let Some(first) = self.parts.front() {
            let length = first.len();
            if length > self.sent {
                break;
            }
            self.sent -= length;
            self.parts.pop_front();
        }
    }

    pub(crate) fn header(&self) -> *const libc::msghdr {
        &self.header
    }
}

/// The parts that one system call covers when `sent` bytes have left: the part, where to begin, how much.
fn window(parts: &VecDeque<Part>, sent: usize) -> impl Iterator<Item = (&Part, usize, usize)> {
    let (mut room, mut skip) = (WINDOW_BYTES, sent);
    let pieces = parts.iter().map_while(move |part| {
        let (from, take) = (skip, (part.len() - skip).min(room));
        (skip, room) = (0, room - take);
        (take > 0 || room > 0).then_some((part, from, take))
    });
    pieces.filter(|(_, _, take)| *take > 0).take(MAX_VECTORS)
}

/// Sends all of `parts` on `socket`.
pub(super) async fn send(socket: &Descriptor, mut parts: Parts) -> io::Result<()> {
    parts.message_mut().advance(0);
    while !parts.message().parts.is_empty() {
        let completion = with_core(|core| core.engine.send_vectored(socket, parts)).await;
        let (returned, result) = taken_apart(completion);
        parts = returned;
        match result? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            bytes => parts.message_mut().advance(bytes as usize),
        }
    }
    Ok(())
}

/// Sends `parts` on `socket` until `stop` says so, which is asked whenever a system call has taken another `interval`;
/// that call's completion is awaited. Returns how many bytes were sent.
pub(super) async fn send_unless(
    socket: &Descriptor,
    mut parts: Parts,
    interval: Duration,
    stop: &dyn Fn() -> bool,
) -> io::Result<usize> {
    parts.message_mut().advance(0);
    let mut sent = 0;
    while !parts.message().parts.is_empty() {
        let mut operation = with_core(|core| core.engine.send_vectored(socket, parts));
        let mut stopped = false;
        let completion = loop {
            match timeout(interval, &mut operation).await {
                Ok(completion) => break completion,
                Err(_) if !stopped && stop() => {
                    stopped = true;
                    operation.cancel();
                }
                Err(_) => {}
            }
        };
        let (returned, result) = taken_apart(completion);
        parts = returned;
        match result {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => {
                sent += bytes as usize;
                parts.message_mut().advance(bytes as usize);
            }
            Err(error) if stopped && error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(error) => return Err(error),
        }
        if stopped {
            break;
        }
    }
    Ok(sent)
}

fn taken_apart(completion: Completion) -> (Parts, io::Result<u32>) {
    let Resources::Vectored(returned) = completion.resources else {
        unreachable!("the engine hands back what it was given")
    };
    (returned, completion.result)
}
