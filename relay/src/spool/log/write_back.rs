//! Class `memory`: messages that were answered 250 and stand in no file.
//!
//! Such a message is *unwritten*: envelope and body are in memory, and it is delivered from there. It is written out, as
//! an ordinary record, when it turns out that it has to wait: at its first deferral; after `WriteBackLimits::time`,
//! whatever it waits for; when they have more than `WriteBackLimits::bytes`, the oldest first; and at the
//! end. From then until its group has a place it is *leaving*: it is still read from memory, and its states
//! enter behind its record, in a group of their own. A process that is killed between the two makes a duplicate of
//! what had been delivered before; power loss may, as in class `buffered`.
//!
//! Written at once, as in class `buffered`, is a message of several records, and one that comes with the state of
//! a message that survives a crash: a notification must not be lost where the state that it tells of is kept.
//!
//! Space on the disk is kept for each of them, so that it can be written out.

use std::collections::VecDeque;
use std::rc::Rc;

use chasqui_runtime::{HashMap, Instant};

use super::recipient_set::RecipientSet;
use crate::spool::format::headers::flag;
use crate::spool::format::id::MessageId;
use crate::spool::format::message::{Envelope, decode_message};
use crate::spool::format::state::State;

/// The messages of a log that are in memory alone.
#[derive(Debug, Default)]
pub(crate) struct WriteBack {
    pub(super) messages: HashMap<MessageId, Unwritten>,
    /// Since when; some are unwritten no more.
    pub(super) order: VecDeque<(Instant, MessageId)>,
    pub(super) leaving: HashMap<MessageId, Unwritten>,
    /// Bytes of `messages`.
    pub(super) bytes: usize,
    /// Committed and not written, whether finished or not.
    pub(super) unwritten: u64,
}

/// A message that is in memory alone.
#[derive(Debug)]
pub(super) struct Unwritten {
    /// Payload of its record before the body.
    pub(super) meta: Box<[u8]>,
    pub(super) body: Rc<[u8]>,
    /// Of its record.
    pub(super) flags: u8,
    pub(super) finished: RecipientSet,
    /// Those of its states that its record is to be followed by.
    pub(super) states: Vec<(Vec<u32>, State)>,
    /// Space kept on the disk.
    pub(super) reserved: u64,
}

impl Unwritten {
    pub(super) fn bytes(&self) -> usize {
        self.meta.len() + self.body.len()
    }

    pub(super) fn record(&mut self, recipients: &[u32], state: &State) {
        let alike = self.states.iter_mut().find(|(_, noted)| state.is_final() && noted == state);
        match alike {
            Some((noted, _)) => noted.extend_from_slice(recipients),
            None => self.states.push((recipients.to_vec(), state.clone())),
        }
    }
}

impl WriteBack {
    /// Is nothing in memory alone?
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.leaving.is_empty()
    }

    fn any(&self, id: MessageId) -> Option<&Unwritten> {
        self.messages.get(&id).or_else(|| self.leaving.get(&id))
    }

    /// The envelope of a message that is in memory.
    pub(crate) fn envelope(&self, id: MessageId) -> Option<Envelope> {
        let unwritten = self.any(id)?;
        let is = |wanted: u8| unwritten.flags & wanted != 0;
        let meta = decode_message(&unwritten.meta, is(flag::EIGHT_BIT), is(flag::STUFFED));
        Some(meta.expect("it was encoded here").envelope)
    }

    /// The body of a message that is in memory.
    pub(crate) fn body(&self, id: MessageId) -> Option<Rc<[u8]>> {
        self.any(id).map(|unwritten| unwritten.body.clone())
    }

    /// Messages with recipients left that have no place in a segment.
    pub(crate) fn len(&self) -> usize {
        self.messages.len() + self.leaving.len()
    }

    /// Messages that are in memory alone, and their bytes.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.messages.len(), self.bytes)
    }

    /// Messages committed that were never written.
    pub(crate) fn unwritten(&self) -> u64 {
        self.unwritten
    }

    /// The oldest of them, and since when it is there.
    pub(crate) fn oldest(&mut self) -> Option<(Instant, MessageId)> {
        while let Some(&(since, id)) = self.order.front() {
            if self.messages.contains_key(&id) {
                return Some((since, id));
            }
            self.order.pop_front();
        }
        None
    }

    pub(super) fn remove(&mut self, id: MessageId) -> Option<Unwritten> {
        let unwritten = self.messages.remove(&id)?;
        self.bytes -= unwritten.bytes();
        Some(unwritten)
    }
}
