//! What is done behind the mail: segments are freed, cleaned and prepared, indexes written, the reserve kept.

mod cleaner;
mod indexes;
mod reserve;
mod spare;
pub(crate) mod task;
pub(crate) mod victim;
pub(crate) mod write_back;
