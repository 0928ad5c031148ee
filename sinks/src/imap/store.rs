//! STORE: the flags of messages change in batches, between which the mailbox is free and others have their turn.

use std::io;

use chasqui_protocol::imap::flags::Flags;
use chasqui_protocol::imap::types::flag::{Flag, StoreType};
use chasqui_protocol::imap::types::sequence::SequenceSet;

use super::view::{News, View, write_flags};
use crate::mailbox::{Mailbox, Outgoing};
use crate::turns::let_others_run;

/// Messages changed under one lock.
const BATCH: usize = 1024;
/// How often others' news are told before a batch. More only come while others go on changing flags; the session then hears of its
/// own changes once more.
const NEWS_ROUNDS_MAX: usize = 64;

/// What becomes of the flags.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    kind: Kind,
    flags: Flags,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Replace,
    Add,
    Remove,
}

impl Change {
    pub(super) fn new(kind: StoreType, flags: &[Flag<'_>]) -> Change {
        let kind = match kind {
            StoreType::Replace => Kind::Replace,
            StoreType::Add => Kind::Add,
            StoreType::Remove => Kind::Remove,
        };
        Change { kind, flags: Flags::from_named(flags) }
    }

    fn of(self, before: Flags) -> Flags {
        match self.kind {
            Kind::Replace => self.flags,
            Kind::Add => before.with(self.flags),
            Kind::Remove => before.without(self.flags),
        }
    }
}

/// How a STORE ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    All,
    /// Some of the messages are gone.
    Some,
    /// There is no such message.
    NoSuchMessage,
}

/// Changes the flags of the messages named, and tells them unless `silent`.
pub(super) async fn store(
    mailbox: &Mailbox,
    view: &mut View,
    (named, uid): (&SequenceSet, bool),
    change: Change,
    silent: bool,
    out: &mut Outgoing,
) -> io::Result<Stored> {
    let Some(ranges) = view.select(named, uid) else { return Ok(Stored::NoSuchMessage) };
    let mut indices = ranges.into_iter().flatten();
    let mut stored = Stored::All;
    loop {
        let batch: Vec<usize> = indices.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return Ok(stored);
        }
        let mut rounds = 0;
        let changed = loop {
            rounds += 1;
            let (news, changed) = change_batch(mailbox, view, &batch, change, rounds == NEWS_ROUNDS_MAX);
            news.write(out).await?;
            let_others_run().await;
            if let Some(changed) = changed {
                break changed;
            }
        };
        if changed.len() < batch.len() {
            stored = Stored::Some;
        }
        for (index, flags) in changed.into_iter().filter(|_| !silent) {
            write_flags(index as u32 + 1, uid.then(|| view.uid(index)), flags, out.text());
            out.relieve().await?;
        }
    }
}

/// Changes flags under one lock. Gives what is to be told first, and the flags of the messages that are still there; none: there are
/// more news to tell first, so that the session's own changes are the only ones after them.
fn change_batch(
    mailbox: &Mailbox,
    view: &mut View,
    batch: &[usize],
    change: Change,
    in_any_case: bool,
) -> (News, Option<Vec<(usize, Flags)>>) {
    let mut state = mailbox.lock();
    let news = view.refresh(&mut state, false);
    if news.more && !in_any_case {
        return (news, None);
    }
    state.set_flags(batch.iter().map(|&index| view.uid(index)), |before| change.of(before));
    if !news.more {
        view.own_changes(&state);
    }
    let flags = |&index: &usize| {
        let message = state.find(view.uid(index))?;
        Some((index, view.flags(index, message.flags())))
    };
    (news, Some(batch.iter().filter_map(flags).collect()))
}
