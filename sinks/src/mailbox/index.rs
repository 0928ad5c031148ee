//! One mailbox: its messages, their flags, and who waits for changes.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chasqui_protocol::imap::flags::Flags;
use chasqui_runtime::channel::{Receiver, Sender, bounded};
use chasqui_runtime::fs::Slice;

use super::segments::Body;
use super::{Uid, lock};

/// A message in a mailbox. Clones share the body.
#[derive(Debug, Clone)]
pub struct Message {
    uid: u32,
    /// Octets of the header section with the empty line that ends it.
    header_size: u32,
    flags: Flags,
    form: Form,
    /// The mailbox's change count when the flags were last changed.
    changed: u64,
    /// There is NUL in it, which no literal of IMAP may have.
    nuls: bool,
    /// A reader has had its text.
    read: bool,
    /// Seconds since the Unix epoch.
    internal_date: u64,
    body: Body,
}

/// What a message needs on its way through POP3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// A line begins with a dot.
    pub(super) dots: bool,
    /// The last line ends in CR LF, or there is no line.
    pub(super) ended: bool,
}

/// Messages of a mailbox by flags, kept up to date as they change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Without `\Seen`.
    pub unseen: usize,
    /// With `\Deleted`.
    pub deleted: usize,
    /// Octets of those.
    pub deleted_octets: u64,
}

impl Counts {
    fn add(&mut self, message: &Message) {
        self.unseen += usize::from(!message.flags.contains(Flags::SEEN));
        if message.flags.contains(Flags::DELETED) {
            self.deleted += 1;
            self.deleted_octets += u64::from(message.size());
        }
    }

    fn remove(&mut self, message: &Message) {
        self.unseen -= usize::from(!message.flags.contains(Flags::SEEN));
        if message.flags.contains(Flags::DELETED) {
            self.deleted -= 1;
            self.deleted_octets -= u64::from(message.size());
        }
    }
}

impl Message {
    pub(super) fn new(body: Body, parts: &[&[u8]], internal_date: Duration) -> Message {
        let (header_size, form) = examine(parts);
        let internal_date = internal_date.as_secs();
        let nuls = parts.iter().any(|part| memchr::memchr(0, part).is_some());
        Message {
            uid: 0,
            header_size,
            flags: Flags::NONE,
            form,
            changed: 0,
            nuls,
            read: false,
            internal_date,
            body,
        }
    }

    /// The mailbox's change count when the flags were last changed.
    pub fn changed(&self) -> u64 {
        self.changed
    }

    /// A reader has had its text, or says so by `\Seen`. Kept where messages may be dropped.
    pub fn was_read(&self) -> bool {
        self.read || self.flags.contains(Flags::SEEN)
    }

    /// There is NUL in it.
    pub fn has_nuls(&self) -> bool {
        self.nuls
    }

    /// Unique identifier.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Octets.
    pub fn size(&self) -> u32 {
        self.body.size()
    }

    /// Octets of the header section with the empty line that ends it; all octets when there is no such line.
    pub fn header_size(&self) -> u32 {
        self.header_size
    }

    /// The flags, without `\Recent`, which belongs to sessions.
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// When the message was delivered, in seconds since the Unix epoch.
    pub fn internal_date(&self) -> u64 {
        self.internal_date
    }

    /// The bytes can stand in a POP3 response as they are.
    pub fn needs_no_stuffing(&self) -> bool {
        !self.form.dots && self.form.ended
    }

    /// A lease on part of the message, for sending. What lies behind its end is cut off.
    pub fn slice(&self, start: u32, length: u32) -> Slice {
        self.body.slice(start, length)
    }

    /// Part of the message, cut off at its end.
    pub fn read(&self, start: u32, length: u32) -> io::Result<Vec<u8>> {
        self.body.read(start, length)
    }
}

