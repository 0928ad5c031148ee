//! What is queued: messages, and which of their recipients are still to be served.
//!
//! A [`Job`] is the duty to serve some recipients of one message. Every open recipient belongs to exactly one job,
//! and a job is in exactly one place: waiting for a route, at a site, in the retry timers, or with a connection.
//! A job cannot be copied, so the type keeps that. It is eight bytes; a message costs one slab entry, and its
//! envelope stays in memory only while there is room for it.

use std::collections::VecDeque;
use std::rc::Rc;

use chasqui_runtime::Instant;
use slab::Slab;

use crate::spool::{Envelope, MessageId};

/// The duty to serve some recipients of one message.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Job {
    message: u32,
    part: u32,
}

/// A kind of attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    First,
    Retry,
    /// A retry of which nothing more is to be told to its sender before its end.
    Told,
}

/// `Job::part` of a job for every open recipient of its message.
const ALL: u32 = u32::MAX;

/// Envelopes kept in memory per shard: those of the newest messages, which are tried at once. The others are read from
/// the spool when needed.
const ENVELOPES_MAX: usize = 8192;
/// Octets of them, about: those of messages with many recipients are large.
const ENVELOPE_OCTETS_MAX: usize = 16 << 20;
/// Octets of an address beside its text.
const ADDRESS_OCTETS: usize = 40;

#[derive(Debug)]
struct Message {
    id: MessageId,
    envelope: Option<Rc<Envelope>>,
    /// By the relay's clock.
    arrived_ms: u64,
    /// `None` of one recipient.
    several: Option<Box<Several>>,
    /// Of the job for all recipients.
    progress: Progress,
}

/// The recipients of a message that has more than one.
#[derive(Debug)]
struct Several {
    recipients: u32,
    open: u32,
    /// One bit per recipient.
    finished: Box<[u64]>,
}

/// A job for some of a message's recipients.
#[derive(Debug)]
struct Part {
    recipients: Box<[u32]>,
    progress: Progress,
}

/// By when the next event of a job is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// It waits in a line, and whoever serves the line answers for it.
    Line,
    /// The schedule, or the time limits of what is being done.
    By(Instant),
}

/// How far a job is.
#[derive(Debug, Clone, Copy)]
struct Progress {
    /// When the next event is promised, in seconds of the monotonic clock.
    by_s: u32,
    /// That have failed.
    attempts: u16,
    place: Place,
    /// Of its delay nothing more is to be told.
    told: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Line,
    Elsewhere,
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

impl Progress {
    /// Of a job that its maker places at once.
    fn new(attempts: u32) -> Progress {
        let attempts = u16::try_from(attempts).unwrap_or(u16::MAX);
        Progress { by_s: 0, attempts, place: Place::Line, told: false }
    }

    fn promise(&mut self, promise: Promise) {
        match promise {
            Promise::Line => self.place = Place::Line,
            Promise::By(at) => {
                self.place = Place::Elsewhere;
                self.by_s = u32::try_from(at.as_nanos().div_ceil(NANOS_PER_SECOND)).unwrap_or(u32::MAX);
            }
        }
    }

    /// Seconds since the promise was broken.
    fn overdue_s(self, now_s: u32) -> Option<u32> {
        (self.place == Place::Elsewhere && self.by_s < now_s).then(|| now_s - self.by_s)
    }
}

/// Memory of a queued message in the slab. An entry of a slab is a message or the place of the next vacant one; which
/// of them needs no octet of its own.
#[cfg(test)]
pub(super) const ENTRY_BYTES: usize = {
    enum Entry {
        _Vacant(usize),
        _Occupied(Message),
    }
    assert!(size_of::<Entry>() == size_of::<Message>());
    size_of::<Entry>()
};

impl Several {
    fn is_open(&self, recipient: u32) -> bool {
        self.finished[recipient as usize / 64] >> (recipient % 64) & 1 == 0
    }
}

impl Message {
    fn recipients(&self) -> u32 {
        self.several.as_ref().map_or(1, |several| several.recipients)
    }

    fn is_open(&self, recipient: u32) -> bool {
        self.several.as_ref().is_none_or(|several| several.is_open(recipient))
    }

    fn open(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.recipients()).filter(|&recipient| self.is_open(recipient))
    }

    /// Marks recipients as finished; whether any is left.
    fn finish(&mut self, finished: &[u32]) -> bool {
        let Some(several) = &mut self.several else { return finished.is_empty() };
        for &recipient in finished {
            debug_assert!(several.is_open(recipient) && several.open > 0, "a recipient is finished once");
            several.open -= 1;
            several.finished[recipient as usize / 64] |= 1 << (recipient % 64);
        }
        several.open > 0
    }
}

