//! Groups under way.

use chasqui_runtime::Instant;

use super::notes::Word;
use crate::spool::config::Geometry;
use crate::spool::format::group::Group;
use crate::spool::format::headers::Kind;
use crate::spool::format::id::MessageId;
use crate::spool::format::place::Weight;

/// Memory that an idle group buffer keeps.
const GROUP_KEEP_BYTES: usize = 1 << 20;

/// A group that is being filled, waits to be written, or is written and not yet settled; and what follows when
/// it has got its place or is settled.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) group: Group,
    pub(crate) ticket: u64,
    /// Somebody waits for it: do not linger.
    pub(crate) urgent: bool,
    /// It is a table, and answers the requests up to this one.
    pub(crate) table: Option<u64>,
    /// It has copies that the cleaner waits for.
    pub(crate) copies: bool,
    /// When its first record entered.
    pub(crate) since: Option<Instant>,
    pub(crate) messages: Vec<NewMessage>,
    pub(crate) chunks: Vec<NewChunk>,
    /// States in it that tell something as long as their messages have recipients left.
    pub(crate) notes: Vec<NewNote>,
    /// Messages that states in it finish, and the newest segment with a copy of each.
    pub(crate) completed: Vec<(MessageId, u32)>,
    /// Records that are dead once this is settled.
    pub(crate) releases: Vec<Weight>,
    /// Segments that tombstones in it speak of, in rising order; see [`SegmentTable::speak`].
    pub(crate) speaks_of: Vec<(u32, u64)>,
    /// The segments of the last state and the same encoded; kept for their memory.
    pub(crate) homes: (Vec<u32>, Vec<u8>),
    /// Bytes it counts for in flight.
    pub(crate) inflight: usize,
    /// Sequence of its last record, once written.
    pub(crate) last_sequence: u64,
}

/// A message record in a pending group.
pub(crate) struct NewMessage {
    pub(crate) id: MessageId,
    pub(crate) meta_length: u32,
    /// Offset of the body in the group.
    pub(crate) body: u32,
    pub(crate) length: u32,
    pub(crate) recipients: u32,
    /// The stream whose chunks belong to it.
    pub(crate) stream: Option<usize>,
}

/// A chunk record in a pending group.
pub(crate) struct NewChunk {
    pub(crate) id: MessageId,
    pub(crate) stream: usize,
    pub(crate) body: u32,
    pub(crate) length: u32,
}

/// A state record in a pending group.
pub(crate) struct NewNote {
    pub(crate) id: MessageId,
    /// Offset of the record in the group.
    pub(crate) start: u32,
    pub(crate) length: u32,
    pub(crate) word: Word,
    pub(crate) recipients: Vec<u32>,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.group.records() == 0 && !self.urgent
    }

    /// A tombstone of `length` bytes in it speaks of these segments, in rising order.
    pub(crate) fn speak(&mut self, homes: &[u32], length: u32) {
        for (index, home) in homes.iter().enumerate() {
            let counts = index + 1 == homes.len();
            let at =
                self.speaks_of.binary_search_by_key(home, |(subject, _)| *subject).unwrap_or_else(|at| {
                    self.speaks_of.insert(at, (*home, 0));
                    at
                });
            self.speaks_of[at].1 += if counts { u64::from(length) } else { 0 };
        }
    }

    /// For the next use.
    pub(crate) fn recycle(mut self) -> Pending {
        self.group.clear(GROUP_KEEP_BYTES);
        self.messages.clear();
        self.chunks.clear();
        self.notes.clear();
        self.completed.clear();
        self.releases.clear();
        self.speaks_of.clear();
        Pending {
            group: self.group,
            messages: self.messages,
            chunks: self.chunks,
            notes: self.notes,
            completed: self.completed,
            releases: self.releases,
            speaks_of: self.speaks_of,
            homes: self.homes,
            ..Pending::default()
        }
    }
}

impl Pending {
    /// Adds the record of a body that was gathered in `buffer`; returns what [`Group::push`] does, and the buffer or an
    /// empty one if the body is written from it.
    ///
    /// [`Group::push`]: super::group::Group::push
    pub(crate) fn push_gathered(
        &mut self,
        kind: Kind,
        flags: u8,
        id: MessageId,
        meta: impl FnOnce(&mut Vec<u8>),
        buffer: Vec<u8>,
        geometry: &Geometry,
    ) -> ((u32, u32), Vec<u8>) {
        if buffer.len() >= geometry.apart_bytes {
            (self.group.push_apart(kind, flags, id.0, meta, buffer), Vec::new())
        } else {
            (self.group.push(kind, flags, id.0, meta, &buffer), buffer)
        }
    }
}
