//! What a run is asked to do, and the check that it can be done.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chasqui_report::{ArrivalProcess, Rate, Verify};
use ipnet::IpNet;

use crate::message::smallest_message;
use crate::size::{ByteSize, SizeDistribution};

/// Most connections of one run: open files are limited to 20,000 on many machines.
pub(crate) const CONNECTIONS_MAX: usize = 16_384;
/// Most mailboxes of one run.
pub(crate) const MAILBOXES_MAX: usize = 1_000_000;
/// Most mailboxes that live readers watch: each holds a connection of its own.
pub(crate) const LIVE_MAILBOXES_MAX: usize = 4_096;
/// Most recipients of one message (RFC 5321, 4.5.3.1.8: every server takes 100).
pub(crate) const RECIPIENTS_MAX: usize = 100;
/// Most arrival streams, targets, or allowed networks.
pub(crate) const ENDPOINTS_MAX: usize = 1_024;
/// Longest zone: a mailbox and a bounce address in it stay below 255 octets.
const ZONE_OCTETS_MAX: usize = 150;
/// Longest of all times.
const DURATION_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A scenario that cannot be run. One line: which setting, why, and how to mend it. The user acts on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScenarioError(String);

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ScenarioError {}

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
    /// Recipients of every message, each in a different mailbox.
    pub recipients_per_message: usize,
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
    pub targets: Vec<SocketAddr>,
    /// Networks beside the loopback that targets and readers may be in.
    pub allow_target: Vec<IpNet>,
    /// POP3 server of the mailboxes.
    pub pop3: Option<SocketAddr>,
    /// IMAP server of the mailboxes.
    pub imap: Option<SocketAddr>,
    /// Password of every mailbox.
    pub password: String,
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
            recipients_per_message: 1,
            domains: 10,
            mailboxes_per_domain: 10,
            zone: "chasqui.test".into(),
            bounce_zone: None,
            verify: None,
            eight_bit: true,
            targets: Vec::new(),
            allow_target: Vec::new(),
            pop3: None,
            imap: None,
            password: "chasqui".into(),
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
            size: self.size.to_string(),
            size_mean_bytes: self.size.mean(),
            recipients_per_message: self.recipients_per_message as u64,
            domains: self.domains as u64,
            mailboxes_per_domain: self.mailboxes_per_domain as u64,
            zone: self.zone.clone(),
            bounce_zone: self.bounce_zone(),
            verify: self.verify(),
            pop3_poll_us: (self.verify() == Verify::Live).then(|| us(self.pop3_poll)),
            eight_bit: self.eight_bit,
            reply_timeout_us: us(self.reply_timeout),
            late_after_us: us(self.late_after),
            targets: self.targets.clone(),
            extra: Default::default(),
        }
    }

    /// Whether this can be run; the first thing that stands against it.
    pub fn check(&self) -> Result<(), ScenarioError> {
        self.check_amounts()?;
        self.check_times()?;
        self.check_names()?;
        self.check_endpoints()?;
        self.check_verification()
    }

    fn check_amounts(&self) -> Result<(), ScenarioError> {
        if let Rate::PerSecond(rate) = self.rate
            && !(rate > 0.0 && rate.is_finite())
        {
            return refuse(format!(
                "rate: {rate} messages a second cannot be sent: ask for more than 0, or max"
            ));
        }
        within("connections", self.connections, 1, CONNECTIONS_MAX)?;
        within("outstanding", self.outstanding(), 1, usize::MAX)?;
        within("domains", self.domains, 1, MAILBOXES_MAX)?;
        within("mailboxes per domain", self.mailboxes_per_domain, 1, MAILBOXES_MAX)?;
        within("domains × mailboxes per domain", self.mailboxes(), 1, MAILBOXES_MAX)?;
        let recipients_max = RECIPIENTS_MAX.min(self.mailboxes());
        within("recipients per message", self.recipients_per_message, 1, recipients_max)?;
        if let Some(smallest) = self.size.smallest()
            && smallest < smallest_message(self)
        {
            let needed = ByteSize(smallest_message(self));
            return refuse(format!(
                "size: {} is too small for the header section: ask for at least {needed}",
                ByteSize(smallest)
            ));
        }
        for (name, share) in
            [("late share", self.limits.late_share_max), ("achieved share", self.limits.achieved_share_min)]
        {
            if !(0.0..=1.0).contains(&share) {
                return refuse(format!("{name}: {share} is no share: give a number from 0 to 1"));
            }
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), ScenarioError> {
        let ms = Duration::from_millis;
        let times = [
            ("warmup", self.warmup, Duration::ZERO),
            ("duration", self.duration, ms(1)),
            ("drain", self.drain, ms(1)),
            ("POP3 poll interval", self.pop3_poll, ms(10)),
            ("reply timeout", self.reply_timeout, ms(10)),
            ("late after", self.late_after, Duration::ZERO),
        ];
        for (name, time, least) in times {
            if time < least || time > DURATION_MAX {
                return refuse(format!("{name}: {time:?} is out of range: give {least:?} to 30 days"));
            }
        }
        Ok(())
    }

    fn check_names(&self) -> Result<(), ScenarioError> {
        for zone in [self.zone.clone(), self.bounce_zone()] {
            let label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            };
            if zone.len() > ZONE_OCTETS_MAX || !zone.split('.').all(label) {
                return refuse(format!(
                    "zone: `{zone}` is no domain of at most {ZONE_OCTETS_MAX} lower-case characters: give one like chasqui.test"
                ));
            }
        }
        let printable = self.password.bytes().all(|byte| matches!(byte, 0x21..=0x7e));
        if !printable || !(1..=64).contains(&self.password.len()) {
            return refuse("password: give 1 to 64 printable ASCII characters without spaces".into());
        }
        Ok(())
    }

    fn check_endpoints(&self) -> Result<(), ScenarioError> {
        within("targets", self.targets.len(), 1, ENDPOINTS_MAX)?;
        within("arrival streams", self.arrival_streams.len(), 0, ENDPOINTS_MAX)?;
        within("allowed networks", self.allow_target.len(), 0, ENDPOINTS_MAX)?;
        for address in self.targets.iter().chain(&self.pop3).chain(&self.imap) {
            let ip = address.ip().to_canonical();
            if !ip.is_loopback() && !self.allow_target.iter().any(|network| network.contains(&ip)) {
                return refuse(format!(
                    "target: {address} is not on the loopback: allow it with --allow-target {ip}/{}",
                    if ip.is_ipv4() { 32 } else { 128 }
                ));
            }
        }
        Ok(())
    }

    fn check_verification(&self) -> Result<(), ScenarioError> {
        let verify = self.verify();
        if verify == Verify::Nothing {
            return Ok(());
        }
        if self.rate == Rate::Max && self.arrival_streams.is_empty() {
            return refuse(
                "rate: max needs the sinks' arrival streams to bound what is outstanding: name them, or give a fixed rate"
                    .into(),
            );
        }
        if verify == Verify::Arrival {
            if self.arrival_streams.is_empty() {
                return refuse("verify: arrival needs the sinks' arrival streams: name them".into());
            }
            return Ok(());
        }
        if self.pop3.is_none() && self.imap.is_none() {
            return refuse(format!(
                "verify: {verify} needs a POP3 or an IMAP server of the mailboxes: name one"
            ));
        }
        if verify == Verify::Live && self.mailboxes() > LIVE_MAILBOXES_MAX {
            return refuse(format!(
                "verify: live readers hold a connection for each of the {} mailboxes: ask for at most {LIVE_MAILBOXES_MAX}, or for --verify after",
                self.mailboxes()
            ));
        }
        Ok(())
    }
}

