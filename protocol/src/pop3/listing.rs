//! What a session knows of its maildrop: the messages, and which of them are marked as deleted.

/// The messages of a maildrop as they were when it was locked.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Distinguishes incarnations of the maildrop; part of every unique id.
    pub uid_validity: u32,
    /// Message 1 first.
    pub messages: Vec<Listed>,
}

/// One message of a [`Listing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Unique within the maildrop, never reused.
    pub uid: u32,
    /// Octets of the message, unstuffed.
    pub size: u32,
}

impl Listing {
    fn octets(&self) -> u64 {
        self.messages.iter().map(|message| u64::from(message.size)).sum()
    }
}

/// A listing with the marks of DELE.
#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) listing: Listing,
    pub(super) deleted: Vec<bool>,
    /// Messages that are not deleted, and their octets.
    pub(super) kept: usize,
    pub(super) octets: u64,
}

impl Transaction {
    pub(super) fn new(listing: Listing) -> Transaction {
        let (kept, octets) = (listing.messages.len(), listing.octets());
        Transaction { deleted: vec![false; kept], listing, kept, octets }
    }

    pub(super) fn delete(&mut self, index: usize) {
        self.deleted[index] = true;
        self.kept -= 1;
        self.octets -= u64::from(self.listing.messages[index].size);
    }

    /// Nothing is deleted any more. Gives what it cost, in messages looked at.
    pub(super) fn restore(&mut self) -> usize {
        if self.kept == self.deleted.len() {
            return 0;
        }
        self.deleted.fill(false);
        self.kept = self.deleted.len();
        self.octets = self.listing.octets();
        self.kept
    }
}