/// The queued messages of a shard.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    messages: Slab<Message>,
    /// Recipients of jobs that do not serve all of their message.
    parts: Slab<Part>,
    envelopes: usize,
    /// What they take, about.
    envelope_octets: usize,
    /// Messages that came with an envelope, the oldest first; those that have lost it since are still in here.
    keepers: VecDeque<(u32, MessageId)>,
    open_recipients: u64,
}

/// Jobs that have gone without an event for longer than was promised.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Overdue {
    pub(crate) jobs: u64,
    /// Seconds since the oldest of the promises was broken.
    pub(crate) oldest_s: u32,
}

impl Overdue {
    pub(crate) fn add(&mut self, jobs: usize, broken_s: u32) {
        self.jobs += jobs as u64;
        self.oldest_s = self.oldest_s.max(broken_s);
    }

    pub(crate) fn join(&mut self, other: Overdue) {
        self.jobs += other.jobs;
        self.oldest_s = self.oldest_s.max(other.oldest_s);
    }
}

/// A message's identity and age, as its deliverer needs them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) id: MessageId,
    /// By the relay's clock.
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

/// What an envelope takes, about.
fn octets(envelope: &Envelope) -> usize {
    let recipients = envelope.recipients.iter().map(|recipient| recipient.len() + ADDRESS_OCTETS);
    recipients.sum::<usize>() + envelope.dsn.as_ref().map_or(0, |dsn| dsn.octets())
}

impl Messages {
    /// Takes a message in; the job is for all its recipients.
    pub(crate) fn add(&mut self, id: MessageId, envelope: Rc<Envelope>) -> Job {
        let recipients = envelope.recipients.len() as u32;
        self.insert(id, envelope, recipients, 0)
    }

