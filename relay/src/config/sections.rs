//! The tables of the configuration, one struct each, and the checks on what their values mean together.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use chasqui_protocol::durability::Durability;
use serde::Deserialize;

use super::Config;
use super::tls::TlsPolicy;
use super::values::{self, HostName, Size};
use crate::spool::SpoolConfig;

/// `[spool]`: where and how accepted messages are kept.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spool {
    /// The spool's directory; created when missing. Required.
    #[serde(deserialize_with = "values::one")]
    pub directory: PathBuf,
    /// What a 250 promises.
    #[serde(default)]
    pub class: Durability,
    /// Size of one segment file, preallocated; two per shard exist at least.
    #[serde(default = "segment_size", deserialize_with = "values::one")]
    pub segment_size: Size,
    /// Space that the whole spool may take, all shards together; beyond it the answer is 452.
    #[serde(default = "space", deserialize_with = "values::one")]
    pub space: Size,
    /// Class `memory`: octets per shard of messages that are in memory alone; beyond it the oldest are written.
    #[serde(default = "memory", deserialize_with = "values::one")]
    pub memory: Size,
}

fn segment_size() -> Size {
    Size(128 << 20)
}

fn space() -> Size {
    Size(8 << 30)
}

fn memory() -> Size {
    Size(64 << 20)
}

/// `[delivery]`: outgoing connections.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delivery {
    /// Port of next hops that do not name one.
    pub port: u16,
    /// Name in EHLO; `hostname` when left out.
    #[serde(deserialize_with = "values::optional")]
    pub helo: Option<HostName>,
    /// Local address of outgoing connections; the kernel chooses when left out.
    #[serde(deserialize_with = "values::optional")]
    pub source_address: Option<IpAddr>,
    /// Outgoing connections of the whole relay; each shard has its share, at least one.
    pub connections: usize,
    /// Connections to one site (the domains with the same mail hosts), all shards together.
    pub connections_per_site: usize,
    /// Messages a second to one site, all shards together, in bursts of a tenth of a second's; 0 for no limit.
    pub rate_per_site: u32,
    /// Messages sent through one connection before it is closed.
    pub messages_per_connection: u32,
    /// Recipients of one message in one transaction; RFC 5321 4.5.3.1.8 has receivers take 100.
    pub recipients_per_transaction: usize,
    /// An idle connection is kept for this long, then closed with QUIT.
    #[serde(deserialize_with = "values::one")]
    pub idle: Duration,
    /// Time limit for a connection to be made.
    #[serde(deserialize_with = "values::one")]
    pub connect_timeout: Duration,
    /// Time limit for the greeting and the reply to EHLO together (RFC 5321 4.5.3.2.1: 5 minutes).
    #[serde(deserialize_with = "values::one")]
    pub greeting_timeout: Duration,
    /// Time limit for each reply to MAIL, RCPT and DATA (RFC 5321 4.5.3.2.2 to 4.5.3.2.4: 5 minutes).
    #[serde(deserialize_with = "values::one")]
    pub command_timeout: Duration,
    /// Time limit for one piece of the message, of 256 KiB or the rest, to be taken (RFC 5321 4.5.3.2.5: 3 minutes): a least
    /// rate of 1.4 KiB/s.
    #[serde(deserialize_with = "values::one")]
    pub block_timeout: Duration,
    /// Time limit for the reply after the final dot (RFC 5321 4.5.3.2.6: 10 minutes). A reply that comes later
    /// leaves a duplicate.
    #[serde(deserialize_with = "values::one")]
    pub final_timeout: Duration,
}

impl Default for Delivery {
    fn default() -> Self {
        Delivery {
            port: 25,
            helo: None,
            source_address: None,
            connections: 1000,
            connections_per_site: 20,
            rate_per_site: 0,
            messages_per_connection: 1000,
            recipients_per_transaction: 100,
            idle: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(30),
            greeting_timeout: Duration::from_secs(300),
            command_timeout: Duration::from_secs(300),
            block_timeout: Duration::from_secs(180),
            final_timeout: Duration::from_secs(600),
        }
    }
}

impl Delivery {
    /// What a transaction with a message of `size` octets for so many recipients takes at most.
    pub(crate) fn attempt_max(&self, size: u64, recipients: usize) -> Duration {
        let pieces = u32::try_from(size / PIECE + 2).unwrap_or(u32::MAX);
        // RSET, MAIL and DATA beside them.
        let replies = u32::try_from(recipients + 3).unwrap_or(u32::MAX);
        let commands = self.command_timeout.saturating_mul(replies);
        commands + self.block_timeout.saturating_mul(pieces) + self.final_timeout
    }

