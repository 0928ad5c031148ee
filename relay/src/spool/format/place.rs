//! Where records and their pieces are, and what they weigh.

use super::headers::RECORD_HEADER;
use super::message::CHUNK_META;

/// Where a piece of a message's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) ordinal: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// Where a state record is: its header's place, and its bytes with that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) ordinal: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// A record that lives, as its segment counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight {
    /// The segment.
    pub(crate) ordinal: u32,
    /// Of the whole record.
    pub(crate) bytes: u64,
}

impl Weight {
    /// A record with this piece behind `meta_length` bytes.
    pub(crate) fn of_record(piece: Piece, meta_length: u32) -> Weight {
        let bytes = RECORD_HEADER as u64 + u64::from(meta_length) + u64::from(piece.length);
        Weight { ordinal: piece.ordinal, bytes }
    }

    /// A chunk record.
    pub(crate) fn of_chunk(piece: Piece) -> Weight {
        Weight::of_record(piece, CHUNK_META)
    }

    /// A state record.
    pub(crate) fn of_state(place: Place) -> Weight {
        Weight { ordinal: place.ordinal, bytes: u64::from(place.length) }
    }
}
