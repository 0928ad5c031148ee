//! What a sink process is told to be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use chasqui_protocol::sasl::accounts::Account;
use chasqui_runtime::{EngineKind, available_cores};
use chasqui_transport::ConnectionLimits;

use crate::certificate::{CertificateSource, Names};
use crate::error::StartError;
use crate::mailbox;

/// Descriptors that are no connections': of the process and its DNS, and of each shard with its rings and subscribers.
const OPEN_FILES_KEPT: u64 = 128;
const SHARD_OPEN_FILES: u64 = 128;
/// Smallest segment of mailboxes.
const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// Domains whose mail hosts are named in a certificate of our own: with more it would be too large for handshakes to be what they
/// are on the internet.
const DOMAINS_CERTIFIED: u32 = 100;
/// Least memory of mailboxes that drop the oldest.
const MAILBOX_BYTES_LEAST: u64 = 1 << 20;

/// The receiving internet of one process.
#[derive(Clone, Debug)]
pub struct Config {
    /// The engine of the shards.
    pub engine: EngineKind,
    /// One shard per entry, pinned to that core.
    pub cores: Vec<usize>,
    /// What the receivers call themselves.
    pub hostname: String,
    /// The test zone.
    pub zone: String,
    /// Mail domains in it: `d0` to `d<domains - 1>`.
    pub domains: u32,
    /// Where the receivers listen; the domains are spread over these addresses.
    pub smtp_addresses: Vec<IpAddr>,
    /// The receivers' port, the same on every address; 0 takes a free one.
    pub smtp_port: u16,
    /// The port of receivers in TLS from the first octet on (RFC 8314), for which there must be a certificate; none: there are none.
    pub smtps_port: Option<u16>,
    /// Who may send, by AUTH before MAIL; none: whoever comes.
    pub smtp_users: Option<SmtpUsers>,
    /// Where mailboxes are served by POP3; port 0 takes a free one.
    pub pop3: Option<SocketAddr>,
    /// Where mailboxes are served by IMAP; port 0 takes a free one.
    pub imap: Option<SocketAddr>,
    /// The same in TLS from the first octet on (RFC 8314), for which there must be a certificate.
    pub pop3s: Option<SocketAddr>,
    /// As `pop3s` for IMAP.
    pub imaps: Option<SocketAddr>,
    /// Where the zone is served by DNS, over UDP and TCP; port 0 takes a free one.
    pub dns: Option<SocketAddr>,
    /// What the zone names in place of an address that stands for all of the machine's.
    pub publish: Option<IpAddr>,
    /// Unix sockets that stream arrivals: this path with `.<shard>` appended.
    pub arrivals: Option<PathBuf>,
    /// What becomes of accepted messages.
    pub storage: Storage,
    /// A file of this process's own that keeps its last UIDVALIDITY, so that the next one is higher even if the clock was set back.
    pub state: Option<PathBuf>,
    /// What is shown in TLS; none: there is no TLS.
    pub certificate: Option<CertificateSource>,
    /// Recipients in every domain are taken, not in the zone's alone, and each has a mailbox.
    pub catch_all: bool,
    /// Lines over 998 octets are taken; else they are refused with 554 5.6.0.
    pub allow_long_lines: bool,
    /// Clients that do not wait for a reply that they must wait for (RFC 2920) are served; else they get 554 5.5.0.
    pub allow_early_talkers: bool,
    /// The password of every mailbox.
    pub password: String,
    /// TTL of every DNS record and negative answer, in seconds.
    pub dns_ttl_s: u32,
    /// What the process holds at most.
    pub limits: Limits,
}

/// Who may send.
#[derive(Clone, Debug)]
pub enum SmtpUsers {
    /// Whoever gives a name and a password.
    Any,
    /// Those with one of these accounts.
    Listed(Vec<Account>),
}

/// What becomes of accepted messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// They are kept in mailboxes in memory, which POP3 and IMAP serve.
    Mailboxes,
    /// Their checksums are verified, and they are dropped.
    Discard,
}