/// Header size and form of a message: line by line through its header section, and behind that in one search for a line
/// that begins with a dot.
pub(super) fn examine(parts: &[&[u8]]) -> (u32, Form) {
    let mut dots = false;
    let mut header_size = None;
    let (mut total, mut line_start, mut last) = (0, 0, 0);
    for part in parts.iter().filter(|part| !part.is_empty()) {
        dots |= line_start == total && part[0] == b'.';
        let mut from = 0;
        if header_size.is_none() {
            from = part.len();
            for newline in memchr::memchr_iter(b'\n', part) {
                let before = if newline == 0 { last } else { part[newline - 1] };
                if before != b'\r' {
                    continue;
                }
                let line_end = total + newline + 1;
                dots |= part.get(newline + 1) == Some(&b'.');
                if line_end - line_start == 2 {
                    header_size = Some(line_end as u32);
                    from = newline + 1;
                    break;
                }
                line_start = line_end;
            }
        }
        let body = &part[from..];
        dots |= from == 0 && last == b'\r' && body.starts_with(b"\n.");
        dots |= memchr::memmem::find(body, b"\r\n.").is_some();
        total += part.len();
        if part.ends_with(b"\r\n") || last == b'\r' && **part == *b"\n" {
            line_start = total;
        }
        last = part[part.len() - 1];
    }
    (header_size.unwrap_or(total as u32), Form { dots, ended: line_start == total })
}

/// A mailbox. Its state is reached through [`Mailbox::lock`], for short sections without waiting.
#[derive(Debug)]
pub struct Mailbox {
    uid_validity: NonZeroU32,
    /// A POP3 session has the maildrop locked (RFC 1939 section 4).
    maildrop_locked: AtomicBool,
    state: Mutex<State>,
}

/// What the mutex of a mailbox protects.
#[derive(Debug)]
pub struct State {
    /// By ascending unique identifier.
    messages: VecDeque<Message>,
    uid_next: u32,
    /// Messages from here on have been announced to no session: they are `\Recent` to the next one.
    recent_from: u32,
    /// Counts changes of flags.
    changes: u64,
    /// Counts removals of messages.
    removals: u64,
    counts: Counts,
    /// The messages of all mailboxes, where they are counted because the oldest may be dropped.
    live: Option<Arc<AtomicUsize>>,
    watchers: Vec<(u64, Sender<()>)>,
    watches: u64,
}

impl Mailbox {
    pub(super) fn new(uid_validity: NonZeroU32, live: Option<Arc<AtomicUsize>>) -> Mailbox {
        let state = State {
            messages: VecDeque::new(),
            uid_next: 1,
            recent_from: 1,
            changes: 0,
            removals: 0,
            counts: Counts::default(),
            live,
            watchers: Vec::new(),
            watches: 0,
        };
        Mailbox { uid_validity, maildrop_locked: AtomicBool::new(false), state: Mutex::new(state) }
    }

    /// Tells incarnations of the mailbox apart (RFC 3501 section 2.3.1.1).
    pub fn uid_validity(&self) -> u32 {
        self.uid_validity.get()
    }

    /// Locks the state. Never held across a wait.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Locks the maildrop for a POP3 session and takes stock of it; none: another session has it.
    pub fn lock_maildrop(self: &Arc<Self>) -> Option<Maildrop> {
        if self.maildrop_locked.swap(true, Ordering::AcqRel) {
            return None;
        }
        let messages = self.lock().messages.iter().cloned().collect();
        Some(Maildrop { mailbox: self.clone(), messages })
    }

    /// Deletes the messages of these unique identifiers, ascending, as far as they are still there. Returns how many
    /// were.
    pub fn delete(&self, uids: &[u32]) -> usize {
        let removed = self.lock().remove(|message| uids.binary_search(&message.uid).is_ok());
        // The memory goes back to the system here, outside the lock.
        removed.len()
    }

    /// Watches for changes by anybody until the watch is dropped.
    pub fn watch(self: &Arc<Self>) -> Watch {
        let (sender, receiver) = bounded(1);
        let mut state = self.lock();
        state.watches += 1;
        let id = state.watches;
        state.watchers.push((id, sender));
        Watch { mailbox: self.clone(), id, receiver }
    }
}

impl State {
    /// All messages, by ascending unique identifier.
    pub fn messages(&self) -> &VecDeque<Message> {
        &self.messages
    }

    /// The unique identifier that the next message gets.
    pub fn uid_next(&self) -> u32 {
        self.uid_next
    }

    /// Messages from here on have been announced to no session.
    pub fn recent_from(&self) -> u32 {
        self.recent_from
    }

    /// Grows whenever flags change.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Grows whenever messages are removed.
    pub fn removals(&self) -> u64 {
        self.removals
    }

    /// The message of a unique identifier.
    pub fn find(&self, uid: u32) -> Option<&Message> {
        self.position(uid).map(|position| &self.messages[position])
    }

    /// The messages by flags.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// A session announces everything that is there: nothing of it is `\Recent` to others any more.
    pub fn claim_recent(&mut self) {
        self.recent_from = self.uid_next;
    }

