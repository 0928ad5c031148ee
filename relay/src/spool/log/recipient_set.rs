//! Which recipients of a message are finished.

/// A set of recipient indices; messages of up to 64 recipients need no memory of their own.
#[derive(Clone, Debug)]
pub(crate) struct RecipientSet {
    left: u32,
    recipients: u32,
    set: Set,
}

#[derive(Clone, Debug)]
enum Set {
    Few(u64),
    Many(Box<[u64]>),
}

impl RecipientSet {
    /// None of `recipients` is finished.
    pub(crate) fn none_of(recipients: u32) -> RecipientSet {
        let set = match recipients {
            0..=64 => Set::Few(0),
            _ => Set::Many(vec![0; recipients.div_ceil(64) as usize].into()),
        };
        RecipientSet { left: recipients, recipients, set }
    }

    /// How many there are.
    pub(crate) fn recipients(&self) -> u32 {
        self.recipients
    }

    /// Marks one; again or beyond the last is no harm.
    pub(crate) fn mark(&mut self, index: u32) {
        if index >= self.recipients || self.has(index) {
            return;
        }
        self.left -= 1;
        match &mut self.set {
            Set::Few(bits) => *bits |= 1 << index,
            Set::Many(words) => words[index as usize / 64] |= 1 << (index % 64),
        }
    }

    /// Is this one finished?
    pub(crate) fn has(&self, index: u32) -> bool {
        match &self.set {
            Set::Few(bits) => index < 64 && bits & (1 << index) != 0,
            Set::Many(words) => {
                words.get(index as usize / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
            }
        }
    }

    /// Are all finished?
    pub(crate) fn is_complete(&self) -> bool {
        self.left == 0
    }

    /// The indices that are not finished.
    pub(crate) fn open(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.recipients).filter(|index| !self.has(*index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A set is complete after every index was marked once, in any order and with repetitions, at sizes on
    /// both sides of a word.
    #[test]
    fn complete_after_all() {
        for count in [1, 2, 63, 64, 65, 128, 200] {
            let mut finished = RecipientSet::none_of(count);
            for index in (0..count).rev() {
                assert!(!finished.is_complete());
                assert_eq!(finished.open().count(), index as usize + 1);
                finished.mark(index);
                finished.mark(index);
                finished.mark(count + index);
            }
            assert!(finished.is_complete());
        }
    }
}