/// Limits of a sink process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Octets of a message, advertised as SIZE.
    pub message_bytes_max: u64,
    /// Recipients of a message.
    pub recipients_max: usize,
    /// Connections per shard, for each of SMTP, POP3 and IMAP, and the latter in TLS.
    pub connections_max: usize,
    /// Memory of all mailboxes.
    pub mailbox_bytes_max: u64,
    /// Messages in all mailboxes; with a limit the oldest ones make room for new ones.
    pub mailbox_messages_max: Option<usize>,
    /// The oldest messages make room where the memory is used up; else new ones are refused.
    pub drop_oldest: bool,
    /// Memory for messages that are being received, all shards together, beyond 64 KiB for each connection.
    pub buffered_bytes_max: usize,
    /// Records of arrivals that a subscriber may leave unread before it is disconnected.
    pub arrival_backlog_bytes_max: usize,
    /// An SMTP client may take this long for a command line and for taking a reply, and may pause for so long within a
    /// message; then the connection is ended with 421.
    pub idle_timeout: Duration,
    /// An SMTP client may take this long for a message as a whole; then the connection is ended with 421.
    pub message_timeout: Duration,
    /// An SMTP client may go this long without a message that is accepted; then the connection is ended with 421.
    pub without_mail_timeout: Duration,
    /// How long a shutdown waits for messages under way.
    pub shutdown_grace: Duration,
}

impl Limits {
    /// What a service of a shard lets in: the last eighth of the places is for peers that have few connections.
    pub(crate) fn connections(&self) -> ConnectionLimits {
        ConnectionLimits {
            unnamed: 0,
            total: self.connections_max,
            per_peer: usize::MAX,
            kept_for_few: self.connections_max / 8,
            kept_for_trusted: 0,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 64 << 20,
            recipients_max: 1000,
            connections_max: 10_000,
            mailbox_bytes_max: 8 << 30,
            mailbox_messages_max: None,
            drop_oldest: false,
            buffered_bytes_max: 2 << 30,
            arrival_backlog_bytes_max: 16 << 20,
            idle_timeout: Duration::from_secs(300),
            message_timeout: Duration::from_secs(3600),
            without_mail_timeout: Duration::from_secs(600),
            shutdown_grace: Duration::from_secs(5),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let loopback = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        Self {
            engine: EngineKind::Uring,
            cores: available_cores().into_iter().take(1).collect(),
            hostname: "sink.chasqui.test".to_owned(),
            zone: "chasqui.test".to_owned(),
            domains: 100,
            smtp_addresses: vec![IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1))],
            smtp_port: 0,
            smtps_port: None,
            smtp_users: None,
            pop3: loopback,
            imap: loopback,
            pop3s: None,
            imaps: None,
            dns: loopback,
            publish: None,
            arrivals: None,
            storage: Storage::Mailboxes,
            state: None,
            certificate: None,
            catch_all: false,
            allow_long_lines: false,
            allow_early_talkers: false,
            password: "chasqui".to_owned(),
            dns_ttl_s: 300,
            limits: Limits::default(),
        }
    }
}

impl Config {
    /// Names are compared in lower case everywhere: this makes them so, and refuses what cannot work.
    pub(crate) fn checked(mut self) -> Result<Config, StartError> {
        let refuse = |what: &str| Err(StartError::Config(what.to_owned()));
        self.zone = self.zone.trim_end_matches('.').to_ascii_lowercase();
        self.hostname = self.hostname.to_ascii_lowercase();
        let is_domain = |name: &str| {
            name.len() <= 200
                && name.split('.').all(|label| {
                    (1..=63).contains(&label.len())
                        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                })
        };
        if !is_domain(&self.zone) {
            return Err(StartError::Config(format!("zone {:?} is not a domain name", self.zone)));
        }
        if !is_domain(&self.hostname) {
            return Err(StartError::Config(format!("hostname {:?} is not a domain name", self.hostname)));
        }
        if self.smtp_addresses.is_empty() {
            return refuse("the receivers need at least one address to listen on");
        }
        if self.publish.is_some_and(|address| address.is_unspecified() || address.is_multicast()) {
            return refuse("the address to publish must be one of a machine");
        }
        let limits = &self.limits;
        let drops = limits.drop_oldest || limits.mailbox_messages_max.is_some();
        if drops && self.storage == Storage::Discard {
            return refuse("messages are discarded: there is nothing to be limited");
        }
        if limits.mailbox_messages_max == Some(0)
            || limits.drop_oldest && limits.mailbox_bytes_max < MAILBOX_BYTES_LEAST
        {
            return refuse("mailboxes must keep at least one message, and 1 MiB of memory");
        }
        if self.storage == Storage::Discard && self.mailbox_services().iter().any(Option::is_some) {
            return refuse(
                "messages are discarded: there is nothing for POP3 or IMAP to serve; leave them out",
            );
        }
        let implicit = [self.pop3s.is_some(), self.imaps.is_some(), self.smtps_port.is_some()];
        if self.certificate.is_none() && implicit.contains(&true) {
            return refuse("SMTP, POP3 and IMAP in TLS need a certificate; name one, or leave them out");
        }
        if self.limits.connections_max == 0 || self.limits.recipients_max == 0 {
            return refuse("at least one connection and one recipient must be allowed");
        }
        Ok(self)
    }

