//! Envelopes of messages that are done with, for those that come next: at a steady rate their memory is enough for all.

use std::cell::RefCell;
use std::rc::Rc;

use crate::spool::Envelope;

/// Envelopes kept.
const SPARE_MAX: usize = 256;
/// Recipients of an envelope that is kept.
const RECIPIENTS_MAX: usize = 8;
/// Octets of a path that is kept; RFC 5321 section 4.5.3.1.3 has no longer ones.
const PATH_MAX: usize = 256;

/// The envelopes that a shard keeps for reuse.
#[derive(Default)]
pub(crate) struct EnvelopePool(RefCell<Vec<Rc<Envelope>>>);

impl EnvelopePool {
    /// An envelope that nobody else has, with this reverse-path. Its other fields are of an earlier message.
    pub(crate) fn take(&self, reverse_path: &str) -> Rc<Envelope> {
        let mut envelope = self.0.borrow_mut().pop().unwrap_or_default();
        reverse_path.clone_into(&mut Rc::make_mut(&mut envelope).reverse_path);
        envelope
    }

    /// Keeps the envelope of a message that is done with, if nobody else has it.
    pub(crate) fn give_back(&self, mut envelope: Rc<Envelope>) {
        let Some(Envelope { reverse_path, recipients, dsn, .. }) = Rc::get_mut(&mut envelope) else { return };
        *dsn = None;
        let is_short = |path: &String| path.capacity() <= PATH_MAX;
        let is_small =
            recipients.len() <= RECIPIENTS_MAX && is_short(reverse_path) && recipients.iter().all(is_short);
        let mut spare = self.0.borrow_mut();
        if is_small && spare.len() < SPARE_MAX {
            spare.push(envelope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("u{number}@example.test")).collect()
    }

    /// What is given back comes again, with its memory; what is large or still in use does not.
    #[test]
    fn small_ones_come_back() {
        let spare = EnvelopePool::default();
        let mut envelope = spare.take("a@example.test");
        Rc::make_mut(&mut envelope).recipients = addresses(2);
        let place = Rc::as_ptr(&envelope);
        let elsewhere = envelope.clone();
        spare.give_back(envelope);
        assert_ne!(Rc::as_ptr(&spare.take("b@example.test")), place, "somebody has it");
        spare.give_back(elsewhere);
        let again = spare.take("b@example.test");
        assert_eq!((Rc::as_ptr(&again), &*again.reverse_path), (place, "b@example.test"));

        let mut large = again;
        Rc::make_mut(&mut large).recipients = addresses(RECIPIENTS_MAX + 1);
        spare.give_back(large);
        assert!(spare.take("").recipients.is_empty());
    }
}
