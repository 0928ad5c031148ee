//! What one session has been told of its mailbox: the sequence numbers it may use, and the news it has to hear.

use std::io::{self, Write as _};
use std::ops::Range;

use chasqui_protocol::imap::flags::Flags;
use chasqui_protocol::imap::set;
use chasqui_protocol::imap::types::sequence::SequenceSet;

use crate::mailbox::{Outgoing, State};

/// News of one kind that are told at a time: what a client that does not read costs.
const NEWS_MAX: usize = 4096;
/// Messages that are looked at for them at a time, while the mailbox is held.
const LOOKED_AT_MAX: usize = 65_536;

/// A session's picture of the selected mailbox. Messages that others deleted stay in it until the session may be
/// told (RFC 3501 section 7.4.1), so sequence numbers never shift behind the client's back.
#[derive(Debug)]
pub(super) struct View {
    messages: Vec<Seen>,
    changes: u64,
    removals: u64,
    uid_next: u32,
    /// A look for changed flags that is not over: the count of changes at its begin, and the unique identifier to go on with.
    changing: Option<(u64, u32)>,
    /// A look for removed messages that is not over: the count of removals at its begin, and how many messages are left to be
    /// looked at, from the last one down.
    removing: Option<(u64, usize)>,
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
    /// There is more to tell: refresh again when this is told.
    pub(super) more: bool,
}

/// Everything that the answer to a search depends on, of view and mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp([u64; 6]);

impl View {
    pub(super) fn open(state: &mut State, read_only: bool) -> View {
        let mut view = View {
            messages: Vec::new(),
            changes: state.changes(),
            removals: state.removals(),
            uid_next: 1,
            changing: None,
            removing: None,
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

    /// The same stamp, the same answers.
    pub(super) fn stamp(&self, state: &State) -> Stamp {
        let (own, next) = (self.messages.len() as u64, u64::from(self.uid_next));
        let theirs = [state.changes(), state.removals(), u64::from(state.uid_next())];
        Stamp([
            own,
            next,
            self.removing.map_or(self.removals, |(through, _)| through),
            theirs[0],
            theirs[1],
            theirs[2],
        ])
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

    /// Takes notice of what has changed, as far as it may be told at a time. Removals only if the session may be told of them
    /// now.
    pub(super) fn refresh(&mut self, state: &mut State, with_removals: bool) -> News {
        let mut news = News::default();
        if with_removals && (self.removing.is_some() || self.removals != state.removals()) {
            self.refresh_removals(state, &mut news);
        }
        if self.changing.is_some() || self.changes != state.changes() {
            self.refresh_flags(state, &mut news);
        }
        if self.uid_next != state.uid_next() {
            self.refresh_arrivals(state, &mut news);
        }
        news
    }

    fn refresh_flags(&mut self, state: &State, news: &mut News) {
        let (through, from) = self.changing.take().unwrap_or((state.changes(), 0));
        let start = state.messages().partition_point(|message| message.uid() < from);
        for (looked_at, message) in state.messages().range(start..).enumerate() {
            if looked_at >= LOOKED_AT_MAX || news.flags.len() >= NEWS_MAX {
                self.changing = Some((through, message.uid()));
                news.more = true;
                return;
            }
            if message.changed() > self.changes
                && let Ok(index) = self.messages.binary_search_by_key(&message.uid(), |seen| seen.uid)
            {
                let flags = self.flags(index, message.flags());
                news.flags.push((index as u32 + 1, message.uid(), flags));
            }
        }
        // What changed behind this look is told by the next one.
        self.changes = through;
        news.more |= state.changes() != through;
    }

    fn refresh_arrivals(&mut self, state: &mut State, news: &mut News) {
        let known = state.messages().partition_point(|message| message.uid() < self.uid_next);
        let recent_from = state.recent_from();
        let before = self.messages.len();
        let arrived = state.messages().range(known..);
        self.messages
            .extend(arrived.map(|message| Seen { uid: message.uid(), recent: message.uid() >= recent_from }));
        self.uid_next = state.uid_next();
        if !self.read_only {
            state.claim_recent();
        }
        if self.messages.len() > before {
            news.arrived = Some((self.messages.len(), self.recent()));
        }
    }

    /// From the last message down, so that no number that is still to be told shifts.
    fn refresh_removals(&mut self, state: &State, news: &mut News) {
        let (through, mut left) = self.removing.take().unwrap_or((state.removals(), self.messages.len()));
        let stop = left.saturating_sub(LOOKED_AT_MAX);
        let last = left.checked_sub(1).map_or(0, |index| self.messages[index].uid);
        let known = state.messages().partition_point(|message| message.uid() <= last);
        let mut kept = state.messages().range(..known).rev().map(|message| message.uid()).peekable();
        while left > stop && news.expunged.len() < NEWS_MAX {
            let uid = self.messages[left - 1].uid;
            while kept.next_if(|&kept| kept > uid).is_some() {}
            if kept.next_if_eq(&uid).is_none() {
                news.expunged.push(left as u32);
            }
            left -= 1;
        }
        self.drop_messages(&news.expunged);
        if left > 0 {
            self.removing = Some((through, left));
        } else {
            self.removals = through;
        }
        news.more |= left > 0 || state.removals() != through;
    }

    /// The session itself has changed flags, right after a refresh under the same lock: that is no news to it.
    pub(super) fn own_changes(&mut self, state: &State) {
        self.changes = state.changes();
    }

    /// Drops messages by their sequence numbers, which descend.
    fn drop_messages(&mut self, expunged: &[u32]) {
        let Some(&lowest) = expunged.last() else { return };
        let mut expunged = expunged.iter().rev().map(|&sequence| sequence as usize - 1).peekable();
        let first = lowest as usize - 1;
        let mut to = first;
        for from in first..self.messages.len() {
            if expunged.next_if_eq(&from).is_none() {
                self.messages[to] = self.messages[from];
                to += 1;
            }
        }
        self.messages.truncate(to);
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
