//! Messages that a start has found, on their way into the queue.

use std::collections::VecDeque;
use std::rc::Rc;

use super::assembly::FoundMessage;
use crate::spool::format::headers::RECORD_HEADER;
use crate::spool::format::id::MessageId;
use crate::spool::format::message::Envelope;
use crate::spool::format::scan::envelope_at;
use crate::spool::format::state::Deferral;
use crate::spool::log::handle::Log;

/// Messages given at once: those envelopes are in memory beside the queue.
const BATCH: usize = 256;
/// Bytes read at once: the envelopes of a [`BATCH`] of small messages lie within it, and a shard holds one window.
const WINDOW: u32 = 1 << 20;

/// The messages with recipients left that a start has found.
///
/// Their envelopes are read when they are taken, in batches: they are never in memory all at once.
#[derive(Default)]
pub struct RecoveredMessages {
    parts: VecDeque<Part>,
    unreadable: Vec<(Rc<Log>, FoundMessage)>,
    left: usize,
}

/// Those of one directory, in order of their ids.
struct Part {
    log: Rc<Log>,
    messages: std::vec::IntoIter<FoundMessage>,
}

/// A message found at the start.
#[derive(Debug)]
pub struct RecoveredMessage {
    /// Its id.
    pub id: MessageId,
    /// Its envelope.
    pub envelope: Envelope,
    /// The recipients that are left.
    pub open: Vec<OpenRecipient>,
}

/// A recipient that is neither delivered nor bounced.
#[derive(Debug)]
pub struct OpenRecipient {
    /// Index in the envelope.
    pub index: u32,
    /// When to try again, if it was deferred.
    pub deferral: Option<Deferral>,
}

impl RecoveredMessages {
    pub(crate) fn add(&mut self, log: Rc<Log>, messages: Vec<FoundMessage>) {
        self.left += messages.len();
        self.parts.push_back(Part { log, messages: messages.into_iter() });
    }

    /// Messages that have not been taken.
    pub fn len(&self) -> usize {
        self.left
    }

    /// Have all been taken?
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Takes the next messages, a few hundred at most; `None` at the end. Whose envelope the disk does not give now
    /// stays behind, and a line in the log says so: [`RecoveredMessages::again`]. Not to be cancelled.
    pub async fn next(&mut self) -> Option<Vec<RecoveredMessage>> {
        loop {
            let part = self.parts.front_mut()?;
            let batch = part.take_near();
            let Some(first) = batch.first() else {
                self.parts.pop_front();
                continue;
            };
            let log = part.log.clone();
            let from = first.head_offset;
            let length = batch.iter().map(FoundMessage::head_end).max().unwrap_or(from) - from;
            // Meanwhile the segment may have been cleaned and may be another one: then each is looked up.
            let segment = log.inner().segments.table.segment(first.head.ordinal).cloned();
            let window = match segment {
                Some(segment) => {
                    segment.read_leased(u64::from(from), length as usize).await.unwrap_or_default()
                }
                None => Vec::new(),
            };
            let mut messages = Vec::with_capacity(batch.len());
            for found in batch {
                let id = MessageId(found.id);
                let at = window.get((found.head_offset - from) as usize..).unwrap_or_default();
                let envelope = match envelope_at(at, found.id) {
                    Some(envelope) => Ok(Some(envelope)),
                    None => log.envelope(id).await,
                };
                match envelope {
                    Ok(Some(envelope)) => messages.push(found.with(envelope)),
                    Ok(None) => debug_assert!(false, "{id} was finished before anybody knew of it"),
                    Err(error) => {
                        log::warn!("the envelope of {id} cannot be read: {error}");
                        self.unreadable.push((log.clone(), found));
                    }
                }
            }
            self.left -= messages.len();
            return Some(messages);
        }
    }

    /// After the end: lets those that could not be read be taken; `false` when there are none.
    pub fn again(&mut self) -> bool {
        for (log, found) in self.unreadable.drain(..) {
            self.parts.push_back(Part { log, messages: vec![found].into_iter() });
        }
        !self.parts.is_empty()
    }
}

impl Part {
    /// The next messages whose envelopes can be read together.
    fn take_near(&mut self) -> Vec<FoundMessage> {
        let left = self.messages.as_slice();
        let Some(first) = left.first() else { return Vec::new() };
        let near = |found: &&FoundMessage| {
            found.head.ordinal == first.head.ordinal
                && found.head_offset >= first.head_offset
                && found.head_end() - first.head_offset <= WINDOW
        };
        let count = left.iter().take(BATCH).take_while(near).count().max(1);
        self.messages.by_ref().take(count).collect()
    }
}

impl FoundMessage {
    /// Behind the envelope.
    fn head_end(&self) -> u32 {
        self.head_offset + RECORD_HEADER as u32 + self.meta_length
    }

    fn with(self, envelope: Envelope) -> RecoveredMessage {
        let FoundMessage { id, finished, deferrals, .. } = self;
        let deferral = |index: u32| {
            let at = deferrals.binary_search_by_key(&index, |(index, _)| *index).ok()?;
            Some(deferrals[at].1.clone())
        };
        let open = finished.open().map(|index| OpenRecipient { index, deferral: deferral(index) }).collect();
        RecoveredMessage { id: MessageId(id), envelope, open }
    }
}