    /// What a new connection takes at most, up to the answer to EHLO, or the last words of a host that gives none: it may be made
    /// twice, when the first one's handshake fails.
    pub(crate) fn connection_max(&self) -> Duration {
        self.connect_timeout * 2 + self.greeting_timeout + Duration::from_secs(10)
    }

    /// What may pass at a site that is served, with messages of the usual sizes, before something happens: a host
    /// that does not answer, or a transaction.
    pub(crate) fn service_max(&self) -> Duration {
        self.connection_max() + self.attempt_max(4 * PIECE, 1)
    }
}

/// Octets sent at a time.
const PIECE: u64 = 256 << 10;

/// `[auth]`: users.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// File of users, a line each, as `chasqui password` writes it; AUTH is not offered when left out.
    #[serde(deserialize_with = "values::optional")]
    pub users: Option<PathBuf>,
    /// File with the accounts that the relay has at next hops, a line each: NEXT-HOP USER:PASSWORD.
    #[serde(deserialize_with = "values::optional")]
    pub credentials: Option<PathBuf>,
    /// What such a next hop must offer before it is told, if `tls` does not ask for more.
    pub credentials_tls: TlsPolicy,
    /// Failures that one address may have in a minute; then AUTH is answered 454 4.7.0 without a look at the password.
    pub failures_per_minute: u32,
    /// Failures that one user may have in a minute, from all addresses together.
    pub user_failures_per_minute: u32,
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            users: None,
            credentials: None,
            credentials_tls: TlsPolicy::Verified,
            failures_per_minute: 10,
            user_failures_per_minute: 30,
        }
    }
}

/// `[dns]`: name resolution.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Name servers (at most 8), by IP address, in the order in which they are asked, port 53 unless written; when empty, those of
    /// /etc/resolv.conf.
    #[serde(deserialize_with = "values::dns_servers")]
    pub servers: Vec<SocketAddr>,
}

/// `[retry]`: when a temporary failure is tried again, and when we give up.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Delay after the first failure.
    #[serde(deserialize_with = "values::one")]
    pub first: Duration,
    /// Each further delay is this many times the last, from 1.
    pub factor: f64,
    /// The longest delay.
    #[serde(deserialize_with = "values::one")]
    pub max: Duration,
    /// A delay is varied by up to this part of itself, up or down, from 0 to 0.9.
    pub jitter: f64,
    /// Age at which an undelivered message goes back to its sender.
    #[serde(deserialize_with = "values::one")]
    pub max_age: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Retry {
            first: Duration::from_secs(60),
            factor: 2.0,
            max: Duration::from_secs(4 * 3600),
            jitter: 0.2,
            max_age: Duration::from_secs(5 * 86_400),
        }
    }
}

/// `[limits]`: what clients may take from us.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest message, announced in SIZE; more is 552.
    #[serde(deserialize_with = "values::one")]
    pub message_size: Size,
    /// Recipients of one message; more are 452 4.5.3.
    pub recipients: usize,
    /// Incoming connections of the whole relay; more are answered 421. A quarter of them is kept for `networks` and for peers
    /// that have few, half of that for `networks` alone. Lowered at the start to what the limit on open files allows.
    pub connections: usize,
    /// Incoming connections from one peer, which is an IPv4 address or a /64 of IPv6; more are answered 421.
    pub connections_per_peer: usize,
    /// Messages that one peer may begin in a minute; more are 452 4.7.0 at MAIL. 0 for no limit.
    pub messages_per_minute: u32,
    /// Recipients that one peer may name in a minute; more are 452 4.7.0 at RCPT. 0 for no limit.
    pub recipients_per_minute: u32,
    /// Errors in one session before it is closed with 421; an accepted message resets the count.
    pub errors: usize,
    /// Commands in one session that bring no mail (NOOP, RSET, VRFY, HELP, EHLO again, recipients and messages that were
    /// refused for good) before it is closed with 421; an accepted message resets the count.
    pub junk: usize,
    /// Message octets in memory on the way to the spool, per shard; at this many, sessions are not read.
    #[serde(deserialize_with = "values::one")]
    pub in_flight: Size,
    /// Messages in the queue of the whole relay; each shard has its share. At this many MAIL is answered 452 4.3.1.
    pub queued: usize,
    /// Anonymous memory of the process, without page cache; beyond it MAIL, RCPT and DATA are answered 452 4.3.1 and new
    /// connections 421 4.3.2, when giving back what is freed does not help.
    #[serde(deserialize_with = "values::one")]
    pub memory: Size,
    /// Time for a whole command line, and for taking a reply, and longest pause within a message; a client that needs more is
    /// closed with 421 4.4.2 (RFC 5321 4.5.3.2.7: 5 minutes). 500 octets of a message are worth a second.
    #[serde(deserialize_with = "values::one")]
    pub idle: Duration,
    /// Time for a message from the reply to DATA to its end, whatever its size; then the connection is closed with 421 4.4.2.
    #[serde(deserialize_with = "values::one")]
    pub message_time: Duration,
    /// Time that a peer outside of `networks` may go without a mail that is accepted; then it is closed with 421 4.4.2.
    #[serde(deserialize_with = "values::one")]
    pub without_mail: Duration,
    /// Received fields at which a message is taken to loop: 554 5.4.6.
    pub hops: usize,
    /// Received fields of our own that a message may bring along, as one does that a content filter passes back; more are
    /// 554 5.4.6.
    pub own_hops: usize,
    /// At SIGTERM, transactions under way have this long to finish.
    #[serde(deserialize_with = "values::one")]
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_size: Size(64 << 20),
            recipients: 1000,
            connections: 10_000,
            connections_per_peer: 2000,
            messages_per_minute: 0,
            recipients_per_minute: 0,
            errors: 20,
            junk: 100,
            in_flight: Size(64 << 20),
            queued: 1_000_000,
            memory: Size(4 << 30),
            idle: Duration::from_secs(300),
            message_time: Duration::from_secs(3600),
            without_mail: Duration::from_secs(600),
            hops: 100,
            own_hops: 4,
            drain: Duration::from_secs(10),
        }
    }
}

