//! What is done behind the mail: segments are freed, cleaned and prepared, indexes written, the reserve kept.

pub(crate) mod chores;
mod cleaner;
mod indexes;
mod reserve;
pub(crate) mod residents;
mod spare;
pub(crate) mod victim;
