//! POP3 and IMAP over sockets: the servers of this crate against the client state machines of `protocol`.

mod fairness;
mod harness;
mod hostile;
mod imap;
mod imap_sessions;
mod pop3;