/// `[control]`: the socket that answers questions about the running relay.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Control {
    /// Path of the unix socket; none is opened when left out.
    #[serde(deserialize_with = "values::optional")]
    pub socket: Option<PathBuf>,
}

/// `[bounce]`: delivery status notifications to senders.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Bounce {
    /// Off: failures are logged and counted, nobody is told, and DSN is not advertised.
    pub enabled: bool,
    /// Address in the From field of notifications; `postmaster@<hostname>` when left out.
    #[serde(deserialize_with = "values::optional")]
    pub postmaster: Option<values::Address>,
    /// Age at which the sender of a message that is still being tried is warned, once; `"0s"`: never.
    #[serde(deserialize_with = "values::one")]
    pub delay_warning: Duration,
    /// Largest message that is returned whole to a sender who asks for it (RET=FULL); of larger ones, and without
    /// the wish, the header section is.
    #[serde(deserialize_with = "values::one")]
    pub return_size: Size,
}

impl Default for Bounce {
    fn default() -> Self {
        Bounce {
            enabled: true,
            postmaster: None,
            delay_warning: Duration::from_secs(4 * 3600),
            return_size: Size(256 << 10),
        }
    }
}

/// `[compat]`: leniency towards broken clients and servers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compat {
    /// What a bare CR or LF in a message does.
    pub bare_newlines: BareNewlines,
    /// What a line over 998 octets does.
    pub long_lines: LongLines,
    /// What NUL in a message does.
    pub nul_octets: NulOctets,
    /// What happens to a client that does not wait for a reply that it must wait for (RFC 2920).
    pub early_talkers: EarlyTalkers,
    /// What 8-bit mail to a next hop without 8BITMIME does.
    pub eight_bit: EightBit,
}

/// `compat.bare_newlines`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BareNewlines {
    /// The message is refused with 554 5.6.0.
    #[default]
    Refuse,
    /// Each becomes CR LF.
    Repair,
}

/// `compat.long_lines`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LongLines {
    /// The message is refused with 554 5.6.0.
    #[default]
    Refuse,
    /// They are taken and passed on.
    Allow,
}

/// `compat.nul_octets`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NulOctets {
    /// The message is refused with 554 5.6.0.
    #[default]
    Refuse,
    /// Each becomes a blank.
    Repair,
    /// They are taken and passed on.
    Allow,
}

/// `compat.early_talkers`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EarlyTalkers {
    /// The session is ended with 554 5.5.0.
    #[default]
    Refuse,
    /// What they say is taken in turn.
    Allow,
}

/// `compat.eight_bit`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EightBit {
    /// The message goes back to its sender with 5.6.3.
    #[default]
    Bounce,
    /// It is sent as it is.
    Send,
}

const DAY: Duration = Duration::from_secs(86_400);

