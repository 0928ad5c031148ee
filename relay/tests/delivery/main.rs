//! The relay between a client and receivers, all on real sockets and a real spool.

mod messages;
mod notifications;
mod proxied;
mod queueing;
mod serving;
mod support;
