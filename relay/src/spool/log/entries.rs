//! The messages of a log that have recipients left, by id. A million of them are to cost little: one of one recipient
//! and of one record takes 24 bytes.

use std::collections::BTreeMap;

use super::recipient_set::RecipientSet;
use crate::spool::format::id::MessageId;
use crate::spool::format::message::CHUNK_META;
use crate::spool::format::place::{Piece, Weight};

/// Bits of an id that tell the messages of a page apart. Ids are given in rising order, so that neighbours arrive
/// together; and a page that holds few has little room.
const PAGE_BITS: u32 = 7;
/// Bits of the length of an envelope, which fits into a group.
const META_BITS: u32 = 24;
const UNCHECKED: u32 = 1 << META_BITS;
const LOW_SHIFT: u32 = u32::BITS - PAGE_BITS;

/// What is known of a message that has recipients left.
#[derive(Debug)]
pub(crate) struct Entry {
    /// From the top: the low bits of the id, one for [`Entry::is_unchecked`], the bytes of the envelope right before the head.
    packed: u32,
    head: Piece,
    /// `None` of one recipient, nothing before the head.
    more: Option<Box<More>>,
}

#[derive(Debug)]
struct More {
    /// Pieces before the head.
    chunks: Box<[Piece]>,
    finished: RecipientSet,
}

const _: () = assert!(size_of::<Entry>() == 24, "what a queued message costs");

impl Entry {
    /// A message whose record has `meta_length` bytes of envelope right before the piece `head`.
    pub(crate) fn new(meta_length: u32, head: Piece, chunks: Vec<Piece>, finished: RecipientSet) -> Entry {
        assert!(meta_length < 1 << META_BITS, "a record fits into a group");
        let plain = chunks.is_empty() && finished.recipients() == 1;
        let more = (!plain).then(|| Box::new(More { chunks: chunks.into(), finished }));
        Entry { packed: meta_length, head, more }
    }

    /// Bytes of the envelope, right before the head.
    pub(crate) fn meta_length(&self) -> u32 {
        self.packed & ((1 << META_BITS) - 1)
    }

    /// The piece in the message record.
    pub(crate) fn head(&self) -> Piece {
        self.head
    }

    /// The pieces before the head.
    pub(crate) fn chunks(&self) -> &[Piece] {
        self.more.as_ref().map_or(&[], |more| &more.chunks)
    }

    /// Nobody has looked at its body since the start.
    pub(crate) fn is_unchecked(&self) -> bool {
        self.packed & UNCHECKED != 0
    }

    pub(crate) fn set_unchecked(&mut self) {
        self.packed |= UNCHECKED;
    }

    pub(crate) fn set_checked(&mut self) {
        self.packed &= !UNCHECKED;
    }

    /// The pieces in the order of the body.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Piece> + '_ {
        self.chunks().iter().chain(std::iter::once(&self.head)).copied()
    }

    /// The segment of each of its records, and the record's bytes.
    pub(crate) fn weights(&self) -> impl Iterator<Item = Weight> + '_ {
        let chunks = self.more.iter().flat_map(|more| &more.chunks).map(|chunk| Weight::of_chunk(*chunk));
        chunks.chain(std::iter::once(Weight::of_record(self.head, self.meta_length())))
    }

    /// Does it have several recipients, so that states can finish some of them?
    pub(crate) fn has_several(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.finished.recipients() > 1)
    }

    /// Bytes before the piece that begins at this place, in its record: those of the envelope for the head.
    pub(crate) fn meta_length_at(&self, ordinal: u32, offset: u32) -> u32 {
        let is_head = (self.head.ordinal, self.head.offset) == (ordinal, offset);
        if is_head { self.meta_length() } else { CHUNK_META }
    }

    /// Its piece that begins at this place, if there is one.
    pub(crate) fn piece_at(&mut self, ordinal: u32, offset: u32) -> Option<&mut Piece> {
        let chunks = self.more.iter_mut().flat_map(|more| &mut more.chunks);
        let mut pieces = chunks.chain(std::iter::once(&mut self.head));
        pieces.find(|piece| (piece.ordinal, piece.offset) == (ordinal, offset))
    }

    /// Marks recipients as finished; are all of them now?
    pub(crate) fn finish(&mut self, recipients: &[u32]) -> bool {
        let Some(more) = &mut self.more else { return recipients.contains(&0) };
        recipients.iter().for_each(|index| more.finished.mark(*index));
        more.finished.is_complete()
    }

    fn low(&self) -> u32 {
        self.packed >> LOW_SHIFT
    }
}

