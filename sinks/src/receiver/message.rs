//! One message while it comes in: unstuffing, checksums, and the memory it may take.

use std::net::IpAddr;
use std::rc::Rc;

use chasqui_protocol::peer::peer_of;
use chasqui_protocol::smtp::data::{Unstuff, unstuff, unstuff_with};
use chasqui_protocol::stamp::{Verification, Verifier};
use chasqui_runtime::sim;

use super::Receiver;
use super::bounce::LOOKED_AT_MAX;
use super::memory::{Grant, Memory};

/// Memory of a connection's buffer that no permit is needed for, and that it keeps between messages.
pub(super) const FREE_BYTES: usize = 64 * 1024;
/// Memory is taken in steps of this, when a message is larger than was declared.
const STEP_BYTES: usize = 1 << 20;

/// What is kept of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// All of it, for mailboxes.
    Everything,
    /// Its start, because it is a bounce to be read.
    Start,
    /// Nothing: checksums only.
    Nothing,
}

/// What a message of about `declared` octets takes, with our own fields.
fn wanted(declared: u64) -> usize {
    usize::try_from(declared).unwrap_or(usize::MAX).saturating_add(FREE_BYTES / 2)
}

/// Whether a message of about `declared` octets could ever be kept.
pub(super) fn may_fit(memory: &Memory, declared: u64) -> bool {
    let wanted = wanted(declared);
    wanted <= FREE_BYTES || memory.may_fit(wanted)
}

/// A message coming in. One per connection, reused.
pub(super) struct Incoming {
    receiver: Rc<Receiver>,
    keep: Keep,
    bytes: Vec<u8>,
    /// Octets of our own fields at the start of `bytes`.
    prefix: usize,
    unstuff: Unstuff,
    verifier: Verifier,
    grant: Grant,
    /// There was no memory for the rest.
    overflowed: bool,
}

impl Incoming {
    pub(super) fn new(receiver: Rc<Receiver>, client: IpAddr) -> Incoming {
        Incoming {
            grant: receiver.memory.grant(peer_of(client)),
            receiver,
            keep: Keep::Nothing,
            bytes: Vec::new(),
            prefix: 0,
            unstuff: Unstuff::default(),
            verifier: Verifier::new(),
            overflowed: false,
        }
    }

    /// Gets ready for a message of about `declared` octets. False: there is no memory for it now.
    pub(super) async fn begin(&mut self, keep: Keep, declared: u64) -> bool {
        self.reset();
        self.keep = keep;
        let wanted = wanted(declared);
        if keep != Keep::Everything || wanted <= FREE_BYTES {
            return true;
        }
        if !self.receiver.memory.wait(&mut self.grant, wanted).await {
            return false;
        }
        self.bytes.reserve_exact(wanted);
        true
    }

    /// The buffer for our own fields, before the first piece.
    pub(super) fn write_prefix(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.prefix = self.bytes.len();
    }

    /// Takes a piece in wire form.
    pub(super) fn push(&mut self, wire: &[u8]) {
        match self.keep {
            Keep::Everything => {
                if self.overflowed || !self.make_room(wire.len()) {
                    return self.overflow();
                }
                if self.bytes.len() == self.prefix
                    && self.prefix > 0
                    && matches!(wire.first(), Some(b' ' | b'\t'))
                {
                    // It would go on with our last field. Behind an empty line it is text.
                    self.write_prefix(|bytes| bytes.extend_from_slice(b"\r\n"));
                }
                let start = self.bytes.len();
                match sim::PlantedFault::NoUnstuffing.is_planted() {
                    true => self.bytes.extend_from_slice(wire),
                    false => unstuff(&mut self.unstuff, wire, &mut self.bytes),
                }
                self.verifier.push(&self.bytes[start..]);
            }
            Keep::Start => {
                let (bytes, verifier) = (&mut self.bytes, &mut self.verifier);
                unstuff_with(&mut self.unstuff, wire, |piece| {
                    let room = LOOKED_AT_MAX.saturating_sub(bytes.len());
                    bytes.extend_from_slice(&piece[..piece.len().min(room)]);
                    verifier.push(piece);
                });
            }
            Keep::Nothing => {
                let verifier = &mut self.verifier;
                unstuff_with(&mut self.unstuff, wire, |piece| verifier.push(piece));
            }
        }
    }

    /// The verdict, or `None` when there was no memory for the message.
    pub(super) fn finish(&mut self) -> Option<Verification> {
        let verification = self.verifier.finish();
        (!self.overflowed).then_some(verification)
    }

    /// What was kept, with our own fields in front.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What was kept, as it was received.
    pub(super) fn received(&self) -> &[u8] {
        &self.bytes[self.prefix..]
    }

    /// Gives back the memory of a large message.
    pub(super) fn reset(&mut self) {
        self.bytes.clear();
        if !self.grant.is_empty() {
            self.bytes.shrink_to(FREE_BYTES);
            self.grant.clear();
        }
        self.prefix = 0;
        self.unstuff = Unstuff::default();
        self.verifier.finish();
        self.overflowed = false;
    }

    fn make_room(&mut self, more: usize) -> bool {
        let needed = self.bytes.len() + more;
        if needed <= self.bytes.capacity() {
            return true;
        }
        if needed <= FREE_BYTES {
            // Doubling would pass the limit unseen.
            let target = needed.next_power_of_two().clamp(4096, FREE_BYTES);
            self.bytes.reserve_exact(target - self.bytes.len());
            return true;
        }
        let step = more.max(STEP_BYTES).max(self.bytes.capacity() / 2);
        if !self.receiver.memory.try_add(&mut self.grant, step) {
            return false;
        }
        self.bytes.reserve_exact(step);
        true
    }

    fn overflow(&mut self) {
        self.overflowed = true;
        self.bytes = Vec::new();
        self.grant.clear();
    }
}
