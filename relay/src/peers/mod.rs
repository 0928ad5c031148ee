//! Whom a client's connection is counted for, and what each such peer may take: connections, messages and recipients a
//! minute, space in the spool.

pub(crate) mod connections;
pub(crate) mod rates;
pub(crate) mod space;

#[cfg(test)]
mod tests;
