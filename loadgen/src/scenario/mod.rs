//! What a run is asked to do: to whom ([`Directory`]), how large ([`SizeDistribution`]), how fast, over what; and, in
//! `check`, whether it can be done.

mod access;
mod check;
mod directory;
mod recipients;
mod size;
mod target;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use chasqui_report::{ArrivalProcess, Rate, TlsMode, Verify};
use ipnet::IpNet;

pub use access::{Authentication, ReaderAccess};
pub(crate) use check::ENDPOINTS_MAX;
pub use check::ScenarioError;
pub use directory::Directory;
pub use recipients::{RecipientDistribution, RecipientsError};
pub use size::{ByteSize, SizeDistribution, SizeError};
pub use target::{MailboxServer, Target, Tls, TlsTrust};

/// When the generator itself is too slow for the result to mean anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValidityLimits {
    /// Largest share of intended sends that may start late.
    pub late_share_max: f64,
    /// A send that starts longer than this after its intended time is late.
    pub late_by: Duration,
    /// Smallest share of the wanted rate that must be achieved.
    pub achieved_share_min: f64,
}

impl Default for ValidityLimits {
    fn default() -> Self {
        Self { late_share_max: 0.01, late_by: Duration::from_millis(10), achieved_share_min: 0.99 }
    }
}

/// What a run is asked to do.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Messages wanted a second, or the closed loop.
    pub rate: Rate,
    /// Spacing of an open loop's messages.
    pub arrivals: ArrivalProcess,
    /// Everything random about the run follows from it, but for the run's id.
    pub seed: u64,
    /// Sending before the window, not measured.
    pub warmup: Duration,
    /// The measured window.
    pub duration: Duration,
    /// After the window: how long to wait while nothing moves.
    pub drain: Duration,
    /// SMTP connections, over all targets.
    pub connections: usize,
    /// Closed loop: accepted recipients that may be on their way; `None` is 16 per connection.
    pub outstanding: Option<usize>,
    /// Sizes of the messages.
    pub size: SizeDistribution,
    /// Recipients of a message, each in a different mailbox.
    pub recipients_per_message: RecipientDistribution,
    /// Domains `d0`… of the zone.
    pub domains: usize,
    /// Mailboxes `u0`… of each domain.
    pub mailboxes_per_domain: usize,
    /// The zone of the mailboxes, lower case.
    pub zone: String,
    /// The zone that bounces go to; `None` is `bounce.` and the zone.
    pub bounce_zone: Option<String>,
    /// How messages are verified; `None` is live at a fixed rate and after at `max`.
    pub verify: Option<Verify>,
    /// A quarter of the bodies hold 8-bit text where the server offers 8BITMIME.
    pub eight_bit: bool,
    /// SMTP servers; connections are spread over them in turn.
    pub targets: Vec<Target>,
    /// Whether connections to them are in TLS.
    pub target_tls: TlsMode,
    /// How it is with TLS wherever it is spoken.
    pub tls: Tls,
    /// Who logs in there; `None`: nobody does.
    pub authentication: Option<Authentication>,
    /// Messages after which a connection is ended and another opened at once; `None`: it is kept.
    pub messages_per_connection: Option<u64>,
    /// Addresses that connections come from, used in turn; none: the system chooses.
    pub sources: Vec<IpAddr>,
    /// Networks beside the loopback that targets and readers may be in.
    pub allow_target: Vec<IpNet>,
    /// POP3 server of the mailboxes.
    pub pop3: Option<MailboxServer>,
    /// IMAP server of the mailboxes.
    pub imap: Option<MailboxServer>,
    /// Password of every mailbox.
    pub password: String,
    /// Who logs in how at the mailboxes.
    pub reader: ReaderAccess,
    /// How often a POP3 mailbox is polled.
    pub pop3_poll: Duration,
    /// Unix sockets of the sinks' arrival streams.
    pub arrival_streams: Vec<PathBuf>,
    /// Control socket of the relay; `None`: a foreign MTA, whose queue cannot be asked.
    pub relay_control: Option<PathBuf>,
    /// A reply that takes longer ends the connection; the message is then `unknown`.
    pub reply_timeout: Duration,
    /// An arrival later than this after its intended time is flagged `late`.
    pub late_after: Duration,
    /// When the run is invalid.
    pub limits: ValidityLimits,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            rate: Rate::PerSecond(1000.0),
            arrivals: ArrivalProcess::Poisson,
            seed: 1,
            warmup: Duration::from_secs(2),
            duration: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            connections: 100,
            outstanding: None,
            size: SizeDistribution::Fixed(2048),
            recipients_per_message: RecipientDistribution::Fixed(1),
            domains: 10,
            mailboxes_per_domain: 10,
            zone: "chasqui.test".into(),
            bounce_zone: None,
            verify: None,
            eight_bit: true,
            targets: Vec::new(),
            target_tls: TlsMode::Off,
            tls: Tls::default(),
            authentication: None,
            messages_per_connection: None,
            sources: Vec::new(),
            allow_target: Vec::new(),
            pop3: None,
            imap: None,
            password: "chasqui".into(),
            reader: ReaderAccess::default(),
            pop3_poll: Duration::from_secs(1),
            arrival_streams: Vec::new(),
            relay_control: None,
            reply_timeout: Duration::from_secs(60),
            late_after: Duration::from_secs(5),
            limits: ValidityLimits::default(),
        }
    }
}

