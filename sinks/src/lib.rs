//! The receiving internet: SMTP receivers, mailboxes with POP3 and IMAP, and the DNS that leads to them.
//!
//! [`start`] runs all of it in one process: a shard per core serves SMTP, POP3, IMAP and the stream of
//! arrivals; one control thread serves DNS. Mail for the zone's domains is checked against its stamp, put
//! into mailboxes in memory, and told to the load generator, off the delivery path.

mod arrivals;
mod authentication;
pub mod behaviour;
mod certificate;
mod config;
mod dns;
mod error;
pub mod imap;
mod incarnation;
pub mod mailbox;
pub mod pop3;
mod ports;
mod receiver;
mod running;
mod shard;
mod turns;
mod zone;

pub use certificate::{CertificateError, CertificateFiles, CertificateSource, write_certificate};
pub use chasqui_protocol::control::SinkReady;
pub use config::{Config, Limits, SmtpUsers, Storage};
pub use dns::{DnsError, DnsStats};
pub use error::{RunError, StartError};
pub use receiver::ReceiverStats;
pub use running::{Running, Stopper, Summary, launch, start};
