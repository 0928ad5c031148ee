//! Whom messages go to.

use chasqui_runtime::SeededRng;

use crate::scenario::RecipientDistribution;

/// Picks the recipients of messages.
#[derive(Debug)]
pub(crate) struct Recipients {
    rng: SeededRng,
    distribution: RecipientDistribution,
    mailboxes: u64,
}

impl Recipients {
    /// Uniform over so many mailboxes, of which there are at least as many as a message has recipients.
    pub(crate) fn new(mailboxes: usize, distribution: RecipientDistribution, seed: u64) -> Self {
        Self { rng: SeededRng::new(seed), distribution, mailboxes: mailboxes as u64 }
    }

    /// Fills `picked` with the different mailboxes of a message.
    pub(crate) fn pick(&mut self, picked: &mut Vec<u32>) {
        let count = self.distribution.sample(&mut self.rng);
        picked.clear();
        let mut mailbox = self.rng.below(self.mailboxes);
        while picked.len() < count {
            if picked.contains(&(mailbox as u32)) {
                // At most `count` steps: there are at least as many mailboxes as recipients.
                mailbox = (mailbox + 1) % self.mailboxes;
                continue;
            }
            picked.push(mailbox as u32);
            mailbox = self.rng.below(self.mailboxes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recipients of a message differ from each other, and all mailboxes get mail.
    #[test]
    fn recipients_differ() {
        let mut seen = [0; 6];
        let mut picked = Vec::new();
        for count in 1..=6 {
            let mut recipients = Recipients::new(6, RecipientDistribution::Fixed(count), 5);
            for _ in 0..100 {
                recipients.pick(&mut picked);
                let mut sorted = picked.clone();
                sorted.sort_unstable();
                sorted.dedup();
                assert_eq!(sorted.len(), count);
                for mailbox in &picked {
                    seen[*mailbox as usize] += 1;
                }
            }
        }
        assert!(seen.iter().all(|count| *count > 200), "{seen:?}");
    }
}
