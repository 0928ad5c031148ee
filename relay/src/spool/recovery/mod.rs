//! What a start does: a directory is read, it is decided what counts in it, and the decisions are made durable.

pub(crate) mod assembly;
mod files;
mod first_segment;
mod messages;
pub(crate) mod open;
mod private;
pub(crate) mod read;
mod read_retry;
pub(crate) mod recover;
pub(crate) mod recovered_messages;
mod sequences;