    /// Changes the flags of messages as `change` says; those that stay as they were are left alone.
    pub fn set_flags(&mut self, uids: impl Iterator<Item = u32>, change: impl Fn(Flags) -> Flags) {
        let changes = self.changes + 1;
        for uid in uids {
            let Some(position) = self.position(uid) else { continue };
            let message = &mut self.messages[position];
            let flags = change(message.flags);
            if flags != message.flags {
                self.counts.remove(message);
                message.flags = flags;
                message.changed = changes;
                self.counts.add(message);
                self.changes = changes;
            }
        }
        if self.changes == changes {
            self.wake();
        }
    }

    /// Takes messages out. Drop them outside the lock: their memory may go with them.
    pub fn remove(&mut self, which: impl Fn(&Message) -> bool) -> Vec<Message> {
        let mut removed = Vec::new();
        self.messages.retain(|message| {
            let remove = which(message);
            if remove {
                removed.push(message.clone());
            }
            !remove
        });
        if !removed.is_empty() {
            self.count_removed(&removed);
        }
        removed
    }

    /// Takes one message out. Drop it outside the lock.
    pub(super) fn remove_one(&mut self, uid: u32) -> Option<Message> {
        let message = self.position(uid).and_then(|position| self.messages.remove(position))?;
        self.count_removed(std::slice::from_ref(&message));
        Some(message)
    }

    fn count_removed(&mut self, removed: &[Message]) {
        removed.iter().for_each(|message| self.counts.remove(message));
        if let Some(live) = &self.live {
            live.fetch_sub(removed.len(), Ordering::Relaxed);
        }
        self.removals += 1;
        self.wake();
    }

    /// A reader has had the text of these messages.
    pub fn mark_read(&mut self, uids: impl Iterator<Item = u32>) {
        if self.live.is_none() {
            return;
        }
        for uid in uids {
            if let Some(position) = self.position(uid) {
                self.messages[position].read = true;
            }
        }
    }

    /// Adds a message. None: the mailbox is full.
    pub(super) fn push(&mut self, mut message: Message, max_messages: usize) -> Option<Uid> {
        if self.messages.len() >= max_messages || self.uid_next == u32::MAX {
            return None;
        }
        let uid = Uid::new(self.uid_next)?;
        message.uid = self.uid_next;
        self.uid_next += 1;
        self.counts.add(&message);
        if let Some(live) = &self.live {
            live.fetch_add(1, Ordering::Relaxed);
        }
        self.messages.push_back(message);
        self.wake();
        Some(uid)
    }

    fn position(&self, uid: u32) -> Option<usize> {
        self.messages.binary_search_by_key(&uid, |message| message.uid).ok()
    }

    /// Wakes everybody who watches. One who has not looked since the last change is awake: the full mailbox says so.
    fn wake(&self) {
        for (_, watcher) in &self.watchers {
            let _already_awake = watcher.send(());
        }
    }
}

/// Wakes a session when its mailbox changes.
#[derive(Debug)]
pub struct Watch {
    mailbox: Arc<Mailbox>,
    id: u64,
    receiver: Receiver<()>,
}

impl Watch {
    /// Waits until the mailbox has changed since the last call. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.receiver.recv().await.is_none() {
            // The mailbox keeps the sender until this watch is dropped, so this does not come.
            std::future::pending().await
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.mailbox.lock().watchers.retain(|(id, _)| *id != self.id);
    }
}

/// A maildrop as a POP3 session locked it. Dropping it unlocks.
#[derive(Debug)]
pub struct Maildrop {
    mailbox: Arc<Mailbox>,
    messages: Vec<Message>,
}

impl Maildrop {
    /// The messages that were there when it was locked; message number 1 first.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// See [`Mailbox::uid_validity`].
    pub fn uid_validity(&self) -> u32 {
        self.mailbox.uid_validity()
    }

    /// The client has had the text of the message at this index.
    pub fn mark_read(&self, index: usize) {
        let uids = self.messages.get(index).map(|message| message.uid);
        self.mailbox.lock().mark_read(uids.into_iter());
    }

    /// Deletes the messages at these indices, ascending, from the mailbox. Returns how many were still there.
    pub fn delete(&self, indices: &[usize]) -> usize {
        let uids: Vec<u32> = indices.iter().map(|&index| self.messages[index].uid).collect();
        self.mailbox.delete(&uids)
    }
}

impl Drop for Maildrop {
    fn drop(&mut self) {
        self.mailbox.maildrop_locked.store(false, Ordering::Release);
    }
}