    /// Takes in a message of which only the recipients `open`, ascending, are to be served: one that the spool
    /// recovered.
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
            let finished: Vec<u32> =
                (0..recipients).filter(|recipient| open.binary_search(recipient).is_err()).collect();
            message.finish(&finished);
            self.open_recipients -= finished.len() as u64;
        }
        job
    }

    fn insert(&mut self, id: MessageId, envelope: Rc<Envelope>, recipients: u32, attempts: u32) -> Job {
        let arrived_ms = envelope.arrived_ms;
        self.envelope_octets += octets(&envelope);
        self.open_recipients += u64::from(recipients);
        let envelope = Some(envelope);
        let several = (recipients > 1).then(|| {
            let finished = vec![0; recipients.div_ceil(64) as usize].into();
            Box::new(Several { recipients, open: recipients, finished })
        });
        let progress = Progress::new(attempts);
        let message = Message { id, envelope, arrived_ms, several, progress };
        let key = self.messages.insert(message) as u32;
        self.envelopes += 1;
        self.keepers.push_back((key, id));
        let too_many = |messages: &Messages| {
            let is_large = messages.envelope_octets > ENVELOPE_OCTETS_MAX && messages.envelopes > 1;
            is_large || messages.envelopes > ENVELOPES_MAX || messages.keepers.len() > 2 * ENVELOPES_MAX
        };
        while too_many(self) {
            self.drop_oldest_envelope();
        }
        Job { message: key, part: ALL }
    }

    fn drop_oldest_envelope(&mut self) {
        let Some((key, id)) = self.keepers.pop_front() else { return };
        let message = self.messages.get_mut(key as usize).filter(|message| message.id == id);
        let dropped = message.and_then(|message| message.envelope.take());
        self.dropped(dropped.as_deref());
    }

    /// An envelope is no longer in memory.
    fn dropped(&mut self, envelope: Option<&Envelope>) {
        if let Some(envelope) = envelope {
            self.envelopes -= 1;
            self.envelope_octets = self.envelope_octets.saturating_sub(octets(envelope));
        }
    }

    /// By the relay's clock a message has arrived at `arrived_ms`, whatever its envelope says. Before its jobs have a place.
    pub(crate) fn set_arrival(&mut self, job: &Job, arrived_ms: u64) {
        self.messages[job.message as usize].arrived_ms = arrived_ms;
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
        self.dropped(forgotten.as_deref());
    }

    /// Appends the indices of the job's recipients, ascending.
    pub(crate) fn recipients(&self, job: &Job, out: &mut impl Extend<u32>) {
        let message = &self.messages[job.message as usize];
        match job.part {
            ALL => out.extend(message.open()),
            part => out.extend(self.parts[part as usize].recipients.iter().copied()),
        }
    }

    /// Replaces a job by one per group of its recipients; together the groups are the job's recipients.
    pub(crate) fn split(&mut self, job: Job, groups: &[Vec<u32>]) -> Vec<Job> {
        // From now on its parts are watched, each with its attempts.
        self.promise(&job, Promise::Line);
        let progress = *self.progress(&job);
        if job.part != ALL {
            self.parts.remove(job.part as usize);
        }
        let part = |group: &Vec<u32>| Part { recipients: group.as_slice().into(), progress };
        let parts = groups.iter().map(|group| self.parts.insert(part(group)));
        parts.map(|part| Job { message: job.message, part: part as u32 }).collect()
    }

    /// Splits a job in two, whose recipients are all of its own.
    pub(crate) fn split_in_two(&mut self, job: Job, first: Vec<u32>, second: Vec<u32>) -> (Job, Job) {
        let mut jobs = self.split(job, &[first, second]);
        let second = jobs.remove(1);
        (jobs.remove(0), second)
    }

    /// Makes one job of several of the same message; `None` of none.
    pub(crate) fn join(&mut self, mut jobs: Vec<Job>) -> Option<Job> {
        let last = jobs.pop()?;
        if jobs.is_empty() {
            return Some(last);
        }
        let mut recipients = Vec::new();
        let all_told = jobs.iter().chain([&last]).all(|job| self.is_told(job));
        self.progress(&last).told = all_told;
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

    fn progress(&mut self, job: &Job) -> &mut Progress {
        match job.part {
            ALL => &mut self.messages[job.message as usize].progress,
            part => &mut self.parts[part as usize].progress,
        }
    }

    /// One more attempt has failed.
    pub(crate) fn count_attempt(&mut self, job: &Job) -> u32 {
        let progress = self.progress(job);
        progress.attempts = progress.attempts.saturating_add(1);
        u32::from(progress.attempts)
    }

    /// Attempts that have failed.
    pub(crate) fn attempts(&self, job: &Job) -> u32 {
        u32::from(match job.part {
            ALL => self.messages[job.message as usize].progress.attempts,
            part => self.parts[part as usize].progress.attempts,
        })
    }

    /// What kind of attempt the next one is.
    pub(crate) fn next_attempt(&mut self, job: &Job) -> Attempt {
        match self.progress(job) {
            Progress { told: true, .. } => Attempt::Told,
            Progress { attempts: 0, .. } => Attempt::First,
            _ => Attempt::Retry,
        }
    }

    /// Of the delay of a job nothing more is to be told: its sender was warned, or wants no warning.
    pub(crate) fn set_told(&mut self, job: &Job) {
        self.progress(job).told = true;
    }

    /// Whether [`Messages::set_told`] was said of a job.
    pub(crate) fn is_told(&self, job: &Job) -> bool {
        match job.part {
            ALL => self.messages[job.message as usize].progress.told,
            part => self.parts[part as usize].progress.told,
        }
    }

    /// Notes by when the next event of a job is promised.
    pub(crate) fn promise(&mut self, job: &Job, promise: Promise) {
        self.progress(job).promise(promise);
    }

    /// Jobs in up to `count` places from `cursor` on whose promise is broken, how long for at most, and where to go on
    /// from; `None` at the end.
    pub(crate) fn overdue(&self, cursor: usize, count: usize, now: Instant) -> (Overdue, Option<usize>) {
        let now_s = u32::try_from(now.as_nanos() / NANOS_PER_SECOND).unwrap_or(u32::MAX);
        let places = self.messages.capacity().max(self.parts.capacity());
        let end = (cursor + count).min(places);
        let mut overdue = Overdue::default();
        for place in cursor..end {
            // A message whose job was split is watched by its parts.
            let whole = self.messages.get(place).map(|message| message.progress);
            let part = self.parts.get(place).map(|part| part.progress);
            for broken_s in whole.into_iter().chain(part).filter_map(|it| it.overdue_s(now_s)) {
                overdue.add(1, broken_s);
            }
        }
        (overdue, (end < places).then_some(end))
    }

    /// Marks recipients of the job as finished. Gives the job back while it has others; a message without open
    /// recipients is gone.
    pub(crate) fn finish(&mut self, job: Job, finished: &[u32]) -> Option<Job> {
        let message = &mut self.messages[job.message as usize];
        let is_left = message.finish(finished);
        self.open_recipients -= finished.len() as u64;
        if !is_left {
            let gone = self.messages.remove(job.message as usize);
            self.dropped(gone.envelope.as_deref());
            if job.part != ALL {
                self.parts.remove(job.part as usize);
            }
            return None;
        }
        if job.part == ALL || finished.is_empty() {
            return Some(job);
        }
        let part = &mut self.parts[job.part as usize].recipients;
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
            open: message.open().collect(),
        });
        let listed = listed.collect();
        (listed, (end < self.messages.capacity()).then_some(end))
    }

    /// What the envelopes in memory take, about.
    #[cfg(test)]
    pub(super) fn envelope_octets(&self) -> usize {
        self.envelope_octets
    }

    /// Octets allocated, without envelopes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.messages.capacity() * ENTRY_BYTES
            + self.parts.capacity() * size_of::<Part>()
            + self.keepers.capacity() * size_of::<(u32, MessageId)>()
    }
}