/// Entries by id.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    /// By the upper bits of the id; in a page in the order of the lower ones. No page is empty.
    pages: BTreeMap<u64, Vec<Entry>>,
    len: usize,
    /// The memory of the page that was empty last.
    spare: Vec<Entry>,
}

fn split(id: MessageId) -> (u64, u32) {
    (id.0 >> PAGE_BITS, (id.0 & ((1 << PAGE_BITS) - 1)) as u32)
}

impl Entries {
    /// Adds a message, or replaces what was known of it.
    pub(crate) fn insert(&mut self, id: MessageId, mut entry: Entry) {
        let (page, low) = split(id);
        entry.packed |= low << LOW_SHIFT;
        let page = self.pages.entry(page).or_insert_with(|| std::mem::take(&mut self.spare));
        match page.binary_search_by_key(&low, Entry::low) {
            Ok(at) => page[at] = entry,
            Err(at) => {
                page.insert(at, entry);
                self.len += 1;
            }
        }
    }

    pub(crate) fn get(&self, id: MessageId) -> Option<&Entry> {
        let (page, low) = split(id);
        let page = self.pages.get(&page)?;
        page.binary_search_by_key(&low, Entry::low).ok().map(|at| &page[at])
    }

    pub(crate) fn get_mut(&mut self, id: MessageId) -> Option<&mut Entry> {
        let (page, low) = split(id);
        let page = self.pages.get_mut(&page)?;
        page.binary_search_by_key(&low, Entry::low).ok().map(|at| &mut page[at])
    }

    pub(crate) fn remove(&mut self, id: MessageId) -> Option<Entry> {
        let (number, low) = split(id);
        let page = self.pages.get_mut(&number)?;
        let entry = page.remove(page.binary_search_by_key(&low, Entry::low).ok()?);
        self.len -= 1;
        if page.is_empty() {
            self.spare = self.pages.remove(&number).unwrap_or_default();
        } else if page.len() < page.capacity() / 4 {
            page.shrink_to(2 * page.len());
        }
        Some(entry)
    }

    /// Number of messages.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn entry(meta_length: u32) -> Entry {
        let head = Piece { ordinal: 1, offset: 2, length: 3 };
        Entry::new(meta_length, head, Vec::new(), RecipientSet::none_of(1))
    }

    proptest! {
        /// Entries are found, replaced and removed as in an ordinary map, in whatever order ids come and go.
        #[test]
        fn as_a_map(steps in prop::collection::vec((any::<bool>(), 0u64..600, 0u32..1 << META_BITS), 0..400)) {
            let mut expected = BTreeMap::new();
            let mut entries = Entries::default();
            for (insert, id, meta_length) in steps {
                if insert {
                    expected.insert(id, meta_length);
                    entries.insert(MessageId(id), entry(meta_length));
                } else {
                    let removed = entries.remove(MessageId(id)).map(|entry| entry.meta_length());
                    prop_assert_eq!(removed, expected.remove(&id));
                }
                prop_assert_eq!(entries.len(), expected.len());
                let found = entries.get(MessageId(id)).map(Entry::meta_length);
                prop_assert_eq!(found, expected.get(&id).copied());
                prop_assert_eq!(entries.get_mut(MessageId(id)).map(|entry| entry.meta_length()), found);
            }
        }
    }

    /// A message is finished when all its recipients are; one of one recipient needs no set for that.
    #[test]
    fn finished() {
        let mut one = entry(9);
        assert!(one.more.is_none() && !one.finish(&[]) && one.finish(&[0]));
        let mut two = Entry::new(9, one.head(), Vec::new(), RecipientSet::none_of(2));
        assert!(!two.finish(&[1]) && !two.finish(&[1]) && two.finish(&[0]));
        let chunk = Piece { ordinal: 1, offset: 9, length: 9 };
        let mut streamed = Entry::new(9, one.head(), vec![chunk], RecipientSet::none_of(1));
        assert_eq!(streamed.pieces().collect::<Vec<_>>(), [chunk, one.head()]);
        assert!(streamed.finish(&[0]));
    }

    /// A page that has become nearly empty gives its room back.
    #[test]
    fn sparse_pages_are_small() {
        let mut entries = Entries::default();
        (0..128).for_each(|id| entries.insert(MessageId(id), entry(1)));
        assert_eq!(entries.pages[&0].capacity(), 128);
        (0..127).for_each(|id| assert!(entries.remove(MessageId(id)).is_some()));
        assert!(entries.pages[&0].capacity() <= 4 && entries.get(MessageId(127)).is_some());
    }
}