pub(super) fn check(config: &Config) -> Result<(), (Vec<&str>, String)> {
    let Config { spool, delivery, auth, retry, limits, bounce, .. } = config;
    size("spool", "segment_size", spool.segment_size, Size(64 << 10), Size(512 << 20))?;
    size("spool", "space", spool.space, Size(spool.segment_size.0 * 4), Size(1 << 50))?;
    // As for a single shard: that many may be all that is started one day.
    let (segment_size, max_space) = (spool.segment_size.0, spool.space.0);
    let of_one = SpoolConfig { segment_size, max_space, ..SpoolConfig::new(spool.directory.clone(), 0, 1) };
    of_one.check().map_err(|error| (vec!["spool", "segment_size"], error.to_string()))?;
    size("spool", "memory", spool.memory, Size(0), Size(1 << 40))?;
    number("delivery", "port", delivery.port, 1, u16::MAX)?;
    number("delivery", "connections", delivery.connections, 1, 1_000_000)?;
    number("delivery", "connections_per_site", delivery.connections_per_site, 1, 100_000)?;
    number("delivery", "rate_per_site", delivery.rate_per_site, 0, 1_000_000)?;
    number("delivery", "messages_per_connection", delivery.messages_per_connection, 1, u32::MAX)?;
    number("delivery", "recipients_per_transaction", delivery.recipients_per_transaction, 1, 10_000)?;
    let second = Duration::from_secs(1);
    duration("delivery", "idle", delivery.idle, Duration::ZERO, Duration::from_secs(3600))?;
    duration("delivery", "connect_timeout", delivery.connect_timeout, second, DAY)?;
    duration("delivery", "greeting_timeout", delivery.greeting_timeout, second, DAY)?;
    duration("delivery", "command_timeout", delivery.command_timeout, second, DAY)?;
    duration("delivery", "block_timeout", delivery.block_timeout, second, DAY)?;
    duration("delivery", "final_timeout", delivery.final_timeout, second, DAY)?;
    number("auth", "failures_per_minute", auth.failures_per_minute, 1, 1_000_000)?;
    number("auth", "user_failures_per_minute", auth.user_failures_per_minute, 1, 1_000_000)?;
    number("retry", "factor", retry.factor, 1.0, 100.0)?;
    number("retry", "jitter", retry.jitter, 0.0, 0.9)?;
    let shortest = Duration::from_millis(10);
    duration("retry", "first", retry.first, shortest, 30 * DAY)?;
    duration("retry", "max", retry.max, retry.first, 365 * DAY)?;
    duration("retry", "max_age", retry.max_age, shortest, 365 * DAY)?;
    size("limits", "message_size", limits.message_size, Size(64 << 10), Size(4 << 30))?;
    number("limits", "recipients", limits.recipients, 100, 65_535)?;
    number("limits", "connections", limits.connections, 1, 1_000_000)?;
    number("limits", "connections_per_peer", limits.connections_per_peer, 1, 1_000_000)?;
    number("limits", "messages_per_minute", limits.messages_per_minute, 0, 100_000_000)?;
    number("limits", "recipients_per_minute", limits.recipients_per_minute, 0, 100_000_000)?;
    number("limits", "errors", limits.errors, 1, 1_000_000)?;
    number("limits", "junk", limits.junk, 1, 1_000_000)?;
    size("limits", "in_flight", limits.in_flight, Size(2 << 20), Size(1 << 40))?;
    number("limits", "queued", limits.queued, 1, 100_000_000)?;
    size("limits", "memory", limits.memory, Size(1 << 20), Size(1 << 50))?;
    duration("limits", "idle", limits.idle, Duration::from_millis(100), DAY)?;
    duration("limits", "message_time", limits.message_time, Duration::from_millis(100), DAY)?;
    duration("limits", "without_mail", limits.without_mail, Duration::from_millis(100), DAY)?;
    number("limits", "hops", limits.hops, 1, 1000)?;
    number("limits", "own_hops", limits.own_hops, 0, 1000)?;
    duration("limits", "drain", limits.drain, Duration::ZERO, DAY)?;
    duration("bounce", "delay_warning", bounce.delay_warning, Duration::ZERO, 365 * DAY)?;
    size("bounce", "return_size", bounce.return_size, Size(0), Size(16 << 20))
}

type Checked<'a> = Result<(), (Vec<&'a str>, String)>;

fn number<T: PartialOrd + std::fmt::Display>(
    table: &'static str,
    key: &'static str,
    value: T,
    least: T,
    most: T,
) -> Checked<'static> {
    if least <= value && value <= most {
        return Ok(());
    }
    Err((vec![table, key], format!("{key} = {value} is refused; write a number from {least} to {most}")))
}

fn size(table: &'static str, key: &'static str, value: Size, least: Size, most: Size) -> Checked<'static> {
    if least <= value && value <= most {
        return Ok(());
    }
    let message = format!("{key} = {value} is refused; write a size from {least} to {most}");
    Err((vec![table, key], message))
}

fn duration(
    table: &'static str,
    key: &'static str,
    value: Duration,
    least: Duration,
    most: Duration,
) -> Checked<'static> {
    if least <= value && value <= most {
        return Ok(());
    }
    let message = format!("{key} = {value:?} is refused; write a duration from {least:?} to {most:?}");
    Err((vec![table, key], message))
}
