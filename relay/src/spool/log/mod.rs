//! The log of one shard's directory: what is in memory of it, how records enter it, and how they become durable.
//!
//! [`inner`] holds what changes, in parts that change together: [`groups`] under way, [`segments`], [`messages`],
//! [`write_back`], [`streams`], [`space`], [`copying`]. [`handle`] is what its users and tasks share. Above them,
//! [`reservation`], [`writer`] and [`states`] let records enter, the [`committer`] writes, syncs and settles what has entered,
//! and [`body`] and [`check`] read it again.

pub(crate) mod begin;
pub(crate) mod body;
pub(crate) mod buffers;
pub(crate) mod check;
pub(crate) mod committer;
pub(crate) mod copy;
pub(crate) mod copying;
pub(crate) mod entries;
pub(crate) mod first;
pub(crate) mod gather;
pub(crate) mod groups;
pub(crate) mod handle;
pub(crate) mod inner;
pub(crate) mod messages;
pub(crate) mod recipient_set;
pub(crate) mod reservation;
pub(crate) mod segment_table;
pub(crate) mod segments;
pub(crate) mod space;
pub(crate) mod state_index;
pub(crate) mod states;
pub(crate) mod streams;
pub(crate) mod watermark;
pub(crate) mod write_back;
pub(crate) mod write_out;
pub(crate) mod writer;
pub(crate) mod writing;
