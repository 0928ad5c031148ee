//! Mail comes in: listeners, sessions, and what each peer may take of connections, messages and recipients a minute, memory and
//! space in the spool.

pub(crate) mod admission;
pub(crate) mod connection_limits;
pub(crate) mod listener;
pub(crate) mod rates;
pub(crate) mod session;
pub(crate) mod space;

#[cfg(test)]
mod tests;