    /// Where mailboxes are served: by POP3, IMAP, and each of them in TLS.
    pub(crate) fn mailbox_services(&self) -> [Option<SocketAddr>; 4] {
        [self.pop3, self.imap, self.pop3s, self.imaps]
    }

    /// What a certificate of our own names: the hosts that the sinks are, in the DNS that they serve and to clients that were told
    /// one.
    pub(crate) fn certified(&self) -> Names {
        let zone = &self.zone;
        let of_domains =
            (0..self.domains.min(DOMAINS_CERTIFIED)).map(|domain| format!("mx.d{domain}.{zone}"));
        let others = ["mx.bounce", "implicit", "*.manymx"].map(|name| format!("{name}.{zone}"));
        let own = [self.hostname.clone(), "localhost".to_owned()];
        let services = self.mailbox_services().into_iter().flatten().map(|address| address.ip());
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let listened = self.smtp_addresses.iter().copied().chain(services).chain(self.publish);
        let mut addresses: Vec<IpAddr> = listened.chain(loopback).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Names { hosts: own.into_iter().chain(of_domains).chain(others).collect(), addresses }
    }

    /// What the store of mailboxes may hold.
    pub(crate) fn mailbox_limits(&self) -> mailbox::Limits {
        let (limits, general) = (&self.limits, mailbox::Limits::default());
        let drops = limits.drop_oldest || limits.mailbox_messages_max.is_some();
        // Memory comes free by whole segments: of little there are small ones, so that a new message costs few old ones.
        let of_shard = limits.mailbox_bytes_max / (4 * self.cores.len().max(1) as u64);
        mailbox::Limits {
            max_bytes: limits.mailbox_bytes_max,
            segment_bytes: of_shard.clamp(SEGMENT_BYTES_MIN, general.segment_bytes),
            drop_oldest: drops.then_some(limits.mailbox_messages_max.unwrap_or(usize::MAX)),
            max_messages_per_mailbox: if drops { usize::MAX } else { general.max_messages_per_mailbox },
            ..general
        }
    }

    /// Lowers the limit on connections to what the limit on open files allows; the line that says so, if it is less.
    pub(crate) fn fit_open_files(&mut self, open_files_max: u64) -> Option<String> {
        let shards = self.cores.len().max(1) as u64;
        let mailboxes = match self.storage {
            Storage::Mailboxes => {
                let limits = self.mailbox_limits();
                limits.max_bytes / limits.segment_bytes + 2 * shards
            }
            Storage::Discard => 0,
        };
        let reserve = OPEN_FILES_KEPT + SHARD_OPEN_FILES * shards + mailboxes.min(open_files_max / 4);
        let receivers = 1 + u64::from(self.smtps_port.is_some());
        let services = receivers + self.mailbox_services().iter().flatten().count() as u64;
        let fits = (open_files_max.saturating_sub(reserve) / (shards * services)).max(1);
        let fits = usize::try_from(fits).unwrap_or(usize::MAX);
        let wanted = self.limits.connections_max;
        self.limits.connections_max = fits.min(wanted);
        (fits < wanted).then(|| {
            format!(
                "{open_files_max} open files allow {fits} connections for each service and shard, not {wanted}; raise ulimit -n \
                 for more"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The services of all shards and the mailboxes together stay within the limit on open files.
    #[test]
    fn connections_fit() {
        for limit in [1024, 20_000, 1 << 20, u64::MAX] {
            let mut config = Config { cores: vec![0, 1], ..Config::default() };
            let line = config.fit_open_files(limit);
            let taken = 6 * config.limits.connections_max as u64;
            assert!(taken < limit && taken > (limit / 4).min(50_000), "{limit}: {taken}");
            assert_eq!(line.is_some(), limit < 60_000, "{line:?}");
        }
    }
}
