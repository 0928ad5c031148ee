//! Which entries of a ledger are whose: those of a message lie one behind the other.

use std::ops::Range;

/// The entries of each message.
#[derive(Clone, Debug)]
pub(super) enum Layout {
    /// Every message has so many recipients.
    Even(usize),
    /// Where each message begins. Four octets a message: a ledger of 4 billion entries would take 64 GB.
    Uneven(Vec<u32>),
}

impl Layout {
    /// Of messages that all have so many recipients, or, without, as many as each has.
    pub(super) fn new(recipients: Option<usize>) -> Layout {
        recipients.map_or(Layout::Uneven(Vec::new()), Layout::Even)
    }

    /// The same with no message.
    pub(super) fn emptied(&self) -> Layout {
        match self {
            Layout::Even(recipients) => Layout::Even(*recipients),
            Layout::Uneven(_) => Layout::Uneven(Vec::new()),
        }
    }

    /// Messages in a ledger of `length` entries.
    pub(super) fn messages(&self, length: usize) -> usize {
        match self {
            Layout::Even(recipients) => length / recipients,
            Layout::Uneven(starts) => starts.len(),
        }
    }

    /// A message of so many recipients is entered behind `length` entries.
    pub(super) fn add(&mut self, length: usize, recipients: usize) {
        match self {
            Layout::Even(even) => debug_assert_eq!(recipients, *even),
            Layout::Uneven(starts) => starts.push(length as u32),
        }
    }

    /// The entries of a message; none: there is no such message.
    pub(super) fn entries(&self, message: u64, length: usize) -> Option<Range<usize>> {
        let message = usize::try_from(message).ok()?;
        let (first, end) = match self {
            Layout::Even(recipients) => {
                let first = message.checked_mul(*recipients)?;
                (first, first.checked_add(*recipients)?.min(length))
            }
            Layout::Uneven(starts) => {
                let first = *starts.get(message)? as usize;
                (first, starts.get(message + 1).map_or(length, |next| *next as usize))
            }
        };
        (first < length).then_some(first..end)
    }

    /// The message of an entry.
    pub(super) fn message(&self, position: usize) -> usize {
        match self {
            Layout::Even(recipients) => position / recipients,
            Layout::Uneven(starts) => starts.partition_point(|start| *start as usize <= position) - 1,
        }
    }

    /// Octets that it holds.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Layout::Even(_) => 0,
            Layout::Uneven(starts) => starts.capacity() * size_of::<u32>(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both layouts lead from messages to entries and back, and know of no message that is not there.
    #[test]
    fn there_and_back() {
        for counts in [vec![2, 2, 2], vec![3, 1, 1, 5], vec![1]] {
            let even = counts.iter().all(|count| *count == counts[0]).then_some(counts[0]);
            for mut layout in
                [Some(Layout::new(None)), even.map(|even| Layout::new(Some(even)))].into_iter().flatten()
            {
                let mut length = 0;
                for count in &counts {
                    layout.add(length, *count);
                    length += count;
                }
                assert_eq!(layout.messages(length), counts.len());
                let mut next = 0;
                for (message, count) in counts.iter().enumerate() {
                    let entries = layout.entries(message as u64, length).expect("a message");
                    assert_eq!(entries, next..next + count, "{layout:?}");
                    entries.for_each(|position| assert_eq!(layout.message(position), message));
                    next += count;
                }
                assert_eq!(layout.entries(counts.len() as u64, length), None);
                assert_eq!(layout.entries(u64::MAX, length), None);
                assert_eq!(layout.emptied().messages(0), 0);
            }
        }
    }
}
