//! POP3 and IMAP over sockets: the servers of this crate against the client state machines of `protocol`.

mod fairness;
mod hostile;
mod imap;
mod imap_sessions;
mod pop3;
mod support;
