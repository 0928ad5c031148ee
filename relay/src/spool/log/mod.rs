//! The log of one shard's directory: what is in memory of it, how records enter it, and how they become durable.

pub(crate) mod body;
pub(crate) mod buffers;
pub(crate) mod check;
pub(crate) mod committer;
pub(crate) mod copy;
pub(crate) mod entries;
pub(crate) mod finished;
pub(crate) mod first;
pub(crate) mod gate;
pub(crate) mod groups;
pub(crate) mod handle;
pub(crate) mod inner;
pub(crate) mod notes;
pub(crate) mod reservation;
pub(crate) mod residents;
pub(crate) mod segments;
pub(crate) mod space;
pub(crate) mod streams;
pub(crate) mod table;
pub(crate) mod writer;