fn refuse(reason: String) -> Result<(), ScenarioError> {
    Err(ScenarioError(reason))
}

fn within(name: &str, value: usize, least: usize, most: usize) -> Result<(), ScenarioError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let range = if most == usize::MAX { format!("at least {least}") } else { format!("{least} to {most}") };
    Err(ScenarioError(format!("{name}: {value} is out of range: give {range}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> Scenario {
        Scenario {
            targets: vec![SocketAddr::from(([127, 0, 0, 1], 25))],
            pop3: Some(SocketAddr::from(([127, 0, 0, 1], 110))),
            arrival_streams: vec!["arrivals.0".into()],
            ..Scenario::default()
        }
    }

    /// The defaults with endpoints pass; verification and outstanding resolve as documented.
    #[test]
    fn defaults() {
        assert_eq!(sound().check(), Ok(()));
        assert_eq!(sound().verify(), Verify::Live);
        let max = Scenario { rate: Rate::Max, ..sound() };
        assert_eq!((max.check(), max.verify(), max.outstanding()), (Ok(()), Verify::After, 1600));
    }

    /// Every bad setting is refused in one line that names it and the way to mend it.
    #[test]
    fn refusals() {
        let far = SocketAddr::from(([192, 0, 2, 1], 25));
        let cases: Vec<(&str, Scenario)> = vec![
            ("connections", Scenario { connections: 0, ..sound() }),
            ("outstanding", Scenario { outstanding: Some(0), ..sound() }),
            ("domains", Scenario { domains: 1001, mailboxes_per_domain: 1000, ..sound() }),
            ("recipients", Scenario { recipients_per_message: 101, ..sound() }),
            ("size", Scenario { size: SizeDistribution::Fixed(100), ..sound() }),
            ("duration", Scenario { duration: Duration::ZERO, ..sound() }),
            ("zone", Scenario { zone: "Chasqui.test".into(), ..sound() }),
            ("password", Scenario { password: "a b".into(), ..sound() }),
            ("targets", Scenario { targets: vec![], ..sound() }),
            ("target", Scenario { targets: vec![far], ..sound() }),
            ("target", Scenario { pop3: Some(far), ..sound() }),
            ("rate", Scenario { rate: Rate::Max, arrival_streams: vec![], ..sound() }),
            ("rate", Scenario { rate: Rate::PerSecond(0.0), ..sound() }),
            ("verify", Scenario { pop3: None, ..sound() }),
            ("verify", Scenario { pop3: None, verify: Some(Verify::After), ..sound() }),
            ("verify", Scenario { verify: Some(Verify::Arrival), arrival_streams: vec![], ..sound() }),
            ("verify", Scenario { domains: 500, ..sound() }),
            (
                "late share",
                Scenario {
                    limits: ValidityLimits { late_share_max: 1.5, ..ValidityLimits::default() },
                    ..sound()
                },
            ),
        ];
        for (setting, scenario) in cases {
            let error = scenario.check().expect_err(setting).to_string();
            assert!(error.starts_with(setting) && error.contains(": ") && !error.contains('\n'), "{error}");
        }
    }

    /// Against a server of which nothing else is known accept alone can be measured, at a rate and at full speed.
    #[test]
    fn verify_none_needs_nothing_else() {
        for rate in [Rate::PerSecond(1.0), Rate::Max] {
            let blind = Scenario {
                rate,
                verify: Some(Verify::Nothing),
                pop3: None,
                arrival_streams: vec![],
                ..sound()
            };
            assert_eq!(blind.check(), Ok(()));
        }
    }

    /// A target off the loopback runs when a network covers it.
    #[test]
    fn allowed_target() {
        let allowed = vec!["192.0.2.0/24".parse().expect("a network")];
        let target = SocketAddr::from(([192, 0, 2, 1], 25));
        assert_eq!(Scenario { targets: vec![target], allow_target: allowed, ..sound() }.check(), Ok(()));
    }
}
