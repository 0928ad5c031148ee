//! What one session has been told of its mailbox: the sequence numbers it may use, and the news it has to hear.

use std::io::{self, Write as _};
use std::ops::Range;

use chasqui_protocol::imap::flags::Flags;
use chasqui_protocol::imap::set;
use chasqui_protocol::imap::types::sequence::SequenceSet;

use crate::mailbox::{Outgoing, State};

/// A session's picture of the selected mailbox. Messages that others deleted stay in it until the session may be
/// told (RFC 3501 section 7.4.1), so sequence numbers never shift behind the client's back.
#[derive(Debug)]
pub(super) struct View {
    messages: Vec<Seen>,
    changes: u64,
    removals: u64,
    uid_next: u32,
    /// The session may not change the mailbox, not even by taking its `\Recent` flags.
    read_only: bool,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    uid: u32,
    recent: bool,
}

/// What has changed since the session was told last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Sequence numbers in the order in which they are to be said: descending, so that none shifts another.
    expunged: Vec<u32>,
    /// Count of messages and of recent ones, when there are new ones.
    arrived: Option<(usize, usize)>,
    flags: Vec<(u32, u32, Flags)>,
}

impl View {
    pub(super) fn open(state: &mut State, read_only: bool) -> View {
        let mut view = View {
            messages: Vec::new(),
            changes: state.changes(),
            removals: state.removals(),
            uid_next: 1,
            read_only,
        };
        view.refresh(state, true);
        view
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn read_only(&self) -> bool {
        self.read_only
    }

    pub(super) fn recent(&self) -> usize {
        self.messages.iter().filter(|seen| seen.recent).count()
    }

    pub(super) fn uid(&self, index: usize) -> u32 {
        self.messages[index].uid
    }

    /// The message's flags as this session sees them.
    pub(super) fn flags(&self, index: usize, flags: Flags) -> Flags {
        if self.messages[index].recent { flags.with(Flags::RECENT) } else { flags }
    }

    /// The largest number that `*` can stand for.
    pub(super) fn largest(&self, uid: bool) -> u32 {
        match uid {
            true => self.messages.last().map_or(0, |seen| seen.uid),
            false => self.messages.len() as u32,
        }
    }

    /// Indices of the messages that a set names; none: a sequence number is beyond the last message. Unknown unique
    /// identifiers are passed over (RFC 3501 section 6.4.8).
    pub(super) fn select(&self, named: &SequenceSet, uid: bool) -> Option<Vec<Range<usize>>> {
        let ranges = set::ranges(named, self.largest(uid));
        if uid {
            let below = |limit: u32| self.messages.partition_point(|seen| seen.uid < limit);
            let through = |limit: u32| self.messages.partition_point(|seen| seen.uid <= limit);
            return Some(ranges.iter().map(|&(first, last)| below(first)..through(last)).collect());
        }
        let last_named = ranges.last().map_or(0, |range| range.1);
        if last_named as usize > self.messages.len() {
            return None;
        }
        Some(ranges.iter().map(|&(first, last)| first as usize - 1..last as usize).collect())
    }

    /// Takes notice of what has changed. Removals only if the session may be told of them now.
    pub(super) fn refresh(&mut self, state: &mut State, with_removals: bool) -> News {
        let mut news = News::default();
        if with_removals && self.removals != state.removals() {
            self.removals = state.removals();
            news.expunged = self.drop_removed(state);
        }
        if self.changes != state.changes() {
            for message in state.changed_since(self.changes) {
                if let Ok(index) = self.messages.binary_search_by_key(&message.uid(), |seen| seen.uid) {
                    let flags = self.flags(index, message.flags());
                    news.flags.push((index as u32 + 1, message.uid(), flags));
                }
            }
            self.changes = state.changes();
        }
        if self.uid_next != state.uid_next() {
            let known = state.messages().partition_point(|message| message.uid() < self.uid_next);
            let recent_from = state.recent_from();
            let before = self.messages.len();
            self.messages.extend(
                state
                    .messages()
                    .range(known..)
                    .map(|message| Seen { uid: message.uid(), recent: message.uid() >= recent_from }),
            );
            self.uid_next = state.uid_next();
            if !self.read_only {
                state.claim_recent();
            }
            if self.messages.len() > before {
                news.arrived = Some((self.messages.len(), self.recent()));
            }
        }
        news
    }

    /// The session itself has changed flags, right after a refresh under the same lock: that is no news to it.
    pub(super) fn own_changes(&mut self, state: &State) {
        self.changes = state.changes();
    }

    fn drop_removed(&mut self, state: &State) -> Vec<u32> {
        let mut expunged = Vec::new();
        let mut kept = state.messages().iter().map(|message| message.uid()).peekable();
        let mut sequence = 0;
        self.messages.retain(|seen| {
            sequence += 1;
            while kept.next_if(|&uid| uid < seen.uid).is_some() {}
            let keep = kept.peek() == Some(&seen.uid);
            if !keep {
                expunged.push(sequence);
            }
            keep
        });
        expunged.reverse();
        expunged
    }
}

impl News {
    /// Sends the untagged responses that tell it.
    pub(super) async fn write(&self, out: &mut Outgoing) -> io::Result<()> {
        for sequence in &self.expunged {
            let _ = write!(out.text(), "* {sequence} EXPUNGE\r\n");
            out.relieve().await?;
        }
        if let Some((exists, recent)) = self.arrived {
            let _ = write!(out.text(), "* {exists} EXISTS\r\n* {recent} RECENT\r\n");
        }
        for &(sequence, uid, flags) in &self.flags {
            write_flags(sequence, Some(uid), flags, out.text());
            out.relieve().await?;
        }
        Ok(())
    }
}

/// A FETCH response with flags alone.
pub(super) fn write_flags(sequence: u32, uid: Option<u32>, flags: Flags, output: &mut Vec<u8>) {
    let _ = write!(output, "* {sequence} FETCH (");
    if let Some(uid) = uid {
        let _ = write!(output, "UID {uid} ");
    }
    output.extend_from_slice(b"FLAGS (");
    flags.write(output);
    output.extend_from_slice(b"))\r\n");
}