impl Scenario {
    /// The kind of verification in force.
    pub fn verify(&self) -> Verify {
        self.verify.unwrap_or(match self.rate {
            Rate::PerSecond(_) => Verify::Live,
            Rate::Max => Verify::After,
        })
    }

    /// Accepted recipients that may be on their way in a closed loop.
    pub fn outstanding(&self) -> usize {
        // Without a view of arrivals whatever was accepted would stay on its way for ever.
        let blind = self.verify() == Verify::Nothing && self.arrival_streams.is_empty();
        if blind { usize::MAX } else { self.outstanding.unwrap_or(16 * self.connections) }
    }

    /// Mailboxes of all domains.
    pub fn mailboxes(&self) -> usize {
        self.domains.saturating_mul(self.mailboxes_per_domain)
    }

    /// The zone that bounces go to.
    pub fn bounce_zone(&self) -> String {
        self.bounce_zone.clone().unwrap_or_else(|| format!("bounce.{}", self.zone))
    }

    /// Whether TLS is spoken with any server.
    pub(crate) fn speaks_tls(&self) -> bool {
        let readers = [&self.pop3, &self.imap].into_iter().flatten().map(|server| server.tls);
        readers.chain([self.target_tls]).any(|tls| tls != TlsMode::Off)
    }

    /// How mailboxes of this server are read; none: they are not.
    fn read_tls(&self, server: Option<&MailboxServer>) -> Option<TlsMode> {
        server.filter(|_| self.verify().reads()).map(|server| server.tls)
    }

    /// As the record of its run tells it.
    pub fn record(&self) -> chasqui_report::Scenario {
        let us = |time: Duration| time.as_micros() as u64;
        let is_closed = self.rate == Rate::Max;
        let outstanding =
            Some(self.outstanding()).filter(|outstanding| is_closed && *outstanding < usize::MAX);
        chasqui_report::Scenario {
            mode: self.rate.mode(),
            rate: self.rate,
            arrivals: (!is_closed).then_some(self.arrivals),
            outstanding: outstanding.map(|outstanding| outstanding as u64),
            warmup_us: us(self.warmup),
            duration_us: us(self.duration),
            drain_us: us(self.drain),
            connections: self.connections as u64,
            messages_per_connection: self.messages_per_connection,
            sources: self.sources.clone(),
            tls: self.target_tls,
            pop3_tls: self.read_tls(self.pop3.as_ref()),
            imap_tls: self.read_tls(self.imap.as_ref()),
            tls_verified: self.speaks_tls().then(|| self.tls.verifies()),
            tls_resumption: self.speaks_tls().then_some(self.tls.resumption),
            accounts: self.authentication.as_ref().map(|it| it.accounts.len() as u64),
            size: self.size.to_string(),
            size_mean_bytes: self.size.mean(),
            recipients_per_message: self.recipients_per_message.mean().round() as u64,
            recipients: self.recipients_per_message.to_string(),
            domains: self.domains as u64,
            mailboxes_per_domain: self.mailboxes_per_domain as u64,
            zone: self.zone.clone(),
            bounce_zone: self.bounce_zone(),
            verify: self.verify(),
            pop3_poll_us: (self.verify() == Verify::Live).then(|| us(self.pop3_poll)),
            eight_bit: self.eight_bit,
            reply_timeout_us: us(self.reply_timeout),
            late_after_us: us(self.late_after),
            targets: self.targets.iter().map(|target| target.address).collect(),
            extra: Default::default(),
        }
    }
}
