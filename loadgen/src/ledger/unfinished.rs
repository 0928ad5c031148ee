//! What had not come to its end when nobody looked any more: the censored samples of a run.

use chasqui_report::Window;

use super::{Flags, Ledger, Submission};

/// A recipient that was due in the window and has not passed every milestone. What it has not passed, it had not at
/// `until_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished {
    pub(crate) due_ns: u64,
    /// The drain's end; for one whose reply was lost, that moment.
    pub(crate) until_ns: u64,
    pub(crate) mailbox: u32,
    /// No word came of the submission. Told of the first recipient of a message only, as there is one reply.
    pub(crate) accept: bool,
    /// No sink has told of it, and it has not bounced.
    pub(crate) arrive: bool,
    /// No reader has found it intact, and it has not bounced.
    pub(crate) visible: bool,
}

impl Ledger {
    /// Everything unfinished at `end_ns`. What was rejected is finished: it will never be anywhere.
    pub(crate) fn unfinished(&mut self, window: Window, end_ns: u64) -> Vec<Unfinished> {
        let mut losses = std::mem::take(&mut self.losses);
        losses.sort_unstable();
        let mut losses = losses.into_iter().peekable();
        let mut unfinished = Vec::new();
        for position in 0..self.length {
            while losses.next_if(|(lost, _)| *lost < position).is_some() {}
            let lost_ns = losses.next_if(|(lost, _)| *lost == position).map(|(_, at_ns)| at_ns);
            let entry = self.entry(position);
            let (flags, submission) = (entry.flags, entry.flags.submission());
            if !window.contains(entry.intended_ns) || submission == Some(Submission::Rejected) {
                continue;
            }
            let bounced = flags.has(Flags::BOUNCED);
            let is_first = || {
                let message = self.layout.message(position) as u64;
                self.layout.entries(message, self.length).is_some_and(|entries| entries.start == position)
            };
            let one = Unfinished {
                due_ns: entry.intended_ns,
                until_ns: lost_ns.unwrap_or(end_ns),
                mailbox: entry.mailbox,
                accept: submission.is_none() && is_first(),
                arrive: !flags.has(Flags::ARRIVED) && !bounced,
                visible: !flags.has(Flags::VISIBLE) && !bounced,
            };
            if one.accept || one.arrive || one.visible {
                unfinished.push(one);
            }
        }
        unfinished
    }
}
