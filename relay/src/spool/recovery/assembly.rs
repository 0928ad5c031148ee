//! What a start has found, and what is to be done with it.

use std::collections::{BTreeMap, BTreeSet};

use crate::spool::format::headers::{HeaderFault, Identity, SegmentHeader};
use crate::spool::format::place::Piece;
use crate::spool::format::scan::FoundGroup;
use crate::spool::format::state::Deferral;
use crate::spool::format::table::Cut;
use crate::spool::log::recipient_set::RecipientSet;
use crate::spool::log::state_index::LiveState;

/// A segment file, scanned.
#[derive(Debug)]
pub(crate) struct ScannedFile {
    /// Number in its name.
    pub(crate) file: u32,
    /// Its bytes.
    pub(crate) length: u64,
    /// Its header. Without one, `groups` are of any identity.
    pub(crate) header: Result<SegmentHeader, HeaderFault>,
    /// Its whole groups in order of place.
    pub(crate) groups: Vec<FoundGroup>,
    /// Places where a group starts that is not whole.
    pub(crate) fragments: Vec<u64>,
    /// The groups are from the segment's index: nobody has looked at the bodies.
    pub(crate) indexed: bool,
    /// Whole groups. Of a rival those that were seen, whatever its index says: see `rivals`.
    pub(crate) whole: usize,
}

/// What is to be done with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It counts.
    Live {
        /// Which segment it is.
        identity: Identity,
        /// Something that was durable in it is lost.
        damaged: bool,
    },
    /// Prepared and never used.
    Fresh(Identity),
    /// It may be overwritten.
    Free(Option<Identity>),
    /// Moved aside, never used again.
    Quarantined(String),
}

/// A whole group that may be in the page cache alone: index of its file, and where it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsure {
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) end: u64,
}

/// A message that has recipients left.
#[derive(Debug)]
pub(crate) struct FoundMessage {
    pub(crate) id: u64,
    /// Where the record's header, with the envelope behind it, can be read in the head's segment.
    pub(crate) head_offset: u32,
    pub(crate) finished: RecipientSet,
    /// By recipient, ascending.
    pub(crate) deferrals: Box<[(u32, Deferral)]>,
    /// Bytes of the envelope, right before the head.
    pub(crate) meta_length: u32,
    /// The piece in the message record.
    pub(crate) head: Piece,
    /// The pieces that precede it.
    pub(crate) chunks: Vec<Piece>,
    /// Its states that still tell something, the last ones last.
    pub(crate) states: Vec<LiveState>,
}

/// One line of what recovery has to say of damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it means.
    pub kind: FindingKind,
    /// Where and what, in words.
    pub line: String,
}

/// What a [`Finding`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindingKind {
    /// What was durable is damaged or missing.
    Quarantined,
    /// What was not yet durable is not whole, or was never committed.
    Discarded,
    /// Says more of what another one has counted.
    Detail,
}

/// The outcome.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    /// Random number of the spool, if any file tells it.
    pub(crate) spool: Option<u64>,
    /// One per file, in their order.
    pub(crate) fates: Vec<Fate>,
    /// Of each live segment, the segments that tombstones in it refer to; see
    /// [`SegmentTable::refer`](crate::spool::log::segment_table::SegmentTable::refer).
    pub(crate) refers_to: BTreeMap<u32, BTreeMap<u32, u64>>,
    /// Segments with pieces of messages, and those with newer copies of the pieces.
    pub(crate) copied: BTreeSet<(u32, u32)>,
    /// In order of their ids.
    pub(crate) messages: Vec<FoundMessage>,
    /// Live segments that were read by their index.
    pub(crate) indexed: BTreeSet<u32>,
    /// Groups that count and that no sync is known to have covered.
    pub(crate) unsure: Vec<Unsure>,
    /// To be recorded before anything is delivered.
    pub(crate) cuts: Vec<Cut>,
    /// Above every ordinal seen.
    pub(crate) next_ordinal: u32,
    /// Of this start.
    pub(crate) incarnation: u32,
    pub(crate) discarded: u64,
    pub(crate) quarantined: u64,
    pub(crate) report: Vec<Finding>,
}

impl Assembly {
    pub(crate) fn quarantine(&mut self, line: String) {
        self.quarantined += 1;
        self.report.push(Finding { kind: FindingKind::Quarantined, line });
    }

    pub(crate) fn discard(&mut self, line: String) {
        self.discarded += 1;
        self.report.push(Finding { kind: FindingKind::Discarded, line });
    }
}

pub(crate) fn name(file: u32) -> String {
    format!("segment-{file:08}")
}
