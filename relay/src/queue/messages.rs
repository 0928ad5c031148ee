//! What is queued: messages, and which of their recipients are still to be served.
//!
//! A [`Job`] is the duty to serve some recipients of one message. Every open recipient belongs to exactly one job,
//! and a job is in exactly one place: waiting for a route, at a site, in the retry timers, or with a connection.
//! A job cannot be copied, so the type keeps that. It is eight bytes; a message costs one slab entry, and its
//! envelope stays in memory only while there is room for it.

use std::collections::VecDeque;
use std::rc::Rc;

use slab::Slab;

use crate::spool::{Envelope, MessageId};

/// The duty to serve some recipients of one message.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Job {
    message: u32,
    part: u32,
}

/// `Job::part` of a job for every open recipient of its message.
const ALL: u32 = u32::MAX;

/// Envelopes kept in memory per shard: those of the newest messages, which are tried at once. The others are read from
/// the spool when needed.
const ENVELOPES_MAX: usize = 8192;

#[derive(Debug)]
struct Message {
    id: MessageId,
    envelope: Option<Rc<Envelope>>,
    /// Wall clock.
    arrived_ms: u64,
    recipients: u32,
    open: u32,
    attempts: u32,
    /// One bit per finished recipient; made when the first of several is finished.
    finished: Option<Box<[u64]>>,
}

/// Memory of a queued message in the slab: an entry is a message or the place of the next vacant one.
#[cfg(test)]
pub(super) const ENTRY_BYTES: usize = size_of::<Message>() + size_of::<usize>();

impl Message {
    fn is_open(&self, recipient: u32) -> bool {
        self.finished.as_ref().is_none_or(|bits| bits[recipient as usize / 64] >> (recipient % 64) & 1 == 0)
    }

    fn finish(&mut self, recipient: u32) {
        debug_assert!(self.is_open(recipient) && self.open > 0, "a recipient is finished once");
        self.open -= 1;
        if self.recipients > 1 {
            let words = (self.recipients as usize).div_ceil(64);
            let bits = self.finished.get_or_insert_with(|| vec![0; words].into());
            bits[recipient as usize / 64] |= 1 << (recipient % 64);
        }
    }
}

/// The queued messages of a shard.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    messages: Slab<Message>,
    /// Recipients of jobs that do not serve all of their message.
    parts: Slab<Box<[u32]>>,
    envelopes: usize,
    /// Messages that came with an envelope, the oldest first; those that have lost it since are still in here.
    keepers: VecDeque<(u32, MessageId)>,
    open_recipients: u64,
}

/// A message's identity and age, as its deliverer needs them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) id: MessageId,
    /// Wall clock.
    pub(crate) arrived_ms: u64,
}

/// One message in a listing of the queue.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) id: MessageId,
    pub(crate) envelope: Option<Rc<Envelope>>,
    /// Indices of the recipients that are still open.
    pub(crate) open: Vec<u32>,
}

impl Messages {
    /// Takes a message in; the job is for all its recipients.
    pub(crate) fn add(&mut self, id: MessageId, envelope: Rc<Envelope>) -> Job {
        let recipients = envelope.recipients.len() as u32;
        self.insert(id, envelope, recipients, 0)
    }

    /// Takes in a message of which only the recipients `open` are to be served: one that the spool recovered.
    pub(crate) fn add_open(
        &mut self,
        id: MessageId,
        envelope: Rc<Envelope>,
        open: &[u32],
        attempts: u32,
    ) -> Job {
        let recipients = envelope.recipients.len() as u32;
        let job = self.insert(id, envelope, recipients, attempts);
        if open.len() < recipients as usize {
            let message = &mut self.messages[job.message as usize];
            let mut rest = open.iter().copied().peekable();
            for recipient in 0..recipients {
                if rest.next_if_eq(&recipient).is_none() {
                    message.finish(recipient);
                    self.open_recipients -= 1;
                }
            }
        }
        job
    }

    fn insert(&mut self, id: MessageId, envelope: Rc<Envelope>, recipients: u32, attempts: u32) -> Job {
        let arrived_ms = envelope.arrived_ms;
        self.open_recipients += u64::from(recipients);
        let envelope = Some(envelope);
        let message =
            Message { id, envelope, arrived_ms, recipients, open: recipients, attempts, finished: None };
        let key = self.messages.insert(message) as u32;
        self.envelopes += 1;
        self.keepers.push_back((key, id));
        while self.envelopes > ENVELOPES_MAX || self.keepers.len() > 2 * ENVELOPES_MAX {
            self.drop_oldest_envelope();
        }
        Job { message: key, part: ALL }
    }

    fn drop_oldest_envelope(&mut self) {
        let Some((key, id)) = self.keepers.pop_front() else { return };
        let message = self.messages.get_mut(key as usize).filter(|message| message.id == id);
        let dropped = message.and_then(|message| message.envelope.take());
        self.envelopes -= usize::from(dropped.is_some());
    }

    pub(crate) fn facts(&self, job: &Job) -> Facts {
        let Message { id, arrived_ms, .. } = self.messages[job.message as usize];
        Facts { id, arrived_ms }
    }

    /// The message's envelope, if it is in memory.
    pub(crate) fn envelope(&self, job: &Job) -> Option<Rc<Envelope>> {
        self.messages[job.message as usize].envelope.clone()
    }

    /// Drops the message's envelope from memory: it has to wait.
    pub(crate) fn forget_envelope(&mut self, job: &Job) {
        let forgotten = self.messages[job.message as usize].envelope.take();
        self.envelopes -= usize::from(forgotten.is_some());
    }

    /// Appends the indices of the job's recipients, ascending.
    pub(crate) fn recipients(&self, job: &Job, out: &mut Vec<u32>) {
        let message = &self.messages[job.message as usize];
        match job.part {
            ALL if message.finished.is_none() => out.extend(0..message.recipients),
            ALL => out.extend((0..message.recipients).filter(|&recipient| message.is_open(recipient))),
            part => out.extend_from_slice(&self.parts[part as usize]),
        }
    }

    /// Replaces a job by one per group of its recipients; together the groups are the job's recipients.
    pub(crate) fn split(&mut self, job: Job, groups: &[Vec<u32>]) -> Vec<Job> {
        if job.part != ALL {
            self.parts.remove(job.part as usize);
        }
        let parts = groups.iter().map(|group| self.parts.insert(group.as_slice().into()));
        parts.map(|part| Job { message: job.message, part: part as u32 }).collect()
    }

    /// Makes one job of several of the same message; `None` of none.
    pub(crate) fn join(&mut self, mut jobs: Vec<Job>) -> Option<Job> {
        let last = jobs.pop()?;
        if jobs.is_empty() {
            return Some(last);
        }
        let mut recipients = Vec::new();
        for job in jobs.iter().chain([&last]) {
            debug_assert_eq!(job.message, last.message, "jobs of one message");
            self.recipients(job, &mut recipients);
        }
        recipients.sort_unstable();
        for job in jobs {
            self.parts.remove(job.part as usize);
        }
        self.split(last, &[recipients]).pop()
    }

    /// One more attempt has failed.
    pub(crate) fn count_attempt(&mut self, job: &Job) -> u32 {
        let message = &mut self.messages[job.message as usize];
        message.attempts = message.attempts.saturating_add(1);
        message.attempts
    }

    /// Marks recipients of the job as finished. Gives the job back while it has others; a message without open
    /// recipients is gone.
    pub(crate) fn finish(&mut self, job: Job, finished: &[u32]) -> Option<Job> {
        let message = &mut self.messages[job.message as usize];
        finished.iter().for_each(|&recipient| message.finish(recipient));
        self.open_recipients -= finished.len() as u64;
        if message.open == 0 {
            self.envelopes -= usize::from(message.envelope.is_some());
            self.messages.remove(job.message as usize);
            if job.part != ALL {
                self.parts.remove(job.part as usize);
            }
            return None;
        }
        if job.part == ALL || finished.is_empty() {
            return Some(job);
        }
        let part = &mut self.parts[job.part as usize];
        *part = part.iter().copied().filter(|recipient| !finished.contains(recipient)).collect();
        if part.is_empty() {
            self.parts.remove(job.part as usize);
            return None;
        }
        Some(job)
    }

    /// Messages with an open recipient.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Recipients still to be served.
    pub(crate) fn open_recipients(&self) -> u64 {
        self.open_recipients
    }

    /// Up to `count` messages from the place `cursor` on, and the place to go on from; `None` at the end. A message
    /// that is queued from before the first call until after the last is seen once.
    pub(crate) fn list(&self, cursor: usize, count: usize) -> (Vec<Listed>, Option<usize>) {
        let end = (cursor + count).min(self.messages.capacity());
        let places = (cursor..end).filter_map(|place| self.messages.get(place));
        let listed = places.map(|message| Listed {
            id: message.id,
            envelope: message.envelope.clone(),
            open: (0..message.recipients).filter(|&recipient| message.is_open(recipient)).collect(),
        });
        let listed = listed.collect();
        (listed, (end < self.messages.capacity()).then_some(end))
    }
}
